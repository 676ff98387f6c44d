package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// repo is a small signed Debian archive on loopback.
type repo struct {
	t    *testing.T
	dir  string
	key  *openpgp.Entity
	srv  *httptest.Server
	debs []string // stanzas of Packages
	pubs int
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	needTool(t, "apt-get", "apt-cache", "apt-config", "dpkg-deb", "gpgv")
	key, err := openpgp.NewEntity("archive", "", "archive@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})
	if err != nil {
		t.Fatal(err)
	}
	r := &repo{t: t, dir: t.TempDir(), key: key}
	r.srv = httptest.NewServer(http.FileServer(http.Dir(r.dir)))
	t.Cleanup(r.srv.Close)
	return r
}

// source is the archive as apt's configuration names it.
func (r *repo) source() Source {
	path := filepath.Join(r.dir, "keyring.gpg")
	f, err := os.Create(path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := r.key.Serialize(f); err != nil {
		r.t.Fatal(err)
	}
	return Source{URI: r.srv.URL, Suite: "stable", Components: []string{"main"}, SignedBy: path}
}

// add makes a package with files and returns its path in the archive.
func (r *repo) add(name, version, depends string, files map[string]string) string {
	r.t.Helper()
	tree := r.t.TempDir()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: T <t@example.org>\nDescription: test\n", name, version)
	if depends != "" {
		control += "Depends: " + depends + "\n"
	}
	mustWrite(r.t, tree+"/DEBIAN/control", control)
	for p, text := range files {
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			mustMkdir(r.t, filepath.Dir(tree+"/"+p))
			if err := os.Symlink(to, tree+"/"+p); err != nil {
				r.t.Fatal(err)
			}
			continue
		}
		mustWrite(r.t, tree+"/"+p, text)
	}
	rel := fmt.Sprintf("pool/%s_%s_amd64.deb", name, version)
	mustMkdir(r.t, r.dir+"/pool")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", tree, filepath.Join(r.dir, rel)).CombinedOutput(); err != nil {
		r.t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	data := mustRead(r.t, filepath.Join(r.dir, rel))
	sum := sha256.Sum256([]byte(data))
	r.debs = append(r.debs, fmt.Sprintf("%sFilename: %s\nSize: %d\nSHA256: %s\n", control, rel, len(data), hex.EncodeToString(sum[:])))
	return filepath.Join(r.dir, rel)
}

// publish writes the signed lists.
func (r *repo) publish() {
	r.t.Helper()
	packages := strings.Join(r.debs, "\n") + "\n"
	mustWrite(r.t, r.dir+"/dists/stable/main/binary-amd64/Packages", packages)
	sum := sha256.Sum256([]byte(packages))
	release := fmt.Sprintf("Origin: test\nSuite: stable\nCodename: stable\nDate: Sat, 21 Nov 2026 10:00:00 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n %s %d main/binary-amd64/Packages\n",
		hex.EncodeToString(sum[:]), len(packages))
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, r.key.PrivateKey, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := w.Write([]byte(release)); err != nil {
		r.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
	mustWrite(r.t, r.dir+"/dists/stable/InRelease", signed.String())
	// apt asks whether the lists changed since a time in whole seconds.
	r.pubs++
	at := time.Date(2026, 11, 21, 10, r.pubs, 0, 0, time.UTC)
	for _, f := range []string{"InRelease", "main/binary-amd64/Packages"} {
		if err := os.Chtimes(filepath.Join(r.dir, "dists/stable", f), at, at); err != nil {
			r.t.Fatal(err)
		}
	}
}

// addLoaders adds packages that Loaders can be built from.
func (r *repo) addLoaders(version string) string {
	deb := r.add("ipxe", version, "", map[string]string{
		"usr/lib/ipxe/undionly.kpxe": "undionly " + version, "usr/lib/ipxe/snponly.efi": "snponly",
		"usr/lib/ipxe/ipxe.efi": "-> ../../../boot/ipxe.efi", "boot/ipxe.efi": "ipxe"})
	r.add("shim-signed", version, "shim-helpers-amd64-signed", map[string]string{"usr/lib/shim/shimx64.efi.signed": "shim"})
	r.add("shim-helpers-amd64-signed", version, "", map[string]string{"usr/lib/shim/mmx64.efi.signed": "mm"})
	r.add("systemd-boot-efi", version, "", map[string]string{"usr/lib/systemd/boot/efi/linuxx64.efi.stub": "stub"})
	r.add("grub-efi-amd64-signed", version, "", map[string]string{"usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed": "grub"})
	return deb
}

func repoBuilder(t *testing.T, r *repo) *Builder {
	b := testBuilder(t)
	b.Host, b.Apt.Sources = Host{OS: "debian", Suite: "stable"}, []Source{r.source()}
	return b
}

func TestLoadersFromArchive(t *testing.T) {
	r := newRepo(t)
	r.addLoaders("1")
	r.publish()
	b := repoBuilder(t, r)
	rel, cached, err := b.Loaders(t.Context())
	if err != nil || cached || len(rel.Files) != 7 || rel.Facts["ipxe"] != "1" {
		t.Fatalf("Loaders = %+v, %v, %v; want seven files of version 1", rel, cached, err)
	}
	f, ok := rel.File(FileUndionly)
	if !ok || mustRead(t, b.Store.Blobs().Path(f.Digest)) != "undionly 1" {
		t.Errorf("undionly.kpxe = %+v; want the package's bytes", f)
	}
	// A second time: cached, and without the archive.
	r.srv.Config.Handler = http.NotFoundHandler()
	again, cached, err := b.Loaders(t.Context())
	if err != nil || !cached || again.Inputs != rel.Inputs {
		t.Errorf("Loaders again = %v, %v, %v; want the same release, cached", again.Inputs, cached, err)
	}
	if _, _, err := func() (Release, bool, error) { b.Refresh = true; return b.Loaders(t.Context()) }(); err == nil || !strings.Contains(err.Error(), "package lists") {
		t.Errorf("Loaders with Refresh and no archive = %v; want an error about package lists", err)
	}
	b.Refresh, b.MaxAge = false, 1 // lists are old, the archive is away: the old lists do
	if _, cached, err := b.Loaders(t.Context()); err != nil || !cached {
		t.Errorf("Loaders with old lists and no archive = %v, %v; want cached", cached, err)
	}
	// A new version upstream.
	r.srv.Config.Handler = http.FileServer(http.Dir(r.dir))
	r.addLoaders("2")
	r.publish()
	rel2, cached, err := b.Loaders(t.Context())
	if err != nil || cached || rel2.Facts["ipxe"] != "2" || rel2.Inputs == rel.Inputs {
		t.Errorf("Loaders after an upgrade = %v, %v, %v; want version 2", rel2.Facts, cached, err)
	}
}

// TestLoadersFromUbuntu has the boot loaders where Ubuntu's packages have them:
// 24.04, and 22.04, whose stub is in systemd.
func TestLoadersFromUbuntu(t *testing.T) {
	for _, stub := range []string{"systemd-boot-efi", "systemd"} {
		t.Run(stub, func(t *testing.T) {
			r := newRepo(t)
			r.add("ipxe", "1", "", map[string]string{"usr/lib/ipxe/undionly.kpxe": "undionly", "usr/lib/ipxe/snponly.efi": "snponly", "usr/lib/ipxe/ipxe.efi": "ipxe"})
			r.add("shim-signed", "1.58", "grub-efi-amd64-signed", map[string]string{"usr/lib/shim/shimx64.efi.signed.latest": "shim", "usr/lib/shim/shimx64.efi.signed.previous": "old shim",
				"usr/lib/shim/mmx64.efi": "mm", "usr/lib/shim/BOOTX64.CSV": "x"})
			r.add("grub-efi-amd64-signed", "1.202", "", map[string]string{"usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed": "grub"})
			r.add("systemd", "255", "", map[string]string{"usr/bin/systemctl": "x"})
			r.add(stub, "255.1", "", map[string]string{"usr/lib/systemd/boot/efi/linuxx64.efi.stub": "stub"})
			r.publish()
			b := repoBuilder(t, r)
			b.Host.OS = "ubuntu"
			rel, _, err := b.Loaders(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for file, want := range map[string]string{FileShim: "shim", FileMokMgr: "mm", FileIPXE: "ipxe", FileStub: "stub", FileGRUB: "grub", FileUndionly: "undionly", FileSnponly: "snponly"} {
				if f, ok := rel.File(file); !ok || mustRead(t, b.Store.Blobs().Path(f.Digest)) != want {
					t.Errorf("%s = %+v; want %q", file, f, want)
				}
			}
			if rel.Facts[stub] != "255.1" {
				t.Errorf("facts = %v; want the stub of %s 255.1", rel.Facts, stub)
			}
		})
	}
	// universe is off: the package that is missing is named, and why.
	r := newRepo(t)
	r.add("ipxe", "1", "", map[string]string{"usr/lib/ipxe/undionly.kpxe": "x"})
	r.publish()
	if _, _, err := repoBuilder(t, r).Loaders(t.Context()); err == nil || !strings.Contains(err.Error(), "no package shim-signed") || !strings.Contains(err.Error(), "universe") {
		t.Errorf("Loaders of an archive without shim = %v; want an error that names shim-signed and universe", err)
	}
}

func TestArchiveThatLies(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(t *testing.T, r *repo, deb string)
	}{
		{"package altered", func(t *testing.T, r *repo, deb string) {
			data := []byte(mustRead(t, deb))
			data[len(data)-1] ^= 1
			if err := os.WriteFile(deb, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"package truncated", func(t *testing.T, r *repo, deb string) {
			if err := os.Truncate(deb, 100); err != nil {
				t.Fatal(err)
			}
		}},
		{"package missing", func(t *testing.T, r *repo, deb string) { os.Remove(deb) }},
		{"lists altered", func(t *testing.T, r *repo, deb string) {
			p := r.dir + "/dists/stable/main/binary-amd64/Packages"
			mustWrite(t, p, strings.Replace(mustRead(t, p), "Version: 1", "Version: 9", 1))
		}},
		{"signature of another key", func(t *testing.T, r *repo, deb string) {
			other := newRepo(t)
			other.dir, other.debs = r.dir, r.debs
			other.publish()
		}},
		{"no signature", func(t *testing.T, r *repo, deb string) {
			p := r.dir + "/dists/stable/InRelease"
			text := mustRead(t, p)
			_, text, _ = strings.Cut(text, "\n\n")
			text, _, _ = strings.Cut(text, "-----BEGIN")
			os.Remove(p)
			mustWrite(t, r.dir+"/dists/stable/Release", text)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRepo(t)
			deb := r.addLoaders("1")
			r.publish()
			b := repoBuilder(t, r)
			tt.harm(t, r, deb)
			rel, _, err := b.Loaders(t.Context())
			if err == nil {
				t.Fatalf("Loaders = %+v; want an error", rel)
			}
			t.Log(err)
			if rs, err := b.Store.List(t.Context()); err != nil || len(rs) != 0 {
				t.Errorf("the store holds %v, %v; want nothing", rs, err)
			}
		})
	}
}

func TestMissingFileInPackage(t *testing.T) {
	r := newRepo(t)
	r.addLoaders("1")
	r.add("ipxe", "2", "", map[string]string{"usr/lib/ipxe/snponly.efi": "x"})
	r.publish()
	if _, _, err := repoBuilder(t, r).Loaders(t.Context()); err == nil || !strings.Contains(err.Error(), "package ipxe 2 has no /") {
		t.Errorf("Loaders = %v; want an error that names the package and the file", err)
	}
}

func TestAgentWithoutProgram(t *testing.T) {
	b := testBuilder(t)
	b.AgentELF = []byte("#!/bin/sh")
	if _, _, err := b.Agent(t.Context()); err == nil || !strings.Contains(err.Error(), "run make") {
		t.Errorf("Agent with a script = %v; want an error that says run make", err)
	}
}

func TestArchNames(t *testing.T) {
	if got := AgentName("amd64") + " " + AgentName("arm64") + " " + LoadersName("amd64") + " " + LoadersName("arm64"); got != "agent agent-arm64 loaders loaders-arm64" {
		t.Errorf("names of releases = %q", got)
	}
	b := testBuilder(t)
	if _, _, err := b.LoadersFor(t.Context(), "riscv64"); err == nil || !strings.Contains(err.Error(), "want amd64 or arm64") {
		t.Errorf("LoadersFor(riscv64) = %v; want an error that names what there is", err)
	}
	b.AgentELF = nil
	if _, _, err := b.AgentFor(t.Context(), "riscv64"); !errors.Is(err, ErrNoAgent) {
		t.Errorf("AgentFor(riscv64) = %v; want ErrNoAgent", err)
	}
}
