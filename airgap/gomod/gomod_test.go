package gomod

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// paths are a tree's paths that end in one of suffixes.
func paths(s airgap.Snapshot, suffixes ...string) []string {
	var out []string
	for _, f := range s.Trees[0].Files {
		if slices.ContainsFunc(suffixes, func(x string) bool { return strings.HasSuffix(f.Path, x) }) {
			out = append(out, f.Path)
		}
	}
	return out
}

func TestGraph(t *testing.T) {
	u := newUpstream(t, true)
	for _, tt := range []struct {
		name string
		m    airgap.Mirror
		file map[string]string
		want []string // zips and go.mods
	}{
		{
			"a tool", airgap.Mirror{Packages: []string{"example.org/tool@v1.0.0"}}, nil,
			[]string{"example.org/!lib/@v/v1.0.0.mod", "example.org/!lib/@v/v1.0.0.zip", "example.org/!lib/@v/v1.2.0.mod", "example.org/!lib/@v/v1.2.0.zip", "example.org/mid/@v/v0.3.0.mod", "example.org/mid/@v/v0.3.0.zip", "example.org/tool/@v/v1.0.0.mod", "example.org/tool/@v/v1.0.0.zip"},
		},
		{"the newest", airgap.Mirror{Packages: []string{"example.org/Lib@latest"}}, nil, []string{"example.org/!lib/@v/v1.2.0.mod", "example.org/!lib/@v/v1.2.0.zip"}},
		{
			"go.mod", airgap.Mirror{Lockfiles: []string{"go.mod"}},
			map[string]string{"go.mod": "module x\n\ngo 1.21\n\nrequire (\n\texample.org/mid v0.3.0\n\texample.org/other v1.0.0\n\texample.org/local v1.0.0\n)\nreplace example.org/local => ./local\nreplace example.org/other => example.org/Lib v1.0.0\n"},
			[]string{"example.org/!lib/@v/v1.0.0.mod", "example.org/!lib/@v/v1.0.0.zip", "example.org/!lib/@v/v1.2.0.mod", "example.org/!lib/@v/v1.2.0.zip", "example.org/mid/@v/v0.3.0.mod", "example.org/mid/@v/v0.3.0.zip"},
		},
	} {
		s := newSide(t, map[string]string{"GOSUMDB": u.key, "GOPROXY": u.URL + ",direct"})
		for name, text := range tt.file {
			s.Write(t, name, text)
		}
		snap, made, err := s.Mirror(t, tt.m)
		if err != nil || !made {
			t.Errorf("%s: sync = %v, %v", tt.name, made, err)
			continue
		}
		if got := paths(snap, ".mod", ".zip"); !slices.Equal(got, tt.want) {
			t.Errorf("%s: files = %q; want %q", tt.name, got, tt.want)
		}
		before := s.Lock
		u.requests()
		if _, made, err := s.Mirror(t, tt.m); err != nil || made {
			t.Errorf("%s: sync again = %v, %v; want nothing new", tt.name, made, err)
		}
		if n := u.requests(); n > 1 { // PATH@latest
			t.Errorf("%s: sync again made %d requests", tt.name, n)
		}
		a, _ := airgap.MarshalLock(before)
		b, _ := airgap.MarshalLock(s.Lock)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: the lock changed: %s", tt.name, b)
		}
		// Another connected side makes the same lock.
		other := newSide(t, map[string]string{"GOSUMDB": u.key, "GOPROXY": u.URL + ",direct"})
		for name, text := range tt.file {
			other.Write(t, name, text)
		}
		if _, _, err := other.Mirror(t, tt.m); err != nil {
			t.Fatal(err)
		}
		if c, _ := airgap.MarshalLock(other.Lock); !bytes.Equal(a, c) {
			t.Errorf("%s: locks of two sides differ:\n%s\n%s", tt.name, a, c)
		}
	}
}

// Real go builds with nothing but the mirror, and verifies the proof.
func TestGoClient(t *testing.T) {
	u := newUpstream(t, true)
	s := newSide(t, map[string]string{"GOSUMDB": u.key, "GOPROXY": u.URL})
	if _, _, err := s.Mirror(t, airgap.Mirror{Packages: []string{"example.org/tool@v1.0.0"}}); err != nil {
		t.Fatal(err)
	}
	s.Fetched(t)
	first := s.goTool(t, u.key)
	first.must(t, "install", "example.org/tool@v1.0.0")
	first.must(t, "mod", "init", "example.test/work")
	first.must(t, "get", "example.org/mid@latest")
	if sum, err := os.ReadFile(filepath.Join(first.dir, "go.sum")); err != nil || !strings.Contains(string(sum), "example.org/mid v0.3.0 h1:") {
		t.Errorf("go.sum = %q, %v; want the sum of mid", sum, err)
	}
	if out := first.must(t, "list", "-m", "-versions", "example.org/Lib"); strings.TrimSpace(out) != "example.org/Lib v1.0.0 v1.2.0" {
		t.Errorf("go list -m -versions = %q; want both versions", out)
	}
	if out, err := first.run(t, "get", "example.org/other@v1.0.0"); err == nil {
		t.Errorf("go get of what is not mirrored succeeded: %s", out)
	}
	// The tree of the database grows; a client that has the old head goes on.
	u.add(t, "example.org/later", "v1.0.0", "module example.org/later\n\ngo 1.20\n", map[string]string{"l.go": "package later\n"})
	if _, _, err := s.Mirror(t, airgap.Mirror{Packages: []string{"example.org/tool@v1.0.0", "example.org/later@v1.0.0"}}); err != nil {
		t.Fatal(err)
	}
	first.must(t, "get", "example.org/later@v1.0.0")
	second := s.goTool(t, u.key)
	second.must(t, "mod", "init", "example.test/work")
	second.must(t, "mod", "download", "-x", "example.org/later@v1.0.0", "example.org/tool@v1.0.0")
	// A client that is told other sums refuses.
	third := s.goTool(t, strings.Replace(u.key, "db.example.org", "db.example.net", 1))
	if out, err := third.run(t, "mod", "download", "example.org/tool@v1.0.0"); err == nil {
		t.Errorf("go with the key of another database = %s; want an error", out)
	}
}

