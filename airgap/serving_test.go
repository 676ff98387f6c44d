package airgap

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// shouting is a format that answers itself.
type shouting struct{ Format }

func (shouting) Name() string { return "files" }
func (shouting) Serve(w http.ResponseWriter, r *http.Request, t ServedTree, p string) {
	f, ok := t.File(strings.ToLower(p))
	if !ok {
		t.NotFound(w)
		return
	}
	if r.Method == http.MethodPost {
		b, err := t.Read(r.Context(), f, 100)
		fmt.Fprintf(w, "%s %s %s %v", t.Base, t.Mirror, b, err != nil)
		return
	}
	t.Send(w, r, f, "text/x-shouted")
}

func TestServing(t *testing.T) {
	s := testStore(t)
	srv := httptest.NewServer(NewHandler(s, nil, shouting{}))
	defer srv.Close()
	addSnapshot(t, s, "one", 1, contents())
	for _, tt := range []struct {
		name, method, path string
		status             int
		want               string
	}{
		{"other name", "GET", "/files/m/POOL/C", 200, "c"},
		{"escaped", "GET", "/files/m/pool%2fc", 200, "c"},
		{"other method", "POST", "/files/m/pool/c", 200, srv.URL + "/files/m m c false"},
		{"too large to read", "POST", "/files/m/text", 200, srv.URL + "/files/m m  true"},
		{"not there", "GET", "/files/m/x", 404, "not in snapshot one\n"},
		{"other mirror", "GET", "/files/n/x", 404, "not in snapshot one\n"},
	} {
		status, body, header, err := get(t, srv, tt.method, tt.path, "")
		if status != tt.status || string(body) != tt.want || err != nil {
			t.Errorf("%s: %s %s = %d, %q, %v; want %d, %q", tt.name, tt.method, tt.path, status, body, err, tt.status, tt.want)
		}
		if tt.name == "other name" && header.Get("Content-Type") != "text/x-shouted" {
			t.Errorf("content type = %q; want the format's", header.Get("Content-Type"))
		}
	}
}
