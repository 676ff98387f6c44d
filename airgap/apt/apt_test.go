package apt

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

func plain() []deb {
	return []deb{
		{name: "web", version: "1.0-1", arch: "amd64", depends: "libweb (>= 1.0), logger | fallback, mail-agent", extra: "Recommends: web-doc\n"},
		{name: "libweb", version: "1.2-1", arch: "amd64", extra: "Pre-Depends: base\n"},
		{name: "libweb", version: "0.9-1", arch: "amd64"},
		{name: "base", version: "2", arch: "all"},
		{name: "logger", version: "1", arch: "all"},
		{name: "fallback", version: "1", arch: "all"},
		{name: "postfix", version: "3", arch: "amd64", provides: "mail-agent", extra: "Priority: optional\n"},
		{name: "exim", version: "4", arch: "amd64", provides: "mail-agent", extra: "Priority: standard\n"},
		{name: "web-doc", version: "1", arch: "all"},
		{name: "stranger", version: "1", arch: "amd64"},
	}
}

func suite1() suiteSpec {
	return suiteSpec{name: "stable", debs: plain(), date: now.Add(-time.Hour), form: ".gz", byHash: true}
}

// packagesOf are the packages of a lock as NAME VERSION.
func packagesOf(l airgap.Lock) []string {
	var out []string
	for _, it := range l.Mirrors[0].Items {
		if it.Kind == airgap.KindPackage {
			out = append(out, it.Name+" "+it.Version)
		}
	}
	slices.Sort(out)
	return out
}

func TestResolve(t *testing.T) {
	filtered := []string{"base 2", "exim 4", "libweb 1.2-1", "logger 1", "web 1.0-1"}
	for _, tt := range []struct {
		name   string
		suites []suiteSpec
		change func(*airgap.Mirror)
		want   []string
	}{
		{"closure", []suiteSpec{suite1()}, func(m *airgap.Mirror) { m.Packages = []string{"web"} }, filtered},
		{"recommends", []suiteSpec{suite1()}, func(m *airgap.Mirror) { m.Packages, m.Recommends = []string{"web"}, true }, append(slices.Clone(filtered), "web-doc 1")},
		{"one version", []suiteSpec{suite1()}, func(m *airgap.Mirror) { m.Packages = []string{"libweb=0.9-1"} }, []string{"libweb 0.9-1"}},
		{"priority", []suiteSpec{suite1()}, func(m *airgap.Mirror) { m.Packages = []string{"priority:standard"} }, []string{"exim 4"}},
		{"alternative that another package brings", []suiteSpec{suite1()}, func(m *airgap.Mirror) { m.Packages = []string{"fallback", "web"} },
			[]string{"base 2", "exim 4", "fallback 1", "libweb 1.2-1", "web 1.0-1"}},
		{"closure over pockets", []suiteSpec{suite1(), {name: "stable-security", date: now, form: ".xz", debs: []deb{{name: "libweb", version: "1.2-1+deb12u1", arch: "amd64"}}}},
			func(m *airgap.Mirror) { m.Packages = []string{"web"} }, []string{"exim 4", "libweb 1.2-1+deb12u1", "logger 1", "web 1.0-1"}},
		{"keyring of the site folder", []suiteSpec{suite1()}, func(m *airgap.Mirror) {
			m.Packages, m.Keyrings = []string{"logger"}, []string{filepath.Base(m.Keyrings[0])}
		}, []string{"logger 1"}},
		{"zst, Release.gpg", []suiteSpec{{name: "stable", debs: plain()[4:5], date: now, form: ".zst", noInline: true}}, nil, []string{"logger 1"}},
		{"not compressed", []suiteSpec{{name: "stable", debs: plain()[4:5], date: now}}, nil, []string{"logger 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newArchive(t)
			m := a.mirror(nil)
			for _, s := range tt.suites {
				a.publish(s)
				m.Suites = append(m.Suites, s.name)
			}
			if tt.change != nil {
				tt.change(&m)
			}
			s := syncer(t)
			s.Formats = []airgap.Format{&Format{Dir: filepath.Dir(a.ring)}}
			lock, err := s.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(tt.want)
			if got := packagesOf(lock); !slices.Equal(got, tt.want) {
				t.Errorf("Resolve(%v) = %v; want %v", m.Packages, got, tt.want)
			}
			twin := syncer(t)
			twin.Formats = s.Formats
			again, err := twin.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
			if err != nil || !reflect.DeepEqual(lock, again) {
				t.Errorf("Resolve a second time = %v, %v; want the same", again, err)
			}
			if _, _, err := s.Sync(t.Context(), lock, ""); err != nil {
				t.Errorf("Sync = %v", err)
			}
		})
	}
}

