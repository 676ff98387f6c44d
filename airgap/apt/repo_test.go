package apt

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// now is the tests' time: past, because apt-get has the machine's.
var now = time.Date(2025, 6, 21, 12, 0, 0, 0, time.UTC)

// deb is a package of the tests' archive.
type deb struct{ name, version, arch, depends, provides, extra string }

// suiteSpec is a suite of the tests' archive.
type suiteSpec struct {
	name       string
	debs       []deb
	date       time.Time
	validUntil time.Time
	noInline   bool   // Release and Release.gpg only
	form       string // of Packages: .gz, .xz, .zst, ""
	byHash     bool
	head       string                       // more fields of the Release
	edit       func(packages string) string // before it is signed
}

// archive is a signed Debian archive on loopback, in memory.
type archive struct {
	t    testing.TB
	key  *openpgp.Entity
	srv  *httptest.Server
	ring string

	mu    sync.Mutex
	files map[string][]byte
	mod   map[string]time.Time
	gets  []string
	puts  int
	hook  func(w http.ResponseWriter, r *http.Request) bool // true: answered
}

func newArchive(t testing.TB) *archive {
	t.Helper()
	a := &archive{t: t, files: map[string][]byte{}, mod: map[string]time.Time{}, ring: filepath.Join(t.TempDir(), "ring.gpg")}
	a.newKey(0)
	a.srv = httptest.NewServer(a)
	t.Cleanup(a.srv.Close)
	return a
}

// newKey gives the archive another key that is trusted, a year old, which
// expires after a lifetime.
func (a *archive) newKey(lifetime time.Duration) {
	a.t.Helper()
	key, err := openpgp.NewEntity("archive", "", "archive@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048,
		KeyLifetimeSecs: uint32(lifetime.Seconds()), Time: func() time.Time { return now.AddDate(-1, 0, 0) }})
	if err != nil {
		a.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := key.Serialize(&b); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(a.ring, b.Bytes(), 0o644); err != nil {
		a.t.Fatal(err)
	}
	a.key = key
}

func (a *archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.gets = append(a.gets, r.URL.Path)
	data, ok := a.files[strings.TrimPrefix(r.URL.Path, "/")]
	mod, hook := a.mod[strings.TrimPrefix(r.URL.Path, "/")], a.hook
	a.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", mod, bytes.NewReader(data))
}

func (a *archive) requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.gets
	a.gets = nil
	return out
}

func (a *archive) put(path string, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[path] = data
	a.puts++
	a.mod[path] = now.Add(time.Duration(a.puts) * time.Second)
}

// build makes the .deb of d.
func (a *archive) build(d deb) (path string, data []byte) {
	a.t.Helper()
	path = fmt.Sprintf("pool/%s_%s_%s.deb", d.name, d.version, d.arch)
	if data, ok := a.files[path]; ok {
		return path, data
	}
	dir := a.t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "x/DEBIAN"), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x/DEBIAN/control"), []byte(a.control(d)), 0o644); err != nil {
		a.t.Fatal(err)
	}
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", filepath.Join(dir, "x"), filepath.Join(dir, "x.deb")).CombinedOutput(); err != nil {
		a.t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, "x.deb"))
	if err != nil {
		a.t.Fatal(err)
	}
	a.put(path, data)
	return path, data
}

func (a *archive) control(d deb) string {
	c := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: T <t@example.org>\nDescription: test\n of %s\n", d.name, d.version, d.arch, d.name)
	if d.depends != "" {
		c += "Depends: " + d.depends + "\n"
	}
	if d.provides != "" {
		c += "Provides: " + d.provides + "\n"
	}
	return c + d.extra
}

// publish builds and signs a suite.
func (a *archive) publish(s suiteSpec) {
	a.t.Helper()
	airgaptest.NeedTool(a.t, "dpkg-deb")
	var packages strings.Builder
	archs := []string{"amd64"}
	for _, d := range s.debs {
		path, data := a.build(d)
		sum := sha256.Sum256(data)
		fmt.Fprintf(&packages, "%sFilename: %s\nSize: %d\nSHA256: %s\n\n", a.control(d), path, len(data), hex.EncodeToString(sum[:]))
		if !slices.Contains(archs, d.arch) && d.arch != "all" {
			archs = append(archs, d.arch)
		}
	}
	text := packages.String()
	if s.edit != nil {
		text = s.edit(text)
	}
	index := "main/binary-amd64/Packages"
	files := map[string][]byte{index: []byte(text)}
	if s.form != "" {
		files[index+s.form] = pack(a.t, s.form, []byte(text))
	}
	rel := fmt.Sprintf("Origin: Test\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: %s\nComponents: main\nNo-Support-for-Architecture-all: Packages\n",
		s.name, s.name, formatDate(s.date), strings.Join(archs, " "))
	if !s.validUntil.IsZero() {
		rel += "Valid-Until: " + formatDate(s.validUntil) + "\n"
	}
	if s.byHash {
		rel += "Acquire-By-Hash: yes\n"
	}
	rel += s.head + "SHA256:\n"
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range files {
			if !yield(n) {
				return
			}
		}
	}) {
		sum := sha256.Sum256(files[name])
		rel += fmt.Sprintf(" %s %d %s\n", hex.EncodeToString(sum[:]), len(files[name]), name)
		if name != index || s.form == "" {
			a.put("dists/"+s.name+"/"+name, files[name])
			if s.byHash {
				a.put("dists/"+s.name+"/main/binary-amd64/by-hash/SHA256/"+hex.EncodeToString(sum[:]), files[name])
			}
		}
	}
	a.sign(s.name, rel, s.noInline)
}

func (a *archive) sign(suite, rel string, noInline bool) {
	a.t.Helper()
	cfg := &packet.Config{Time: func() time.Time { return now.Add(-time.Hour) }}
	var in, det bytes.Buffer
	w, err := clearsign.Encode(&in, a.key.PrivateKey, cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := w.Write([]byte(rel)); err != nil {
		a.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		a.t.Fatal(err)
	}
	if err := openpgp.ArmoredDetachSign(&det, a.key, strings.NewReader(rel), cfg); err != nil {
		a.t.Fatal(err)
	}
	if noInline {
		a.put("dists/"+suite+"/Release", []byte(rel))
		a.put("dists/"+suite+"/Release.gpg", det.Bytes())
		return
	}
	a.put("dists/"+suite+"/InRelease", append(in.Bytes(), '\n'))
}

func pack(t testing.TB, form string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w interface {
		Write([]byte) (int, error)
		Close() error
	}
	var err error
	switch form {
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// mirror is the archive as a site wants it.
func (a *archive) mirror(suites []string, packages ...string) airgap.Mirror {
	return airgap.Mirror{Name: "test", Format: "apt", URLs: []string{a.srv.URL}, Suites: suites, Archs: []string{"amd64"}, Packages: packages, Keyrings: []string{a.ring}}
}

// syncer mirrors into a store of its own.
func syncer(t testing.TB) *airgap.Syncer {
	t.Helper()
	s, err := airgap.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key, err := airgap.ParseKey("fettle-secret-key-1:" + strings.Repeat("A", 43) + "=")
	if err != nil {
		t.Fatal(err)
	}
	return &airgap.Syncer{
		Store: s, Formats: []airgap.Format{&Format{}}, Key: key, Now: func() time.Time { return now },
		Fetch: &airgap.Fetcher{Blobs: s.Blobs(), Dir: s.Dir(), Tries: 2},
	}
}
