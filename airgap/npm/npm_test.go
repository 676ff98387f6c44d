package npm

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// app is a project with a scoped, an aliased, a nested, a bundled, a platform's
// and a workspace's package.
func app(t testing.TB, u *upstream) map[string]any {
	t.Helper()
	dev := u.add(t, `{"name":"tester","version":"0.1.0"}`, nil)
	dev.Dev = true
	mac := u.add(t, `{"name":"only-mac","version":"1.0.0","os":["darwin"]}`, nil)
	mac.Optional = true
	linux := u.add(t, `{"name":"only-linux","version":"1.0.0","os":["linux"]}`, nil)
	linux.Optional = true
	alias := u.add(t, `{"name":"real","version":"2.0.0"}`, nil)
	alias.Name = "real"
	return map[string]any{
		"": map[string]any{"name": "app", "version": "1.0.0", "workspaces": []string{"packages/*"},
			"dependencies": map[string]string{"@a/b": "^1.0.0", "nick": "npm:real@^2.0.0", "outer": "1.0.0"}, "devDependencies": map[string]string{"tester": "*"}, "optionalDependencies": map[string]string{"only-mac": "1.0.0", "only-linux": "1.0.0"}},
		"packages/w":                            map[string]any{"name": "w", "version": "1.0.0"},
		"node_modules/w":                        map[string]any{"resolved": "packages/w", "link": true},
		"node_modules/@a/b":                     u.add(t, `{"name":"@a/b","version":"1.2.3","bin":"cli.js","scripts":{"postinstall":"true"}}`, map[string]string{"cli.js": "#!/usr/bin/env node\nconsole.log('b')\n"}),
		"node_modules/nick":                     alias,
		"node_modules/outer":                    u.add(t, `{"name":"outer","version":"1.0.0","dependencies":{"real":"^1.0.0"}}`, nil),
		"node_modules/outer/node_modules/real":  u.add(t, `{"name":"real","version":"1.5.0"}`, nil),
		"node_modules/outer/node_modules/inner": map[string]any{"version": "1.0.0", "inBundle": true},
		"node_modules/tester":                   dev,
		"node_modules/only-mac":                 mac,
		"node_modules/only-linux":               linux,
	}
}

func names(l airgap.Lock) []string {
	var out []string
	for _, it := range l.Mirrors[0].Items {
		out = append(out, it.Name+"@"+it.Version)
	}
	return out
}

func TestWants(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    airgap.Mirror
		want string
	}{
		{"all", airgap.Mirror{}, "@a/b@1.2.3 only-linux@1.0.0 only-mac@1.0.0 outer@1.0.0 real@1.5.0 real@2.0.0 tester@0.1.0"},
		{"without dev", airgap.Mirror{Omit: []string{"dev"}}, "@a/b@1.2.3 only-linux@1.0.0 only-mac@1.0.0 outer@1.0.0 real@1.5.0 real@2.0.0"},
		{"without optional", airgap.Mirror{Omit: []string{"optional"}}, "@a/b@1.2.3 outer@1.0.0 real@1.5.0 real@2.0.0 tester@0.1.0"},
		{"amd64", airgap.Mirror{Archs: []string{"amd64"}}, "@a/b@1.2.3 only-linux@1.0.0 outer@1.0.0 real@1.5.0 real@2.0.0 tester@0.1.0"},
		{"a mac too", airgap.Mirror{Archs: []string{"darwin-arm64"}, Omit: []string{"dev"}}, "@a/b@1.2.3 only-mac@1.0.0 outer@1.0.0 real@1.5.0 real@2.0.0"},
	} {
		u := newUpstream(t)
		s := newSide(t, u.URL)
		s.write(t, "package-lock.json", app(t, u))
		tt.m.Lockfiles = []string{"package-lock.json"}
		if _, made, err := s.Mirror(t, tt.m); err != nil || !made {
			t.Errorf("%s: sync = %v, %v", tt.name, made, err)
			continue
		}
		if got := strings.Join(names(s.Lock), " "); got != tt.want {
			t.Errorf("%s: packages = %s; want %s", tt.name, got, tt.want)
		}
		u.asked = 0
		if _, made, err := s.Mirror(t, tt.m); err != nil || made || u.asked != 0 {
			t.Errorf("%s: sync again = %v, %v with %d requests; want nothing new", tt.name, made, err, u.asked)
		}
	}
}

