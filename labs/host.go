package labs

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/site"
	"golang.org/x/sys/unix"
)

// ovmf is UEFI firmware for QEMU (OVMF, AAVMF): code, and the template of its
// variables.
type ovmf struct{ code, vars string }

// firmwares are where distributions keep OVMF. Debian, Ubuntu; Fedora; Arch;
// SUSE.
var firmwares = [...]ovmf{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	{"/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"},
}

// secureFirmwares is where they keep it with Secure Boot on and Microsoft's
// keys enrolled. Arch has none.
var secureFirmwares = [...]ovmf{
	{"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"},
	{"/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin", "/usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin"},
}

// findTools fills what the plan's machines need of this machine's programs.
func (r *realization) findTools(ctx context.Context, p *Plan) error {
	r.engines = map[string]engine{}
	for _, m := range p.Machines {
		board := m.board()
		e, ok := r.engines[m.Arch]
		if !ok {
			var err error
			if e, err = findEngine(ctx, board); err != nil {
				return err
			}
			// Both firmwares, where they are there: a BMC can switch Secure Boot on
			// and off.
			e.plain, e.secure = installed(board.uefi), installed(board.secure)
			r.engines[m.Arch] = e
		}
		what, fw := "UEFI firmware", e.plain
		if m.SecureBoot {
			what, fw = "UEFI firmware with Secure Boot and Microsoft's keys", e.secure
		}
		if m.Firmware == site.UEFI && fw.code == "" {
			return because(ErrMissing, nil, "machine %s boots by UEFI and no %s for QEMU is installed: apt-get install %s", m.Name, what, board.firmwarePkg)
		}
	}
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return because(ErrMissing, err, "qemu-img is not installed: apt-get install qemu-utils")
	}
	return nil
}

// installed is the first of the firmwares that this machine has, if any.
func installed(of []ovmf) ovmf {
	for _, f := range of {
		if readable(f.code) && readable(f.vars) {
			return f
		}
	}
	return ovmf{}
}

// findEngine finds QEMU for a board.
func findEngine(ctx context.Context, b board) (e engine, err error) {
	if e.emulator, err = exec.LookPath(b.emulator); err != nil {
		return e, because(ErrMissing, err, "QEMU is not installed: apt-get install %s", b.pkg)
	}
	if e.emulator, err = filepath.EvalSymlinks(e.emulator); err != nil {
		return e, fmt.Errorf("finding QEMU: %w", err)
	}
	e.msec, err = knowsMilliseconds(ctx, e.emulator)
	return e, err
}

var qemuVersion = regexp.MustCompile(`version (\d+)\.(\d+)`)

// knowsMilliseconds tells whether a QEMU has the option reconnect-ms of socket
// character devices: 9.2 brought it and deprecated reconnect, which a later one
// takes away.
func knowsMilliseconds(ctx context.Context, emulator string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, emulator, "-version").Output()
	m := qemuVersion.FindSubmatch(out)
	if err != nil || m == nil {
		return false, because(ErrMissing, err, "%s does not say its version (%v): see that it is QEMU: apt-get install qemu-system-x86", emulator, err)
	}
	major, _ := strconv.Atoi(string(m[1])) // digits
	minor, _ := strconv.Atoi(string(m[2]))
	return major > 9 || major == 9 && minor >= 2, nil
}

func readable(path string) bool { return unix.Access(path, unix.R_OK) == nil }

// probeROM is the end of the ROM of testdata/kvmprobe.s.txt.
const probeROM = "" +
	"+tvjuADwjthmDwEWsP8PIMBmg8gBDyLAZuog/w8ACABmuBAAjtjHBQAQAAADIAAAxwUAIAAAAzAA" +
	"AMcFADAAAIMAAAC4IAYAAA8i4LgAEAAADyLYuYAAAMAPMg0AAQAADzAPIMANAgAAgIPg+w8iwOp3" +
	"/w8AGAAPV8C5AC0xAf/JdfywIeb09Ov9jbQAAGaQAAAAAAAAAAD//wAAAJrPAP//AAAAks8A//8A" +
	"AACarwAfAJD/DwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" +
	"AAAAAAAAAAAAAAAA6Q3/AAAAAAAAAAAAAAAAAA=="

// probeStatus is QEMU's exit status when the probe's guest ran.
const probeStatus = 67

