package vbmc

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

// The watchdog timer (IPMI 2.0 §27).
const (
	watchdogTick   = 100 * time.Millisecond // of its countdown
	watchdogNoLog  = 0x80
	watchdogGoesOn = 0x40 // in Set: it is not stopped; in Get: it runs
	ccWatchdogInit = completion(0x80)
)

// watchdogActions by their number: what is done, and how the event log names it
// (IPMI 2.0 table 42-3, type 23h: the offset is the same).
var watchdogActions = []struct {
	reset ResetType
	text  string
}{{"", "nothing was done"}, {ResetForceRestart, "the machine was reset"}, {ResetForceOff, "the machine was powered off"}, {ResetPowerCycle, "the machine was power cycled"}}

// watchdogUses by their number.
var watchdogUses = []string{1: "BIOS FRB2", 2: "BIOS POST", 3: "OS load", 4: "SMS/OS", 5: "OEM"}

const (
	watchdogNMI = 2 // pre-timeout interrupt
	watchdogMsg = 3
)

// watchdog is the timer. Server.mu guards it.
type watchdog struct {
	set        bool
	use        byte
	quiet      bool // its end is not logged
	action     byte
	interrupt  byte
	before     time.Duration // the interrupt before the end
	expired    byte          // by use
	countdown  time.Duration
	ends       time.Time // zero: it does not run
	warned     bool
	timer      *time.Timer
	generation int             // of the countdown; a timer of an older one does nothing
	ctx        context.Context // of who started it, without its end
}

// setWatchdog is Set Watchdog Timer (IPMI 2.0 §27.6).
func (i *ipmi) setWatchdog(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	use, action, interrupt := d[0]&7, d[1]&7, d[1]>>4&7
	countdown, before := time.Duration(binary.LittleEndian.Uint16(d[4:]))*watchdogTick, time.Duration(d[2])*time.Second
	if use == 0 || int(use) >= len(watchdogUses) || int(action) >= len(watchdogActions) || interrupt > watchdogMsg || interrupt != 0 && before > countdown {
		return nil, ccField
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	w := &i.s.ipmi.watchdog
	runs := !w.ends.IsZero() && d[0]&watchdogGoesOn != 0
	i.s.stopWatchdog()
	w.set, w.use, w.quiet = true, use, d[0]&watchdogNoLog != 0
	w.action, w.interrupt, w.before, w.countdown = action, interrupt, before, countdown
	w.expired &^= d[3]
	if runs {
		i.s.startWatchdog(ctx)
	}
	return nil, nil
}

// resetWatchdog is Reset Watchdog Timer (IPMI 2.0 §27.5): the countdown begins
// anew.
func (i *ipmi) resetWatchdog(ctx context.Context, _ *ipmiSession, _ []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if !i.s.ipmi.watchdog.set {
		return nil, ccWatchdogInit
	}
	i.s.startWatchdog(ctx)
	return nil, nil
}

// watchdogTimer is Get Watchdog Timer (IPMI 2.0 §27.7).
func (i *ipmi) watchdogTimer(context.Context, *ipmiSession, []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	w := i.s.ipmi.watchdog
	out := []byte{w.use, w.interrupt<<4 | w.action, byte(w.before / time.Second), w.expired}
	if w.quiet {
		out[0] |= watchdogNoLog
	}
	left := w.countdown
	if !w.ends.IsZero() {
		out[0] |= watchdogGoesOn
		left = max(0, w.ends.Sub(i.s.now()))
	}
	out = binary.LittleEndian.AppendUint16(out, uint16(w.countdown/watchdogTick))
	return binary.LittleEndian.AppendUint16(out, uint16(left/watchdogTick)), nil
}

// startWatchdog begins the countdown. s.mu is held.
func (s *Server) startWatchdog(ctx context.Context) {
	s.stopWatchdog()
	w := &s.ipmi.watchdog
	w.ctx = context.WithoutCancel(ctx)
	w.ends, w.warned = s.now().Add(w.countdown), w.interrupt == 0
	s.armWatchdog()
}

// stopWatchdog ends the countdown without a consequence. s.mu is held.
func (s *Server) stopWatchdog() {
	w := &s.ipmi.watchdog
	if w.generation++; w.timer != nil {
		w.timer.Stop()
	}
	w.ends, w.timer = time.Time{}, nil
}

// armWatchdog looks again when something is due. s.mu is held.
func (s *Server) armWatchdog() {
	w := &s.ipmi.watchdog
	due, generation := w.ends, w.generation
	if !w.warned {
		due = due.Add(-w.before)
	}
	w.timer = time.AfterFunc(max(due.Sub(s.now()), time.Millisecond), func() { s.watch(generation) })
}

// watch does what is due by the clock of the Server.
func (s *Server) watch(generation int) {
	s.mu.Lock()
	w := &s.ipmi.watchdog
	now := s.now()
	if w.generation != generation || w.ends.IsZero() {
		s.mu.Unlock()
		return
	}
	warn := !w.warned && !now.Before(w.ends.Add(-w.before))
	over := !now.Before(w.ends)
	if warn {
		w.warned = true
		if !w.quiet {
			s.record("system", "Warning", fmt.Sprintf("The watchdog of %s is about to end: interrupt.", watchdogUses[w.use]), 0x23, 0xc8, w.interrupt<<4|w.use, 0xff)
		}
	}
	nmi, did, use, quiet := warn && w.interrupt == watchdogNMI, w.action, w.use, w.quiet
	if over {
		w.expired |= 1 << w.use
		s.stopWatchdog()
	} else {
		s.armWatchdog()
	}
	from := w.ctx
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(from, ipmiOperation)
	defer cancel()
	if nmi {
		s.bark(ctx, ResetNmi, "NMI by the watchdog.")
	}
	if !over {
		return
	}
	act := watchdogActions[did]
	if !quiet {
		s.logEvent("system", "Critical", fmt.Sprintf("The watchdog of %s ended: %s.", watchdogUses[use], act.text), 0x23, 0xc0|did, use, 0xff)
	}
	if act.reset != "" {
		s.bark(ctx, act.reset, fmt.Sprintf("Reset %s by the watchdog.", act.reset))
	}
}

// bark does an action of the watchdog.
func (s *Server) bark(ctx context.Context, t ResetType, text string) {
	if err := s.resetBy(ctx, t, causeWatchdog, text); err != nil {
		s.log.WarnContext(ctx, "virtual BMC: the watchdog's action failed", "err", err)
	}
}
