package pypi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

// project is an upstream with an app, its library in several forms, and
// requirements as pip-compile writes them.
func project(t testing.TB, u *upstream) string {
	t.Helper()
	put := func(name, version, tags, metadata string) string {
		file, data := wheel(t, name, version, tags, metadata)
		return u.add(name, version)(file, data)
	}
	app := put("Demo.App", "1.0", "py3-none-any", "Requires-Dist: fast-lib>=2\nRequires-Dist: winonly ; sys_platform == 'win32'\nRequires-Python: >=3.8\n")
	lib := []string{
		put("fast-lib", "2.1", "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", ""),
		put("fast-lib", "2.1", "cp311-cp311-manylinux_2_17_aarch64", ""),
		put("fast-lib", "2.1", "cp312-cp312-manylinux_2_17_x86_64", ""),
		put("fast-lib", "2.1", "cp311-cp311-win_amd64", ""),
		put("fast-lib", "2.1", "cp311-cp311-musllinux_1_1_x86_64", ""),
	}
	file, data := sdist(t, "fast-lib", "2.1")
	lib = append(lib, u.add("fast-lib", "2.1")(file, data))
	put("fast-lib", "2.2", "py3-none-any", "") // not in the requirements
	win := put("winonly", "3.0", "py3-none-any", "")
	return "--index-url https://elsewhere.example.org/simple\n" +
		"demo-app==1.0 \\\n    " + app + "\n    # via -r requirements.in\n" +
		"fast_lib==2.1 ; python_version >= \"3.9\" \\\n    " + strings.Join(lib, " \\\n    ") + "\n    # via\n    #   demo-app\n    #   other\n" +
		"winonly==3.0 ; sys_platform == \"win32\" " + win + "\n"
}

func TestFiles(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    airgap.Mirror
		want []string
	}{
		{"one machine", airgap.Mirror{Python: []string{"3.11"}, Archs: []string{"amd64"}}, []string{"Demo.App-1.0-py3-none-any.whl", "fast_lib-2.1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"}},
		{"two machines", airgap.Mirror{Python: []string{"3.11"}, Archs: []string{"amd64", "arm64"}}, []string{"Demo.App-1.0-py3-none-any.whl", "fast_lib-2.1-cp311-cp311-manylinux_2_17_aarch64.whl", "fast_lib-2.1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"}},
		{"no wheel", airgap.Mirror{Python: []string{"3.13"}, Archs: []string{"amd64"}}, []string{"Demo.App-1.0-py3-none-any.whl", "fast-lib-2.1.tar.gz"}},
		{"a marker", airgap.Mirror{Python: []string{"3.8"}, Archs: []string{"amd64"}}, []string{"Demo.App-1.0-py3-none-any.whl"}},
		{"a tag", airgap.Mirror{Python: []string{"3.11"}, Archs: []string{"musllinux_*_x86_64"}}, []string{"Demo.App-1.0-py3-none-any.whl", "fast_lib-2.1-cp311-cp311-musllinux_1_1_x86_64.whl", "winonly-3.0-py3-none-any.whl"}},
		{"everything", airgap.Mirror{}, []string{"Demo.App-1.0-py3-none-any.whl", "fast-lib-2.1.tar.gz", "fast_lib-2.1-cp311-cp311-manylinux_2_17_aarch64.whl", "fast_lib-2.1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
			"fast_lib-2.1-cp311-cp311-musllinux_1_1_x86_64.whl", "fast_lib-2.1-cp311-cp311-win_amd64.whl", "fast_lib-2.1-cp312-cp312-manylinux_2_17_x86_64.whl", "winonly-3.0-py3-none-any.whl"}},
	} {
		for _, form := range []bool{true, false} {
			u := newUpstream(t)
			u.json = form
			s := newSide(t, u)
			s.write(t, project(t, u))
			if _, made, err := s.sync(t, tt.m); err != nil || !made {
				t.Errorf("%s: sync = %v, %v", tt.name, made, err)
				continue
			}
			var got []string
			for _, it := range s.Lock.Mirrors[0].Items {
				got = append(got, strings.TrimPrefix(it.Path, filesDir))
				if want := map[string]string{"demo-app": "requirements.in", "fast-lib": "demo-app", "winonly": "requirements.txt"}[it.Name]; it.Why != want {
					t.Errorf("%s is there because of %q; want %q", it.Name, it.Why, want)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s, JSON %v: files = %q; want %q", tt.name, form, got, tt.want)
			}
			u.asked = 0
			if _, made, err := s.sync(t, tt.m); err != nil || made || u.asked > 0 {
				t.Errorf("%s: sync again = %v, %v with %d requests; want nothing new", tt.name, made, err, u.asked)
			}
		}
	}
}

