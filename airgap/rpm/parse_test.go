package rpm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
	"github.com/fettle-dev/fettle/airgap/pgp"
)

// Versions are compared with rpm itself.
func TestCompareVersions(t *testing.T) {
	airgaptest.NeedTool(t, "rpm")
	vs := []string{"", "0", "1", "1.0", "1.0.0", "1.00", "1.0a", "1.0~rc1", "1.0~rc1^git1", "1.0^", "1.0^git1", "1.0^git1~pre", "1.0^git1.1", "1_0", "10", "9", "1.10", "1.9", "a", "b", "ab", "1a", "1.a", "2.el9", "2.el9_1", "2.el10", "01", "001.5", "~", "^", "~~", "1..0", "1+", "20240101", "1.fc39", "5.5p1", "5.5p10", "xyz10", "xyz10.1", "4.999.9", "5.0"}
	var lua strings.Builder
	for _, a := range vs {
		for _, b := range vs {
			if a != "" && b != "" {
				lua.WriteString("print(rpm.vercmp('" + a + "','" + b + "')..' ');")
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), "rpm", "--eval", "%{lua:"+lua.String()+"}").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(string(out))
	for _, a := range vs {
		for _, b := range vs {
			if a == "" || b == "" {
				continue
			}
			if got := strconv.Itoa(compareVersions(a, b)); got != want[0] {
				t.Errorf("compareVersions(%q, %q) = %s; want %s", a, b, got, want[0])
			}
			want = want[1:]
		}
	}
}

func TestOverlaps(t *testing.T) {
	rel := func(op, v string) relation { return relation{"x", op, parseEVR(v)} }
	for _, tt := range []struct {
		need, have relation
		want       bool
	}{
		{rel("", ""), rel("=", "1"), true},
		{rel(">=", "1.5"), rel("", ""), true},
		{rel(">=", "1.5"), rel("=", "1.5-3"), true},
		{rel(">=", "1.5-4"), rel("=", "1.5-3"), false},
		{rel("=", "1.5"), rel("=", "1.5-3"), true},
		{rel(">", "1.5"), rel("=", "1.5"), false},
		{rel("<", "2"), rel("=", "1:1"), false},
		{rel("=", "1:1"), rel("=", "1"), false},
		{rel("<", "2"), rel("<", "1"), true},
		{rel(">", "2"), rel("<", "1"), false},
		{rel(">", "2"), rel(">=", "3"), true},
		{rel("<=", "2"), rel(">=", "2"), true},
	} {
		if got := tt.need.overlaps(tt.have); got != tt.want {
			t.Errorf("%s overlaps %s = %v; want %v", tt.need, tt.have, got, tt.want)
		}
	}
}

func TestRich(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"(a and b)", "(a and b)"},
		{"(a >= 1.0 or b or c = 1:2-3)", "(a >= 1.0 or b or c = 1:2-3)"},
		{"(a if (b and c) else d)", "(a if (b and c) else d)"},
		{"(font(:lang=en) with font(x))", "(font(:lang=en) with font(x))"},
		{"((a))", "a"},
		{"(a without b)", "(a without b)"},
		{"(a unless b)", "(a unless b)"},
		{"(a and b or c)", ""}, {"(a", ""}, {"()", ""}, {"(a >=)", ""}, {"(a and)", ""}, {"(a) b", ""}, {strings.Repeat("(", 200), ""},
	} {
		e, err := parseExpr(relation{name: tt.in})
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("parseExpr(%q) = %s; want an error", tt.in, e)
		case tt.want != "" && err != nil:
			t.Errorf("parseExpr(%q) = %v; want %s", tt.in, err, tt.want)
		case tt.want != "" && e.String() != tt.want:
			t.Errorf("parseExpr(%q) = %s; want %s", tt.in, e, tt.want)
		}
	}
}

