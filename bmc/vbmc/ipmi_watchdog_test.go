package vbmc

import (
	"encoding/binary"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The watchdog acts when its time is up, by the clock, whoever looks.
func TestWatchdog(t *testing.T) {
	for _, tc := range []struct {
		name       string
		use        byte
		actions    byte
		before     byte
		power      PowerState
		boots      int
		log, notIn string
		cause      byte
	}{
		{"hard reset", 4, 1, 0, On, 2, "The watchdog of SMS/OS ended: the machine was reset.", "NMI", causeWatchdog},
		{"power off", 3, 2, 0, Off, 1, "The watchdog of OS load ended: the machine was powered off.", "NMI", causeWatchdog},
		{"power cycle", 2, 3, 0, On, 2, "The watchdog of BIOS POST ended", "NMI", causeWatchdog},
		{"nothing", 5, 0, 0, On, 1, "The watchdog of OEM ended: nothing was done.", "Reset", 0},
		{"NMI first", 4, 0x21, 3, On, 2, "NMI by the watchdog.", "powered off", causeWatchdog},
		{"unlogged", 4 | watchdogNoLog, 1, 0, On, 2, "Reset ForceRestart by the watchdog.", "The watchdog of", causeWatchdog},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := NewMemory(testInfo())
				s, err := New(Config{Chassis: mem, Accounts: []Account{{User: "root", Password: "s3cret"}}})
				if err != nil {
					t.Fatal(err)
				}
				if err := mem.Reset(t.Context(), ResetOn); err != nil {
					t.Fatal(err)
				}
				i := &ipmi{s: s, life: t.Context(), sessions: map[uint32]*ipmiSession{}}
				do := func(cc completion, cmd byte, data ...byte) []byte {
					t.Helper()
					out := i.obey(t.Context(), systemSession(), request{netFn: 0x06, cmd: cmd, data: data})
					if completion(out[6]) != cc {
						t.Fatalf("command %02x = %02x; want %02x", cmd, out[6], byte(cc))
					}
					return out[7 : len(out)-1]
				}
				do(ccWatchdogInit, 0x22)
				do(ccOK, 0x24, tc.use, tc.actions, tc.before, 0xff, 100, 0) // 10 s
				time.Sleep(time.Minute)                                     // it is set, and not started
				do(ccOK, 0x22)
				time.Sleep(9 * time.Second)
				if got := do(ccOK, 0x25); got[0]&watchdogGoesOn == 0 || binary.LittleEndian.Uint16(got[6:]) != 10 {
					t.Errorf("Get Watchdog Timer after 9 of 10 s = %x; want that it runs and has 1 s left", got)
				}
				if tc.before == 0 {
					do(ccOK, 0x22) // the system lives
					time.Sleep(9 * time.Second)
				}
				if b := len(mem.Booted()); b != 1 {
					t.Errorf("%d boots while the watchdog was reset in time", b)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if p, _ := mem.Power(t.Context()); p != tc.power || len(mem.Booted()) != tc.boots {
					t.Errorf("after its end power is %s with %d boots; want %s with %d", p, len(mem.Booted()), tc.power, tc.boots)
				}
				text := ""
				for _, e := range s.events["system"] {
					text += e.text + "\n"
				}
				if !strings.Contains(text, tc.log) || strings.Contains(text, tc.notIn) {
					t.Errorf("the log is\n%swant %q in it, and no %q", text, tc.log, tc.notIn)
				}
				if got := do(ccOK, 0x25); got[0]&watchdogGoesOn != 0 || got[3] != 1<<(tc.use&7) {
					t.Errorf("Get Watchdog Timer after its end = %x; want that it stands, and the flag of its use", got)
				}
				if s.ipmi.boot.cause != tc.cause {
					t.Errorf("restart cause = %d; want %d", s.ipmi.boot.cause, tc.cause)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(mem.Booted()) != tc.boots {
					t.Error("it acted twice")
				}
			})
		})
	}
}

// A reset of the machine stops the watchdog, whoever asked for it.
func TestWatchdogStops(t *testing.T) {
	i, _, do := writeRig(t)
	if err := i.s.chassis.Reset(t.Context(), ResetOn); err != nil {
		t.Fatal(err)
	}
	for name, stop := range map[string]func(){
		"chassis control": func() { do(ccOK, 0x00, 0x02, 3) },
		"the machine":     func() { i.vmCommand([]byte{vmReset}) },
		"cold reset":      func() { do(ccOK, 0x06, 0x02) },
		"set":             func() { do(ccOK, 0x06, 0x24, 4, 1, 0, 0, 100, 0) },
	} {
		do(ccOK, 0x06, 0x24, 4, 1, 0, 0, 100, 0)
		do(ccOK, 0x06, 0x22)
		if stop(); !i.s.ipmi.watchdog.ends.IsZero() {
			t.Errorf("the watchdog runs on after %s", name)
		}
	}
	do(ccOK, 0x06, 0x24, 4, 1, 0, 0, 100, 0)
	do(ccOK, 0x06, 0x22)
	if do(ccOK, 0x06, 0x24, 4|watchdogGoesOn, 2, 0, 0, 200, 0); i.s.ipmi.watchdog.ends.IsZero() {
		t.Error("the watchdog stopped although it was not to")
	}
	for _, bad := range [][]byte{{0, 1, 0, 0, 1, 0}, {6, 1, 0, 0, 1, 0}, {4, 4, 0, 0, 1, 0}, {4, 0x21, 20, 0, 100, 0}} {
		do(ccField, 0x06, 0x24, bad...)
	}
}
