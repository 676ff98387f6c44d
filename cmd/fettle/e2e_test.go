package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// TestEndToEnd takes virtual machines through the whole path with the built
// binary: deployed over an interrupted lab up, looked at by every command,
// deployed again through a power cut and a killed daemon, and removed.
//
// One machine with UEFI, or with CI=true or FETTLE_E2E=both two, BIOS and UEFI.
// FETTLE_STORE keeps images from one run to the next (default .cache/store),
// FETTLE_BIN is a binary to test, FETTLE_E2E_KEEP=1 leaves the lab.
func TestEndToEnd(t *testing.T) {
	r := newE2ERig(t)
	s, err := site.Load("../../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	// Each step builds on the one before it.
	for _, step := range []struct {
		name string
		do   func(t *testing.T, r *e2eRig, s *site.Site)
	}{
		{"deploy", e2eDeploy},
		{"system", e2eSystem},
		{"up again", e2eUpAgain},
		{"commands", e2eCommands},
		{"BMC", e2eBMC},
		{"faults", e2eFaults},
		{"power back", e2ePowerBack},
		{"down", e2eDown},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.do(t, r, s) }) {
			t.Fatalf("step %q failed: the rest is not tried", step.name)
		}
	}
}

// goodRun is every phase of a deployment without trouble, in its order.
var goodRun = []state.Phase{
	state.PoweringOn, state.Firmware, state.Netboot, state.Agent, state.Inspected, state.Deploying,
	state.Verifying, state.Seeding, state.Restarting, state.FirstBoot, state.Ready,
}

// e2eDeploy: lab up, Ctrl-C in the middle, lab up again, ready.
func e2eDeploy(t *testing.T, r *e2eRig, _ *site.Site) {
	first := r.up(t, func(ev state.Event, interrupt func()) {
		if phaseOf(ev) == state.Netboot {
			interrupt()
		}
	})
	if first.status != exitInterrupted {
		t.Fatalf("lab up after Ctrl-C = %d; want %d\n%s%s", first.status, exitInterrupted, first.stdout, first.stderr)
	}
	if !strings.Contains(first.stderr, "interrupted") {
		t.Errorf("lab up after Ctrl-C said %q; want it to say that it was interrupted", first.stderr)
	}
	pid := r.daemon(t).PID // fails when Ctrl-C reached the daemon

	second := r.up(t, nil)
	if second.status != exitOK || second.last == nil {
		t.Fatalf("lab up after an interrupted one = %d, status printed %v; want 0 and the lab's status\n%s", second.status, second.last != nil, second.stderr)
	}
	if got := r.daemon(t).PID; got != pid {
		t.Errorf("the lab's daemon has pid %d after lab up; want %d, as before", got, pid)
	}
	if len(second.last.Machines) != len(r.machines) {
		t.Fatalf("lab up tells of %d machines; want %d", len(second.last.Machines), len(r.machines))
	}
	for _, m := range second.last.Machines {
		if m.Phase != state.Ready || m.Image == "" {
			t.Errorf("lab up says %s is %s with image %q; want ready with one", m.Name, m.Phase, m.Image)
		}
		t.Logf("%s (%s, %s): %s", m.Name, m.Firmware, second.last.Accel, e2eSeconds(m.Seconds))
	}
	for _, m := range r.machines {
		if got := r.phases(t, m); !slices.Equal(got, goodRun) {
			t.Errorf("phases of %s = %v; want %v", m, got, goodRun)
		}
		if runs := r.events(t, m, state.KindRun); len(runs) != 1 {
			t.Errorf("%s has %d runs after lab up, Ctrl-C, lab up; want 1", m, len(runs))
		}
	}
}

// e2eSeconds is the seconds of each phase, in their order.
func e2eSeconds(s map[state.Phase]float64) string {
	var b strings.Builder
	total := 0.0
	for _, ph := range goodRun[:len(goodRun)-1] {
		fmt.Fprintf(&b, "%s %.0f, ", ph, s[ph])
		total += s[ph]
	}
	return fmt.Sprintf("%sin all %.0f s", &b, total)
}

