package apt

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// TestInstallerOfFilteredMirror: what the installer adds by itself comes too,
// out of the release and not of a pocket, and its key travels as a ramdisk.
func TestInstallerOfFilteredMirror(t *testing.T) {
	airgaptest.NeedTool(t, "apt-get", "dpkg-deb", "cpio", "gpgv")
	a := newArchive(t)
	const head = "Origin: Test\nCodename: stable\nArchitectures: amd64\nComponents: main\nNo-Support-for-Architecture-all: Packages\n"
	deb1 := func(d deb) string { return a.entry(d, "pool/"+d.name+"_"+d.version+".deb") }
	packages := deb1(deb{name: "base-files", version: "12", arch: "amd64", extra: "Priority: required\n"}) +
		deb1(deb{name: "apt", version: "2", arch: "amd64", extra: "Priority: important\n"}) + deb1(deb{name: "zstd", version: "1", arch: "amd64"}) + deb1(deb{name: "other", version: "1", arch: "amd64"}) +
		deb1(deb{name: "linux-image-amd64", version: "6.1", arch: "amd64", depends: "linux-image-6.1-amd64"}) + deb1(deb{name: "linux-image-6.1-amd64", version: "6.1", arch: "amd64"}) +
		deb1(deb{name: "tool", version: "1", arch: "amd64"})
	udebs := ""
	for _, n := range []string{"base-installer", "ext4-modules-6.1-amd64-di", "ext4-modules-6.0-amd64-di"} {
		udebs += a.entry(deb{name: n, version: "1", arch: "amd64"}, "pool/"+n+".udeb")
	}
	a.publishFiles("dists/stable", "Suite: stable\n"+head, map[string]string{"main/binary-amd64/Packages": packages, "main/debian-installer/binary-amd64/Packages": udebs})
	a.publishFiles("dists/stable-security", "Suite: stable-security\n"+head, map[string]string{"main/binary-amd64/Packages": deb1(deb{name: "zstd", version: "2", arch: "amd64"})})

	m := a.mirror([]string{"stable-security", "stable"}, "tool")
	m.Installer, m.Udebs = true, []string{"base-installer", "ext4-modules-6.1-*"}
	s := syncer(t)
	_, snap := install(t, s, m)
	want := []string{"apt 2", "base-files 12", "base-installer 1", "ext4-modules-6.1-amd64-di 1", "linux-image-6.1-amd64 6.1", "linux-image-amd64 6.1", "tool 1", "zstd 1"}
	if got := packagesOf(snap.Lock); !slices.Equal(got, want) {
		t.Errorf("packages = %q; want %q", got, want)
	}

	dir := t.TempDir()
	read := func(path string) []byte {
		t.Helper()
		i := slices.IndexFunc(snap.Trees[0].Files, func(f airgap.File) bool { return f.Path == path })
		if i < 0 {
			t.Fatalf("the tree has no %s", path)
		}
		data, err := airgap.ReadBlob(t.Context(), s.Store.Blobs(), snap.Trees[0].Files[i].SHA256, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	z, err := gzip.NewReader(bytes.NewReader(read(overlayFile)))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"usr/share/keyrings", "usr/lib/base-installer.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cpio := exec.Command("cpio", "-i", "--quiet")
	cpio.Dir, cpio.Stdin = dir, z
	if out, err := cpio.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	if fi, err := os.Stat(filepath.Join(dir, "usr/lib/base-installer.d/10site-key")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("the hook: %v, %v; want a program", fi, err)
	}
	// As net-retriever verifies.
	for _, f := range []string{"Release", "Release.gpg"} {
		if err := os.WriteFile(filepath.Join(dir, f), read("dists/stable/"+f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("gpgv", "--keyring", filepath.Join(dir, "usr/share/keyrings/archive.gpg"), filepath.Join(dir, "Release.gpg"), filepath.Join(dir, "Release")).CombinedOutput(); err != nil {
		t.Errorf("gpgv: %v\n%s", err, out)
	}

	// choose-mirror takes a mirror for one of its architecture only so.
	if got := string(read("dists/stable/main/binary-amd64/Release")); !strings.Contains(got, "\nArchitecture: amd64\n") {
		t.Errorf("main/binary-amd64/Release = %q; want its architecture", got)
	}

	files, err := (&Format{}).ClientConfig(t.Context(), clientInstaller, airgap.ClientRequest{HTTP: "http://192.0.2.1:8480", Store: s.Store, Snapshot: snap})
	if err != nil || len(files) != 1 {
		t.Fatalf("preseed = %v, %v; want one file", files, err)
	}
	for _, want := range []string{"d-i mirror/http/hostname string 192.0.2.1:8480\n", "d-i mirror/http/directory string /apt/test\n", "d-i mirror/suite string stable\n",
		"services-select multiselect security\n", "http://192.0.2.1:8480/apt/test/" + overlayFile} {
		if !strings.Contains(string(files[0].Content), want) {
			t.Errorf("preseed lacks %q:\n%s", want, files[0].Content)
		}
	}
	if _, err := (&Format{}).ClientConfig(t.Context(), clientInstaller, airgap.ClientRequest{HTTPS: "https://192.0.2.1:8481", Store: s.Store, Snapshot: snap}); err == nil {
		t.Error("preseed for https = nil; want an error: the installer has no CA of the site")
	}

	m.Udebs = []string{"base-instaler"}
	if _, err := s.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{}); err == nil || !strings.Contains(err.Error(), "base-instaler") {
		t.Errorf("Resolve() with a udeb that is not there = %v; want it named", err)
	}
	whole := m
	whole.Packages = nil
	if _, err := s.Resolve(t.Context(), []airgap.Mirror{whole}, airgap.Lock{}); err == nil || !strings.Contains(err.Error(), "udebs") {
		t.Errorf("Resolve() of a whole mirror with udebs = %v; want an error", err)
	}
}