func TestWhy(t *testing.T) {
	u := newUpstream(t)
	s := newSide(t, u.URL)
	s.write(t, "package-lock.json", app(t, u))
	if _, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"package-lock.json"}}); err != nil {
		t.Fatal(err)
	}
	s.Fetched(t)
	want := map[string]string{"@a/b@1.2.3": "package-lock.json", "real@1.5.0": "outer@1.0.0", "real@2.0.0": "package-lock.json"}
	for _, it := range s.Lock.Mirrors[0].Items {
		if w, ok := want[it.Name+"@"+it.Version]; ok && it.Why != w {
			t.Errorf("%s %s is there because of %q; want %q", it.Name, it.Version, it.Why, w)
		}
	}
}

// Real npm installs with nothing but the mirror, from a lockfile that names
// the upstream, and without one.
func TestNPMClient(t *testing.T) {
	u := newUpstream(t)
	s := newSide(t, u.URL)
	places := app(t, u)
	delete(places, "packages/w")
	delete(places, "node_modules/w")
	delete(places, "node_modules/outer/node_modules/inner")
	root := places[""].(map[string]any)
	delete(root, "workspaces")
	lock := s.write(t, "package-lock.json", places)
	snap, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"package-lock.json"}, Archs: []string{"amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	u.Close() // nothing comes from there any more
	manifest, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	ci := newNPM(t, s.Server.URL+"/npm/m/")
	ci.write(t, "package.json", string(manifest))
	ci.write(t, "package-lock.json", lock)
	ci.must(t, "ci", "--replace-registry-host=always")
	for name, want := range map[string]bool{"@a/b/cli.js": true, "only-linux": true, "only-mac": false, "outer/node_modules/real": true, "nick": true} {
		if got := ci.has(name); got != want {
			t.Errorf("after npm ci, node_modules/%s is there = %v; want %v", name, got, want)
		}
	}
	fresh := newNPM(t, s.Server.URL+"/npm/m/")
	fresh.write(t, "package.json", `{"name":"new","version":"1.0.0"}`)
	fresh.must(t, "install", "@a/b", "real@^1.0.0", "outer@latest")
	if !fresh.has(".bin/b") {
		t.Error("npm install has not installed the program of @a/b")
	}
	if data, err := os.ReadFile(filepath.Join(fresh.dir, "package-lock.json")); err != nil || !strings.Contains(string(data), s.Server.URL+"/npm/m/@a/b/-/b-1.2.3.tgz") ||
		!strings.Contains(string(data), integrityOf(u.files["/@a/b/-/b-1.2.3.tgz"])) {
		t.Errorf("the lockfile that npm wrote = %s, %v; want the mirror's address and upstream's integrity", data, err)
	}
	if out := fresh.must(t, "view", "real", "versions", "--json"); !strings.Contains(out, "1.5.0") || !strings.Contains(out, "2.0.0") {
		t.Errorf("npm view = %s; want both versions", out)
	}
	if out, err := fresh.run(t, "install", "tester-of-nothing"); err == nil || !strings.Contains(out, "404") {
		t.Errorf("npm install of what is not mirrored = %s, %v; want 404", out, err)
	}
	if out, err := fresh.run(t, "audit"); err == nil || !strings.Contains(out, "no advisories") {
		t.Errorf("npm audit = %s, %v; want to be told that there are no advisories here", out, err)
	}
	cfg, err := (&Format{}).ClientConfig(t.Context(), "npm", airgap.ClientRequest{HTTP: "http://x", HTTPS: "https://y", CAFile: "/ca.pem", Snapshot: snap})
	if err != nil || len(cfg) == 0 || !strings.Contains(string(cfg[0].Content), "registry=https://y/npm/m/\n") || !strings.Contains(string(cfg[0].Content), "cafile=/ca.pem\n") {
		t.Errorf("client-config = %s, %v", cfg, err)
	}
}