// An upstream that lies is refused with a sentence that says how.
func TestHostileUpstream(t *testing.T) {
	flip := func(a *archive, path string) {
		b := bytes.Clone(a.files[path])
		b[len(b)/2] ^= 1
		a.files[path] = b
	}
	for _, tt := range []struct {
		name string
		spec func(*suiteSpec)
		do   func(*archive)
		pkgs []string
		want string
	}{
		{"unknown key", nil, func(a *archive) { a.key = newArchive(a.t).key; s := suite1(); a.publish(s) }, nil, "no trusted key"},
		{"expired key", nil, func(a *archive) { a.newKey(365*24*time.Hour - 30*time.Minute); s := suite1(); a.publish(s) }, nil, "no trusted key"},
		{"changed InRelease", nil, func(a *archive) {
			a.files["dists/stable/InRelease"] = bytes.Replace(a.files["dists/stable/InRelease"], []byte("Origin: Test"), []byte("Origin: Tost"), 1)
		}, nil, "no trusted key"},
		{"text before the signed one", nil, func(a *archive) {
			a.files["dists/stable/InRelease"] = append([]byte("Origin: Evil\n"), a.files["dists/stable/InRelease"]...)
		}, nil, "no trusted key"},
		{"text behind the signed one", nil, func(a *archive) {
			a.files["dists/stable/InRelease"] = append(a.files["dists/stable/InRelease"], "Origin: Evil\n"...)
		}, nil, "stands around"},
		{"expired", func(s *suiteSpec) { s.validUntil = now.Add(-time.Minute) }, nil, nil, "was valid until"},
		{"from the future", func(s *suiteSpec) { s.date = now.AddDate(0, 1, 0) }, nil, nil, "clock"},
		{"another suite", nil, func(a *archive) {
			s := suite1()
			s.name = "old"
			a.publish(s)
			a.files["dists/stable/InRelease"] = a.files["dists/old/InRelease"]
		}, nil, "swapped"},
		{"path traversal, signed", func(s *suiteSpec) {
			s.edit = func(p string) string { return strings.Replace(p, "pool/web_", "pool/../../x/web_", 1) }
		}, nil, nil, "leaves its folder"},
		{"package over the index, signed", func(s *suiteSpec) {
			s.edit = func(p string) string { return strings.Replace(p, "pool/web_", "dists/web_", 1) }
		}, nil, nil, "where indexes are"},
		{"other bytes in the index", nil, func(a *archive) {
			for p := range a.files {
				if strings.Contains(p, "Packages.gz") || strings.Contains(p, "by-hash") {
					flip(a, p)
				}
			}
		}, nil, "other bytes"},
		{"bomb", nil, func(a *archive) {
			// A Release that says less than the index decompresses to.
			p := pack(a.t, ".gz", bytes.Repeat([]byte("A: b\n\n"), 100000))
			a.put("dists/stable/main/binary-amd64/Packages.gz", p)
			a.sign("stable", releaseText(p, 1000), false)
		}, nil, "decompresses to more"},
		{"flipped bit in a package", nil, func(a *archive) { flip(a, "pool/base_2_all.deb") }, nil, "base_2_all.deb"},
		{"endless package", nil, func(a *archive) {
			a.files["pool/base_2_all.deb"] = append(a.files["pool/base_2_all.deb"], make([]byte, 1<<20)...)
		}, nil, "more than the"},
		{"truncated package", nil, func(a *archive) { a.files["pool/base_2_all.deb"] = a.files["pool/base_2_all.deb"][:100] }, nil, "base_2_all.deb"},
		{"package gone", nil, func(a *archive) { delete(a.files, "pool/base_2_all.deb") }, nil, "resolve again"},
		{"redirect to another host", nil, func(a *archive) {
			other := newArchive(a.t)
			a.hook = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, other.srv.URL+r.URL.Path, http.StatusFound)
				return true
			}
		}, nil, "another host"},
		{"unknown package", nil, nil, []string{"wob"}, "no suite has the package wob"},
		{"misspelt package", nil, nil, []string{"bas"}, "no suite has the package bas for amd64; did you mean base?"},
		{"pattern", nil, nil, []string{"bas*"}, "packages are named, there are no patterns"},
		{"dependency that nobody has", func(s *suiteSpec) {
			s.debs = append(s.debs, deb{name: "broken", version: "1", arch: "amd64", depends: "nothing (>= 2)"})
		}, nil, []string{"broken"}, "broken 1 needs nothing (>= 2)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t)
			a.publish(suite1())
			s := syncer(t)
			good := a.mirror([]string{"stable"}, "logger")
			lock, err := s.Resolve(t.Context(), []airgap.Mirror{good}, airgap.Lock{})
			if err != nil {
				t.Fatal(err)
			}
			before, _, err := s.Sync(t.Context(), lock, "")
			if err != nil {
				t.Fatal(err)
			}
			spec := suite1()
			spec.date, spec.debs = now, append(spec.debs, deb{name: "newer", version: "1", arch: "all"})
			if tt.spec != nil {
				tt.spec(&spec)
			}
			a.publish(spec)
			if tt.do != nil {
				tt.do(a)
			}
			m := a.mirror([]string{"stable"}, tt.pkgs...)
			lock, err = s.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
			if err == nil {
				_, _, err = s.Sync(t.Context(), lock, "")
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("mirroring = %v; want an error with %q", err, tt.want)
			}
			if got, err := s.Store.Served(); err != nil || got != before.Name {
				t.Errorf("Served() = %q, %v; want the last good snapshot %q", got, err, before.Name)
			}
		})
	}
}

