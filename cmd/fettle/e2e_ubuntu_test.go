package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/site"
)

// TestUbuntu deploys the demo's site on a machine that looks like Ubuntu 24.04:
// in a mount namespace it has Ubuntu's os-release, its sources (deb822, signed
// by ubuntu-archive-keyring.gpg) and, on loopback, an archive that is arranged
// as Ubuntu's is. The archive's packages are this machine's own Debian's, made
// over where Ubuntu's differ: see [ubuntuArchive]. No Ubuntu program runs.
//
// FETTLE_E2E_UBUNTU=1 takes the machine with UEFI, both takes BIOS too.
func TestUbuntu(t *testing.T) {
	which := os.Getenv("FETTLE_E2E_UBUNTU")
	if which == "" {
		t.Skip("FETTLE_E2E_UBUNTU is not set: it takes ten minutes")
	}
	r := newE2ERig(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can mount another machine's files over this one's")
	}
	if which == "both" {
		r.machines = []string{"gpu-01", "gpu-02"}
	}
	a := newUbuntuArchive(t)
	srv := httptest.NewServer(http.FileServer(http.Dir(a.dir)))
	t.Cleanup(srv.Close)
	r.bin, r.store = ubuntuMachine(t, r, a, srv.URL+"/ubuntu/"), filepath.Join(r.root, "store")
	u := r.up(t, nil)
	if u.status != 0 || u.last == nil {
		t.Fatalf("lab up on Ubuntu = %d; want 0\n%s%s", u.status, u.stdout, u.stderr)
	}
	for _, m := range r.machines {
		for _, want := range []struct{ command, out string }{
			{". /etc/os-release; echo $ID $VERSION_CODENAME", "ubuntu noble"},
			{"cat /etc/apt/sources.list", "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] " + srv.URL + "/ubuntu noble main restricted universe multiverse"},
			{"dpkg-query -W -f '${Status}' linux-image-generic", "install ok installed"},
			// Ubuntu's links are in /boot, and its kernels are root's alone.
			{"stat -Lc %a /boot/vmlinuz", "600"},
			{"readlink /boot/vmlinuz", "vmlinuz-" + a.kernel},
			{"ls /vmlinuz 2>&1 || true", "No such file"},
			{"find /lib/modules/$(uname -r)/kernel -name 'megaraid_sas.ko*' -printf '%f '; sudo modinfo -F license nvme", "megaraid_sas.ko.zst GPL"},
			{"ls /lib/firmware/bnx2x /lib/firmware/amdgpu 2>&1 | tr '\\n' ' '", "bnx2x.fw"},
			{"ls /lib/firmware/amdgpu/* 2>&1 || true", "No such file"},
			{"sudo mount /boot/efi && sudo ls /boot/efi/EFI && sudo umount /boot/efi", "ubuntu"},
			{"dpkg-query -W -f '${Status}' nvme-cli", "install ok installed"}, // of universe
		} {
			if out := r.ok(t, "lab", "exec", m, "--", want.command).stdout; !strings.Contains(out, want.out) {
				t.Errorf("%s: %s = %q; want %q in it", m, want.command, out, want.out)
			}
		}
	}
}

// ubuntuMachine returns a program that runs the rig's fettle where this machine
// looks like Ubuntu.
func ubuntuMachine(t *testing.T, r *e2eRig, a *ubuntuArchive, url string) string {
	t.Helper()
	host := filepath.Join(r.root, "host")
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("os-release", ubuntuRelease, 0o644)
	write("sources.list", "# Ubuntu sources have moved to /etc/apt/sources.list.d/ubuntu.sources\n", 0o644)
	write("sources.list.d/ubuntu.sources", fmt.Sprintf(`Types: deb
URIs: %[1]s
Suites: noble noble-updates noble-backports
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: %[1]s
Suites: noble-security
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
`, url), 0o644)
	rings := filepath.Join(host, "keyrings")
	mustRun(t, "", "cp", "-rL", "/usr/share/keyrings", rings)
	mustRun(t, "", "cp", a.keyring, filepath.Join(rings, "ubuntu-archive-keyring.gpg"))
	over := func(file, at string) string {
		return fmt.Sprintf("mount --bind %s %s", filepath.Join(host, file), at)
	}
	mounts := []string{over("os-release", "/usr/lib/os-release"), over("sources.list.d", "/etc/apt/sources.list.d"), over("keyrings", "/usr/share/keyrings")}
	if _, err := os.Stat("/etc/apt/sources.list"); err == nil {
		mounts = append(mounts, over("sources.list", "/etc/apt/sources.list"))
	}
	return write("fettle", "#!/bin/sh\nexec unshare -m sh -c '"+strings.Join(mounts, " && ")+" && exec \"$0\" \"$@\"' "+r.bin+" \"$@\"\n", 0o755)
}

const ubuntuRelease = `PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
`

func mustRun(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, errOut.String())
	}
	return string(out)
}

// fetchDebian fetches what the demo's machines are made of from this machine's
// own archive, and returns the folder.
func fetchDebian(t *testing.T) string {
	t.Helper()
	s, err := site.Load("../../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	here, err := images.ThisHost()
	if err != nil || here.OS != site.OSDebian {
		t.Skipf("the archive is made of Debian's packages, and this machine has %s (%v)", here.Pretty, err)
	}
	needs, _, err := images.Needs(s, s.Machines, images.ThisHost)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"?essential", "apt", "fdisk", "mdadm", "util-linux", "dosfstools", "kmod", "busybox-static", "ipxe", "shim-signed", "systemd-boot-efi"}
	for _, n := range needs {
		if !strings.Contains(n.Package, ":") {
			names = append(names, n.Package)
		}
	}
	dir := t.TempDir()
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	apt := []string{"apt-get", "-q", "-y", "-o", "Dir::State::lists=" + dir + "/lists/", "-o", "Dir::State::status=" + dir + "/status", "-o", "Dir::Cache=" + dir, "-o", "APT::Sandbox::User=root",
		"-o", "APT::Architectures=amd64", "-o", "APT::Install-Recommends=false"}
	mustRun(t, "", append(apt, "update")...)
	mustRun(t, "", append(append(apt, "install", "--download-only", "--"), names...)...)
	return filepath.Join(dir, "archives")
}