func TestServe(t *testing.T) {
	u := newUpstream(t)
	s := newSide(t, u.URL)
	s.write(t, "package-lock.json", app(t, u))
	if _, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"package-lock.json"}}); err != nil {
		t.Fatal(err)
	}
	at := s.Server.URL + "/npm/m"
	for _, tt := range []struct {
		name, method, path, accept string
		status                     int
		want, not                  string
	}{
		{"full", "GET", "/@a/b", "", 200, `"postinstall":"true"`, base},
		{"full, escaped", "GET", "/@a%2fb", "application/json", 200, `"tarball":"` + at + `/@a/b/-/b-1.2.3.tgz"`, ""},
		{"abbreviated", "GET", "/@a%2fb", installType + "; q=1.0, application/json; q=0.8", 200, `"hasInstallScript":true`, "postinstall"},
		{"version", "GET", "/real/1.5.0", "", 200, `"version":"1.5.0"`, "2.0.0"},
		{"tag", "GET", "/real/latest", "", 200, `"version":"2.0.0"`, "1.5.0"},
		{"no such version", "GET", "/real/3.0.0", "", 404, "error", ""},
		{"tags", "GET", "/-/package/@a%2fb/dist-tags", "", 200, `{"latest":"1.2.3"}`, ""},
		{"ping", "GET", "/-/ping", "", 200, "{}", ""},
		{"not there", "GET", "/express", "", 404, "error", ""},
		{"inside", "GET", "/.packuments/real/full.json", "", 404, "error", base},
		{"audit", "POST", "/-/npm/v1/security/advisories/bulk", "", 501, "no advisories", ""},
		{"publish", "PUT", "/real", "", 405, "read only", ""},
		{"out", "GET", "/..%2f..%2fsnapshots", "", 404, "", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, at+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", tt.accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) || tt.not != "" && strings.Contains(string(body), tt.not) {
			t.Errorf("%s: %s %s = %d, %s, %v; want %d with %q and without %q", tt.name, tt.method, tt.path, resp.StatusCode, body, err, tt.status, tt.want, tt.not)
		}
	}
}

func TestBadLockfiles(t *testing.T) {
	good := map[string]any{"version": "1.0.0", "resolved": "https://example.org/a/-/a-1.0.0.tgz", "integrity": integrityOf(nil)}
	with := func(k string, v any) map[string]any {
		out := map[string]any{}
		for x, y := range good {
			out[x] = y
		}
		out[k] = v
		return map[string]any{"node_modules/a": out}
	}
	for _, tt := range []struct {
		name   string
		places map[string]any
		wrong  string
	}{
		{"no integrity", with("integrity", ""), "has no integrity"},
		{"sha1 only", with("integrity", "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="), "has no sha512"},
		{"short sha512", with("integrity", "sha512-AAAA"), "has no sha512"},
		{"git", with("resolved", "git+ssh://git@example.org/a.git#abc"), "cannot be mirrored"},
		{"no version", with("version", "latest"), "is no version"},
		{"name that leaves", map[string]any{"node_modules/../../etc": good}, "is no name"},
		{"alias that leaves", with("name", "../a"), "is no name"},
		{"version that leaves", with("version", "1.0.0-/../../x"), "is no version"},
	} {
		s := newSide(t, "http://127.0.0.1:1")
		s.write(t, "package-lock.json", tt.places)
		_, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"package-lock.json"}})
		if err == nil || !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.wrong)
		}
	}
	for _, text := range []string{"", "[]", `{"lockfileVersion":1}`, `{"lockfileVersion":3}`, `{"lockfileVersion":4,"packages":{}}`} {
		if _, err := parseLockfile("x", []byte(text)); err == nil {
			t.Errorf("parseLockfile(%s) has no error", text)
		}
	}
}