func releaseText(gz []byte, plainSize int) string {
	d := func(b []byte) string { return strings.TrimPrefix(string(digest(b)), "sha256:") }
	return "Suite: stable\nDate: " + formatDate(now) + "\nArchitectures: amd64\nComponents: main\nNo-Support-for-Architecture-all: Packages\nSHA256:\n " +
		d(gz) + " " + itoa(len(gz)) + " main/binary-amd64/Packages.gz\n " + d(nil) + " " + itoa(plainSize) + " main/binary-amd64/Packages\n"
}

// A mirror without urls takes archive and keys from the machine's own apt.
func TestMachineSources(t *testing.T) {
	a := newArchive(t)
	a.publish(suite1())
	for name, files := range map[string]map[string]string{
		"deb822":       {"sources.list.d/x.sources": "Types: deb deb-src\nURIs: " + a.srv.URL + "/\nSuites: other stable\nComponents: main\nSigned-By: " + a.ring + "\n"},
		"one line":     {"sources.list": "deb [signed-by=" + a.ring + "] " + a.srv.URL + " stable main\n"},
		"trusted keys": {"sources.list": "deb " + a.srv.URL + " stable main\n", "trusted.gpg.d/k.gpg": string(mustRead(t, a.ring))},
		"no key":       {"sources.list": "deb " + a.srv.URL + " stable main\n"},
		"trusted=yes":  {"sources.list": "deb [trusted=yes] " + a.srv.URL + " stable main\n"},
	} {
		etc := t.TempDir()
		for p, text := range files {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(etc, p)), 0o755), os.WriteFile(filepath.Join(etc, p), []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		s := syncer(t)
		s.Formats = []airgap.Format{&Format{Etc: etc}}
		m := airgap.Mirror{Name: "m", Format: "apt", Suites: []string{"stable"}, Archs: []string{"amd64"}, Packages: []string{"logger"}}
		lock, err := s.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
		want := map[string]string{"no key": "no key to verify with", "trusted=yes": "have no suite stable"}[name]
		switch {
		case want == "" && (err != nil || !slices.Equal(packagesOf(lock), []string{"logger 1"})):
			t.Errorf("%s: Resolve = %v; want logger", name, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: Resolve = %v; want an error with %q", name, err, want)
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReplayOfOlderIndexIsRefused(t *testing.T) {
	a := newArchive(t)
	s := syncer(t)
	a.publish(suite1())
	old := bytes.Clone(a.files["dists/stable/InRelease"])
	spec := suite1()
	spec.date, spec.debs = now, append(spec.debs, deb{name: "fix", version: "1", arch: "all"})
	a.publish(spec)
	m := a.mirror([]string{"stable"})
	lock, err := s.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	a.put("dists/stable/InRelease", old)
	if _, err := s.Resolve(t.Context(), []airgap.Mirror{m}, lock); err == nil || !strings.Contains(err.Error(), "replays an old index") {
		t.Errorf("Resolve of an older index = %v; want it refused", err)
	}
}

func TestUnchangedUpstreamCostsOneConditionalRequest(t *testing.T) {
	a := newArchive(t)
	a.publish(suite1())
	s := syncer(t)
	ms := []airgap.Mirror{a.mirror([]string{"stable"}, "web")}
	lock, err := s.Resolve(t.Context(), ms, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	first, made, err := s.Sync(t.Context(), lock, "")
	if err != nil || !made {
		t.Fatalf("Sync = %v, %v; want a new snapshot", made, err)
	}
	a.requests()
	lock, err = s.Resolve(t.Context(), ms, lock)
	if err != nil {
		t.Fatal(err)
	}
	second, made, err := s.Sync(t.Context(), lock, "")
	if err != nil || made || second.Name != first.Name {
		t.Errorf("Sync of an unchanged upstream = %s, %v, %v; want %s again", second.Name, made, err, first.Name)
	}
	if got := a.requests(); !slices.Equal(got, []string{"/dists/stable/InRelease"}) {
		t.Errorf("requests = %v; want one for InRelease", got)
	}
}

// TestAptClient lets the real apt-get update and download from what is
// served: whole, filtered, and filtered after it crossed the gap.
func TestAptClient(t *testing.T) {
	airgaptest.NeedTool(t, "apt-get", "dpkg-deb", "gpgv")
	for _, tt := range []struct {
		name, form string
		packages   []string
		resign     bool
		get        string
		bundle     bool
	}{
		{"whole", ".xz", nil, false, "stranger", false},
		{"whole signed by the site", ".gz", nil, true, "stranger", false},
		{"filtered", ".gz", []string{"web"}, false, "web", false},
		{"filtered over the gap", ".gz", []string{"web"}, false, "web", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newArchive(t)
			spec := suite1()
			spec.form = tt.form
			a.publish(spec)
			s := syncer(t)
			m := a.mirror([]string{"stable"}, tt.packages...)
			m.Resign = tt.resign
			lock, err := s.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
			if err != nil {
				t.Fatal(err)
			}
			snap, _, err := s.Sync(t.Context(), lock, "")
			if err != nil {
				t.Fatal(err)
			}
			a.srv.Close() // nothing comes from upstream any more
			store := s.Store
			if tt.bundle {
				store = overTheGap(t, s)
			}
			srv := httptest.NewServer(airgap.NewHandler(store, nil))
			defer srv.Close()
			text, err := ClientConfig(t.Context(), store, snap, srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			apt := newAptClient(t, text)
			apt.run(t, "update")
			apt.run(t, "download", tt.get)
			debs, err := filepath.Glob(filepath.Join(apt.dir, tt.get+"_*.deb"))
			if err != nil || len(debs) != 1 {
				t.Fatalf("apt-get download %s left %v, %v", tt.get, debs, err)
			}
			got, err := os.ReadFile(debs[0])
			if want := a.files["pool/"+strings.ReplaceAll(filepath.Base(debs[0]), "%3a", ":")]; err != nil || !bytes.Equal(got, want) {
				t.Errorf("apt-get downloaded %d bytes, %v; want the %d of upstream", len(got), err, len(want))
			}
			// The whole closure installs from the mirror alone.
			out := apt.run(t, "install", "--simulate", "-o", "Dir::State::status="+filepath.Join(apt.dir, "status"), tt.get)
			if !strings.Contains(out, "Inst "+tt.get) {
				t.Errorf("apt-get install --simulate said:\n%s", out)
			}
		})
	}
}

func overTheGap(t *testing.T, s *airgap.Syncer) *airgap.Store {
	t.Helper()
	out := t.TempDir()
	if _, err := s.Store.Create(t.Context(), s.Key, out, airgap.CreateOptions{Site: "test"}); err != nil {
		t.Fatal(err)
	}
	b, err := airgap.OpenBundle(s.Key.Public(), out)
	if err != nil {
		t.Fatal(err)
	}
	other, err := airgap.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Import(t.Context(), b, airgap.ImportOptions{Now: func() time.Time { return now }}); err != nil {
		t.Fatal(err)
	}
	return other
}

type aptClient struct{ dir string }

// newAptClient is a root for apt-get with nothing but one source.
func newAptClient(t *testing.T, sources string) *aptClient {
	t.Helper()
	c := &aptClient{t.TempDir()}
	for _, d := range []string{"etc/apt/sources.list.d", "etc/apt/preferences.d", "etc/apt/apt.conf.d", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(c.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"etc/apt/sources.list.d/fettle.sources": sources, "status": ""} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *aptClient) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "apt-get", append([]string{"-q", "-o", "Dir=" + c.dir, "-o", "Dir::Etc=" + c.dir + "/etc/apt", "-o", "Dir::State=" + c.dir + "/state",
		"-o", "Dir::Cache=" + c.dir + "/cache", "-o", "Dir::State::status=" + c.dir + "/status", "-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64",
		"-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Proxy=false", "-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Retries=0", "-o", "Acquire::Languages=none"}, args...)...)
	cmd.Dir = c.dir
	// The archive of the test lives in its own time.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "http_proxy=", "APT_CONFIG=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("apt-get %v: %v\n%s", args, err, out)
	}
	return string(out)
}
