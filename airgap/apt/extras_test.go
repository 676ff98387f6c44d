package apt

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// publishFiles signs a Release over index files at dir and serves them.
func (a *archive) publishFiles(dir, head string, files map[string]string) {
	a.t.Helper()
	rel := head + "Date: " + formatDate(now) + "\nSHA256:\n"
	for name, text := range files {
		a.put(strings.TrimPrefix(dir+"/"+name, "/"), []byte(text))
		rel += fmt.Sprintf(" %s %d %s\n", sum(text), len(text), name)
	}
	a.sign("scratch", rel, false)
	a.put(strings.TrimPrefix(dir+"/InRelease", "/"), a.files["dists/scratch/InRelease"])
}

func sum(s string) string {
	d := sha256.Sum256([]byte(s))
	return hex.EncodeToString(d[:])
}

// entry is the stanza of a package that is served at path.
func (a *archive) entry(d deb, path string) string {
	_, data := a.build(d)
	a.put(path, data)
	s := sha256.Sum256(data)
	return fmt.Sprintf("%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n", a.control(d), path, len(data), hex.EncodeToString(s[:]))
}

// install syncs mirrors and serves them to an apt of its own.
func install(t *testing.T, s *airgap.Syncer, ms ...airgap.Mirror) (*aptClient, airgap.Snapshot) {
	t.Helper()
	lock, err := s.Resolve(t.Context(), ms, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	snap, _, err := s.Sync(t.Context(), lock, "")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(airgap.NewHandler(s.Store, nil))
	t.Cleanup(srv.Close)
	text, err := ClientConfig(t.Context(), s.Store, snap, srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	apt := newAptClient(t, text)
	apt.run(t, "update")
	return apt, snap
}

func TestFlatArchive(t *testing.T) {
	airgaptest.NeedTool(t, "apt-get", "dpkg-deb")
	for _, tt := range []struct{ name, dir, suite string }{
		{"at its address", "", "/"},
		{"dot", "", "./"},
		{"in a folder", "debian12/x86_64", "debian12/x86_64/"},
	} {
		for _, filtered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, filtered %v", tt.name, filtered), func(t *testing.T) {
				a := newArchive(t)
				at := func(f string) string { return strings.TrimPrefix(tt.dir+"/"+f, "/") }
				packages := a.entry(deb{name: "driver", version: "5", arch: "amd64", depends: "lib"}, at("driver_5.deb")) +
					a.entry(deb{name: "lib", version: "1", arch: "amd64"}, at("lib_1.deb")) + a.entry(deb{name: "other", version: "1", arch: "amd64"}, at("other_1.deb"))
				a.publishFiles(tt.dir, "Origin: Vendor\n", map[string]string{"Packages": packages})
				m := a.mirror([]string{tt.suite})
				want := []string{"driver 5", "lib 1", "other 1"}
				if m.Resign = !filtered; filtered {
					m.Packages, want = []string{"driver"}, want[:2]
				}
				apt, snap := install(t, syncer(t), m)
				if got := packagesOf(snap.Lock); !slices.Equal(got, want) {
					t.Errorf("packages = %v; want %v", got, want)
				}
				apt.run(t, "download", "driver", "lib")
				if out := apt.run(t, "install", "--simulate", "-o", "Dir::State::status="+filepath.Join(apt.dir, "status"), "driver"); !strings.Contains(out, "Inst driver") {
					t.Errorf("apt-get install --simulate said:\n%s", out)
				}
			})
		}
	}
	t.Run("untouched", func(t *testing.T) {
		a := newArchive(t)
		a.publishFiles("", "", map[string]string{"Packages": a.entry(deb{name: "lib", version: "1", arch: "amd64"}, "lib_1.deb")})
		_, snap := install(t, syncer(t), a.mirror([]string{"/"}))
		for _, want := range []string{"InRelease", "Packages", "lib_1.deb"} {
			if !slices.ContainsFunc(snap.Trees[0].Files, func(f airgap.File) bool { return f.Path == want }) {
				t.Errorf("the tree has no %s", want)
			}
		}
	})
	for _, bad := range []string{"../", "a/../../b/", "dists/x/", ".upstream/"} {
		a := newArchive(t)
		if _, err := syncer(t).Resolve(t.Context(), []airgap.Mirror{a.mirror([]string{bad})}, airgap.Lock{}); err == nil || len(a.requests()) > 0 {
			t.Errorf("suite %q = %v; want it refused before upstream is asked", bad, err)
		}
	}
}