// probe runs the probe's guest with accel for at most 5 seconds. A /dev/kvm
// that opens proves nothing: one was met that runs real mode only.
func probe(ctx context.Context, emulator string, accel Accel) error {
	end, err := base64.StdEncoding.DecodeString(probeROM)
	if err != nil {
		return fmt.Errorf("the probe's ROM: %w", err)
	}
	dir, err := os.MkdirTemp("", "fettle-probe-")
	if err != nil {
		return fmt.Errorf("probing %s: %w", accel, err)
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "rom")
	if err := os.WriteFile(rom, append(make([]byte, 64<<10-len(end)), end...), 0o600); err != nil {
		return fmt.Errorf("probing %s: %w", accel, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, emulator, "-accel", string(accel), "-machine", "pc", "-nodefaults", "-no-user-config",
		"-display", "none", "-m", "16", "-no-reboot", "-bios", rom, "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == probeStatus:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("a probe guest did not end with %s within 5 s", accel)
	}
	line, _, _ := strings.Cut(string(bytes.TrimSpace(out)), "\n")
	return fmt.Errorf("a probe guest did not run with %s (%v): %s", accel, err, line)
}

// accelFile remembers the probe's outcome until the machine boots again.
type accelFile struct {
	Boot   string `json:"boot"` // the kernel's boot id
	KVM    bool   `json:"kvm"`
	Reason string `json:"reason,omitempty"`
}

// runsKVM tells whether this machine could run an architecture's machines by KVM:
// its own. The probe's guest is x86's, so that on arm64 all are emulated.
func runsKVM(arch string) bool { return arch == site.AMD64 && runtime.GOARCH == site.AMD64 }

// chooseAccel decides between KVM and TCG: KVM when a guest runs with it and
// libvirt offers it. reason says why not. emulator is "" where no machine could.
func chooseAccel(ctx context.Context, want Accel, emulator string, dir folder, hv hypervisor) (accel Accel, reason string, err error) {
	if want == TCG {
		return TCG, "", nil
	}
	if emulator == "" {
		reason := "none of them is of a kind that this " + runtime.GOARCH + " machine's KVM is used for"
		if want == KVM {
			return "", "", because(ErrMissing, nil, "KVM was asked for, and the lab's machines cannot run by it: %s", reason)
		}
		return TCG, reason, nil
	}
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	boot := strings.TrimSpace(string(b))
	var known accelFile
	if err := readJSON(dir.accel(), &known); err != nil || boot == "" || known.Boot != boot {
		// Not remembered: who logs in again as a member of the group may.
		if reason := deniedKVM("/dev/kvm"); reason != "" {
			if want == KVM {
				return "", "", because(ErrMissing, nil, "KVM was asked for and does not work here: %s", reason)
			}
			return TCG, reason, nil
		}
		known = accelFile{Boot: boot}
		if err := probe(ctx, emulator, KVM); err != nil {
			known.Reason = err.Error()
		} else if known.KVM, err = hv.kvm(emulator); err != nil {
			return "", "", err
		} else if !known.KVM {
			known.Reason = "KVM works for this user, but the libvirt daemon does not offer it"
		}
		if ctx.Err() != nil {
			return "", "", ctx.Err()
		}
		if err := writeJSON(dir.accel(), known); err != nil {
			return "", "", err
		}
	}
	if known.KVM {
		return KVM, "", nil
	}
	if want == KVM {
		return "", "", because(ErrMissing, nil, "KVM was asked for and does not work here: %s", known.Reason)
	}
	return TCG, known.Reason, nil
}

// deniedKVM says that this user may not open a device that is there, and what
// to do: on Debian and Ubuntu it is its group's.
func deniedKVM(path string) string {
	if err := unix.Access(path, unix.R_OK|unix.W_OK); !errors.Is(err, unix.EACCES) {
		return ""
	}
	return "this user may not open " + path + ": add the user to its group (sudo usermod -aG kvm USER) and log in again"
}

// Room that a machine takes beyond what it is given.
const (
	qemuOverhead = 192 << 20 // QEMU itself, firmware, a virtio queue or two
	// firstDisk is what a deployed system is expected to write to a machine's
	// first disk; its others stay sparse.
	firstDisk = 3 << 30
)

// checkRoom refuses what this machine cannot hold: machines that are to be
// made, and machines that are to run.
func checkRoom(p *Plan, dir folder, madeDisk func(DiskPlan, string) bool, running func(domain string) bool) error {
	var disk, memory int64
	for _, m := range p.Machines {
		if !running(m.Domain) {
			memory += int64(m.MemoryMiB)<<20 + qemuOverhead
		}
		for i, d := range m.Disks {
			if madeDisk(d, dir.disk(m.Name, i)) {
				continue
			}
			if i == 0 {
				disk += min(d.Bytes, firstDisk)
			} else {
				disk += 1 << 20
			}
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(string(dir), &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < disk {
		return because(ErrCapacity, nil, "lab %s needs about %s of disk space in %s and %s are free: make room, choose another folder with --labs, or fewer machines with --machines",
			p.Name, gib(disk), dir, gib(free))
	}
	free, err := availableMemory()
	if err != nil {
		return err
	}
	if free < memory {
		return because(ErrCapacity, nil, "lab %s needs %s of memory for its machines and %s are available: say a smaller --memory, or fewer machines with --machines",
			p.Name, gib(memory), gib(free))
	}
	return nil
}

func gib(n int64) string { return strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64) + " GiB" }

// availableMemory is MemAvailable of /proc/meminfo (proc(5)).
func availableMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("available memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("available memory: %w", err)
			}
			return n << 10, nil
		}
	}
	return 0, errors.New("available memory: /proc/meminfo has no MemAvailable")
}