const moduleText = `---
document: modulemd
version: 2
data:
  name: web
  stream: "1"
  version: 10
  summary: web
  description: web
  license: {module: [MIT]}
  context: aaaa
  profiles: {common: {rpms: [web-server]}, minimal: {rpms: [web-core]}}
  artifacts: {rpms: ["web-server-0:1.0-1.x86_64", "web-core-0:1.0-1.x86_64"]}
---
document: modulemd
version: 2
data:
  name: web
  stream: "2"
  version: 20
  summary: web
  description: web
  license: {module: [MIT]}
  context: bbbb
  dependencies: [{requires: {lang: ["5"], platform: [el9]}}]
  profiles: {common: {rpms: [web-server]}}
  artifacts: {rpms: ["web-server-0:2.0-1.x86_64"]}
---
document: modulemd
version: 2
data: {name: lang, stream: "5", version: 1, context: c, summary: s, description: d, license: {module: [MIT]}, artifacts: {rpms: ["lang-0:5-1.x86_64"]}}
---
document: modulemd
version: 2
data: {name: lang, stream: "6", version: 1, context: c, summary: s, description: d, license: {module: [MIT]}, artifacts: {rpms: ["lang-0:6-1.x86_64"]}}
---
document: modulemd-defaults
version: 1
data: {module: web, stream: "1", profiles: {"1": [common], "2": [common]}}
`

