package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// ubuntuArchive is a signed archive with the suites, components and package
// names of Ubuntu 24.04, of Debian's packages. Made over are:
//
//   - the kernel: linux-image-generic leads to linux-image-R (the program,
//     readable by root alone), linux-modules-R and linux-modules-extra-R (zstd),
//     and linux-firmware; its links are in /boot
//   - shim-signed: shimx64.efi.signed is a link of update-alternatives to
//     .latest, and the key manager is in it
//   - grub-efi-amd64-signed: GRUB looks in /EFI/ubuntu (unsigned: Secure Boot
//     is off here)
//   - os-release, and the archive's keyring
type ubuntuArchive struct {
	t       *testing.T
	dir     string // of the server, which has the archive in ubuntu/
	keyring string
	kernel  string // its release
	key     *openpgp.Entity
	stanzas map[string][]string // by component
}

func newUbuntuArchive(t *testing.T) *ubuntuArchive {
	t.Helper()
	key, err := openpgp.NewEntity("Ubuntu Archive, not", "", "archive@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})
	if err != nil {
		t.Fatal(err)
	}
	a := &ubuntuArchive{t: t, dir: t.TempDir(), key: key, stanzas: map[string][]string{}}
	a.keyring = filepath.Join(a.dir, "keyring.gpg")
	var ring bytes.Buffer
	if err := key.Serialize(&ring); err != nil {
		t.Fatal(err)
	}
	a.put(a.keyring, ring.String(), 0o644)
	debs, err := filepath.Glob(filepath.Join(fetchDebian(t), "*.deb"))
	if err != nil || len(debs) == 0 {
		t.Fatalf("Debian's packages = %v, %v", debs, err)
	}
	for _, deb := range debs {
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		switch {
		case name == "linux-image-amd64" || name == "shim-helpers-amd64-signed":
		case realKernel.MatchString(name):
			a.splitKernel(strings.TrimPrefix(name, "linux-image-"), a.unpack(deb))
		case name == "shim-signed":
			a.shim(a.unpack(deb), debs)
		case name == "grub-efi-amd64-signed":
			tree := a.unpack(deb)
			mustRun(t, "", append([]string{"grub-mkimage", "-O", "x86_64-efi", "-p", "/EFI/ubuntu", "-o", tree + "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"},
				strings.Fields("part_gpt fat ext2 normal search search_fs_uuid search_fs_file linux configfile test echo serial terminal ls cat halt reboot chain gzio zstd all_video minicmd sleep")...)...)
			a.build("main", tree)
		case name == "base-files":
			tree := a.unpack(deb)
			a.put(tree+"/usr/lib/os-release", ubuntuRelease, 0o644)
			a.build("main", tree)
		case name == "debian-archive-keyring":
			tree := a.unpack(deb)
			a.control(tree, "Depends", "ubuntu-keyring")
			a.build("main", tree)
		default:
			component := "main"
			if name == "nvme-cli" || name == "systemd-boot-efi" || name == "busybox-static" {
				component = "universe"
			}
			a.add(component, deb)
		}
	}
	a.made("ubuntu-keyring", "2023.11.28.1", "", map[string]string{"usr/share/keyrings/ubuntu-archive-keyring.gpg": ring.String(), "etc/apt/trusted.gpg.d/ubuntu-keyring-2018-archive.gpg": ring.String()})
	a.made("linux-firmware", "20240318", "", map[string]string{"lib/firmware/bnx2x/bnx2x.fw": "x", "lib/firmware/amdgpu/vega.bin": "x"})
	a.made("linux-image-generic", "6.8.0.50.50", fmt.Sprintf("linux-image-%[1]s, linux-modules-extra-%[1]s, linux-firmware", a.kernel), nil)
	a.publish()
	return a
}

var realKernel = regexp.MustCompile(`^linux-image-[0-9].*-amd64$`)

func (a *ubuntuArchive) put(path, text string, mode os.FileMode) {
	a.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		a.t.Fatal(err)
	}
	_ = os.Remove(path) // a link would be followed
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		a.t.Fatal(err)
	}
}

func (a *ubuntuArchive) unpack(deb string) string {
	tree := filepath.Join(a.t.TempDir(), "tree")
	mustRun(a.t, "", "dpkg-deb", "-R", deb, tree)
	return tree
}

// control sets a field of an unpacked package.
func (a *ubuntuArchive) control(tree, field, value string) {
	a.t.Helper()
	path := tree + "/DEBIAN/control"
	data, err := os.ReadFile(path)
	if err != nil {
		a.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, field+":") {
			out = append(out, line)
		}
	}
	a.put(path, strings.Join(out, "")+field+": "+value+"\n", 0o644)
}