func TestHostileUpstream(t *testing.T) {
	for _, tt := range []struct {
		name  string
		file  func(good []byte) []byte
		trust bool // the lockfile has the integrity of what upstream sends
		wrong string
	}{
		{"a flipped bit", func(b []byte) []byte { c := bytes.Clone(b); c[len(c)/2] ^= 1; return c }, false, "integrity is"},
		{"nothing", func([]byte) []byte { return nil }, false, "integrity is"},
		{"longer", func(b []byte) []byte { return append(bytes.Clone(b), 0) }, false, "integrity is"},
		{"another package", func([]byte) []byte {
			return tgz(t, map[string]string{"package.json": `{"name":"evil","version":"1.0.0"}`})
		}, true, "says that it is evil"},
		{"another version", func([]byte) []byte {
			return tgz(t, map[string]string{"package.json": `{"name":"a","version":"0.9.0"}`})
		}, true, "says that it is a 0.9.0"},
		{"no package.json", func([]byte) []byte { return tgz(t, map[string]string{"x": ""}) }, true, "has no package.json"},
		{"no tarball", func([]byte) []byte { return []byte("<html>") }, true, "is no tarball"},
	} {
		u := newUpstream(t)
		s := newSide(t, u.URL)
		s.write(t, "first.json", map[string]any{"node_modules/good": u.add(t, `{"name":"good","version":"1.0.0"}`, nil)})
		if _, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"first.json"}}); err != nil {
			t.Fatal(err)
		}
		served, _ := s.Store.Served()
		e := u.add(t, `{"name":"a","version":"1.0.0"}`, nil)
		lie := tt.file(u.files["/a/-/a-1.0.0.tgz"])
		u.files["/a/-/a-1.0.0.tgz"] = lie
		if tt.trust {
			e.Integrity = integrityOf(lie)
		}
		s.write(t, "package-lock.json", map[string]any{"node_modules/a": e})
		_, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"package-lock.json"}})
		if err == nil || !strings.Contains(err.Error(), tt.wrong) || !strings.Contains(err.Error(), "a-1.0.0.tgz") {
			t.Errorf("%s: sync = %v; want an error with %q that names the file", tt.name, err, tt.wrong)
		}
		if got, err := s.Store.Served(); err != nil || got != served {
			t.Errorf("%s: served = %s, %v; want the last good %s", tt.name, got, err, served)
		}
	}
}

func TestNewest(t *testing.T) {
	for _, tt := range []struct {
		vs   []string
		want string
	}{
		{[]string{"1.0.0", "1.10.0", "1.9.0"}, "1.10.0"},
		{[]string{"1.0.0", "2.0.0-rc.1"}, "1.0.0"},
		{[]string{"2.0.0-rc.1", "2.0.0-rc.10", "2.0.0-beta"}, "2.0.0-rc.10"},
	} {
		for range 3 {
			slices.Reverse(tt.vs)
			if got := newest(tt.vs); got != tt.want {
				t.Errorf("newest(%v) = %s; want %s", tt.vs, got, tt.want)
			}
		}
	}
}

func FuzzLockfile(f *testing.F) {
	f.Add([]byte(`{"lockfileVersion":3,"packages":{"":{},"node_modules/a":{"version":"1.0.0","os":"linux","integrity":"sha512-x"}}}`))
	f.Add([]byte(`{"lockfileVersion":2,"packages":{"a/node_modules/b/node_modules/c":{"dependencies":{"c":"1"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseLockfile("x", data)
		if err != nil {
			return
		}
		ws, err := l.wants(airgap.Mirror{Archs: []string{"amd64"}, Omit: []string{"dev"}})
		for _, w := range ws {
			if err == nil && airgap.CheckPath(tarball(w.name, w.version)) != nil {
				t.Errorf("wants took %q %q", w.name, w.version)
			}
		}
	})
}

func FuzzTarball(f *testing.F) {
	f.Add(tgz(f, map[string]string{"package.json": `{"name":"a","version":"1.0.0","bin":"x"}`}))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := packageJSON(bytes.NewReader(data))
		if err == nil && m == nil {
			t.Error("packageJSON gave nothing and no error")
		}
	})
}

// A small real package from the machine's own registry.
func TestRealPackage(t *testing.T) {
	if testing.Short() {
		t.Skip("it uses the machine's npm registry")
	}
	airgaptest.NeedTool(t, "npm")
	at := configured()
	up := newNPM(t, at)
	up.write(t, "package.json", `{"name":"real","version":"1.0.0","dependencies":{"is-odd":"3.0.1"}}`)
	up.must(t, "install", "--package-lock-only", "--no-audit")
	lock, err := os.ReadFile(filepath.Join(up.dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := newSide(t, "")
	if err := os.WriteFile(filepath.Join(s.Site, "package-lock.json"), lock, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"package-lock.json"}}); err != nil {
		t.Fatal(err)
	}
	n := newNPM(t, s.Server.URL+"/npm/m/")
	n.write(t, "package.json", `{"name":"real","version":"1.0.0","dependencies":{"is-odd":"3.0.1"}}`)
	n.write(t, "package-lock.json", string(lock))
	n.must(t, "ci", "--no-audit", "--replace-registry-host=always")
	if !n.has("is-odd/index.js") || !n.has("is-number/index.js") {
		t.Error("npm ci has not installed is-odd and is-number")
	}
}
