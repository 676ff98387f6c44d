package vbmc

import (
	"embed"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed personalities/*.json
var personalityFiles embed.FS

// personalityRange is a part of a URI that stands for many: {gpu:1-8}.
var personalityRange = regexp.MustCompile(`\{([a-z]+):(\d+)-(\d+)\}`)

// Personality is a Tree that was written by hand, in data: what a kind of
// server shows, as far as clients have been seen to depend on it. A file holds
// "about", "resources" by URI (with ranges such as {gpu:1-8}, whose value is
// {gpu} within the body), and "collections": the type and name of collections,
// whose members are the resources right below them.
func Personality(name string) (*Tree, error) {
	b, err := personalityFiles.ReadFile("personalities/" + name + ".json")
	if err != nil {
		return nil, fmt.Errorf("there is no personality %q: use one of %s", name, strings.Join(Personalities(), ", "))
	}
	t, err := parsePersonality(b)
	if err != nil {
		return nil, fmt.Errorf("personality %s: %w", name, err)
	}
	return t, nil
}

func parsePersonality(b []byte) (*Tree, error) {
	var file struct {
		About       string                     `json:"about"`
		Collections map[string]string          `json:"collections"`
		Resources   map[string]json.RawMessage `json:"resources"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, err
	}
	res := map[string]json.RawMessage{}
	for uri, body := range file.Resources {
		expandRange(uri, string(body), func(uri, body string) { res[uri] = json.RawMessage(body) })
	}
	for uri, raw := range res {
		var o obj
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, fmt.Errorf("%s: %w", uri, err)
		}
		o["@odata.id"] = uri
		if o["Id"] == nil {
			o["Id"] = path.Base(uri)
		}
		if o["Name"] == nil {
			o["Name"] = path.Base(uri)
		}
		b, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", uri, err)
		}
		res[uri] = b
	}
	collections := map[string]string{}
	for uri, kind := range file.Collections {
		expandRange(uri, kind, func(uri, kind string) { collections[uri] = kind })
	}
	for uri, kind := range collections {
		var members []string
		for m := range res {
			if path.Dir(m) == uri {
				members = append(members, m)
			}
		}
		slices.SortFunc(members, natural)
		o := collection(uri, kind, path.Base(uri), members...)
		if kind == "LogEntryCollection" { // its members stand in it (OData.AutoExpand)
			full := make([]json.RawMessage, len(members))
			for i, m := range members {
				full[i] = res[m]
			}
			o["Members"] = full
		}
		b, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		res[uri] = b
	}
	return newTree(res, nil)
}

// expandRange calls f for each value of the ranges in uri.
func expandRange(uri, body string, f func(uri, body string)) {
	m := personalityRange.FindStringSubmatchIndex(uri)
	if m == nil {
		f(uri, body)
		return
	}
	name := uri[m[2]:m[3]]
	from, _ := strconv.Atoi(uri[m[4]:m[5]]) // digits, by the expression
	to, _ := strconv.Atoi(uri[m[6]:m[7]])
	for n := from; n <= to && n-from < 256; n++ {
		v := strconv.Itoa(n)
		rest := strings.ReplaceAll(uri[m[1]:], "{"+name+"}", v)
		expandRange(uri[:m[0]]+v+rest, strings.ReplaceAll(body, "{"+name+"}", v), f)
	}
}

// natural orders GPU_2 before GPU_10.
func natural(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// Personalities lists the personalities that come with the package.
func Personalities() []string {
	entries, err := personalityFiles.ReadDir("personalities")
	if err != nil { // they are compiled in
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".json"))
	}
	slices.Sort(out)
	return out
}
