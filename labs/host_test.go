package labs

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// fakeKVM is a hypervisor that only says whether it offers KVM.
type fakeKVM struct {
	hypervisor
	offers bool
	asked  int
}

func (f *fakeKVM) kvm(string) (bool, error) { f.asked++; return f.offers, nil }

// script makes an executable that stands for QEMU.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProbe(t *testing.T) {
	t.Run("the guest runs with TCG", func(t *testing.T) {
		qemu, err := exec.LookPath("qemu-system-x86_64")
		if err != nil {
			skip(t, "qemu-system-x86_64 is not installed")
		}
		if err := probe(t.Context(), qemu, TCG); err != nil {
			t.Errorf("probe(TCG) = %v; want nil: TCG always works", err)
		}
	})
	for _, tt := range []struct{ name, qemu, want string }{
		{"QEMU refuses", "echo 'no such accelerator' >&2; exit 1", "no such accelerator"},
		{"QEMU ends as if powered off", "exit 0", "did not run"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := probe(t.Context(), script(t, tt.qemu), KVM); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("probe = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestProbeROM(t *testing.T) {
	for _, tool := range []string{"as", "ld"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, tool+" is not installed")
		}
	}
	dir := t.TempDir()
	object, rom := filepath.Join(dir, "p.o"), filepath.Join(dir, "p.bin")
	for _, args := range [][]string{
		{"as", "--32", "-o", object, "testdata/kvmprobe.s.txt"},
		{"ld", "-m", "elf_i386", "-Ttext", "0xfff00", "--oformat", "binary", "-o", rom, object},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			skip(t, "the assembler here is not for x86: "+string(out))
		}
	}
	got, err := os.ReadFile(rom)
	if err != nil {
		t.Fatal(err)
	}
	want, err := base64.StdEncoding.DecodeString(probeROM)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("testdata/kvmprobe.s.txt assembles to %s; probeROM is %s (%v)", base64.StdEncoding.EncodeToString(got), probeROM, err)
	}
	sh, err := os.ReadFile("libvirtd.sh")
	if err != nil || !strings.Contains(strings.ReplaceAll(string(sh), "\n", ""), probeROM) {
		t.Errorf("libvirtd.sh holds another ROM than probeROM (%v)", err)
	}
}

func TestQEMUVersion(t *testing.T) {
	for _, tt := range []struct {
		says      string
		want, bad bool
	}{
		{"QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u16)", false, false},
		{"QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1.10)", false, false},
		{"QEMU emulator version 9.2.1", true, false},
		{"QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", true, false},
		{"GNU bash", false, true},
	} {
		got, err := knowsMilliseconds(t.Context(), script(t, "echo '"+tt.says+"'"))
		if got != tt.want || (err != nil) != tt.bad || err != nil && !errors.Is(err, ErrMissing) {
			t.Errorf("knowsMilliseconds(%q) = %v, %v; want %v", tt.says, got, err, tt.want)
		}
	}
}

