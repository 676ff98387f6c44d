package pypi

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// needPip skips without pip, except in CI.
func needPip(t testing.TB) {
	t.Helper()
	if out, err := exec.Command("python3", "-m", "pip", "--version").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("python3 -m pip: %v: %s", err, out)
		}
		t.Skipf("python3 -m pip: %v", err)
	}
}

// wheel makes a wheel with one module.
func wheel(t testing.TB, name, version, tags, metadata string) (string, []byte) {
	t.Helper()
	file := strings.ReplaceAll(name, "-", "_") + "-" + version + "-" + tags + ".whl"
	info := strings.ReplaceAll(name, "-", "_") + "-" + version + ".dist-info/"
	files := [][2]string{
		{strings.ReplaceAll(name, "-", "_") + ".py", "VERSION = '" + version + "'\n"},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n" + metadata + "\nDescription text\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: " + tags + "\n"},
	}
	record := ""
	for _, f := range files {
		sum := sha256.Sum256([]byte(f[1]))
		record += fmt.Sprintf("%s,sha256=%s,%d\n", f[0], base64.RawURLEncoding.EncodeToString(sum[:]), len(f[1]))
	}
	files = append(files, [2]string{info + "RECORD", record + info + "RECORD,,\n"})
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range files {
		w, err := z.Create(f[0])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(f[1]))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return file, b.Bytes()
}

func sdist(t testing.TB, name, version string) (string, []byte) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	text := "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"
	if err := w.WriteHeader(&tar.Header{Name: name + "-" + version + "/PKG-INFO", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return name + "-" + version + ".tar.gz", b.Bytes()
}

// upstream is an index on loopback: HTML, or JSON for those who ask.
type upstream struct {
	*httptest.Server
	mu      sync.Mutex
	files   map[string][]byte // by name
	project map[string]string // by name of file
	yanked  map[string]string
	json    bool
	asked   int
	edit    func(file string, data []byte) []byte
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{files: map[string][]byte{}, project: map[string]string{}, yanked: map[string]string{}, json: true}
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	if file, ok := strings.CutPrefix(r.URL.Path, "/files/"); ok {
		data, ok := u.files[file]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if u.edit != nil {
			data = u.edit(file, data)
		}
		_, _ = w.Write(data)
		return
	}
	name := strings.Trim(strings.TrimPrefix(r.URL.Path, "/simple"), "/")
	var list []map[string]any
	page := ""
	for file, data := range u.files {
		if u.project[file] != name {
			continue
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		f := map[string]any{"filename": file, "url": "../../files/" + file, "hashes": map[string]string{"sha256": sum}, "size": len(data)}
		attr := ""
		if y, ok := u.yanked[file]; ok {
			f["yanked"] = y
			attr = ` data-yanked="` + html.EscapeString(y) + `"`
		}
		list = append(list, f)
		page += `<a href="../../files/` + file + "#sha256=" + sum + `"` + attr + ">" + file + "</a>\n"
	}
	if len(list) == 0 {
		http.NotFound(w, r)
		return
	}
	if u.json && strings.Contains(r.Header.Get("Accept"), jsonType) {
		_ = json.NewEncoder(w).Encode(map[string]any{"meta": map[string]string{"api-version": "1.1"}, "name": name, "files": list})
		return
	}
	_, _ = w.Write([]byte("<!DOCTYPE html><html><body>\n" + page + "</body></html>\n"))
}

// add puts a file there and returns its line in requirements.
func (u *upstream) add(name, version string) func(file string, data []byte) string {
	return func(file string, data []byte) string {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.files[file], u.project[file] = data, normalize(name)
		return fmt.Sprintf("--hash=sha256:%x", sha256.Sum256(data))
	}
}

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// side is a connected side with one mirror, m.
type side struct{ *airgaptest.Side }

func newSide(t testing.TB, u *upstream) *side {
	t.Helper()
	return &side{airgaptest.New(t, now, func(site string) airgap.Format { return &Format{Dir: site, Index: u.URL + "/simple/"} })}
}

func (s *side) write(t testing.TB, text string) {
	t.Helper()
	s.Write(t, "requirements.txt", text)
}

func (s *side) sync(t testing.TB, m airgap.Mirror) (airgap.Snapshot, bool, error) {
	t.Helper()
	m.Lockfiles = []string{"requirements.txt"}
	return s.Mirror(t, m)
}

// pip runs real pip with nothing but the mirror. Packages go into the folder
// that it returns.
func (s *side) pip(t testing.TB, args ...string) (dir, out string, err error) {
	t.Helper()
	needPip(t)
	dir = t.TempDir()
	snap, _, err := s.Store.Latest()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := (&Format{}).ClientConfig(t.Context(), "pip", airgap.ClientRequest{HTTP: s.Server.URL, Snapshot: snap})
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "pip.conf")
	if err := os.WriteFile(conf, cfg[0].Content, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "python3", append([]string{"-m", "pip"}, append(args, "--no-cache-dir")...)...)
	cmd.Dir = dir
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PIP_") && !strings.HasPrefix(kv, "HOME=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "PIP_CONFIG_FILE="+conf, "HOME="+dir, "PYENV_ROOT="+filepath.Join(os.Getenv("HOME"), ".pyenv"))
	b, err := cmd.CombinedOutput()
	return dir, string(b), err
}
