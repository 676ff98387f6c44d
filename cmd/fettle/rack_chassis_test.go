//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// qemuChassis is a vbmc.Chassis over one QEMU process in a namespace: power on
// is a start, power off is a kill, and the boot override is QEMU's boot order.
type qemuChassis struct {
	ns     *rackNS
	info   vbmc.Info
	args   func(network bool) []string
	stderr *lockedBuffer

	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	boot   vbmc.Boot
	led    bool
	reset  time.Time
	starts []string // "network" or "disk", oldest first
}

var (
	_ vbmc.Chassis      = (*qemuChassis)(nil)
	_ vbmc.LastResetter = (*qemuChassis)(nil)
)

// qemuBoard is a kind of machine that QEMU has, with firmware whose Secure Boot
// is on and that has Microsoft's keys.
type qemuBoard struct {
	emulator, arch, model string
	code, vars, pkg       string // firmware, its variables, the package of both
	args                  []string
}

var (
	boardPC = qemuBoard{
		emulator: "qemu-system-x86_64", arch: site.AMD64, model: "Standard PC (Q35 + ICH9, 2009)",
		code: "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", vars: "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", pkg: "ovmf",
		args: []string{"-machine", "q35,graphics=off,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"},
	}
	boardARM = qemuBoard{
		emulator: "qemu-system-aarch64", arch: site.ARM64, model: "KVM Virtual Machine",
		code: "/usr/share/AAVMF/AAVMF_CODE.ms.fd", vars: "/usr/share/AAVMF/AAVMF_VARS.ms.fd", pkg: "qemu-efi-aarch64",
		args: []string{"-machine", "virt", "-cpu", "cortex-a57"},
	}
)

// newQEMUChassis is node-01 of the rack's site, off, with its NIC on a tap of
// the bridge.
func newQEMUChassis(t *testing.T, r *rackRig, uuid string) *qemuChassis {
	t.Helper()
	return newQEMUBoard(t, r, uuid, boardPC)
}

func newQEMUBoard(t *testing.T, r *rackRig, uuid string, board qemuBoard) *qemuChassis {
	t.Helper()
	_, err := exec.LookPath(board.emulator)
	e2eNeed(t, err, "a program is missing")
	_, err = os.Stat("/dev/net/tun")
	e2eNeed(t, err, "no tap devices")
	r.ns.run(t, "ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
	r.ns.run(t, "ip", "link", "set", "tap0", "master", "br0", "up")
	keys, err := os.ReadFile(board.vars)
	e2eNeed(t, err, "no UEFI firmware with Secure Boot: apt-get install "+board.pkg)
	if err := os.WriteFile(r.path("vars.fd"), keys, 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := os.Create(r.path("disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(disk.Truncate(8<<30), disk.Close()); err != nil {
		t.Fatal(err)
	}
	q := &qemuChassis{
		ns: r.ns, stderr: &lockedBuffer{}, boot: noOverride,
		info: vbmc.Info{
			Name: "node-01", UUID: uuid, Serial: "RACK0001", Manufacturer: "QEMU", Model: board.model,
			BIOSVersion: "EDK II", CPUs: 2, Arch: board.arch, CPUModel: "QEMU Virtual CPU", MemoryMiB: 2048,
			NICs:   []vbmc.NIC{{ID: "NIC1", MAC: "02:00:00:90:00:11", Link: true}},
			Drives: []vbmc.Drive{{ID: "Disk1", Serial: "RACKDISK0001", Bytes: 8 << 30}},
		},
	}
	q.args = func(network bool) []string {
		nic, disk, rom := 2, 1, ""
		if board.arch == site.ARM64 {
			rom = ",romfile=" // what QEMU has is for x86
		}
		if network {
			nic, disk = 1, 2
		}
		return append([]string{board.emulator, "-name", r.ns.name,
			"-drive", "if=pflash,format=raw,readonly=on,file=" + board.code, "-drive", "if=pflash,format=raw,file=" + r.path("vars.fd"),
			"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
			"-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048",
			"-display", "none", "-monitor", "none", "-serial", "file:" + r.path("console"), "-uuid", uuid, "-smbios", "type=1,serial=RACK0001",
			"-drive", "if=none,id=d0,format=raw,discard=unmap,detect-zeroes=unmap,cache=unsafe,file=" + r.path("disk.raw"),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d0,serial=RACKDISK0001,bootindex=%d", disk),
			"-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no",
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n0,mac=02:00:00:90:00:11,bootindex=%d%s", nic, rom),
			"-device", "virtio-rng-pci"}, board.args...)
	}
	t.Cleanup(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.kill()
		if s := q.stderr.String(); s != "" {
			t.Logf("qemu: %s", s)
		}
	})
	return q
}

var noOverride = vbmc.Boot{Target: vbmc.BootNone, Enabled: "Disabled", Mode: "UEFI"}

// on tells whether QEMU runs; q.mu is held.
func (q *qemuChassis) on() bool {
	if q.cmd == nil {
		return false
	}
	select {
	case <-q.ended:
		return false
	default:
		return true
	}
}

func (q *qemuChassis) kill() {
	if q.on() {
		q.cmd.Process.Kill()
		<-q.ended
	}
}

func (q *qemuChassis) start() error {
	network := q.boot.Enabled != "Disabled" && q.boot.Target == vbmc.BootPxe
	cmd := q.ns.command(context.Background(), q.args(network)...)
	cmd.Stderr = q.stderr
	// QEMU outlives the thread that starts it.
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting QEMU: %w", err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	q.cmd, q.ended, q.reset = cmd, ended, time.Now()
	q.starts = append(q.starts, map[bool]string{true: "network", false: "disk"}[network])
	if q.boot.Enabled == "Once" {
		q.boot = noOverride
	}
	return nil
}

func (q *qemuChassis) Info(context.Context) (vbmc.Info, error) { return q.info, nil }

func (q *qemuChassis) Power(context.Context) (vbmc.PowerState, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.on() {
		return vbmc.On, nil
	}
	return vbmc.Off, nil
}

func (q *qemuChassis) Reset(_ context.Context, t vbmc.ResetType) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch t {
	case vbmc.ResetOn, vbmc.ResetForceOn:
		if q.on() {
			return nil
		}
		return q.start()
	case vbmc.ResetForceOff:
		q.kill()
		return nil
	case vbmc.ResetForceRestart, vbmc.ResetPowerCycle:
		q.kill()
		return q.start()
	}
	return vbmc.ErrUnsupported
}

func (q *qemuChassis) Boot(context.Context) (vbmc.Boot, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.boot, nil
}

func (q *qemuChassis) SetBoot(_ context.Context, b vbmc.Boot) error {
	switch b.Target {
	case vbmc.BootNone, vbmc.BootPxe, vbmc.BootHdd:
	default:
		return vbmc.ErrUnsupported
	}
	if b.Target == vbmc.BootNone {
		b = noOverride
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.boot = b
	return nil
}

func (q *qemuChassis) Identify(context.Context) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.led, nil
}

func (q *qemuChassis) SetIdentify(_ context.Context, on bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.led = on
	return nil
}

func (q *qemuChassis) LastReset(context.Context) (time.Time, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reset, nil
}

func (q *qemuChassis) booted() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.starts, " ")
}

// tail is the end of a file, for failures.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(bytes.ToValidUTF8(b[max(0, len(b)-n):], []byte("?")))
}