// Real pip installs with nothing but the mirror.
func TestPip(t *testing.T) {
	needPip(t)
	u := newUpstream(t)
	s := newSide(t, u)
	file, data := wheel(t, "top", "1.0", "py3-none-any", "Requires-Dist: low-lib>=2\n")
	text := "top==1.0 " + u.add("top", "1.0")(file, data) + "\n"
	file, data = wheel(t, "low-lib", "2.1", "py3-none-any", "")
	text += "low-lib==2.1 " + u.add("low-lib", "2.1")(file, data) + "\n    # via top\n"
	u.yanked[file] = `bad "thing"`
	s.write(t, text)
	if _, _, err := s.sync(t, airgap.Mirror{Archs: []string{"amd64"}, Python: []string{"3.11", "3.13"}}); err != nil {
		t.Fatal(err)
	}
	s.Fetched(t)
	u.Close()
	dir, out, err := s.pip(t, "install", "--target", "lib", "--require-hashes", "-r", filepath.Join(s.Site, "requirements.txt"))
	if err != nil {
		t.Fatalf("pip install: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "lib", "low_lib.py")); err != nil || !strings.Contains(string(got), "2.1") {
		t.Errorf("low_lib.py = %q, %v; want version 2.1", got, err)
	}
	if !strings.Contains(out, "yanked") || !strings.Contains(out, `bad "thing"`) {
		t.Errorf("pip install = %s; want to be told of what was yanked", out)
	}
	// pip reads core-metadata from 23.2 on (PEP 714).
	apart := "top-1.0-py3-none-any.whl"
	if _, version, err := s.pip(t, "--version"); err != nil {
		t.Fatalf("pip --version: %v: %s", err, version)
	} else if f := strings.Fields(version); len(f) > 1 && f[0] == "pip" && !strings.HasPrefix(f[1], "23.0") && !strings.HasPrefix(f[1], "23.1") && !strings.HasPrefix(f[1], "22.") {
		apart += ".metadata"
	}
	if _, out, err := s.pip(t, "download", "-d", "d", "top==1.0", "low-lib==2.1"); err != nil || !strings.Contains(out, apart) {
		t.Errorf("pip download = %v, %s; want %s fetched", err, out, apart)
	}
	if _, out, err := s.pip(t, "install", "--target", "lib", "requests"); err == nil || !strings.Contains(out, "No matching distribution") {
		t.Errorf("pip install of what is not mirrored = %v, %s", err, out)
	}
}

func TestServe(t *testing.T) {
	u := newUpstream(t)
	s := newSide(t, u)
	s.write(t, project(t, u))
	if _, _, err := s.sync(t, airgap.Mirror{}); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, tt := range []struct {
		name, path, accept string
		status             int
		ctype, want        string
	}{
		{"HTML", "/simple/demo-app/", "text/html", 200, "text/html", "data-requires-python=\"&gt;=3.8\""},
		{"JSON", "/simple/demo-app/", accept, 200, jsonType, `"core-metadata":{"sha256"`},
		{"HTML by weight", "/simple/demo-app/", jsonType + ";q=0.1, text/html;q=0.9", 200, "text/html", "<a "},
		{"root", "/simple/", "", 200, "text/html", `<a href="fast-lib/">`},
		{"root in JSON", "/simple/", jsonType, 200, jsonType, `{"name":"fast-lib"}`},
		{"not normalized", "/simple/Demo_App/", "", 301, "", ""},
		{"without the slash", "/simple/demo-app", "", 301, "", ""},
		{"not there", "/simple/requests/", "", 404, "", ""},
		{"root as a project", "/simple/_root/", "", 404, "", ""},
		{"metadata", "/packages/Demo.App-1.0-py3-none-any.whl.metadata", "", 200, "text/plain", "Requires-Dist: fast-lib>=2"},
		{"inside", "/.simple/demo-app.json", "", 404, "", ""},
		{"out", "/packages/..%2f..%2fx", "", 404, "", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Server.URL+"/pypi/m"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", tt.accept)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || !strings.HasPrefix(resp.Header.Get("Content-Type"), tt.ctype) || !strings.Contains(string(body), tt.want) {
			t.Errorf("%s: GET %s = %d, %s, %s; want %d, %s with %q", tt.name, tt.path, resp.StatusCode, resp.Header.Get("Content-Type"), body, tt.status, tt.ctype, tt.want)
		}
		if tt.ctype == jsonType && !json.Valid(body) {
			t.Errorf("%s: no JSON", tt.name)
		}
	}
}

func TestHostileUpstream(t *testing.T) {
	for _, tt := range []struct {
		name, wrong string
		do          func(u *upstream) string // more requirements
	}{
		{"a flipped bit", "other bytes than were promised", func(u *upstream) string {
			u.edit = func(f string, b []byte) []byte { c := bytes.Clone(b); c[len(c)/2] ^= 1; return c }
			file, data := wheel(t, "x", "1", "py3-none-any", "")
			return "x==1 " + u.add("x", "1")(file, data)
		}},
		{"a file nobody vouches for", "no file for", func(u *upstream) string {
			file, data := wheel(t, "x", "1", "py3-none-any", "")
			u.add("x", "1")(file, data)
			return "x==1 --hash=sha256:" + strings.Repeat("0", 64)
		}},
		{"a wheel of another project", "says that it is evil 1", func(u *upstream) string {
			_, data := wheel(t, "evil", "1", "py3-none-any", "")
			return "x==1 " + u.add("x", "1")("x-1-py3-none-any.whl", data)
		}},
		{"a wheel that is none", "is no wheel", func(u *upstream) string {
			return "x==1 " + u.add("x", "1")("x-1-py3-none-any.whl", []byte("<html>"))
		}},
		{"a name that leaves", "no file for", func(u *upstream) string {
			return "x==1 " + u.add("x", "1")("../x-1.tar.gz", []byte("x"))
		}},
		{"no such project", "not at upstream", func(*upstream) string { return "x==1 --hash=sha256:" + strings.Repeat("0", 64) }},
	} {
		u := newUpstream(t)
		s := newSide(t, u)
		file, data := wheel(t, "good", "1", "py3-none-any", "")
		s.write(t, "good==1 "+u.add("good", "1")(file, data)+"\n")
		m := airgap.Mirror{Python: []string{"3.11"}, Archs: []string{"amd64"}}
		if _, _, err := s.sync(t, m); err != nil {
			t.Fatal(err)
		}
		served, _ := s.Store.Served()
		s.write(t, tt.do(u)+"\n")
		if _, _, err := s.sync(t, m); err == nil || !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.wrong)
		}
		if got, err := s.Store.Served(); err != nil || got != served {
			t.Errorf("%s: served = %s, %v; want the last good %s", tt.name, got, err, served)
		}
	}
}