// extras publishes a suite with sources and an installer.
func (a *archive) extras(edit func(sources string) string) {
	a.t.Helper()
	packages := a.entry(deb{name: "tool", version: "1+b1", arch: "amd64", depends: "lib", extra: "Source: toolsrc (1)\n"}, "pool/tool.deb") +
		a.entry(deb{name: "lib", version: "2", arch: "amd64"}, "pool/lib.deb") + a.entry(deb{name: "other", version: "3", arch: "amd64"}, "pool/other.deb")
	source := func(name, version string) string {
		out := fmt.Sprintf("Package: %s\nBinary: x\nVersion: %s\nFormat: 1.0\nMaintainer: T <t@example.org>\nDirectory: pool/src\nChecksums-Sha256:\n", name, version)
		for _, f := range []string{name + "_" + version + ".dsc", name + "_" + version + ".tar.gz"} {
			a.put("pool/src/"+f, []byte("source "+f))
			out += fmt.Sprintf(" %s %d %s\n", sum("source "+f), len("source "+f), f)
		}
		return out + "\n"
	}
	sources := source("toolsrc", "1") + source("lib", "2") + source("other", "3")
	if edit != nil {
		sources = edit(sources)
	}
	sums := ""
	images := "dists/stable/main/installer-amd64/current/images/"
	for _, f := range []string{"netboot/debian-installer/amd64/linux", "netboot/debian-installer/amd64/initrd.gz", "netboot/mini.iso", "cdrom/vmlinuz"} {
		a.put(images+f, []byte(f))
		sums += sum(f) + "  ./" + f + "\n"
	}
	udebs := a.entry(deb{name: "disk-udeb", version: "1", arch: "amd64", extra: "Source: toolsrc (1)\n"}, "pool/disk.udeb")
	a.publishFiles("dists/stable", "Origin: Test\nSuite: stable\nCodename: stable\nArchitectures: amd64\nComponents: main\nNo-Support-for-Architecture-all: Packages\n", map[string]string{
		"main/binary-amd64/Packages": packages, "main/source/Sources": sources,
		"main/debian-installer/binary-amd64/Packages": udebs, "main/installer-amd64/current/images/SHA256SUMS": sums,
	})
}

func TestSourcesAndInstaller(t *testing.T) {
	airgaptest.NeedTool(t, "apt-get", "dpkg-deb")
	for _, filtered := range []bool{false, true} {
		t.Run(fmt.Sprintf("filtered %v", filtered), func(t *testing.T) {
			a := newArchive(t)
			a.extras(nil)
			m := a.mirror([]string{"stable"})
			m.Sources, m.Installer, m.Resign = true, true, true
			want := []string{"disk-udeb 1", "lib 2", "lib 2", "lib 2", "other 3", "other 3", "other 3", "tool 1+b1", "toolsrc 1", "toolsrc 1"}
			if filtered {
				m.Packages = []string{"tool"}
				want = slices.DeleteFunc(want, func(p string) bool { return p == "other 3" })
			}
			apt, snap := install(t, syncer(t), m)
			if got := packagesOf(snap.Lock); !slices.Equal(got, want) {
				t.Errorf("packages = %q; want %q", got, want)
			}
			apt.run(t, "source", "--download-only", "lib")
			for _, f := range []string{"lib_2.dsc", "lib_2.tar.gz"} {
				if b, err := os.ReadFile(filepath.Join(apt.dir, f)); err != nil || string(b) != "source "+f {
					t.Errorf("apt-get source left %q, %v of %s", b, err, f)
				}
			}
			// The installer's own programs verify and fetch these.
			paths := map[string]bool{}
			for _, f := range snap.Trees[0].Files {
				paths[f.Path] = true
			}
			for path, has := range map[string]bool{
				"dists/stable/main/debian-installer/binary-amd64/Packages.gz": true,
				"pool/disk.udeb": true,
				"dists/stable/main/installer-amd64/current/images/SHA256SUMS":                               true,
				"dists/stable/main/installer-amd64/current/images/netboot/debian-installer/amd64/linux":     true,
				"dists/stable/main/installer-amd64/current/images/netboot/debian-installer/amd64/initrd.gz": true,
				"dists/stable/main/installer-amd64/current/images/netboot/mini.iso":                         false,
				"dists/stable/main/installer-amd64/current/images/cdrom/vmlinuz":                            false,
			} {
				if paths[path] != has {
					t.Errorf("%s in the tree: %v; want %v", path, paths[path], has)
				}
			}
		})
	}
	t.Run("without", func(t *testing.T) {
		a := newArchive(t)
		a.extras(nil)
		m := a.mirror([]string{"stable"}, "tool")
		_, snap := install(t, syncer(t), m)
		if got, want := packagesOf(snap.Lock), []string{"lib 2", "tool 1+b1"}; !slices.Equal(got, want) {
			t.Errorf("packages = %q; want %q", got, want)
		}
	})
	for _, tt := range []struct {
		name string
		edit func(string) string
		want string
	}{
		{"a source that is withheld", func(s string) string { return strings.Replace(s, "Package: toolsrc", "Package: toolsrx", 1) }, "toolsrc 1, which no suite has"},
		{"a folder that leaves the mirror", func(s string) string { return strings.Replace(s, "Directory: pool/src", "Directory: pool/../../x", 1) }, "leaves its folder"},
		{"a file that leaves its folder", func(s string) string { return strings.Replace(s, "toolsrc_1.dsc", "../../x", 1) }, "Checksums-Sha256"},
		{"a file in the place of an index", func(s string) string { return strings.Replace(s, " toolsrc_1.dsc", " Sources.gz", 1) }, "name of an index"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newArchive(t)
			a.extras(tt.edit)
			m := a.mirror([]string{"stable"}, "tool")
			m.Sources = true
			if _, err := syncer(t).Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Resolve = %v; want an error with %q", err, tt.want)
			}
		})
	}
	t.Run("a netboot file with other bytes", func(t *testing.T) {
		a := newArchive(t)
		a.extras(nil)
		a.put("dists/stable/main/installer-amd64/current/images/netboot/debian-installer/amd64/linux", []byte("evil"))
		m := a.mirror([]string{"stable"}, "tool")
		m.Installer = true
		s := syncer(t)
		lock, err := s.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Sync(t.Context(), lock, ""); err == nil || !strings.Contains(err.Error(), "other bytes") {
			t.Errorf("Sync = %v; want an error about other bytes", err)
		}
	})
}