// Without a database the site's own go.sum vouches.
func TestGoSum(t *testing.T) {
	u := newUpstream(t, false)
	s := newSide(t, map[string]string{"GOSUMDB": "off", "GOPROXY": u.URL})
	var sum []byte
	for _, v := range []module.Version{{Path: "example.org/Lib", Version: "v1.2.0"}, {Path: "example.org/mid", Version: "v0.3.0"}} {
		b, err := u.gosum(v.Path, v.Version)
		if err != nil {
			t.Fatal(err)
		}
		sum = append(sum, b...)
	}
	s.Write(t, "go.sum", string(sum))
	snap, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"go.sum"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Lock.Mirrors[0].Trust; len(got) != 1 || !strings.Contains(got[0].Source, "go.sum") {
		t.Errorf("trust = %+v; want go.sum", got)
	}
	if n := len(paths(snap, "/supported")); n != 0 {
		t.Errorf("a database is served that nobody asked")
	}
	cfg, err := (&Format{}).ClientConfig(t.Context(), "go", airgap.ClientRequest{HTTP: "http://x", Snapshot: snap})
	if err != nil || !strings.Contains(string(cfg[0].Content), "GONOSUMDB=example.org/Lib,example.org/mid\n") {
		t.Errorf("client-config = %s, %v; want GONOSUMDB", cfg, err)
	}
	g := s.goTool(t, "off")
	g.must(t, "mod", "init", "example.test/work")
	g.must(t, "get", "example.org/mid@v0.3.0")
	// What go.sum does not name has nobody to vouch for it.
	if _, _, err := s.Mirror(t, airgap.Mirror{Packages: []string{"example.org/tool@v1.0.0"}}); err == nil || !strings.Contains(err.Error(), "nothing vouches for example.org/tool v1.0.0/go.mod") {
		t.Errorf("sync without sums = %v; want a refusal", err)
	}
	// A database that cannot be reached is told of.
	far := newSide(t, map[string]string{"GOSUMDB": "db.example.org+00000000+AQ== http://127.0.0.1:1", "GOPROXY": u.URL})
	far.Write(t, "go.sum", string(sum))
	_, _, err = far.Mirror(t, airgap.Mirror{Lockfiles: []string{"go.sum"}})
	if err == nil || !strings.Contains(err.Error(), "GOSUMDB") {
		t.Errorf("sync with a malformed key = %v; want a refusal", err)
	}
	key := newUpstream(t, true).key
	far = newSide(t, map[string]string{"GOSUMDB": key + " http://127.0.0.1:1", "GOPROXY": u.URL})
	far.Write(t, "go.sum", string(sum))
	if _, _, err = far.Mirror(t, airgap.Mirror{Lockfiles: []string{"go.sum"}}); err != nil {
		t.Fatal(err)
	}
	if got := far.Lock.Mirrors[0].Trust[0].Source; !strings.Contains(got, "could not be asked") {
		t.Errorf("trust = %q; want that the database could not be asked", got)
	}
}

