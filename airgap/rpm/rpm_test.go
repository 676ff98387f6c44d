package rpm

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// base is the packages of the tests' repositories.
func base(t testing.TB) string {
	return build(t,
		rpmSpec{name: "app", version: "2.0", arch: "x86_64", tags: "Requires: libthing(x) >= 1.5\nRequires: /opt/tool/run\nRequires: (tls or openssl)\nRequires: (extra if plugin)\nRecommends: docs"},
		rpmSpec{name: "libthing", version: "1.6", tags: "Provides: libthing(x) = 1.6"},
		rpmSpec{name: "otherthing", version: "1.0", tags: "Provides: libthing(x) = 1.0"},
		rpmSpec{name: "tool", version: "1.0", files: []string{"/opt/tool/run"}, tags: "Requires: plugin"},
		rpmSpec{name: "plugin", version: "1.0"},
		rpmSpec{name: "extra", version: "1.0"},
		rpmSpec{name: "tls", version: "1.0"},
		rpmSpec{name: "openssl", version: "1.0"},
		rpmSpec{name: "docs", version: "1.0"},
		rpmSpec{name: "unrelated", version: "1.0"},
	)
}

func TestClosure(t *testing.T) {
	rpms := base(t)
	for _, form := range []string{"gz", "xz", "bz2", "zstd"} {
		u := newUpstream(t)
		if form == "zstd" {
			u.add(t, "", rpms)
			u.repack(t, "")
		} else {
			u.add(t, "", rpms, "--general-compress-type="+form)
		}
		s := newSide(t, u)
		m := airgap.Mirror{URLs: []string{u.URL}, Packages: []string{"app"}}
		if _, made, err := s.sync(t, m); err != nil || !made {
			t.Fatalf("%s: sync = %v, %v", form, made, err)
		}
		want := map[string]string{"app-2.0-1.x86_64": "the site file", "libthing-1.6-1.noarch": "app", "tool-1.0-1.noarch": "app", "plugin-1.0-1.noarch": "tool", "tls-1.0-1.noarch": "app", "extra-1.0-1.noarch": "app"}
		if got := s.packages(); !maps.Equal(got, want) {
			t.Errorf("%s: packages = %v; want %v", form, got, want)
		}
		u.requests()
		if _, made, err := s.sync(t, m); err != nil || made {
			t.Errorf("%s: sync again = %v, %v; want nothing new", form, made, err)
		}
		if got := u.requests(); len(got) != 2 {
			t.Errorf("%s: sync again asked for %v; want the index and its signature", form, got)
		}
	}
}

func TestWeakAndErrors(t *testing.T) {
	u := newUpstream(t)
	u.add(t, "", base(t))
	s := newSide(t, u)
	for _, tt := range []struct {
		name, wrong string
		m           airgap.Mirror
		has         string
	}{
		{"recommends", "", airgap.Mirror{Packages: []string{"app"}, Recommends: true}, "docs-1.0-1.noarch"},
		{"a version", "", airgap.Mirror{Packages: []string{"docs-1.0-1"}}, "docs-1.0-1.noarch"},
		{"an architecture", "", airgap.Mirror{Packages: []string{"app.x86_64"}}, "app-2.0-1.x86_64"},
		{"a file", "", airgap.Mirror{Packages: []string{"/opt/tool/run"}}, "tool-1.0-1.noarch"},
		{"whole", "", airgap.Mirror{}, "unrelated-1.0-1.noarch"},
		{"a need", "", airgap.Mirror{Needs: []airgap.Need{{Name: "docs", Why: "profile gpu"}}}, "docs-1.0-1.noarch"},
		{"no such package", "no repository has nginx", airgap.Mirror{Packages: []string{"nginx"}}, ""},
		{"no such group", "no group @web", airgap.Mirror{Packages: []string{"@web"}}, ""},
		{"no keyring", "reading a keyring", airgap.Mirror{Keyrings: []string{"nothing.asc"}}, ""},
	} {
		s.Lock = airgap.Lock{}
		tt.m.URLs = []string{u.URL}
		_, _, err := s.sync(t, tt.m)
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if _, ok := s.packages()[tt.has]; !ok {
			t.Errorf("%s: packages = %v; want %s among them", tt.name, s.packages(), tt.has)
		}
	}
}

