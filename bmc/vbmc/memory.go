package vbmc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Fault is what can be wrong with a Memory chassis on purpose. The zero Fault
// is none.
type Fault struct {
	// RefuseReset refuses these reset types as unsupported.
	RefuseReset []ResetType
	// RefuseBoot refuses every boot override as unsupported.
	RefuseBoot bool
	// Lie accepts every change and makes none, as real BMCs do.
	Lie bool
	// Err is returned by every method (the server answers 500).
	Err error
	// Delay holds each method back; the caller's context ends it.
	Delay time.Duration
	// PowerDelay is how long the machine takes to follow a change of power; a
	// graceful shutdown takes as long.
	PowerDelay time.Duration
	// IgnoreShutdown lets a graceful shutdown go unheard, as a hung OS does.
	IgnoreShutdown bool
	// Sensors are readings, by sensor id, in place of the usual ones.
	Sensors map[string]float64
}

// Memory is a Chassis in memory. It is safe for concurrent use.
type Memory struct {
	mu      sync.Mutex
	info    Info
	power   PowerState
	boot    Boot
	led     bool
	fault   Fault
	reset   time.Time
	booted  []Boot
	pending []*time.Timer
	now     func() time.Time

	media      Media
	secure     SecureBoot
	keys       map[string][]Key // signature databases that are not as the firmware came
	keySeq     int
	lan        LAN
	limit      float64 // watts; 0: none
	order      []string
	unbootable []string // boot options that are disabled
	volumes    []Volume
	volumeSeq  int
}

// NewMemory makes a chassis that is off, with no boot override.
func NewMemory(in Info) *Memory {
	sum := sha256.Sum256([]byte("bmc\x00" + in.UUID + "\x00" + in.Serial))
	mac := net.HardwareAddr{0x02, 0xfb, sum[0], sum[1], sum[2], sum[3]} // locally administered
	return &Memory{info: clone(in), power: Off, boot: Boot{Target: BootNone, Enabled: "Disabled", Mode: "UEFI"}, now: time.Now, lan: LAN{MAC: mac.String(), IPv6: LAN6{On: true, Auto: true}}}
}

func clone(in Info) Info {
	in.NICs, in.Drives, in.GPUs = slices.Clone(in.NICs), slices.Clone(in.Drives), slices.Clone(in.GPUs)
	return in
}

// SetFault breaks the chassis, or mends it with the zero Fault.
func (m *Memory) SetFault(f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// Booted lists what each power-on and restart booted from, oldest first: the
// override that was in force.
func (m *Memory) Booted() []Boot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.booted)
}

// enter waits out the fault's delay and locks; the caller unlocks when err is nil.
func (m *Memory) enter(ctx context.Context) error {
	m.mu.Lock()
	f := m.fault
	if f.Delay > 0 {
		m.mu.Unlock()
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		m.mu.Lock()
	}
	if f.Err != nil {
		m.mu.Unlock()
		return f.Err
	}
	return nil
}

// Info tells what the chassis is made of.
func (m *Memory) Info(ctx context.Context) (Info, error) {
	if err := m.enter(ctx); err != nil {
		return Info{}, err
	}
	defer m.mu.Unlock()
	return clone(m.info), nil
}

// Power is the power state.
func (m *Memory) Power(ctx context.Context) (PowerState, error) {
	if err := m.enter(ctx); err != nil {
		return "", err
	}
	defer m.mu.Unlock()
	return m.power, nil
}

// Boot is the override in force.
func (m *Memory) Boot(ctx context.Context) (Boot, error) {
	if err := m.enter(ctx); err != nil {
		return Boot{}, err
	}
	defer m.mu.Unlock()
	return m.boot, nil
}

// SetBoot sets the override for the power-ons to come.
func (m *Memory) SetBoot(ctx context.Context, b Boot) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.fault.RefuseBoot {
		return fmt.Errorf("boot override %s: %w", b.Target, ErrUnsupported)
	}
	if !m.fault.Lie {
		m.boot = b
	}
	return nil
}

// Identify tells whether the identify light is on.
func (m *Memory) Identify(ctx context.Context) (bool, error) {
	if err := m.enter(ctx); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	return m.led, nil
}

// SetIdentify switches the identify light.
func (m *Memory) SetIdentify(ctx context.Context, on bool) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if !m.fault.Lie {
		m.led = on
	}
	return nil
}

// LastReset is when the machine was last powered on or restarted.
func (m *Memory) LastReset(ctx context.Context) (time.Time, error) {
	if err := m.enter(ctx); err != nil {
		return time.Time{}, err
	}
	defer m.mu.Unlock()
	return m.reset, nil
}

// Reset accepts an action; with a PowerDelay the machine follows later.
func (m *Memory) Reset(ctx context.Context, t ResetType) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if slices.Contains(m.fault.RefuseReset, t) {
		return fmt.Errorf("reset %s: %w", t, ErrUnsupported)
	}
	switch t {
	case ResetGracefulShutdown, ResetGracefulRestart, ResetPushPowerButton:
		if m.fault.IgnoreShutdown && m.power == On {
			return nil
		}
	case ResetOn, ResetForceOn, ResetForceOff, ResetForceRestart, ResetPowerCycle, ResetNmi:
	default:
		return fmt.Errorf("reset %q: %w", t, ErrUnsupported)
	}
	if m.fault.Lie {
		return nil
	}
	// A later action replaces one that is still under way.
	for _, p := range m.pending {
		p.Stop()
	}
	m.pending = nil
	if d := m.fault.PowerDelay; d > 0 {
		m.pending = append(m.pending, time.AfterFunc(d, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.follow(t)
		}))
		return nil
	}
	m.follow(t)
	return nil
}

// follow does what Reset accepted. m.mu is held.
func (m *Memory) follow(t ResetType) {
	switch t {
	case ResetOn, ResetForceOn:
		if m.power == Off {
			m.start()
		}
	case ResetForceOff, ResetGracefulShutdown:
		m.power = Off
	case ResetForceRestart, ResetGracefulRestart, ResetPowerCycle:
		m.start()
	case ResetPushPowerButton:
		if m.power == On {
			m.power = Off
		} else {
			m.start()
		}
	case ResetNmi:
	}
}

// start boots the machine: a one-time override is consumed. m.mu is held.
func (m *Memory) start() {
	m.power, m.reset = On, m.now()
	m.secure.Current = m.secure.Enabled && !m.secure.Setup
	b := m.boot
	if b.Enabled == "Disabled" {
		b.Target = BootNone
	}
	if m.booted = append(m.booted, b); len(m.booted) > maxEvents {
		m.booted = m.booted[1:]
	}
	if m.boot.Enabled == "Once" {
		m.boot.Enabled, m.boot.Target = "Disabled", BootNone
	}
}
