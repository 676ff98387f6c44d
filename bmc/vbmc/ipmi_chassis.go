package vbmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Restart causes (IPMI 2.0 table 28-11).
const (
	causeCommand  = 1
	causeWatchdog = 4
	causeAlwaysOn = 6 // power came back, and the policy is always on
	causeLast     = 7 // or as it was
)

// Last power events (IPMI 2.0 table 28-3).
const (
	eventACFailed = 0x01
	eventCommand  = 0x10 // switched on by IPMI
)

// Power restore policies (IPMI 2.0 §28.8).
const (
	restoreOff byte = iota
	restoreLast
	restoreOn
	restoreKeep // in a request: do not change it
)

// restorePolicies by their names in Redfish (DSP0268, PowerRestorePolicy).
var restorePolicies = []string{restoreOff: "AlwaysOff", restoreLast: "LastState", restoreOn: "AlwaysOn"}

// poh is how many minutes a power-on hours count is (IPMI 2.0 §28.14).
const poh = 60

// chassisSettings are those that only IPMI writes, and what is counted.
type chassisSettings struct {
	restore      byte
	buttons      byte    // of the front panel, disabled (IPMI 2.0 §28.6)
	interval     byte    // of a power cycle; kept and of no effect
	capabilities [6]byte // Set Chassis Capabilities; the zero value is the usual one
	lastEvent    byte
	lost         bool // its power
	wasOn        bool // when it was lost

	seen time.Time // when the power state was last looked at
	on   bool      // as it was
	ran  time.Duration
}

// powered is the power state.
func (i *ipmi) powered(ctx context.Context) (bool, error) { return i.s.powered(ctx) }