func TestHostileUpstream(t *testing.T) {
	swap := func(suffix string, to []byte) func(string, []byte) []byte {
		return func(p string, data []byte) []byte {
			if strings.HasSuffix(p, suffix) {
				return to
			}
			return data
		}
	}
	flip := func(part string) func(string, []byte) []byte {
		return func(p string, data []byte) []byte {
			if !strings.Contains(p, part) || len(data) == 0 {
				return data
			}
			out := bytes.Clone(data)
			out[len(out)/2] ^= 4
			return out
		}
	}
	for _, tt := range []struct {
		name, sum string
		edit      func(string, []byte) []byte
		wrong     string
	}{
		{"a zip with a flipped bit", "", flip(".zip"), "x"},
		{"another go.mod", "", swap("mid/@v/v0.3.0.mod", []byte("module example.org/mid\n")), "is vouched for"},
		{"a zip of another module", "", swap("mid/@v/v0.3.0.zip", nil), "zip"},
		{"info of another version", "", swap("v0.3.0.info", []byte(`{"Version":"v9.0.0"}`)), "says that it is of version"},
		{"info that is no JSON", "", swap("v0.3.0.info", []byte(`<html>`)), "invalid character"},
		{"a flipped bit in records", "", flip("/lookup/"), "example.org"},
		{"a flipped bit in tiles", "", flip("/tile/"), "example.org"},
		{"go.sum that disagrees", "example.org/mid v0.3.0/go.mod h1:AAAA\n", nil, "one of them is wrong"},
	} {
		u := newUpstream(t, true)
		s := newSide(t, map[string]string{"GOSUMDB": u.key, "GOPROXY": u.URL})
		if _, _, err := s.Mirror(t, airgap.Mirror{Packages: []string{"example.org/other@v1.0.0"}}); err != nil {
			t.Fatal(err)
		}
		served, err := s.Store.Served()
		if err != nil {
			t.Fatal(err)
		}
		u.lie(tt.edit)
		m := airgap.Mirror{Packages: []string{"example.org/tool@v1.0.0"}}
		if tt.sum != "" {
			s.Write(t, "go.sum", tt.sum)
			m.Lockfiles = []string{"go.sum"}
		}
		_, _, err = s.Mirror(t, m)
		if err == nil || tt.wrong != "x" && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.wrong)
		}
		if got, err := s.Store.Served(); err != nil || got != served {
			t.Errorf("%s: served = %s, %v; want the last good %s", tt.name, got, err, served)
		}
	}
}

func TestWants(t *testing.T) {
	for _, tt := range []struct{ name, file, text, wrong string }{
		{"three words", "go.sum", "a b\n", "line 1: 2 words"},
		{"no version", "go.sum", "example.org/a latest h1:x\n", "line 1"},
		{"traversal", "go.sum", "../../a v1.0.0 h1:x\n", "line 1"},
		{"two sums", "go.sum", "example.org/a v1.0.0 h1:x\nexample.org/a v1.0.0 h1:y\n", "another sum"},
		{"no go.mod", "go.mod", "hello\n", "go.mod:1"},
		{"other file", "package.json", "{}", "no go.mod"},
	} {
		f := &Format{Dir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(f.Dir, tt.file), []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := f.readWants([]string{tt.file}, nil); err == nil || !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: readWants = %v; want an error with %q", tt.name, err, tt.wrong)
		}
	}
	for _, p := range []string{"", "example.org/a@main", "example.org/a@v1", "example.org/a/v2@v1.0.0", "/etc@v1.0.0"} {
		if _, err := (&Format{}).readWants(nil, []string{p}); err == nil {
			t.Errorf("readWants(%q) has no error", p)
		}
	}
}

func FuzzSum(f *testing.F) {
	f.Add("example.org/a v1.0.0 h1:x\nexample.org/a v1.0.0/go.mod h1:y\n")
	f.Add("a\x00 v1.0.0 h1:")
	f.Fuzz(func(t *testing.T, text string) {
		w := wants{listed: map[module.Version]wanted{}, sums: sums{}}
		if w.readSum("go.sum", []byte(text), true) != nil {
			return
		}
		for v := range w.listed {
			if at, version, err := escaped(v); err != nil || airgap.CheckPath(at+version+".zip") != nil {
				t.Errorf("readSum took %q, %q", v.Path, v.Version)
			}
		}
	})
}

func FuzzZip(f *testing.F) {
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkZip(module.Version{Path: "example.org/a", Version: "v1.0.0"}, "h1:x")(bytes.NewReader(data), int64(len(data))) == nil {
			t.Error("checkZip took a zip with another sum")
		}
	})
}

// A small real module from the machine's own proxy, proved by the real
// checksum database, is built by real go behind the mirror.
func TestRealModule(t *testing.T) {
	if testing.Short() {
		t.Skip("it uses the machine's module proxy")
	}
	airgaptest.NeedTool(t, "go")
	env := &Format{}
	s := newSide(t, map[string]string{"GOPROXY": env.env("GOPROXY")})
	snap, _, err := s.Mirror(t, airgap.Mirror{Packages: []string{"rsc.io/quote@v1.5.2"}})
	if err != nil {
		t.Fatal(err)
	}
	n, size := snap.Size()
	t.Logf("%d files, %d bytes", n, size)
	g := s.goTool(t, "sum.golang.org")
	g.must(t, "mod", "init", "example.test/work")
	if err := os.WriteFile(filepath.Join(g.dir, "main.go"), []byte("package main\n\nimport \"rsc.io/quote\"\n\nfunc main() { println(quote.Hello()) }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.must(t, "get", "rsc.io/quote@v1.5.2")
	if out := g.must(t, "run", "."); !strings.Contains(out, "world!") {
		t.Errorf("go run = %q; want a greeting", out)
	}
	resp, err := http.Get(s.Server.URL + "/go/m/rsc.io/quote/@latest")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), `"v1.5.2"`) {
		t.Errorf("@latest = %q, %v", b, err)
	}
}