func TestRequirements(t *testing.T) {
	hash := " --hash=sha256:" + strings.Repeat("a", 64)
	for _, tt := range []struct{ name, text, wrong string }{
		{"no hash", "a==1", "line 1: a has no sha256 hash"},
		{"md5", "a==1 --hash=md5:" + strings.Repeat("a", 32), "no sha256 hash"},
		{"a range", "\na>=1" + hash, "line 2"},
		{"any", "a==1.*" + hash, "is not NAME==VERSION"},
		{"an address", "a @ https://example.org/a.whl" + hash, "is not NAME==VERSION"},
		{"a folder", "-e .", "is a folder"},
		{"a marker", "a==1 ; python_version >>> 3" + hash, "no environment marker"},
		{"include", "-r ../../x.txt", "leaves its folder"},
		{"include itself", "-r requirements.txt", "more than 20 deep"},
	} {
		f := &Format{Dir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(f.Dir, "requirements.txt"), []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.readRequirements("requirements.txt", 0); err == nil || !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: readRequirements = %v; want an error with %q", tt.name, err, tt.wrong)
		}
	}
}

func TestMarkers(t *testing.T) {
	env := environmentOf("3.11", "x86_64")
	for _, tt := range []struct {
		in   string
		want bool
	}{
		{`python_version >= "3.9"`, true},
		{`python_version < "3.9"`, false},
		{`python_version < "3.9" or sys_platform == 'linux'`, true},
		{`python_version == "3.*" and platform_machine != "x86_64"`, false},
		{`("3.10" <= python_version) and (os_name == "posix")`, true},
		{`sys_platform in "linux darwin"`, true},
		{`sys_platform not in "linux darwin"`, false},
		{`python_full_version ~= "3.11.0"`, true},
		{`extra == "dev"`, false},
		{`implementation_name == 'pypy' or extra == 'x' and python_version > '3'`, false},
	} {
		m, err := parseMarker(tt.in)
		if err != nil || m.holds(env) != tt.want {
			t.Errorf("%s = %v, %v; want %v", tt.in, err == nil && m.holds(env), err, tt.want)
		}
	}
	for _, in := range []string{"", "a", "a ==", "(a == b", "a == b c", "a = 'b'", "'a", "not a == b", strings.Repeat("(", 100)} {
		if _, err := parseMarker(in); !errors.Is(err, errMarker) {
			t.Errorf("parseMarker(%q) = %v; want an error", in, err)
		}
	}
}