func TestDeniedKVM(t *testing.T) {
	if os.Geteuid() == 0 {
		// access(2) as root finds everything open; what is absent is no denial.
		if got := deniedKVM(filepath.Join(t.TempDir(), "kvm")); got != "" {
			t.Errorf("deniedKVM of no device = %q; want nothing", got)
		}
		return
	}
	path := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(path, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	if got := deniedKVM(path); !strings.Contains(got, "usermod -aG kvm") {
		t.Errorf("deniedKVM of another's device = %q; want the command that mends it", got)
	}
}

func TestChooseAccel(t *testing.T) {
	works, fails := script(t, "exit 67"), script(t, "echo broken >&2; exit 1")
	for _, tt := range []struct {
		name   string
		want   Accel
		qemu   string
		offers bool
		accel  Accel
		text   string // in the reason or the error
		err    bool
	}{
		{"a guest runs and libvirt offers it", AccelAuto, works, true, KVM, "", false},
		{"libvirt does not offer it", AccelAuto, works, false, TCG, "does not offer it", false},
		{"no guest runs", AccelAuto, fails, true, TCG, "broken", false},
		{"KVM demanded and no guest runs", KVM, fails, true, "", "broken", true},
		{"TCG demanded", TCG, works, true, TCG, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hv := &fakeKVM{offers: tt.offers}
			f := claimed(t)
			for range 2 { // the second time from the file
				accel, reason, err := chooseAccel(t.Context(), tt.want, tt.qemu, f, hv)
				if accel != tt.accel || (err != nil) != tt.err {
					t.Fatalf("chooseAccel = %q, %q, %v; want %q", accel, reason, err, tt.accel)
				}
				if err != nil {
					reason = err.Error()
					if !errors.Is(err, ErrMissing) {
						t.Errorf("chooseAccel = %v; want ErrMissing", err)
					}
				}
				if !strings.Contains(reason, tt.text) {
					t.Errorf("reason %q; want %q in it", reason, tt.text)
				}
			}
			if hv.asked > 1 {
				t.Errorf("libvirt was asked %d times; want the outcome remembered", hv.asked)
			}
		})
	}
}

func TestCheckRoom(t *testing.T) {
	none := func(DiskPlan, string) bool { return false }
	off := func(string) bool { return false }
	plan := func(memory, disk int64) *Plan {
		return &Plan{Name: "big", Machines: []MachinePlan{{Name: "m", Domain: "d", MemoryMiB: int(memory >> 20), Disks: []DiskPlan{{Bytes: disk}}}}}
	}
	dir := folder(t.TempDir())
	if err := checkRoom(plan(16<<20, 16<<20), dir, none, off); err != nil {
		t.Errorf("checkRoom of a small lab = %v; want nil", err)
	}
	huge := plan(1<<50, 0)
	if err := checkRoom(huge, dir, none, off); !errors.Is(err, ErrCapacity) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("checkRoom of 1 PiB of memory = %v; want ErrCapacity that says so", err)
	}
	if err := checkRoom(huge, dir, none, func(string) bool { return true }); err != nil {
		t.Errorf("checkRoom of a lab that runs = %v; want nil: it has its memory", err)
	}
	many := plan(16<<20, 0)
	for range 1 << 17 {
		many.Machines = append(many.Machines, MachinePlan{Disks: []DiskPlan{{Bytes: 8 << 30}}})
	}
	all := func(domain string) bool { return true }
	if err := checkRoom(many, dir, none, all); !errors.Is(err, ErrCapacity) || !strings.Contains(err.Error(), "disk space") {
		t.Errorf("checkRoom of 384 TiB of disks = %v; want ErrCapacity that says so", err)
	}
	if err := checkRoom(many, dir, func(DiskPlan, string) bool { return true }, all); err != nil {
		t.Errorf("checkRoom of a lab whose disks are made = %v; want nil", err)
	}
}

