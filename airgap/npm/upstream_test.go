package npm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// tgz makes a tarball of files below package/.
func tgz(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range files {
			if !yield(n) {
				return
			}
		}
	}) {
		if err := w.WriteHeader(&tar.Header{Name: "package/" + name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(files[name]))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func integrityOf(data []byte) string {
	sum := sha512.Sum512(data)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// upstream is a registry of tarballs on loopback. It has no packuments: the
// mirror needs none.
type upstream struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
	asked int
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{files: map[string][]byte{}}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.asked++
		data, ok := u.files[r.URL.Path]
		u.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(u.Close)
	return u
}

// add puts a package there and returns its entry in a lockfile.
func (u *upstream) add(t testing.TB, pkgJSON string, more map[string]string) entry {
	t.Helper()
	var m struct {
		Name    string            `json:"name"`
		Version string            `json:"version"`
		Deps    map[string]string `json:"dependencies"`
		OptDeps map[string]string `json:"optionalDependencies"`
		OS, CPU words
	}
	if err := json.Unmarshal([]byte(pkgJSON), &m); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"package.json": pkgJSON}
	for n, text := range more {
		files[n] = text
	}
	data := tgz(t, files)
	p := "/" + tarball(m.Name, m.Version)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[p] = data
	return entry{Version: m.Version, Resolved: u.URL + p, Integrity: integrityOf(data), Deps: m.Deps, OptDeps: m.OptDeps, OS: m.OS, CPU: m.CPU}
}

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// side is a connected side with one mirror, m.
type side struct{ *airgaptest.Side }

func newSide(t testing.TB, registry string) *side {
	t.Helper()
	return &side{airgaptest.New(t, now, func(site string) airgap.Format { return &Format{Dir: site, Registry: registry} })}
}

// write writes a lockfile of places into the site folder.
func (s *side) write(t testing.TB, name string, places map[string]any) string {
	t.Helper()
	data, err := json.MarshalIndent(map[string]any{"name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": places}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Site, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// npmTool runs npm in dir with nothing but a registry.
type npmTool struct{ dir, registry string }

func newNPM(t testing.TB, registry string) *npmTool {
	t.Helper()
	airgaptest.NeedTool(t, "npm")
	return &npmTool{t.TempDir(), registry}
}

func (n *npmTool) run(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "npm", args...)
	cmd.Dir = n.dir
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".npmrc"), []byte("registry="+n.registry+"\nupdate-notifier=false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, kv := range os.Environ() {
		if k, _, _ := strings.Cut(kv, "="); k != "HOME" && !strings.HasPrefix(strings.ToLower(k), "npm_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (n *npmTool) must(t testing.TB, args ...string) string {
	t.Helper()
	out, err := n.run(t, args...)
	if err != nil {
		t.Fatalf("npm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (n *npmTool) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (n *npmTool) has(name string) bool {
	_, err := os.Stat(filepath.Join(n.dir, "node_modules", name))
	return err == nil
}