// e2eSystem: the installed system is what the site says.
func e2eSystem(t *testing.T, r *e2eRig, s *site.Site) {
	for _, name := range r.machines {
		m, _ := s.Machine(name)
		nic, _ := m.BootNIC()
		res := r.ok(t, "lab", "exec", name, "--", `hostname; hostname -f; ip -4 -o address show; lsblk -dno SERIAL; id -un; swapon --noheadings --show=NAME; findmnt -no SOURCE,FSTYPE /; dpkg -l nvme-cli pciutils | grep ^ii; uname -sr; ls /dev/ipmi0`)
		for _, want := range []string{
			name + "\n", name + "." + s.Domain + "\n", " " + nic.Address.String() + "/24 ", m.Disks[0].Serial + "\n",
			"\nops\n", "ext4", "nvme-cli", "pciutils", "Linux ", "/dev/ipmi0\n",
		} {
			if !strings.Contains(res.stdout, want) {
				t.Errorf("the installed system of %s lacks %q:\n%s", name, want, res.stdout)
			}
		}
		e2eSectors(t, r, s, m)
		res = r.ok(t, "lab", "exec", name, "--", `systemctl list-units --state=failed --plain --no-legend`)
		if strings.TrimSpace(res.stdout) != "" {
			t.Errorf("the installed system of %s has failed units:\n%s", name, res.stdout)
		}
		if res := r.fettle(t.Context(), "lab", "exec", name, "--", "exit 7"); res.status != 7 {
			t.Errorf("lab exec of a command that ends with 7 = %d; want 7\n%s", res.status, res.stderr)
		}
		if res := r.ok(t, "lab", "exec", name, "--", "cat /etc/fettle/phone-home 2>&1; true"); strings.Contains(res.stdout, "TOKEN=") {
			t.Errorf("user ops of %s reads the run's token:\n%s", name, res.stdout)
		}
	}
}

// e2eSectors: the disk has the sectors that the site says, of which UEFI and
// GRUB read the kernel that runs; that kernel reads the EFI system partition,
// and finds the table's copy at the disk's end in order.
func e2eSectors(t *testing.T, r *e2eRig, s *site.Site, m site.Machine) {
	want := max(512, m.Disks[0].SectorSize)
	res := r.ok(t, "lab", "exec", m.Name, "--", `lsblk -dno LOG-SEC; sudo blkid -o value -s TYPE /dev/disk/by-partlabel/esp; sudo mount /boot/efi && sudo ls /boot/efi/EFI/BOOT && sudo umount /boot/efi; sudo dmesg | grep -iE 'GPT:|vfat|fat-fs'; true`)
	if f := strings.Fields(res.stdout); len(f) == 0 || f[0] != fmt.Sprint(want) || !strings.Contains(res.stdout, "\nvfat\n") || !strings.Contains(res.stdout, "BOOTX64.EFI") {
		t.Errorf("the disk of %s says %q; want sectors of %d bytes, and an EFI system partition that mounts", m.Name, res.stdout, want)
	}
	if mirrored(s, m.Name) {
		e2eMirror(t, r, m.Name, "[UU]")
		e2eHealth(t, r, m.Name, "root and swap have all their disks")
	}
	for _, bad := range []string{"GPT:", "FAT-fs"} {
		if strings.Contains(res.stdout, bad) {
			t.Errorf("the kernel of %s complains of its disk:\n%s", m.Name, res.stdout)
		}
	}
}

// e2eMirror: root and swap are arrays with these members up.
func e2eMirror(t *testing.T, r *e2eRig, name, members string) {
	res := r.ok(t, "lab", "exec", name, "--", "cat /proc/mdstat; findmnt -no SOURCE /; tail -n +2 /proc/swaps | cut -d ' ' -f 1")
	if f := strings.Fields(res.stdout); strings.Count(res.stdout, members) != 2 || strings.Count(res.stdout, "super 1.0") != 2 || len(f) < 2 || !strings.HasPrefix(f[len(f)-2], "/dev/md") || !strings.HasPrefix(f[len(f)-1], "/dev/md") {
		t.Errorf("the arrays of %s are\n%s\nwant root and swap on two that are %s", name, res.stdout, members)
	}
}

