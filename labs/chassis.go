package labs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// machine is a vbmc.Chassis over a libvirt domain.
type machine struct {
	lab  *Lab
	plan MachinePlan

	mu   sync.Mutex // held while power changes
	kept chassisFile
}

var (
	_ vbmc.Chassis      = (*machine)(nil)
	_ vbmc.LastResetter = (*machine)(nil)
	_ vbmc.SensorReader = (*machine)(nil)
	_ vbmc.LANHolder    = (*machine)(nil)
	_ vbmc.MediaHolder  = (*machine)(nil)
)

// chassisFile is what a BMC remembers over its own restarts.
type chassisFile struct {
	Boot      vbmc.Boot `json:"boot"`
	Identify  bool      `json:"identify,omitempty"`
	LastReset time.Time `json:"last_reset,omitzero"`
	Media     string    `json:"media,omitempty"` // URI of what is in the CD drive

	SecureBoot   *bool `json:"secure_boot,omitempty"`   // what the BMC was told; else it is the site's
	SecureBooted bool  `json:"secure_booted,omitempty"` // at the last start
	NewKeys      bool  `json:"new_keys,omitempty"`      // at the next start
}

// Values of vbmc.Boot.Enabled (DSP0268, BootSourceOverrideEnabled).
const (
	disabled   = "Disabled"
	once       = "Once"
	continuous = "Continuous"
)

// gracefulRestart is how long a guest may take to shut down in a graceful
// restart before the restart is given up.
const gracefulRestart = 3 * time.Minute

func newMachine(l *Lab, p MachinePlan) (*machine, error) {
	m := &machine{lab: l, plan: p}
	err := readJSON(l.r.dir.chassis(p.Name), &m.kept)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if m.kept.Boot.Enabled == "" {
		m.kept.Boot = m.noOverride()
	}
	return m, err
}

func (m *machine) noOverride() vbmc.Boot {
	return vbmc.Boot{Target: vbmc.BootNone, Enabled: disabled, Mode: m.mode()}
}

func (m *machine) mode() string {
	if m.plan.Firmware == site.UEFI {
		return "UEFI"
	}
	return "Legacy"
}

// keep writes what the chassis remembers; m.mu is held.
func (m *machine) keep(f chassisFile) error {
	if err := writeJSON(m.lab.r.dir.chassis(m.plan.Name), f); err != nil {
		return err
	}
	m.kept = f
	return nil
}

// Info implements vbmc.Chassis.
func (m *machine) Info(context.Context) (vbmc.Info, error) {
	p := m.plan
	info := vbmc.Info{
		Name: p.Name, UUID: p.UUID, Serial: p.Serial, Manufacturer: p.Manufacturer, Model: p.Product,
		BIOSVersion: "SeaBIOS", CPUs: p.CPUs, CPUModel: p.board().cpuModel, Arch: p.Arch, MemoryMiB: p.MemoryMiB,
	}
	if p.Firmware == site.UEFI {
		info.BIOSVersion = p.board().biosVersion
	}
	for i, n := range p.NICs {
		info.NICs = append(info.NICs, vbmc.NIC{ID: "NIC" + strconv.Itoa(i+1), MAC: n.MAC.String(), Link: n.Network != ""})
	}
	for i, d := range p.Disks {
		info.Drives = append(info.Drives, vbmc.Drive{ID: "Disk" + strconv.Itoa(i+1), Serial: d.Serial, Model: d.Model, Bytes: d.Bytes, Protocol: "PCIe"})
	}
	for i, g := range p.GPUs {
		info.GPUs = append(info.GPUs, vbmc.GPU{ID: "GPU" + strconv.Itoa(i+1), Model: g.Model, PCI: g.PCI})
	}
	return info, nil
}

// Sensors implements vbmc.SensorReader: what a server of its make-up measures.
func (m *machine) Sensors(ctx context.Context) ([]vbmc.Sensor, error) {
	in, err := m.Info(ctx)
	if err != nil {
		return nil, err
	}
	st, err := m.state()
	return vbmc.UsualSensors(in, st == stateOn), err
}

// LAN implements vbmc.LANHolder: the address that the site gives the BMC.
func (m *machine) LAN(context.Context) (vbmc.LAN, error) {
	l := vbmc.LAN{HostName: m.plan.Name + "-bmc", MAC: m.plan.BMC.MAC.String()}
	if n, ok := m.lab.plan.networkOf(m.plan.BMC.Address); ok {
		l.Address, l.VLAN = netip.PrefixFrom(m.plan.BMC.Address, n.Prefix.Bits()), n.VLAN
	}
	return l, nil
}

// SetLAN implements vbmc.LANHolder: the site says where a lab's BMC is.
func (m *machine) SetLAN(context.Context, vbmc.LAN) error {
	return fmt.Errorf("the site says where the BMC of %s is: %w", m.plan.Name, vbmc.ErrUnsupported)
}

// state is the domain's, or an error that says that there is none.
func (m *machine) state() (domainState, error) {
	st, err := m.lab.hv.state(m.plan.Domain)
	if err == nil && st == stateAbsent {
		err = fmt.Errorf("machine %s has no libvirt domain %s: fettle lab up makes it again", m.plan.Name, m.plan.Domain)
	}
	return st, err
}

// Power implements vbmc.Chassis.
func (m *machine) Power(context.Context) (vbmc.PowerState, error) {
	st, err := m.state()
	if err != nil {
		return "", err
	}
	if st == stateOn {
		return vbmc.On, nil
	}
	return vbmc.Off, nil
}