// powered is the power state; the hours that the machine was on are counted
// from one look to the next.
func (s *Server) powered(ctx context.Context) (bool, error) {
	p, err := s.chassis.Power(ctx)
	if err != nil {
		return false, fmt.Errorf("reading the power state: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, now := &s.ipmi.chassis, s.now()
	if c.on && !c.seen.IsZero() {
		c.ran += max(0, now.Sub(c.seen))
	}
	c.seen, c.on = now, p == On
	return c.on, nil
}

// powerOnHours is Get POH Counter (IPMI 2.0 §28.14).
func (i *ipmi) powerOnHours(ctx context.Context, _ *ipmiSession, _ []byte) ([]byte, error) {
	if _, err := i.powered(ctx); err != nil {
		return nil, err
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return binary.LittleEndian.AppendUint32([]byte{poh}, uint32(i.s.ipmi.chassis.ran/(poh*time.Minute))), nil
}

// chassisCapabilities is Get Chassis Capabilities (IPMI 2.0 §28.1): all devices
// are the BMC.
func (i *ipmi) chassisCapabilities(context.Context, *ipmiSession, []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if c := i.s.ipmi.chassis.capabilities; c[1] != 0 {
		return append([]byte(nil), c[:]...), nil
	}
	return []byte{0, 0x20, 0x20, 0x20, 0x20, 0x20}, nil
}

// setChassisCapabilities (IPMI 2.0 §28.7).
func (i *ipmi) setChassisCapabilities(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	c := [6]byte{5: 0x20}
	copy(c[:], d)
	if c[1] == 0 {
		return nil, ccField
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.ipmi.chassis.capabilities = c
	return nil, nil
}

// chassisStatus is Get Chassis Status (IPMI 2.0 §28.2).
func (i *ipmi) chassisStatus(ctx context.Context, _ *ipmiSession, _ []byte) ([]byte, error) {
	on, err := i.powered(ctx)
	if err != nil {
		return nil, err
	}
	led, err := i.s.chassis.Identify(ctx)
	known := !errors.Is(err, ErrUnsupported)
	if err != nil && known {
		return nil, fmt.Errorf("reading the identify light: %w", err)
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	c := i.s.ipmi.chassis
	out := []byte{c.restore << 5, c.lastEvent, 0, 0xf0 | c.buttons} // each button can be disabled
	if on {
		out[0] |= 0x01
	}
	if !known {
		return out, nil
	}
	switch out[2] = 0x40; {
	case led && i.s.ipmi.timed:
		out[2] |= 0x10
	case led:
		out[2] |= 0x20
	}
	return out, nil
}

// selReset is how the event log tells a reset (IPMI 2.0 table 42-3): sensor
// type, offset.
var selReset = map[ResetType][]byte{
	ResetOn: {0x1d, 0}, ResetForceOn: {0x1d, 0}, ResetForceRestart: {0x1d, 1}, ResetGracefulRestart: {0x1d, 2},
	ResetForceOff: {0x09, 0}, ResetPowerCycle: {0x09, 1}, ResetNmi: {0x13, 0}, ResetGracefulShutdown: {0x20, 3}, ResetPushPowerButton: {0x14, 0},
}

// chassisControl (IPMI 2.0 §28.3).
func (i *ipmi) chassisControl(ctx context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	t, ok := map[byte]ResetType{0: ResetForceOff, 1: ResetOn, 2: ResetPowerCycle, 3: ResetForceRestart, 4: ResetNmi, 5: ResetGracefulShutdown}[d[0]&0xf]
	if !ok {
		return nil, ccField
	}
	if t != ResetOn && t != ResetForceOff {
		on, err := i.powered(ctx)
		if err != nil {
			return nil, err
		}
		if !on {
			return nil, ccState
		}
	}
	return nil, i.s.resetBy(ctx, t, causeCommand, fmt.Sprintf("Reset %s by %s over IPMI.", t, x.user))
}

// resetBy resets the machine, for a cause that it is told for.
func (s *Server) resetBy(ctx context.Context, t ResetType, cause byte, text string) error {
	// The action goes on when the service ends.
	if err := s.chassis.Reset(context.WithoutCancel(ctx), t); err != nil {
		return fmt.Errorf("reset %s: %w", t, err)
	}
	s.starts(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ipmi.boot.cause = cause
	if t == ResetOn && cause == causeCommand {
		s.ipmi.chassis.lastEvent = eventCommand
	}
	if t != ResetNmi && t != ResetGracefulShutdown {
		s.stopWatchdog() // IPMI 2.0 §27.2
	}
	s.record("system", "OK", text, selReset[t]...)
	return nil
}

// LosePower cuts the machine's power, as a plug that is pulled.
func (s *Server) LosePower(ctx context.Context) error {
	on, err := s.powered(ctx)
	if err != nil {
		return err
	}
	if err := s.chassis.Reset(context.WithoutCancel(ctx), ResetForceOff); err != nil {
		return fmt.Errorf("cutting the power: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopWatchdog()
	c := &s.ipmi.chassis
	c.lastEvent = eventACFailed
	if !c.lost {
		c.lost, c.wasOn = true, on
	}
	return nil
}

// ReturnPower gives back the power that LosePower took: the machine is switched
// on if the power restore policy says so, and stays off otherwise.
func (s *Server) ReturnPower(ctx context.Context) error {
	on, err := s.powered(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	c := &s.ipmi.chassis
	policy, lost, wasOn := c.restore, c.lost, c.wasOn
	c.lost = false
	s.mu.Unlock()
	if !lost || on {
		return nil
	}
	switch {
	case policy == restoreOn:
		return s.resetBy(ctx, ResetOn, causeAlwaysOn, "Power is back: the machine is switched on, as it always is.")
	case policy == restoreLast && wasOn:
		return s.resetBy(ctx, ResetOn, causeLast, "Power is back: the machine is switched on, as it was.")
	}
	return nil
}

// setRestorePolicy is Set Power Restore Policy (IPMI 2.0 §28.8).
func (i *ipmi) setRestorePolicy(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	p := d[0] & 7
	if p > restoreKeep {
		return nil, ccField
	}
	if p != restoreKeep {
		i.s.mu.Lock()
		defer i.s.mu.Unlock()
		i.s.ipmi.chassis.restore = p
		i.s.record("system", "OK", fmt.Sprintf("Power restore policy %s, by %s over IPMI.", restorePolicies[p], x.user))
	}
	return []byte{0x07}, nil // all of them
}

// setButtons is Set Front Panel Enables (IPMI 2.0 §28.6).
func (i *ipmi) setButtons(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.ipmi.chassis.buttons = d[0] & 0xf
	return nil, nil
}

// setInterval is Set Power Cycle Interval (IPMI 2.0 §28.9).
func (i *ipmi) setInterval(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.ipmi.chassis.interval = d[0]
	return nil, nil
}

// identify is Chassis Identify (IPMI 2.0 §28.5): for 15 s if nothing is said.
func (i *ipmi) identify(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	seconds, force := byte(15), false
	if len(d) > 0 {
		seconds = d[0]
	}
	if len(d) > 1 {
		force = d[1]&1 != 0
	}
	on := force || seconds != 0
	if err := i.s.chassis.SetIdentify(ctx, on); err != nil {
		return nil, fmt.Errorf("setting the identify light: %w", err)
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.stopLight()
	if on && !force {
		i.s.ipmi.timed = true
		off := context.WithoutCancel(ctx)
		i.s.ipmi.dark = time.AfterFunc(time.Duration(seconds)*time.Second, func() {
			octx, cancel := context.WithTimeout(off, ipmiOperation)
			defer cancel()
			if err := i.s.chassis.SetIdentify(octx, false); err != nil {
				i.s.log.WarnContext(octx, "virtual BMC: the identify light stays on", "err", err)
			}
		})
	}
	return nil, nil
}

// stopLight forgets when the light was to go out. s.mu is held.
func (s *Server) stopLight() {
	s.ipmi.timed = false
	if s.ipmi.dark != nil {
		s.ipmi.dark.Stop()
		s.ipmi.dark = nil
	}
}

// restartCause is Get System Restart Cause (IPMI 2.0 §28.11).
func (i *ipmi) restartCause(context.Context, *ipmiSession, []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return []byte{i.s.ipmi.boot.cause, lanChannel}, nil
}
