package vbmc

import (
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestOpenAPI: the document parses, needs no login, and tells the methods that
// Allow tells.
func TestOpenAPI(t *testing.T) {
	s := newService(t, nil)
	r := s.do("GET", openAPIPath, "", "")
	var doc struct {
		OpenAPI string `yaml:"openapi"`
		Paths   map[string]map[string]any
	}
	if err := yaml.Unmarshal([]byte(r.text), &doc); err != nil || r.StatusCode != 200 || doc.OpenAPI != "3.0.1" {
		t.Fatalf("GET %s = %d, %v", openAPIPath, r.StatusCode, err)
	}
	if len(doc.Paths) < 80 {
		t.Errorf("it has %d paths; want 80 at least", len(doc.Paths))
	}
	s.walk(func(p string, r response) {
		path := strings.TrimSuffix(p, "/")
		res, _ := s.find(path)
		if res == nil {
			return // TestEveryLink tells
		}
		ops, ok := doc.Paths[res.pattern]
		if !ok {
			t.Errorf("it has no path %s", res.pattern)
		}
		for _, m := range strings.Split(r.Header.Get("Allow"), ", ") {
			if ops[strings.ToLower(m)] == nil {
				t.Errorf("%s has no %s", res.pattern, m)
			}
		}
	})
}