// Real dnf installs from a filtered mirror that the site signed, out of two
// repositories that belong together.
func TestDNF(t *testing.T) {
	u := newUpstream(t)
	u.add(t, "one", build(t, rpmSpec{name: "app", version: "2.0", arch: "x86_64", tags: "Requires: lib >= 1"}, rpmSpec{name: "unrelated", version: "1"}))
	u.add(t, "two", build(t, rpmSpec{name: "lib", version: "1.2", tags: "Requires: /opt/deep/file"}, rpmSpec{name: "deep", version: "3", files: []string{"/opt/deep/file"}}))
	s := newSide(t, u)
	ms := []airgap.Mirror{{Name: "one", URLs: []string{u.URL + "/one"}, Packages: []string{"app"}}, {Name: "two", URLs: []string{u.URL + "/two"}, Needs: []airgap.Need{{Name: "lib", Why: "x"}}}}
	snap, _, err := s.sync(t, ms...)
	if err != nil {
		t.Fatal(err)
	}
	u.Close()
	d := s.dnf(t)
	d.must(t, "makecache")
	if out := d.must(t, "repoquery", "--qf", "%{name}"); !slices.Equal(strings.Fields(lastLines(out, 3)), []string{"app", "deep", "lib"}) {
		t.Errorf("dnf repoquery = %s; want app, deep and lib", out)
	}
	d.must(t, "install", "app")
	if _, err := os.Stat(filepath.Join(d.root, "opt/deep/file")); err != nil {
		t.Errorf("dnf has not installed what app requires: %v", err)
	}
	// Another site's key: dnf refuses.
	i := slices.IndexFunc(snap.Trees[0].Files, func(f airgap.File) bool { return f.Path == siteKeyFile })
	if i < 0 {
		t.Fatal("the tree has no key of the site")
	}
	e := s.dnf(t)
	if err := os.WriteFile(filepath.Join(e.root, keyFolder, "fettle-one-site.asc"), []byte(airgaptest.PublicKey(t, newKey(t, "evil"))), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.root, keyFolder, "fettle-one-upstream.asc"), []byte(airgaptest.PublicKey(t, newKey(t, "evil2"))), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := e.run(t, "--repo", "fettle-one", "makecache"); err == nil {
		t.Errorf("dnf with the wrong keys = %s; want a refusal", out)
	}
}

// A whole mirror is what upstream made, byte by byte, and real dnf verifies
// upstream's signature.
func TestWhole(t *testing.T) {
	u := newUpstream(t)
	u.add(t, "", build(t, rpmSpec{name: "lib", version: "1.2"}, rpmSpec{name: "lob", version: "1.3"}))
	s := newSide(t, u)
	snap, _, err := s.sync(t, airgap.Mirror{URLs: []string{u.URL}})
	if err != nil {
		t.Fatal(err)
	}
	u.requests()
	n := 0
	err = filepath.WalkDir(u.dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(u.dir, p)
		if err != nil {
			return err
		}
		n++
		if !slices.ContainsFunc(snap.Trees[0].Files, func(f airgap.File) bool { return f.Path == filepath.ToSlash(rel) }) {
			t.Errorf("the tree lacks %s", rel)
		}
		return nil
	})
	if err != nil || n != len(snap.Trees[0].Files)-1 {
		t.Errorf("the tree has %d files, %v; upstream has %d, and the keys are one", len(snap.Trees[0].Files), err, n)
	}
	u.Close()
	s.dnf(t).must(t, "install", "lib")
}

func lastLines(s string, n int) string {
	ls := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(ls[max(0, len(ls)-n):], "\n")
}

// A repository with zchunk metadata (createrepo_c --zck): a whole mirror has it
// too, a remade one names none; dnf installs from both.
func TestZchunk(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mirror airgap.Mirror
		zck    bool
	}{
		{"whole", airgap.Mirror{}, true},
		{"signed again", airgap.Mirror{Resign: true}, false},
		{"filtered", airgap.Mirror{Packages: []string{"lib"}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := newUpstream(t)
			u.add(t, "", build(t, rpmSpec{name: "lib", version: "1.2"}, rpmSpec{name: "lob", version: "1.3"}), "--zck")
			if files, err := filepath.Glob(filepath.Join(u.dir, "repodata", "*-primary.xml.zck")); err != nil || len(files) != 1 {
				t.Fatalf("createrepo_c --zck made %v, %v; want one primary", files, err)
			}
			s := newSide(t, u)
			tt.mirror.URLs = []string{u.URL}
			snap, _, err := s.sync(t, tt.mirror)
			if err != nil {
				t.Fatal(err)
			}
			for _, kind := range []string{"primary", "filelists", "other"} {
				got := slices.ContainsFunc(snap.Trees[0].Files, func(f airgap.File) bool {
					return strings.HasPrefix(f.Path, "repodata/") && strings.HasSuffix(f.Path, "-"+kind+".xml.zck")
				})
				if got != tt.zck {
					t.Errorf("the tree has %s.xml.zck: %t; want %t", kind, got, tt.zck)
				}
			}
			u.Close()
			d := s.dnf(t)
			d.must(t, "--setopt=zchunk=True", "makecache")
			d.must(t, "--setopt=zchunk=True", "install", "lib")
			if out := d.must(t, "list", "--installed"); !strings.Contains(out, "lib") {
				t.Errorf("dnf list --installed = %s; want lib", out)
			}
		})
	}
}