// Boot implements vbmc.Chassis.
func (m *machine) Boot(context.Context) (vbmc.Boot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept.Boot, nil
}

// SetBoot implements vbmc.Chassis. The override is kept in the lab's folder and
// takes effect when the machine is next powered on or reset by its BMC. A
// restart from inside the guest goes the way that the last such start went,
// since QEMU keeps the boot order that it was started with. The mode is
// remembered and shown; what the machine boots by is its firmware.
func (m *machine) SetBoot(_ context.Context, b vbmc.Boot) error {
	if b.Mode == "" {
		b.Mode = m.mode()
	}
	switch b.Enabled {
	case once, continuous:
	case "":
		b.Enabled = once
	case disabled:
		b.Target = vbmc.BootNone
	default:
		return fmt.Errorf("boot override %q: want %s, %s or %s", b.Enabled, disabled, once, continuous)
	}
	switch b.Target {
	case vbmc.BootNone, "":
		b = vbmc.Boot{Target: vbmc.BootNone, Enabled: disabled, Mode: b.Mode}
	case vbmc.BootPxe, vbmc.BootHdd, vbmc.BootCd:
	case vbmc.BootUefiHTTP:
		if m.plan.Firmware != site.UEFI {
			return fmt.Errorf("machine %s has a BIOS, which cannot boot by HTTP: %w", m.plan.Name, vbmc.ErrUnsupported)
		}
	default:
		return fmt.Errorf("a lab's machine cannot boot %s: %w", b.Target, vbmc.ErrUnsupported)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.kept
	f.Boot = b
	return m.keep(f)
}

// Identify implements vbmc.Chassis.
func (m *machine) Identify(context.Context) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept.Identify, nil
}

// SetIdentify implements vbmc.Chassis.
func (m *machine) SetIdentify(_ context.Context, on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.kept
	f.Identify = on
	return m.keep(f)
}

// LastReset implements vbmc.LastResetter.
func (m *machine) LastReset(context.Context) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept.LastReset, nil
}

// Reset implements vbmc.Chassis.
func (m *machine) Reset(ctx context.Context, t vbmc.ResetType) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.state()
	if err != nil {
		return err
	}
	name := m.plan.Domain
	m.lab.log.Debug("chassis reset", "machine", m.plan.Name, "type", t, "on", st == stateOn)
	switch t {
	case vbmc.ResetOn, vbmc.ResetForceOn:
		if st == stateOn {
			return nil
		}
		return m.powerOn()
	case vbmc.ResetForceOff:
		return m.lab.hv.destroy(name)
	case vbmc.ResetGracefulShutdown:
		if st == stateOff {
			return nil
		}
		return m.lab.hv.shutdown(name)
	case vbmc.ResetPushPowerButton:
		if st == stateOff {
			return m.powerOn()
		}
		return m.lab.hv.shutdown(name)
	case vbmc.ResetForceRestart, vbmc.ResetPowerCycle:
		// Not virDomainReset: QEMU takes a new boot order only when it starts.
		if err := m.lab.hv.destroy(name); err != nil {
			return err
		}
		return m.powerOn()
	case vbmc.ResetGracefulRestart:
		if st == stateOff {
			return m.powerOn()
		}
		if err := m.lab.hv.shutdown(name); err != nil {
			return err
		}
		m.lab.work.Go(m.startWhenOff)
		return nil
	case vbmc.ResetNmi:
		return m.lab.hv.nmi(name)
	}
	return fmt.Errorf("reset type %q: %w", t, vbmc.ErrUnsupported)
}

// powerOn starts the domain in the order that the override says, and uses up
// an override for one boot. m.mu is held.
func (m *machine) powerOn() error {
	boot := m.kept.Boot
	st := startDisk
	if boot.Enabled != disabled {
		switch boot.Target {
		case vbmc.BootPxe:
			st = startNetwork
		case vbmc.BootUefiHTTP:
			st = startHTTP
		case vbmc.BootCd:
			st = startCD
		}
	}
	cd := ""
	if m.kept.Media != "" {
		cd = m.lab.r.dir.media(m.plan.Name)
	}
	plan, err := m.planNow()
	if err != nil {
		return err
	}
	text, err := domainXML(m.lab.plan.Name, plan, m.lab.r, st, cd)
	if err != nil {
		return err
	}
	if err := m.lab.hv.define(text); err != nil {
		return fmt.Errorf("machine %s: %w", m.plan.Name, err)
	}
	if err := m.lab.hv.start(m.plan.Domain); err != nil {
		return fmt.Errorf("machine %s: %w", m.plan.Name, err)
	}
	f := m.kept
	f.LastReset = m.lab.now().UTC()
	f.SecureBooted, f.NewKeys = plan.SecureBoot, false
	if boot.Enabled == once {
		f.Boot = m.noOverride()
		f.Boot.Mode = boot.Mode
	}
	return m.keep(f)
}

// startWhenOff ends a graceful restart.
func (m *machine) startWhenOff() {
	ctx, cancel := context.WithTimeout(m.lab.life, gracefulRestart)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if m.lab.life.Err() == nil {
				m.lab.log.Warn("the machine did not shut down; its graceful restart is given up", "machine", m.plan.Name, "after", gracefulRestart)
			}
			return
		case <-tick.C:
		}
		m.mu.Lock()
		st, err := m.state()
		if err == nil && st == stateOff {
			err = m.powerOn()
		} else if err == nil {
			m.mu.Unlock()
			continue
		}
		m.mu.Unlock()
		if err != nil {
			m.lab.log.Error("graceful restart", "machine", m.plan.Name, "err", err)
		}
		return
	}
}