// splitKernel makes Ubuntu's packages of Debian's kernel.
func (a *ubuntuArchive) splitKernel(release, tree string) {
	a.t.Helper()
	a.kernel = release
	version := strings.TrimSpace(mustRun(a.t, tree, "sh", "-c", "sed -n 's/^Version: //p' DEBIAN/control"))
	mods, extra := filepath.Join(a.t.TempDir(), "m"), filepath.Join(a.t.TempDir(), "x")
	for name, to := range map[string]string{"linux-modules-": mods, "linux-modules-extra-": extra} {
		a.put(to+"/DEBIAN/control", "Package: "+name+release+"\nVersion: "+version+"\nArchitecture: amd64\nMaintainer: T <t@example.org>\nDescription: test\n", 0o644)
	}
	a.control(extra, "Depends", "linux-modules-"+release)
	lib := "lib/modules/" + release
	mustRun(a.t, tree, "sh", "-c", "mkdir -p "+mods+"/lib/modules "+mods+"/boot "+extra+"/"+lib+"/kernel/drivers && mv "+lib+" "+mods+"/lib/modules/ && mv boot/config-* boot/System.map-* "+mods+"/boot/ && rm -rf lib usr/lib"+
		" && mv "+mods+"/"+lib+"/kernel/drivers/scsi "+extra+"/"+lib+"/kernel/drivers/ && chmod 600 boot/vmlinuz-* && find "+mods+" "+extra+" -name '*.ko' -print0 | xargs -0 -n 200 zstd -q -1 --rm")
	a.put(mods+"/etc/kernel-img.conf", "image_dest = /boot\n", 0o644)
	a.control(tree, "Depends", "kmod, linux-base, initramfs-tools | linux-initramfs-tool, linux-modules-"+release)
	for _, x := range []string{tree, mods, extra} {
		a.build("main", x)
	}
}

// shim makes Ubuntu's shim-signed of Debian's two packages.
func (a *ubuntuArchive) shim(tree string, debs []string) {
	a.t.Helper()
	for _, d := range debs {
		if strings.HasPrefix(filepath.Base(d), "shim-helpers-amd64-signed_") {
			mustRun(a.t, a.unpack(d)+"/usr/lib/shim", "cp", "mmx64.efi.signed", tree+"/usr/lib/shim/mmx64.efi")
		}
	}
	mustRun(a.t, tree+"/usr/lib/shim", "mv", "shimx64.efi.signed", "shimx64.efi.signed.latest")
	mustRun(a.t, tree+"/usr/lib/shim", "cp", "shimx64.efi.signed.latest", "shimx64.efi.signed.previous")
	mustRun(a.t, tree+"/DEBIAN", "sh", "-c", "rm -f postinst prerm postrm preinst config templates")
	a.put(tree+"/DEBIAN/postinst", "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/lib/shim/shimx64.efi.signed shimx64.efi.signed /usr/lib/shim/shimx64.efi.signed.latest 100\n", 0o755)
	a.control(tree, "Depends", "grub2-common, grub-efi-amd64-signed")
	a.build("main", tree)
}

// made adds a package of files.
func (a *ubuntuArchive) made(name, version, depends string, files map[string]string) {
	a.t.Helper()
	tree := filepath.Join(a.t.TempDir(), "tree")
	a.put(tree+"/DEBIAN/control", "Package: "+name+"\nVersion: "+version+"\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: test\n", 0o644)
	if depends != "" {
		a.control(tree, "Depends", depends)
	}
	for p, text := range files {
		a.put(filepath.Join(tree, p), text, 0o644)
	}
	a.build("main", tree)
}

func (a *ubuntuArchive) build(component, tree string) {
	a.t.Helper()
	out := a.t.TempDir()
	mustRun(a.t, "", "dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "-b", tree, out)
	debs, err := filepath.Glob(out + "/*.deb")
	if err != nil || len(debs) != 1 {
		a.t.Fatalf("dpkg-deb made %v, %v", debs, err)
	}
	a.add(component, debs[0])
}

func (a *ubuntuArchive) add(component, deb string) {
	a.t.Helper()
	data, err := os.ReadFile(deb)
	if err != nil {
		a.t.Fatal(err)
	}
	file := path.Join("pool", component, filepath.Base(deb))
	a.put(filepath.Join(a.dir, "ubuntu", file), string(data), 0o644)
	control := strings.TrimRight(mustRun(a.t, "", "dpkg-deb", "-f", deb), "\n")
	a.stanzas[component] = append(a.stanzas[component], fmt.Sprintf("%s\nFilename: %s\nSize: %d\nSHA256: %x\n", control, file, len(data), sha256.Sum256(data)))
}

// publish writes the lists; all that there is is in noble itself.
func (a *ubuntuArchive) publish() {
	a.t.Helper()
	for _, suite := range []string{"noble", "noble-updates", "noble-security", "noble-backports"} {
		dir := filepath.Join(a.dir, "ubuntu/dists", suite)
		var sums strings.Builder
		for _, c := range []string{"main", "restricted", "universe", "multiverse"} {
			list := ""
			if suite == "noble" {
				list = strings.Join(a.stanzas[c], "\n")
			}
			name := c + "/binary-amd64/Packages"
			a.put(filepath.Join(dir, name), list, 0o644)
			fmt.Fprintf(&sums, " %x %d %s\n", sha256.Sum256([]byte(list)), len(list), name)
		}
		release := "Origin: Ubuntu\nLabel: Ubuntu\nSuite: " + suite + "\nVersion: 24.04\nCodename: noble\nDate: Thu, 25 Apr 2024 15:10:33 UTC\nArchitectures: amd64\nComponents: main restricted universe multiverse\nSHA256:\n" + sums.String()
		var signed bytes.Buffer
		w, err := clearsign.Encode(&signed, a.key.PrivateKey, nil)
		if err != nil {
			a.t.Fatal(err)
		}
		if _, err := w.Write([]byte(release)); err != nil {
			a.t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			a.t.Fatal(err)
		}
		a.put(filepath.Join(dir, "InRelease"), signed.String(), 0o644)
	}
}
