package apt

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	whyInstaller    = "the Debian installer" // the reason of what only it needs
	clientInstaller = "debian-installer"     // its name as a client

	// overlayFile, in the tree of a remade mirror, is a second ramdisk for the
	// installer's kernel.
	overlayFile = "site-installer.cpio.gz"
)

// takeUdebs takes the installer's packages: all, or those that the site wants.
func (j *joined) takeUdebs() error {
	if len(j.m.Udebs) > 0 && (j.m.Whole() || !j.m.Installer) {
		return fmt.Errorf("udebs is for a mirror with packages and installer: a whole one has them all")
	}
	met := make([]bool, len(j.m.Udebs))
	for _, p := range j.udebs {
		want := len(j.m.Udebs) == 0
		for i, pattern := range j.m.Udebs {
			ok, err := path.Match(pattern, p.name)
			if err != nil {
				return fmt.Errorf("udebs: %q: %w", pattern, err)
			}
			want, met[i] = want || ok, met[i] || ok
		}
		if !want {
			continue
		}
		if err := j.take(p, whyInstaller); err != nil {
			return err
		}
	}
	if i := slices.Index(met, false); i >= 0 {
		return fmt.Errorf("udebs: the installer has no package %s", j.m.Udebs[i])
	}
	return nil
}

// installerRoots are the packages that the installer's own programs add to what
// debootstrap installed, where the suite has them: base-installer, apt-setup,
// console-setup, grub-installer, hw-detect, partman, pkgsel. Until apt-setup is
// done it knows one suite only, as debootstrap does.
func installerRoots(u *universe, suite string) []root {
	why := whyInstaller + ", " + suite
	out := []root{{"priority:required", why, -1}, {"priority:important", why, -1}, {"apt", why, -1}}
	for _, name := range strings.Fields("busybox zstd initramfs-tools linux-image-" + u.arch +
		" locales console-setup keyboard-configuration eject pciutils usbutils discover laptop-detect installation-report" +
		" tasksel tasksel-data popularity-contest os-prober util-linux-extra e2fsprogs xfsprogs btrfs-progs dosfstools lvm2 mdadm cryptsetup cryptsetup-initramfs" +
		" grub-pc grub-efi-" + u.arch + " grub-efi-" + u.arch + "-signed shim-signed efibootmgr acpi-support-base acpid amd64-microcode intel-microcode openssh-server") {
		if len(u.byName[name]) > 0 {
			out = append(out, root{name, why, -1})
		}
	}
	return out
}

// installerOverlay is a ramdisk that is given to the kernel behind the
// installer's own: with it the installer, debootstrap and the apt of the
// installed system trust the site's key. net-retriever and bootstrap-base verify
// with archive.gpg, a link to Debian's keys only if nothing is there.
func installerOverlay(armoured []byte) ([]byte, error) {
	block, err := armor.Decode(bytes.NewReader(armoured))
	if err != nil {
		return nil, fmt.Errorf("the site's key: %w", err)
	}
	var key bytes.Buffer
	if _, err := key.ReadFrom(block.Body); err != nil {
		return nil, fmt.Errorf("the site's key: %w", err)
	}
	const ring = "usr/share/keyrings/archive.gpg"
	hook := "#!/bin/sh -e\n# The installed system trusts the site's mirrors as its installer does.\n" +
		"mkdir -p /target/etc/apt/trusted.gpg.d\ncp /" + ring + " /target/etc/apt/trusted.gpg.d/fettle.gpg\n"
	var b bytes.Buffer
	newc(&b, 1, 0o100644, ring, key.Bytes())
	newc(&b, 2, 0o100755, "usr/lib/base-installer.d/10site-key", []byte(hook))
	newc(&b, 0, 0, "TRAILER!!!", nil)
	return airgap.Gzip(b.Bytes())
}

// newc writes an entry of a cpio archive, in the form that Linux unpacks:
// Documentation/driver-api/early-userspace/buffer-format.rst.
func newc(b *bytes.Buffer, inode, mode int, name string, data []byte) {
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	fmt.Fprintf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	b.WriteString(name + "\x00")
	pad()
	b.Write(data)
	pad()
}

// preseed is what the installer must be told to install from a mirror of the
// snapshot and from nowhere else; all other answers are the site's.
func preseed(r airgap.ClientRequest) ([]airgap.ClientFile, error) {
	u, err := url.Parse(r.Signed())
	if err != nil {
		return nil, err
	}
	for _, lm := range r.Snapshot.Lock.Mirrors {
		if lm.Format != "apt" || !lm.Spec.Installer {
			continue
		}
		i := slices.IndexFunc(lm.Spec.Suites, func(s string) bool { return codename(s) == s })
		if i < 0 {
			return nil, fmt.Errorf("mirror %s has an installer but no release, only the pockets %s", lm.Name, strings.Join(lm.Spec.Suites, ", "))
		}
		if u.Scheme != "http" {
			return nil, errors.New("the installer verifies the mirror's signature and has no CA of the site: give it an address that begins with http://")
		}
		suite, dir := lm.Spec.Suites[i], strings.TrimSuffix(u.Path, "/")+"/apt/"+lm.Name
		var b strings.Builder
		fmt.Fprintf(&b, "# mirror %s, by fettle: install from it and from nowhere else.\n", lm.Name)
		if remade(lm.Spec) {
			fmt.Fprintf(&b, "# Boot with two ramdisks: the installer's own, and behind it the site's key:\n# %s/apt/%s/%s\n", r.Signed(), lm.Name, overlayFile)
		}
		line := func(format string, args ...any) { fmt.Fprintf(&b, "d-i "+format+"\n", args...) }
		line("mirror/protocol string http")
		line("mirror/country string manual")
		line("mirror/http/hostname string %s", u.Host)
		line("mirror/http/directory string %s", dir)
		line("mirror/http/proxy string")
		line("mirror/suite string %s", suite)
		line("mirror/udeb/suite string %s", suite)
		var services []string
		for service, pocket := range map[string]string{"updates": suite + "-updates", "security": suite + "-security"} {
			if slices.Contains(lm.Spec.Suites, pocket) {
				services = append(services, service)
			}
		}
		slices.Sort(services)
		line("apt-setup/services-select multiselect %s", strings.Join(services, ", "))
		line("apt-setup/security_host string %s", u.Host)
		line("apt-setup/security_path string %s", dir)
		line("apt-setup/enable-source-repositories boolean false")
		line("clock-setup/ntp boolean false")
		line("hw-detect/load_firmware boolean false")
		b.WriteString("popularity-contest popularity-contest/participate boolean false\n")
		return []airgap.ClientFile{{Path: "/preseed-mirror.cfg", Mode: 0o644, Content: []byte(b.String())}}, nil
	}
	return nil, nil
}

// archRelease is the small Release beside a Packages, "" for other indexes:
// the installer's choose-mirror takes a mirror for one of its architecture only
// if that says so.
func archRelease(s remadeSuite, ix remadeIndex) (file, text string) {
	component, arch := ix.parts()
	if arch == "" || component == "" || path.Base(ix.file) != "Packages" || strings.Contains(ix.file, "/debian-installer/") {
		return "", ""
	}
	return path.Join(path.Dir(ix.file), "Release"), fmt.Sprintf("Archive: %s\nOrigin: %s\nLabel: %s\nAcquire-By-Hash: yes\nComponent: %s\nArchitecture: %s\n",
		cmp.Or(s.rel.suite, s.name), s.rel.origin, s.rel.label, component, arch)
}