// e2eHealth waits until a machine's own system has said this of its disks.
func e2eHealth(t *testing.T, r *e2eRig, name, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	for {
		var said []string
		for _, ev := range r.events(t, name, state.KindHealth) {
			if said = append(said, ev.Text); strings.Contains(ev.Text, want) {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s says of its disks %q; want %q", name, said, want)
		case <-time.After(2 * time.Second):
		}
	}
}

// e2eMend: fettle knows which disk of a mirror came back empty and says what to
// do; when that is done the mirror gets whole.
func e2eMend(t *testing.T, r *e2eRig, s *site.Site, name string) {
	m, _ := s.Machine(name)
	serial := m.Disks[0].Serial
	lost := "root and swap run on 1 of 2 disks, as disk " + serial + " is missing"
	e2eHealth(t, r, name, lost)
	for _, args := range [][]string{{"machine", "health", name}, {"machine", "why", name}} {
		res := r.fettle(t.Context(), args...)
		if both := res.stdout + res.stderr; !strings.Contains(both, lost+": that disk is there as vda, empty or out of date: if it is sound, run on the machine: sudo fettle-mirror-disk /dev/vda") || (args[1] == "health") != (res.status == exitFailed) {
			t.Errorf("%v with an empty disk = %d\n%s", args, res.status, both)
		}
	}
	if res := r.fettle(t.Context(), "lab", "exec", name, "--", "sudo fettle-mirror-disk /dev/vdb"); res.status == 0 || !strings.Contains(res.stderr, "is part of md") {
		t.Errorf("fettle-mirror-disk on the disk that is left = %d, %s; want it refused", res.status, res.stderr)
	}
	t.Log(strings.TrimSpace(r.ok(t, "lab", "exec", name, "--", "sudo fettle-mirror-disk /dev/vda").stdout))
	// That takes minutes, and is md's: that it began, and fettle knows, is enough.
	e2eHealth(t, r, name, "disk "+serial+" is being filled")
}

// e2eUpAgain: lab up on a lab that is ready does nothing, quickly.
func e2eUpAgain(t *testing.T, r *e2eRig, _ *site.Site) {
	pid := r.daemon(t).PID
	u := r.up(t, nil)
	if u.status != exitOK || len(u.events) != 0 {
		t.Errorf("lab up on a ready lab = %d with %d events; want 0 with none\n%s", u.status, len(u.events), u.stderr)
	}
	if u.took > time.Minute {
		t.Errorf("lab up on a ready lab took %s; want less than a minute", u.took.Round(time.Second))
	}
	if got := r.daemon(t).PID; got != pid {
		t.Errorf("the lab's daemon has pid %d after lab up; want %d, as before", got, pid)
	}
	for _, m := range r.machines {
		if runs := r.events(t, m, state.KindRun); len(runs) != 1 {
			t.Errorf("%s has %d runs after lab up on a ready lab; want 1", m, len(runs))
		}
	}
	t.Logf("lab up on a ready lab: %s", u.took.Round(100*time.Millisecond))
}

// e2eCommands: what the other commands tell of a ready machine.
func e2eCommands(t *testing.T, r *e2eRig, s *site.Site) {
	name := r.machines[len(r.machines)-1]
	m, _ := s.Machine(name)

	why := strings.Split(strings.TrimSpace(r.ok(t, "machine", "why", name).stdout), "\n")
	if last := why[len(why)-1]; !strings.HasPrefix(last, name+" is ready with image ") {
		t.Errorf("machine why ends with %q; want that it is ready", last)
	}
	for _, want := range []string{"asked to deploy", "next boot is the network", "it is what the site file says", "reports that it is up"} {
		if !strings.Contains(strings.Join(why, "\n"), want) {
			t.Errorf("machine why does not tell %q:\n%s", want, strings.Join(why, "\n"))
		}
	}
	kinds := map[state.Kind]int{}
	for _, ev := range r.events(t, name) {
		kinds[ev.Kind]++
	}
	for _, k := range []state.Kind{state.KindRun, state.KindPhase, state.KindProgress, state.KindInventory, state.KindRunEnd, "dhcp.ack", "script", "http.get"} {
		if kinds[k] == 0 {
			t.Errorf("fettle events tells of no %s; it has %v", k, kinds)
		}
	}
	var list []struct {
		Name   string
		Status state.Status
	}
	r.okJSON(t, &list, "machine", "ls", "--output", "json")
	if len(list) != len(r.machines) || list[len(list)-1].Name != name || list[len(list)-1].Status.Phase != state.Ready {
		t.Errorf("machine ls = %+v; want %v, ready", list, r.machines)
	}
	var show struct{ Status state.Status }
	r.okJSON(t, &show, "machine", "show", name)
	if !strings.Contains(string(show.Status.Inventory), m.Disks[0].Serial) {
		t.Errorf("machine show has no inventory with disk %s", m.Disks[0].Serial)
	}
	// The agent asked the BMC by the machine's own /dev/ipmi0.
	var inv wire.Inventory
	if err := json.Unmarshal(show.Status.Inventory, &inv); err != nil || inv.BMC == nil || inv.BMC.Address != m.BMC.Address.String() || inv.BMC.MAC == "" || inv.BMC.IPMI != "2.0" || inv.BMC.Firmware != "1.00" {
		t.Errorf("the inventory of %s tells of the BMC %+v, %v; want address %s, a MAC, firmware 1.00, IPMI 2.0", name, inv.BMC, err, m.BMC.Address)
	}
	if want := max(512, m.Disks[0].SectorSize); len(inv.Disks) == 0 || inv.Disks[0].SectorSize != want {
		t.Errorf("the inventory of %s tells of the disks %+v; want one with sectors of %d", name, inv.Disks, want)
	}
	var st e2eStatus
	r.okJSON(t, &st, "lab", "status", "--output", "json")
	if st.Lab != r.name || len(st.Machines) != len(r.machines) || len(st.Machines[0].HostKeys) == 0 {
		t.Errorf("lab status = %+v; want lab %s with machines and their host keys", st, r.name)
	}
	if out := r.ok(t, "lab", "ls").stdout; !strings.Contains(out, r.name) {
		t.Errorf("lab ls does not name %s:\n%s", r.name, out)
	}
	console := r.ok(t, "lab", "console", "--log", name).stdout
	for _, want := range []string{"Linux version", name + " login:"} {
		if !strings.Contains(console, want) {
			t.Errorf("the console of %s never said %q; its end is %q", name, want, console[max(0, len(console)-2000):])
		}
	}
	for _, tt := range []struct {
		args   []string
		status int
	}{
		{[]string{"lab", "exec", "gpu-99", "--", "true"}, exitUsage},
		{[]string{"lab", "down"}, exitRefused},
		{[]string{"machine", "deploy", name}, exitRefused},
		{[]string{"machine", "show", "gpu-99"}, exitFailed},
		{[]string{"lab", "status", "--lab", "nowhere"}, exitUsage},
	} {
		if res := r.fettle(t.Context(), tt.args...); res.status != tt.status || res.stderr == "" {
			t.Errorf("fettle %s = %d, %q; want %d and a sentence", strings.Join(tt.args, " "), res.status, res.stderr, tt.status)
		}
	}
}

// e2eBMC: the virtual BMC answers fettle, and any Redfish client on this
// machine that trusts the lab's CA.
func e2eBMC(t *testing.T, r *e2eRig, s *site.Site) {
	name := r.machines[len(r.machines)-1]
	m, _ := s.Machine(name)
	if out := r.ok(t, "bmc", "power", "status", name).stdout; !strings.Contains(out, name) || !strings.Contains(strings.ToLower(out), "on") {
		t.Errorf("bmc power status of a running machine = %q; want on", out)
	}
	pem, err := os.ReadFile(filepath.Join(r.dir(), labKeysFolder, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	keys, err := openLabKeys(filepath.Join(r.dir(), labKeysFolder), r.name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	hc := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	get := func(path, password string) (int, map[string]any) {
		t.Helper()
		for _, lm := range r.daemon(t).Machines {
			if lm.Name != name {
				continue
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, lm.BMCLocal+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.SetBasicAuth(keys.bmcUser, password)
			resp, err := hc.Do(req)
			if err != nil {
				t.Fatalf("asking the BMC of %s: %v", name, err)
			}
			defer resp.Body.Close()
			var v map[string]any
			if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
				t.Fatalf("the BMC's answer to %s: %v", path, err)
			}
			return resp.StatusCode, v
		}
		t.Fatalf("the lab has no %s", name)
		return 0, nil
	}
	if status, _ := get("/redfish/v1/Systems", "wrong"); status != http.StatusUnauthorized {
		t.Errorf("the BMC answers a wrong password with %d; want 401", status)
	}
	_, all := get("/redfish/v1/Systems", keys.bmcPass)
	members, _ := all["Members"].([]any)
	if len(members) == 0 {
		t.Fatalf("the BMC has no systems: %v", all)
	}
	path, _ := members[0].(map[string]any)["@odata.id"].(string)
	if status, sys := get(path, keys.bmcPass); status != http.StatusOK || sys["PowerState"] != "On" || sys["SerialNumber"] != m.Serial {
		t.Errorf("the BMC says of the system: %d %v, serial %v; want 200, On and %s", status, sys["PowerState"], sys["SerialNumber"], m.Serial)
	}
	// The same BMC by IPMI, and trouble that both protocols tell of.
	var lan string
	for _, lm := range r.daemon(t).Machines {
		if lm.Name == name {
			lan = lm.IPMI
		}
	}
	host, port, err := net.SplitHostPort(lan)
	if err != nil {
		t.Fatalf("the IPMI address of %s: %v", name, err)
	}
	ipmitool := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "ipmitool", append([]string{"-I", "lanplus", "-C", "17", "-H", host, "-p", port, "-U", keys.bmcUser, "-E"}, args...)...)
		cmd.Env = append(os.Environ(), "IPMI_PASSWORD="+keys.bmcPass)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("ipmitool %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	if out := ipmitool("power", "status"); !strings.Contains(out, "is on") {
		t.Errorf("ipmitool power status = %q; want on", out)
	}
	r.ok(t, "lab", "fault", name, "fan")
	if out := r.ok(t, "bmc", "sensors", "--problems", name).stdout; !strings.Contains(out, "Fan1") || !strings.Contains(out, "Critical") {
		t.Errorf("bmc sensors --problems with a fan that stands still = %q", out)
	}
	if out := ipmitool("sel", "list"); !strings.Contains(out, "Fan") {
		t.Errorf("ipmitool sel list with a fan that stands still = %q", out)
	}
	r.ok(t, "lab", "fault", name, "none")
	if out := r.ok(t, "bmc", "sensors", "--problems", name).stdout; strings.Contains(out, "Fan1") {
		t.Errorf("bmc sensors --problems afterwards = %q; want none", out)
	}
}

// e2eFaults: a deployment that loses its power while the disk is written, and
// later the daemon, ends ready by itself once the daemon is back.
func e2eFaults(t *testing.T, r *e2eRig, _ *site.Site) {
	name := r.machines[len(r.machines)-1]
	r.ok(t, "machine", "deploy", "--yes", "--wait=false", name)
	pid := r.daemon(t).PID
	cuts := 0
	killed := false
	u := r.up(t, func(ev state.Event, _ func()) {
		if ev.Machine != name || phaseOf(ev) != state.Deploying {
			return
		}
		switch cuts++; cuts {
		case 1:
			out, err := exec.CommandContext(t.Context(), "virsh", "-c", labs.DefaultURI(), "destroy", labs.DomainName(r.name, name)).CombinedOutput()
			if err != nil {
				t.Errorf("cutting the power of %s: %v: %s", name, err, out)
			}
		case 2:
			killed = true
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Errorf("killing the lab's daemon: %v", err)
			}
		}
	})
	if !killed {
		t.Fatalf("%s was not deployed a second time after its power was cut; lab up = %d\n%s", name, u.status, u.stderr)
	}
	if u.status != exitFailed || !strings.Contains(u.stderr, "fettle lab up") {
		t.Errorf("lab up whose daemon is killed = %d, %q; want %d and that fettle lab up goes on", u.status, u.stderr, exitFailed)
	}
	u = r.up(t, nil)
	if u.status != exitOK {
		t.Fatalf("lab up after its daemon was killed = %d; want 0\n%s", u.status, u.stderr)
	}
	phases := r.phases(t, name)
	if n := len(phases); n == 0 || phases[n-1] != state.Ready {
		t.Errorf("phases of %s = %v; want ready at the end", name, phases)
	}
	if i := slices.Index(phases, state.Deploying); i < 0 || !slices.Contains(phases[i:], state.PoweringOn) {
		t.Errorf("phases of %s = %v; want powering-on again after deploying", name, phases)
	}
	if runs := r.events(t, name, state.KindRun); len(runs) != 2 {
		t.Errorf("%s has %d runs; want 2: a power cut and a killed daemon start none", name, len(runs))
	}
	if why := r.ok(t, "machine", "why", name).stdout; !strings.Contains(why, "lost power") {
		t.Errorf("machine why does not tell of the lost power:\n%s", why)
	}
	if out := r.ok(t, "lab", "exec", name, "--", "hostname").stdout; strings.TrimSpace(out) != name {
		t.Errorf("hostname after the second deployment = %q; want %s", out, name)
	}
}

// e2ePowerBack: lab up after this computer's restart has machines and daemon
// back, and deploys nothing. A machine with a mirrored system disk starts
// although its first disk came back empty.
func e2ePowerBack(t *testing.T, r *e2eRig, s *site.Site) {
	r.ok(t, "lab", "stop", "--yes")
	for _, name := range r.machines {
		out, err := exec.CommandContext(t.Context(), "virsh", "-c", labs.DefaultURI(), "destroy", labs.DomainName(r.name, name)).CombinedOutput()
		if err != nil {
			t.Fatalf("cutting the power of %s: %v: %s", name, err, out)
		}
		if mirrored(s, name) {
			disk := filepath.Join(r.dir(), "disks", name+"-0.qcow2")
			if out, err := exec.CommandContext(t.Context(), "qemu-img", "create", "-q", "-f", "qcow2", disk, "8G").CombinedOutput(); err != nil {
				t.Fatalf("emptying the first disk of %s: %v: %s", name, err, out)
			}
		}
	}
	u := r.up(t, nil)
	if u.status != exitOK || len(u.events) != 0 {
		t.Fatalf("lab up after a power cut = %d with %d events; want 0 with none\n%s", u.status, len(u.events), u.stderr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	for _, name := range r.machines {
		if !strings.Contains(u.stderr, name+" was off") {
			t.Errorf("lab up after a power cut does not tell of %s: %q", name, u.stderr)
		}
		for {
			res := r.fettle(ctx, "lab", "exec", name, "--", "hostname")
			if res.status == 0 && strings.TrimSpace(res.stdout) == name {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s does not answer after a power cut: %d, %s", name, res.status, res.stderr)
			case <-time.After(2 * time.Second):
			}
		}
	}
	for _, name := range r.machines {
		if mirrored(s, name) {
			e2eMirror(t, r, name, "[_U]")
			e2eMend(t, r, s, name)
		}
	}
	t.Logf("lab up after a power cut: %s", u.took.Round(100*time.Millisecond))
}

func mirrored(s *site.Site, name string) bool {
	m, _ := s.Machine(name)
	prof, _ := s.Profile(m.Profile)
	return prof.Layout.RAID == 1
}

// e2eDown: lab down leaves nothing.
func e2eDown(t *testing.T, r *e2eRig, _ *site.Site) {
	pid := r.daemon(t).PID
	ports := r.udpPorts(t)
	if len(ports) == 0 {
		t.Fatal("the lab has no UDP ports")
	}
	r.ok(t, "lab", "down", "--yes")
	if _, err := os.Stat(r.dir()); !os.IsNotExist(err) {
		t.Errorf("the lab's folder after lab down: %v; want none", err)
	}
	if err := syscall.Kill(pid, 0); err == nil && !isZombie(pid) {
		t.Errorf("the lab's daemon (pid %d) runs after lab down", pid)
	}
	left, err := labs.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		if l.Dir == r.dir() {
			t.Errorf("libvirt has %+v after lab down", l)
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), r.dir()) {
			t.Errorf("%s after lab down: %q", p, b)
		}
	}
	for _, port := range ports {
		c, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Errorf("a port of the lab is held after lab down: %v", err)
			continue
		}
		c.Close()
	}
	if res := r.fettle(t.Context(), "lab", "down", "--yes"); res.status != exitUsage {
		t.Errorf("lab down of a lab that is gone = %d; want %d\n%s", res.status, exitUsage, res.stderr)
	}
}

// udpPorts are the ports on loopback that the lab's NICs use.
func (r *e2eRig) udpPorts(t *testing.T) []int {
	t.Helper()
	b, err := fs.ReadFile(os.DirFS(r.dir()), "ports.json")
	if err != nil {
		t.Fatal(err)
	}
	var byMachine map[string][]map[string]int
	if err := json.Unmarshal(b, &byMachine); err != nil {
		t.Fatalf("ports.json: %v", err)
	}
	var out []int
	for _, nics := range byMachine {
		for _, pair := range nics {
			for _, port := range pair {
				out = append(out, port)
			}
		}
	}
	return out
}
