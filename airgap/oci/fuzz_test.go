package oci

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"registry.example.org/a/b:1", "localhost:5000/a@sha256:" + strings.Repeat("0", 64), "a/b:1", "docker.io/library/nginx:1.2*", "r.example.org/a:1@sha512:" + strings.Repeat("a", 128), "r.x/a/../b:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		again, err := ParseRef(r.String())
		if err != nil || again != r {
			t.Errorf("ParseRef(%q) = %+v, %v; want what %q gave: %+v", r.String(), again, err, s, r)
		}
		if err := checkRepo(r.local()); err != nil {
			t.Errorf("local name of %q: %v", s, err)
		}
		if err := airgap.CheckPath(itemPath(r)); err != nil {
			t.Errorf("itemPath(%q): %v", s, err)
		}
	})
}

func FuzzParseRoute(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/x", "/v2/blobs/blobs/uploads/blobs/uploads/1", "/v2/a/../b/manifests/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rt, err := parseRoute(s)
		if err != nil || rt.name == "" {
			return
		}
		if checkRepo(rt.name) != nil || strings.Contains("/"+rt.name+"/", "/../") || strings.ContainsAny(rt.ref, "/") {
			t.Errorf("parseRoute(%q) = %+v; want a name and a reference that lead nowhere else", s, rt)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	for _, sm := range samples() {
		for _, b := range sm.manifests {
			if len(b) < 5000 {
				f.Add(b, typeImage)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, ctype string) {
		m, err := parseManifest(b, ctype)
		if err != nil {
			return
		}
		if !isManifest(m.MediaType) || m.index() != (m.Config == nil) {
			t.Errorf("parseManifest(%q) = %+v; want one kind of manifest", b, m)
		}
		for _, d := range append(m.blobs(), m.Manifests...) {
			if _, err := ParseDigest(string(d.Digest)); err != nil || d.Size < 0 {
				t.Errorf("parseManifest(%q) passes %+v", b, d)
			}
		}
	})
}

func FuzzParseChunk(f *testing.F) {
	for _, s := range []string{"0-1", "bytes 5-9/10", "9-5", "-", "0-18446744073709551616"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, err := parseChunk(s); err == nil && (first < 0 || last < first) {
			t.Errorf("parseChunk(%q) = %d, %d", s, first, last)
		}
	})
}

func FuzzNextLink(f *testing.F) {
	f.Add(`</v2/a/tags/list?n=1&last=x>; rel="next"`)
	f.Add(`<a>; rel=prev, <b>; rel=next`)
	f.Fuzz(func(t *testing.T, s string) {
		if l := nextLink(s); l != "" && !strings.Contains(s, "<"+l+">") {
			t.Errorf("nextLink(%q) = %q", s, l)
		}
	})
}

// FuzzRequest sends anything to a registry that takes pushes.
func FuzzRequest(f *testing.F) {
	g, err := OpenRegistry(openStore(f), Options{Push: &Pushers{Anyone: true}})
	if err != nil {
		f.Fatal(err)
	}
	defer g.Close()
	f.Add("GET", "a/tags/list?n=1&last=x", "", "")
	f.Add("POST", "a/blobs/uploads/?digest="+string(canonical([]byte("x"))), "", "x")
	f.Add("PUT", "a/manifests/1?tag=2", typeImage, "{}")
	f.Add("DELETE", "a/blobs/"+string(canonical([]byte("x"))), "", "")
	f.Fuzz(func(t *testing.T, method, path, ctype, body string) {
		switch method {
		case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE":
		default:
			return
		}
		req := httptest.NewRequest("GET", "/v2/", strings.NewReader(body))
		u, err := req.URL.Parse("/v2/" + path)
		if err != nil {
			return
		}
		req.Method, req.URL = method, u
		req.Header.Set("Content-Type", ctype)
		rec := httptest.NewRecorder()
		g.ServeHTTP(rec, req)
		if rec.Code >= 500 {
			t.Errorf("%s %s = %d %s", method, path, rec.Code, rec.Body)
		}
	})
}
