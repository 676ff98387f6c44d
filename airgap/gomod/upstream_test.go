package gomod

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// upstream is a module proxy with a checksum database, on loopback.
type upstream struct {
	*httptest.Server
	key string // GOSUMDB
	db  *sumdb.Server

	mu    sync.Mutex
	files map[string][]byte                     // by path
	edit  func(path string, data []byte) []byte // lies
	asked []string
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.asked = append(u.asked, r.URL.Path)
	data, ok := u.files[r.URL.Path]
	edit := u.edit
	u.mu.Unlock()
	if rest, isDB := strings.CutPrefix(r.URL.Path, "/sumdb/db.example.org"); isDB {
		if u.key == "" {
			http.NotFound(w, r)
			return
		}
		rec := httptest.NewRecorder()
		if rest == "/supported" {
			rec.WriteHeader(http.StatusOK)
		} else {
			r.URL.Path = rest
			u.db.ServeHTTP(rec, r)
			r.URL.Path = "/sumdb/db.example.org" + rest
		}
		if rec.Code != http.StatusOK {
			w.WriteHeader(rec.Code)
			return
		}
		data, ok = rec.Body.Bytes(), true
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if edit != nil {
		data = edit(r.URL.Path, data)
	}
	_, _ = w.Write(data)
}

func (u *upstream) lie(edit func(path string, data []byte) []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.edit = edit
}

func (u *upstream) requests() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.asked)
	u.asked = nil
	return n
}

// add puts a module version there: its go.mod and its other files.
func (u *upstream) add(t testing.TB, path, version, gomod string, files map[string]string) {
	t.Helper()
	at, v, err := escaped(module.Version{Path: path, Version: version})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	put := func(name, text string) {
		w, err := z.Create(path + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(text))
	}
	put("go.mod", gomod)
	for name, text := range files {
		put(name, text)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files["/"+at+v+".mod"] = []byte(gomod)
	u.files["/"+at+v+".zip"] = b.Bytes()
	u.files["/"+at+v+".info"] = fmt.Appendf(nil, `{"Version":%q,"Time":"2024-01-02T03:04:05Z","Origin":{"VCS":"git"}}`, version)
	u.files["/"+strings.TrimSuffix(at, "@v/")+"@latest"] = u.files["/"+at+v+".info"]
}

// gosum gives the sums that the database logs.
func (u *upstream) gosum(path, version string) ([]byte, error) {
	at, v, err := escaped(module.Version{Path: path, Version: version})
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	z, mod := u.files["/"+at+v+".zip"], u.files["/"+at+v+".mod"]
	if z == nil {
		return nil, os.ErrNotExist
	}
	return fmt.Appendf(nil, "%s %s %s\n%s %s/go.mod %s\n", path, version, sumOf(checkZip(module.Version{Path: path, Version: version}, "")(bytes.NewReader(z), int64(len(z)))),
		path, version, sumOf(checkMod("")(bytes.NewReader(mod), int64(len(mod))))), nil
}

// sumOf takes the sum out of the error that names it.
func sumOf(err error) string {
	_, rest, _ := strings.Cut(err.Error(), "its sum is ")
	sum, _, _ := strings.Cut(rest, ",")
	return sum
}

func newUpstream(t testing.TB, withDB bool) *upstream {
	t.Helper()
	u := &upstream{files: map[string][]byte{}}
	if withDB {
		skey, vkey, err := note.GenerateKey(rand.Reader, "db.example.org")
		if err != nil {
			t.Fatal(err)
		}
		u.key = vkey
		u.db = sumdb.NewServer(sumdb.NewTestServer(skey, u.gosum))
	}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	lib := "module example.org/Lib\n\ngo 1.20\n"
	u.add(t, "example.org/Lib", "v1.0.0", lib, map[string]string{"lib.go": "package lib\n\nfunc Text() string { return \"old\" }\n"})
	u.add(t, "example.org/Lib", "v1.2.0", lib, map[string]string{"lib.go": "package lib\n\nfunc Text() string { return \"hello\" }\n"})
	u.add(t, "example.org/mid", "v0.3.0", "module example.org/mid\n\ngo 1.20\n\nrequire example.org/Lib v1.2.0\n", map[string]string{"mid.go": "package mid\n\nimport lib \"example.org/Lib\"\n\nfunc Text() string { return lib.Text() }\n"})
	u.add(t, "example.org/tool", "v1.0.0", "module example.org/tool\n\ngo 1.20\n\nrequire (\n\texample.org/mid v0.3.0\n\texample.org/Lib v1.0.0 // indirect\n)\n",
		map[string]string{"main.go": "package main\n\nimport \"example.org/mid\"\n\nfunc main() { println(mid.Text()) }\n"})
	u.add(t, "example.org/other", "v1.0.0", "module example.org/other\n\ngo 1.20\n", map[string]string{"o.go": "package other\n"})
	return u
}

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// side is a connected side with one mirror, m.
type side struct{ *airgaptest.Side }

func newSide(t testing.TB, env map[string]string) *side {
	t.Helper()
	return &side{airgaptest.New(t, now, func(site string) airgap.Format {
		return &Format{Dir: site, Env: func(k string) string { return env[k] }}
	})}
}

// goTool runs go in dir with nothing but the mirror.
type goTool struct {
	dir string
	env []string
}

func (s *side) goTool(t testing.TB, sumdb string) *goTool {
	t.Helper()
	airgaptest.NeedTool(t, "go")
	home := t.TempDir()
	g := &goTool{dir: filepath.Join(home, "work")}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Telemetry off: its child of the go command lives longer than that, and
	// writes into the folder that the test takes away.
	telemetry := filepath.Join(home, ".config", "go", "telemetry")
	if err := os.MkdirAll(telemetry, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(telemetry, "mode"), []byte("off\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, kv := range os.Environ() {
		if k, _, _ := strings.Cut(kv, "="); !strings.HasPrefix(k, "GO") && k != "HOME" && k != "XDG_CONFIG_HOME" {
			g.env = append(g.env, kv)
		}
	}
	g.env = append(g.env, "HOME="+home, "GOENV=off", "GOPATH="+home+"/go", "GOPROXY="+s.Server.URL+"/go/m", "GOSUMDB="+sumdb, "GOFLAGS=-mod=mod -modcacherw",
		"GONOSUMDB=", "GOPRIVATE=", "GOTOOLCHAIN=local", "CGO_ENABLED=0")
	for _, k := range []string{"GOROOT", "GOCACHE"} {
		out, err := exec.Command("go", "env", k).Output()
		if err != nil {
			t.Fatal(err)
		}
		g.env = append(g.env, k+"="+strings.TrimSpace(string(out)))
	}
	return g
}

func (g *goTool) run(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = g.dir, g.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (g *goTool) must(t testing.TB, args ...string) string {
	t.Helper()
	out, err := g.run(t, args...)
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}
