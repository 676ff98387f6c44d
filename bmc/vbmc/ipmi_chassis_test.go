package vbmc

import (
	"encoding/binary"
	"testing"
	"time"
)

// When its power comes back, the machine does what the policy says.
func TestRestorePolicy(t *testing.T) {
	for _, tc := range []struct {
		policy    byte
		before    PowerState
		want      PowerState
		cause     byte
		lastEvent byte // when it is back
	}{
		{restoreOff, On, Off, 0, eventACFailed},
		{restoreLast, On, On, causeLast, eventACFailed},
		{restoreLast, Off, Off, 0, eventACFailed},
		{restoreOn, Off, On, causeAlwaysOn, eventACFailed},
		{restoreOn, On, On, causeAlwaysOn, eventACFailed},
	} {
		t.Run(restorePolicies[tc.policy]+" "+string(tc.before), func(t *testing.T) {
			i, _, do := writeRig(t)
			if tc.before == On {
				if err := i.s.chassis.Reset(t.Context(), ResetOn); err != nil {
					t.Fatal(err)
				}
			}
			do(ccOK, 0x00, 0x06, tc.policy)
			do(ccOK, 0x00, 0x06, restoreKeep)
			for range 2 { // twice is once
				if err := i.s.LosePower(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if p, _ := i.s.chassis.Power(t.Context()); p != Off {
				t.Fatalf("power is %s without power", p)
			}
			for range 2 {
				if err := i.s.ReturnPower(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if p, _ := i.s.chassis.Power(t.Context()); p != tc.want {
				t.Errorf("power is %s when it is back; want %s", p, tc.want)
			}
			if got := do(ccOK, 0x00, 0x07); got[0] != tc.cause {
				t.Errorf("restart cause = %d; want %d", got[0], tc.cause)
			}
			if got := do(ccOK, 0x00, 0x01); got[0]>>5 != tc.policy || got[1] != tc.lastEvent {
				t.Errorf("Get Chassis Status = %x; want policy %d, last event %02x", got, tc.policy, tc.lastEvent)
			}
		})
	}
}

// Hours are counted while the machine is on.
func TestPowerOnHours(t *testing.T) {
	i, now := newIPMI(t, Config{})
	hours := func() uint32 {
		out, err := i.powerOnHours(t.Context(), nil, nil)
		if err != nil || out[0] != 60 {
			t.Fatalf("Get POH Counter = %x, %v; want hours", out, err)
		}
		return binary.LittleEndian.Uint32(out[1:])
	}
	for _, step := range []struct {
		reset ResetType
		after time.Duration
		want  uint32
	}{{ResetOn, 0, 0}, {"", 90 * time.Minute, 1}, {"", 30 * time.Minute, 2}, {ResetForceOff, 0, 2}, {"", 5 * time.Hour, 2}, {ResetOn, 0, 2}, {"", time.Hour, 3}} {
		*now = now.Add(step.after)
		if step.reset != "" {
			if err := i.s.chassis.Reset(t.Context(), step.reset); err != nil {
				t.Fatal(err)
			}
		}
		if got := hours(); got != step.want {
			t.Errorf("%+v: %d hours; want %d", step, got, step.want)
		}
	}
}
