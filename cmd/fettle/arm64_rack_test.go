//go:build linux

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

const (
	arm64BuildWait  = 60 * time.Minute
	arm64DeployWait = 60 * time.Minute
)

func arm64Wanted(t *testing.T) {
	t.Helper()
	if os.Getenv("FETTLE_E2E_ARM64") == "" {
		t.Skip("FETTLE_E2E_ARM64 is not set: building the image alone takes many minutes, emulated")
	}
	e2eNeed(t, images.CheckArch(t.Context(), site.ARM64), "no arm64 image can be built here")
}

// TestLabARM64 is the same machine in a lab, through libvirt and the fabric: lab
// up, from nothing to a command in the installed system.
func TestLabARM64(t *testing.T) {
	arm64Wanted(t)
	r := newE2ERig(t)
	r.site, r.machines = "../../examples/arm64", []string{"gh-01"}
	u := r.up(t, nil)
	if u.status != 0 || u.last == nil {
		t.Fatalf("lab up = %d; want 0\n%s%s", u.status, u.stdout, u.stderr)
	}
	t.Logf("fettle lab up, in %s", u.took.Round(time.Second))
	out := r.ok(t, "lab", "exec", "gh-01", "--", "hostname -f; uname -m; lsblk -dno SERIAL /dev/vda; cat /sys/class/tty/console/active; lspci -n | grep -c 1af4:1050").stdout
	if want := "gh-01.arm64.example.org\naarch64\nGHDISK0001\nttyAMA0\n1\n"; out != want {
		t.Errorf("in the installed system: %q; want %q", out, want)
	}
}

// TestRackARM64 takes a machine with an arm64 processor (QEMU's virt under TCG,
// AAVMF with Secure Boot on) from power-on to a command over ssh, and builds what
// it boots and becomes on this machine: shim, GRUB, Debian's arm64 kernel, the
// agent, an OS image whose packages were installed by their own programs.
//
// FETTLE_E2E_ARM64=1 runs it: make proof-arm64.
func TestRackARM64(t *testing.T) {
	arm64Wanted(t)
	r := newRackRig(t)
	for _, tool := range []string{"ssh", "mmdebstrap"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	r.replace("site/site.yaml", "  - name: debian-12\n    os: host\n", "  - name: debian-arm64\n    os: host\n    arch: arm64\n")
	r.replace("site/profiles/base.yaml", "image: debian-12\n", "image: debian-arm64\n")
	node01, _, _ := strings.Cut(rackMachinesYAML, "  - name: node-02")
	r.write("site/machines/r1.yaml", node01)
	r.replace("site/machines/r1.yaml", "    firmware: uefi\n", "    arch: arm64\n    firmware: uefi\n")
	r.want(0, "", "site", "check")
	s, err := site.Load(r.path("site"))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := s.Machine("node-01")
	q := newQEMUBoard(t, r, m.UUID, boardARM)
	r.serveBMC("10.91.0.11", r.siteCert("10.91.0.11"), q)
	res := r.fettle(arm64BuildWait, "", "image", "build", "all")
	t.Logf("fettle image build all, in %s:\n%s%s", res.took.Round(time.Second), res.stdout, res.stderr)
	if res.status != 0 {
		t.Fatalf("fettle image build all = %d", res.status)
	}
	// Nothing for amd64 is needed.
	if strings.Contains(res.stdout, "agent ") || !strings.Contains(res.stdout, "agent-arm64 ") {
		t.Errorf("fettle image build all of a site of arm64 alone built:\n%s", res.stdout)
	}
	sv := r.serve()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("serve:\n%s", sv.log)
			t.Logf("console:\n%s", tail(r.path("console"), 6000))
		}
	})
	if strings.Contains(sv.log.String(), "warning") {
		t.Errorf("fettle serve warns of a site that lacks nothing:\n%s", sv.log)
	}
	res = r.fettle(arm64DeployWait, "", "machine", "deploy", "--yes", "node-01")
	t.Logf("fettle machine deploy --yes node-01, in %s:\n%s%s", res.took.Round(time.Second), res.stdout, res.stderr)
	if res.status != 0 {
		t.Fatalf("fettle machine deploy = %d; want 0\n%s", res.status, r.want(0, "", "machine", "why", "node-01").stdout)
	}
	if got := q.booted(); got != "network disk" {
		t.Errorf("the BMC started the machine from: %s; want network, then disk", got)
	}
	var machines []web.Machine
	decode(t, r.want(0, "", "machine", "ls", "--output", "json").stdout, &machines)
	for _, m := range machines {
		t.Logf("seconds in each phase of %s: %v", m.Name, m.Status.Seconds)
		if m.Status.Phase != state.Ready {
			t.Errorf("phase of %s = %s; want ready", m.Name, m.Status.Phase)
		}
	}
	addr := r.leaseOf("02:00:00:90:00:11")
	out := r.ns.run(t, "ssh", "-F", "none", "-i", r.path("key"), "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", "ops@"+addr,
		"hostname -f; dpkg --print-architecture; uname -m; lsblk -dno SERIAL /dev/vda; sudo id -u; cat /sys/class/tty/console/active; "+
			"sudo mount /boot/efi && sudo find /boot/efi -type f -printf '%P\\n' | sort; od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	if want := "node-01.rack.example.org\narm64\naarch64\nRACKDISK0001\n0\nttyAMA0\n" +
		"EFI/BOOT/BOOTAA64.EFI\nEFI/BOOT/grubaa64.efi\nEFI/BOOT/mmaa64.efi\nEFI/debian/grub.cfg\n   1\n"; out != want {
		t.Errorf("over ssh to %s = %q; want %q", addr, out, want)
	}
	sv.stop(t)
}