func TestModules(t *testing.T) {
	m, err := parseModules(strings.NewReader(moduleText))
	if err != nil {
		t.Fatal(err)
	}
	pkgs := map[string]*pkg{}
	for _, s := range []string{"web-server 1.0", "web-server 2.0", "web-server 3.0", "web-core 1.0", "lang 5", "lang 6", "free 1"} {
		name, v, _ := strings.Cut(s, " ")
		pkgs[s] = &pkg{name: name, arch: "x86_64", evr: evr{"0", v, "1"}}
	}
	for _, tt := range []struct {
		asked map[string]string
		want  string
	}{
		{map[string]string{}, "free 1, web-core 1.0, web-server 1.0"},
		{map[string]string{"web": "2"}, "free 1, lang 5, web-server 2.0"},
		{map[string]string{"lang": "6"}, "free 1, lang 6, web-core 1.0, web-server 1.0"},
	} {
		on, err := m.enable(tt.asked)
		if err != nil {
			t.Fatal(err)
		}
		hidden := m.hidden(on)
		var got []string
		for s, p := range pkgs {
			if !hidden(p) {
				got = append(got, s)
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("with %v, what can be installed = %s; want %s", tt.asked, s, tt.want)
		}
	}
	if _, err := m.enable(map[string]string{"web": "9"}); err == nil {
		t.Error("enabling a stream that is not there has no error")
	}
	if got, err := m.install("web", "1", "minimal"); err != nil || !slices.Equal(got, []string{"web-core"}) {
		t.Errorf("profile minimal = %v, %v; want web-core", got, err)
	}
	if _, err := m.install("web", "1", "huge"); err == nil {
		t.Error("a profile that is not there has no error")
	}
}

// Modules and groups, with real dnf.
func TestModulesAndGroups(t *testing.T) {
	u := newUpstream(t)
	rpms := build(t, rpmSpec{name: "web-core", version: "1.0", arch: "x86_64"}, rpmSpec{name: "tool", version: "1"}, rpmSpec{name: "extra", version: "1"}, rpmSpec{name: "editor", version: "1"})
	comps := filepath.Join(t.TempDir(), "comps.xml")
	if err := os.WriteFile(comps, []byte(`<?xml version="1.0"?><comps><group><id>tools</id><name>Tools</name><packagelist><packagereq type="mandatory">tool</packagereq><packagereq type="default">gone</packagereq><packagereq type="optional">extra</packagereq></packagelist></group><environment><id>desk</id><name>Desk</name><grouplist><groupid>tools</groupid></grouplist></environment></comps>`), 0o644); err != nil {
		t.Fatal(err)
	}
	mods := filepath.Join(t.TempDir(), "modules.yaml")
	if err := os.WriteFile(mods, []byte(strings.ReplaceAll(moduleText, "web-server", "web-core")), 0o644); err != nil {
		t.Fatal(err)
	}
	u.add(t, "", rpms, "--groupfile", comps)
	must(t, u.dir, "modifyrepo_c", "--mdtype=modules", mods, "repodata")
	u.sign(t, "")
	s := newSide(t, u)
	if _, _, err := s.sync(t, airgap.Mirror{URLs: []string{u.URL}, Packages: []string{"@^desk", "@web:1/minimal"}}); err != nil {
		t.Fatal(err)
	}
	s.Fetched(t)
	got := s.packages()
	if got["tool-1-1.noarch"] != "group tools" || got["web-core-1.0-1.x86_64"] != "module web:1" || len(got) != 2 {
		t.Errorf("packages = %v; want tool and web-core", got)
	}
	d := s.dnf(t)
	if out := d.must(t, "group", "list"); !strings.Contains(out, "Tools") && !strings.Contains(out, "Desk") {
		t.Errorf("dnf group list = %s; want the groups", out)
	}
	if out := d.must(t, "module", "list"); !strings.Contains(out, "web") {
		t.Errorf("dnf module list = %s; want web", out)
	}
	d.must(t, "install", "@tools")
}

// Fuzzed, a parser returns; what it takes is safe to place in a tree.
func FuzzRepomd(f *testing.F) {
	f.Add([]byte(`<repomd><revision>1</revision><data type="primary"><checksum type="sha256">e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855</checksum><location href="repodata/p.xml.gz"/><timestamp>1.5</timestamp></data></repomd>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRepomd(data)
		if err != nil {
			return
		}
		for _, d := range r.data {
			if airgap.CheckPath(d.href) != nil || !strings.HasPrefix(d.href, "repodata/") {
				t.Errorf("parseRepomd took %q", d.href)
			}
		}
	})
}

func FuzzPrimary(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><metadata xmlns="x" xmlns:rpm="y" packages="1"><package type="rpm"><name>a</name><arch>noarch</arch><version epoch="0" ver="1" rel="1"/><checksum type="sha256" pkgid="YES">e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855</checksum><size package="1"/><location href="a.rpm"/><format><rpm:requires><rpm:entry name="(a if b)"/></rpm:requires></format></package></metadata>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = elements(bytes.NewReader(data), "package", func(raw []byte) error {
			if p, err := parsePackage(raw, "http://x", 0); err == nil && airgap.CheckPath(p.href) != nil {
				t.Errorf("parsePackage took %q", p.href)
			}
			return nil
		})
	})
}

func FuzzRich(f *testing.F) {
	f.Add("(a >= 1 and (b or c(x)) if d else e)")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseExpr(relation{name: "(" + s})
		if err != nil {
			return
		}
		c := &closing{u: newUniverse(nil, nil), taken: map[*pkg]string{}, names: map[string][]*pkg{}}
		_, _ = c.fulfil(&pkg{name: "by"}, e)
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(append([]byte{0xed, 0xab, 0xee, 0xdb}, make([]byte, 200)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := verifyPackage(bytes.NewReader(data), pgp.Keyring{}, true); err == nil {
			t.Error("verifyPackage took a package that nobody signed")
		}
	})
}

func FuzzModules(f *testing.F) {
	f.Add([]byte(moduleText))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if m, err := parseModules(bytes.NewReader(data)); err == nil {
			on, _ := m.enable(map[string]string{"web": "2"})
			m.hidden(on)(&pkg{})
		}
	})
}

func TestLicences(t *testing.T) {
	rpms := build(t, rpmSpec{name: "lib", version: "1"})
	files, err := filepath.Glob(filepath.Join(rpms, "*", "lib-*.rpm"))
	if err != nil || len(files) != 1 {
		t.Fatalf("packages = %v, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	f, item := &Format{}, airgap.Item{Kind: airgap.KindPackage}
	if got, err := f.Licences(t.Context(), item, bytes.NewReader(data)); err != nil || !slices.Equal(got, []string{"MIT"}) {
		t.Errorf("licences = %q, %v; want MIT", got, err)
	}
	if got, err := f.Licences(t.Context(), item, bytes.NewReader(data[:200])); err != nil || got != nil {
		t.Errorf("licences of half a package = %q, %v; want none", got, err)
	}
}