func TestAllows(t *testing.T) {
	for _, tt := range []struct {
		spec string
		want bool
	}{{"", true}, {">=3.8", true}, {">=3.12", false}, {"<3.12,>=3.7", true}, {"<3.11", false}, {">=3.11.4", true}, {"!=3.11.2", true}, {"==3.11.*", true}, {"==3.10.*", false}, {"~=3.9", true}, {"nonsense", true}} {
		if got := allows(tt.spec, "3.11"); got != tt.want {
			t.Errorf("allows(%q, 3.11) = %v; want %v", tt.spec, got, tt.want)
		}
	}
}

func FuzzRequirements(f *testing.F) {
	f.Add("a==1 ; python_version >= '3' \\\n --hash=sha256:x\n # via b\n")
	f.Fuzz(func(t *testing.T, text string) {
		reqs, _, err := parseRequirements("x", text)
		for _, r := range reqs {
			if err == nil && (len(r.hashes) == 0 || !nameRE.MatchString(r.name)) {
				t.Errorf("parseRequirements took %+v", r)
			}
			r.wanted(target{"3.11", "amd64"})
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"meta":{"api-version":"1.0"},"files":[{"filename":"a-1.tar.gz","url":"../a","hashes":{"sha256":"x"},"yanked":"r","size":1}]}`))
	f.Add([]byte(`<a href="a-1-py3-none-any.whl#sha256=aa" data-yanked>x</a>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ls, err := parseIndex(data, "https://example.org/simple/a/")
		for _, l := range ls {
			if err != nil {
				return
			}
			if airgap.CheckURL(l.url) != nil {
				t.Errorf("parseIndex took the address %q", l.url)
			}
			if d, ok := parseFile(l.file); ok && (airgap.CheckPath(filesDir+l.file) != nil || strings.Contains(l.file, "/")) {
				t.Errorf("parseFile took %q: %+v", l.file, d)
			}
		}
	})
}

func FuzzWheel(f *testing.F) {
	_, data := wheel(f, "a", "1", "py3-none-any", "")
	f.Add(data)
	f.Fuzz(func(_ *testing.T, data []byte) {
		if text, err := metadataOf(bytes.NewReader(data), int64(len(data))); err == nil {
			_, _ = checkMetadata(text, airgap.Item{Name: "a", Version: "1"})
		}
	})
}
