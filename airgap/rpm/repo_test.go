package rpm

import (
	"bytes"
	"crypto"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
	"github.com/fettle-dev/fettle/blob"
)

// now is the tests' time; createrepo_c's files are of the machine's.
func now() time.Time { return time.Now().UTC().Add(time.Minute).Truncate(time.Second) }

func must(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// rpmSpec is a package of the tests' repositories.
type rpmSpec struct {
	name, version string
	arch          string // "" noarch
	tags          string // lines such as "Requires: x"
	files         []string
}

// build makes packages with rpmbuild, all of them in one run.
func build(t testing.TB, specs ...rpmSpec) string {
	t.Helper()
	airgaptest.NeedTool(t, "rpmbuild", "createrepo_c")
	dir := t.TempDir()
	var head, files, install strings.Builder
	head.WriteString("Name: testsource\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\n%global debug_package %{nil}\n%global __os_install_post %{nil}\n%global _build_id_links none\n%description\nx\n")
	for _, s := range specs {
		fmt.Fprintf(&head, "%%package -n %s\nSummary: %s\nVersion: %s\nRelease: 1\n%s\n", s.name, s.name, s.version, s.tags)
		if s.arch == "" {
			head.WriteString("BuildArch: noarch\n")
		}
		fmt.Fprintf(&head, "%%description -n %s\nx\n", s.name)
		fmt.Fprintf(&files, "%%files -n %s\n", s.name)
		for _, f := range append(s.files, "/usr/share/"+s.name+"/readme") {
			fmt.Fprintf(&install, "mkdir -p $(dirname %%{buildroot}%s); echo %s > %%{buildroot}%s\n", f, s.name, f)
			fmt.Fprintln(&files, f)
		}
	}
	spec := filepath.Join(dir, "t.spec")
	if err := os.WriteFile(spec, []byte(head.String()+"%install\n"+install.String()+files.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir+"/top", "--target", "x86_64", spec)
	return filepath.Join(dir, "top", "RPMS")
}

// upstream is a repository on loopback, in a folder.
type upstream struct {
	*httptest.Server
	dir string
	key *openpgp.Entity

	mu    sync.Mutex
	edit  func(path string, data []byte) []byte
	asked []string
}

func newKey(t testing.TB, name string) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity(name, "", "", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048, DefaultHash: crypto.SHA256, Time: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{dir: t.TempDir(), key: newKey(t, "upstream")}
	fs := http.FileServer(http.Dir(u.dir))
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.asked = append(u.asked, r.URL.Path)
		edit := u.edit
		u.mu.Unlock()
		if edit == nil {
			fs.ServeHTTP(w, r)
			return
		}
		data, err := os.ReadFile(filepath.Join(u.dir, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(edit(r.URL.Path, data))
	}))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.asked
	u.asked = nil
	return out
}

func (u *upstream) lie(edit func(string, []byte) []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.edit = edit
}

// add copies packages into a repository of upstream, and makes its metadata.
func (u *upstream) add(t testing.TB, repo, rpms string, options ...string) {
	t.Helper()
	dir := filepath.Join(u.dir, repo)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if rpms != "" {
		if err := os.CopyFS(filepath.Join(dir, "Packages"), os.DirFS(rpms)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, dir, "createrepo_c", append([]string{"--quiet", "--workers", "1"}, append(options, ".")...)...)
	u.sign(t, repo)
}

// repack packs a repository's primary with zstd, which createrepo_c of Debian 12
// cannot.
func (u *upstream) repack(t testing.TB, repo string) {
	t.Helper()
	md := filepath.Join(u.dir, repo, "repodata", "repomd.xml")
	data, err := os.ReadFile(md)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := parseRepomd(data)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := rd.find("primary")
	old, err := os.ReadFile(filepath.Join(u.dir, repo, d.href))
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, r); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := blob.FromBytes(b.Bytes()).Hex()
	href := "repodata/" + sum + "-primary.xml.zst"
	text := strings.ReplaceAll(string(data), d.href, href)
	text = strings.ReplaceAll(text, strings.TrimPrefix(d.sum, "sha256:")+"</checksum>", sum+"</checksum>")
	text = strings.Replace(text, fmt.Sprintf("<size>%d</size>", d.size), fmt.Sprintf("<size>%d</size>", b.Len()), 1)
	if err := os.WriteFile(md, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(u.dir, repo, href), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	u.sign(t, repo)
}

// sign signs a repository's index.
func (u *upstream) sign(t testing.TB, repo string) {
	t.Helper()
	file := filepath.Join(u.dir, repo, "repodata", "repomd.xml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, u.key, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".asc", append(b.Bytes(), '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// side is a connected side.
type side struct{ *airgaptest.Side }

func newSide(t testing.TB, u *upstream) *side {
	t.Helper()
	s := &side{airgaptest.New(t, now(), func(site string) airgap.Format { return &Format{Dir: site} })}
	s.Write(t, "upstream.asc", airgaptest.PublicKey(t, u.key))
	return s
}

func (s *side) sync(t testing.TB, ms ...airgap.Mirror) (airgap.Snapshot, bool, error) {
	t.Helper()
	for i := range ms {
		if ms[i].Keyrings == nil {
			ms[i].Keyrings = []string{"upstream.asc"}
		}
		if ms[i].Archs == nil {
			ms[i].Archs = []string{"amd64"}
		}
	}
	return s.Mirror(t, ms...)
}

// packages are the packages of the lock.
func (s *side) packages() map[string]string {
	out := map[string]string{}
	for _, m := range s.Lock.Mirrors {
		for _, it := range m.Items {
			if it.Kind == airgap.KindPackage {
				out[it.Name+"-"+it.Version+"."+it.Arch] = it.Why
			}
		}
	}
	return out
}

// dnf runs real dnf with nothing but what client-config writes.
type dnf struct{ root, work string }

func (s *side) dnf(t testing.TB) *dnf {
	t.Helper()
	airgaptest.NeedTool(t, "dnf")
	snap, _, err := s.Store.Latest()
	if err != nil {
		t.Fatal(err)
	}
	files, err := (&Format{}).ClientConfig(t.Context(), "dnf", airgap.ClientRequest{HTTP: s.Server.URL, Store: s.Store, Snapshot: snap})
	if err != nil {
		t.Fatal(err)
	}
	d := &dnf{t.TempDir(), t.TempDir()}
	if err := os.Mkdir(filepath.Join(d.work, "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		p := filepath.Join(d.root, f.Path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		// dnf reads keys outside of the installation's root.
		if err := os.WriteFile(p, bytes.ReplaceAll(f.Content, []byte("file:///"), []byte("file://"+d.root+"/")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *dnf) run(t testing.TB, args ...string) (string, error) {
	t.Helper()
	conf := filepath.Join(d.work, "dnf.conf")
	if err := os.WriteFile(conf, []byte("[main]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-y", "-c", conf, "--installroot", d.root, "--releasever", "1", "--forcearch", "x86_64", "--setopt=reposdir=" + d.root + "/etc/yum.repos.d",
		"--setopt=cachedir=" + d.work + "/cache", "--setopt=logdir=" + d.work + "/log", "--setopt=install_weak_deps=0", "--setopt=plugins=0"}, args...)
	cmd := exec.CommandContext(t.Context(), "dnf", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+d.work, "GNUPGHOME="+d.work)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *dnf) must(t testing.TB, args ...string) string {
	t.Helper()
	out, err := d.run(t, args...)
	if err != nil {
		t.Fatalf("dnf %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}