func TestCheckForeign(t *testing.T) {
	p, err := NewPlan(testSite(t), Options{Dir: "/lab"})
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{plan: p, r: realization{dir: "/lab", ports: map[string][]portPair{"gpu-01": make([]portPair, 3), "gpu-02": make([]portPair, 1)}}}
	ours := func(lab, dir string) string {
		r := l.r
		r.dir = folder(dir)
		text, err := domainXML(lab, p.Machines[1], r, startDisk, "")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, tt := range []struct {
		name, domain, xml string
		want              string // in the error; empty: none
	}{
		{"none of ours", "web", "<domain/>", ""},
		{"our own", "fettle-hall-gpu-02", ours("hall", "/lab"), ""},
		{"our name without our tag", "fettle-hall-gpu-02", "<domain/>", "fettle-hall-gpu-02"},
		{"our name with another lab's tag", "fettle-hall-gpu-02", ours("other", "/lab"), "fettle-hall-gpu-02"},
		{"a lab of our name in another folder", "fettle-hall-gpu-02", ours("hall", "/elsewhere"), "/elsewhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := l.checkForeign([]domain{{name: tt.domain, xml: tt.xml}})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("checkForeign = %v; want nil", err)
			case tt.want != "" && (!errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("checkForeign = %v; want ErrForeign with %q", err, tt.want)
			}
		})
	}
	r := l.r
	r.ports = map[string][]portPair{"gpu-02": {{30000, 30001}}}
	text, err := domainXML("other", p.Machines[1], r, startDisk, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.portsOfOthers([]domain{{xml: text}}); len(got) != 2 || !got[30000] || !got[30001] {
		t.Errorf("portsOfOthers = %v; want 30000 and 30001", got)
	}
}

func TestReachable(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "private", "lab")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chmod(filepath.Dir(inner), 0o700); err != nil {
		t.Fatal(err)
	}
	if folder(inner).reachable(nobody) {
		t.Errorf("reachable(%d) below a 0700 folder = true; want false", nobody)
	}
	if !folder("/usr").reachable(nobody) {
		t.Error("reachable of /usr = false; want true")
	}
}

// deafHypervisor remembers what it was told.
type deafHypervisor struct {
	hypervisor
	power domainState
	calls []string
	xml   string
}

func (d *deafHypervisor) state(string) (domainState, error) { return d.power, nil }
func (d *deafHypervisor) define(x string) error {
	d.calls, d.xml = append(d.calls, "define"), x
	return nil
}
func (d *deafHypervisor) start(string) error {
	d.calls, d.power = append(d.calls, "start"), stateOn
	return nil
}
func (d *deafHypervisor) destroy(string) error {
	d.calls, d.power = append(d.calls, "destroy"), stateOff
	return nil
}
func (d *deafHypervisor) shutdown(string) error { d.calls = append(d.calls, "shutdown"); return nil }
func (d *deafHypervisor) nmi(string) error      { d.calls = append(d.calls, "nmi"); return nil }

// chassisUnderTest is a machine of the test's site over a hypervisor that only
// remembers.
func chassisUnderTest(t *testing.T, n int) (*machine, *deafHypervisor) {
	t.Helper()
	p, err := NewPlan(testSite(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	hv := &deafHypervisor{}
	l := &Lab{plan: p, hv: hv, log: discard, now: func() time.Time { return testTime }, life: t.Context()}
	l.r = realization{dir: claimed(t), accel: TCG, ports: map[string][]portPair{"gpu-01": make([]portPair, 3), "gpu-02": make([]portPair, 1)}}
	m, err := newMachine(l, p.Machines[n])
	if err != nil {
		t.Fatal(err)
	}
	return m, hv
}

// TestAccelOfARM64: machines of another architecture than this one's are
// emulated, and who asks for KVM hears why not.
func TestAccelOfARM64(t *testing.T) {
	if runsKVM(site.ARM64) || runsKVM(site.AMD64) != (runtime.GOARCH == site.AMD64) {
		t.Errorf("runsKVM(arm64) = %v, runsKVM(amd64) = %v on %s", runsKVM(site.ARM64), runsKVM(site.AMD64), runtime.GOARCH)
	}
	if accel, reason, err := chooseAccel(t.Context(), AccelAuto, "", folder(t.TempDir()), nil); accel != TCG || reason == "" || err != nil {
		t.Errorf("chooseAccel of arm64 machines alone = %s, %q, %v; want tcg with a reason", accel, reason, err)
	}
	if accel, reason, err := chooseAccel(t.Context(), TCG, "", folder(t.TempDir()), nil); accel != TCG || reason != "" || err != nil {
		t.Errorf("chooseAccel of tcg = %s, %q, %v; want it without a word", accel, reason, err)
	}
	if _, _, err := chooseAccel(t.Context(), KVM, "", folder(t.TempDir()), nil); !errors.Is(err, ErrMissing) {
		t.Errorf("chooseAccel of kvm = %v; want ErrMissing", err)
	}
}
