//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestServeDiskFails has the disk below a running fettle serve fail, as seen by
// the machines: nobody is given an address that is not stored, boot files are
// served all the while, and the same process goes on when the disk works again.
func TestServeDiskFails(t *testing.T) {
	r := newRackRig(t)
	for _, tool := range []string{"dhclient", "mkfs.ext4"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	run := func(args ...string) error {
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Logf("%v: %s", args, out)
		}
		return err
	}
	// An ext4 whose blocks are in a file of a tmpfs: when that is full, a sync
	// fails, and the free space that the ext4 tells of is as it was.
	under, dir := r.path("under"), r.path("state")
	for _, d := range []string{under, dir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e2eNeed(t, run("mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", under), "no file system can be mounted")
	t.Cleanup(func() { exec.Command("umount", "-l", under).Run() })
	image := filepath.Join(under, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 1<<30); err != nil {
		t.Fatal(err)
	}
	e2eNeed(t, run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1", image), "no ext4 can be made")
	e2eNeed(t, run("mount", "-o", "loop,errors=continue", image, dir), "no loop device can be mounted")
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })

	const mac = "02:00:00:90:00:12" // node-02
	r.write("site/site.yaml", rackSiteYAML)
	r.write("site/machines/r1.yaml", rackMachinesYAML)
	client := newRackNS(t)
	r.ns.run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "cli0", "netns", client.name)
	r.ns.run(t, "ip", "link", "set", "v0", "master", "br0", "up")
	client.run(t, "ip", "link", "set", "cli0", "address", mac, "up")
	sv := r.serve("--state", filepath.Join(dir, "state"))
	defer func() {
		if t.Failed() {
			t.Logf("serve:\n%s", sv.log)
		}
	}()
	r.write("dhclient.conf", "timeout 8;\nretry 1;\ninitial-interval 1;\n")
	ask := func() bool {
		cmd := client.command(t.Context(), "timeout", "12", "dhclient", "-4", "-1", "-cf", r.path("dhclient.conf"), "-lf", r.path("dhclient.leases"), "-pf", r.path("dhclient.pid"), "-sf", "/bin/true", "cli0")
		err := cmd.Run()
		exec.Command("sh", "-c", "kill $(cat "+r.path("dhclient.pid")+") 2>/dev/null").Run()
		os.Remove(r.path("dhclient.pid")) // or the next one's end could be somebody else's
		os.Remove(r.path("dhclient.leases"))
		return err == nil
	}
	if !ask() {
		t.Fatal("a machine got no address from a server whose disk works")
	}
	if got := r.leaseOf(mac); got != "10.90.0.12" {
		t.Errorf("lease of %s = %s; want 10.90.0.12", mac, got)
	}

	other := filepath.Join(under, "other")
	if err := exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of="+other, "bs=64k").Run(); err == nil {
		t.Fatal("the tmpfs takes everything")
	}
	health := func() string {
		return r.ns.run(t, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", r.path("api.sock"), "http://fettle/api/v1/health")
	}
	r.await(2*time.Minute, "the server says that its state cannot be written", func() (bool, error) {
		ask()
		return strings.Contains(sv.log.String(), "state cannot be written"), nil
	})
	if ask() {
		t.Error("a machine got an address from a server whose disk is broken")
	}
	if got := health(); got != "503" {
		t.Errorf("health = %s; want 503", got)
	}
	client.run(t, "ip", "addr", "replace", "10.90.0.12/24", "dev", "cli0")
	if out := client.run(t, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://10.90.0.1/boot/autoexec.ipxe"); out != "200" {
		t.Errorf("boot HTTP while the disk is broken = %s; want 200", out)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	r.await(time.Minute, "the same process writes its state again", func() (bool, error) {
		return strings.Contains(sv.log.String(), "state is written again"), nil
	})
	client.run(t, "ip", "addr", "flush", "dev", "cli0")
	if !ask() {
		t.Error("a machine got no address although the disk works again")
	}
	if got := health(); got != "200" {
		t.Errorf("health = %s; want 200", got)
	}
	sv.stop(t)
}
