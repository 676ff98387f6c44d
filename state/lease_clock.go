package state

import (
	"encoding/json"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// clockSlack is by how much two clocks may differ before one of them was set:
// reading both takes a moment, and slewing moves both.
const clockSlack = time.Second

// leaseClock is what the wall clock was when the leases on disk were written,
// beside the clock that nobody sets: the time since the machine started. When
// they move apart, somebody set the wall clock, and leases end neither sooner
// nor later for it.
type leaseClock struct {
	Boot    string        `json:"boot"` // the kernel's id of this start of the machine
	Wall    time.Time     `json:"wall"`
	Elapsed time.Duration `json:"elapsed"` // since that start

	// While the leases on disk are rewritten for a clock that was set, in many
	// steps: those on pages whose keys come after Done are still in the terms of
	// the clock before, which Shift is added to.
	Shift time.Duration `json:"shift,omitempty"`
	Done  string        `json:"done,omitempty"`

	unsaved bool
}

func newLeaseClock(boot string, now time.Time, elapsed time.Duration) leaseClock {
	return leaseClock{Boot: boot, Wall: now.UTC().Round(0), Elapsed: elapsed}
}

// since is the clock to go on with: the stored one within the same start of
// the machine. After another start only the wall clock is left to go by.
func (c leaseClock) since(now leaseClock) leaseClock {
	if c.Boot != "" && c.Boot == now.Boot && now.Elapsed >= c.Elapsed {
		return c
	}
	now.Shift, now.Done, now.unsaved = c.Shift, c.Done, true
	return now
}

// jump is how far the wall clock was set since.
func (c leaseClock) jump(now time.Time, elapsed time.Duration) time.Duration {
	return now.UTC().Round(0).Sub(c.Wall) - (elapsed - c.Elapsed)
}

// jumped reports whether the wall clock was set since.
func (c leaseClock) jumped(now time.Time, elapsed time.Duration) bool {
	return c.jump(now, elapsed).Abs() > clockSlack
}

// ahead is a lease as it was read from a page in terms of this clock.
func (c leaseClock) ahead(key string, l Lease) Lease {
	if c.Shift != 0 && key > c.Done {
		l.Granted, l.Expires = l.Granted.Add(c.Shift), l.Expires.Add(c.Shift)
	}
	return l
}

// put is the writing of it.
func (c leaseClock) put() (clientv3.Op, error) {
	b, err := json.Marshal(c)
	return clientv3.OpPut(keyLeaseClock, string(b)), err
}

// held is a lease that was read from disk. A lease never lasts longer than it
// was given for, whatever the clock says.
func (c leaseClock) held(l Lease, now time.Time, elapsed time.Duration) held {
	left := l.Expires.Add(c.jump(now, elapsed)).Sub(now.UTC().Round(0))
	return held{l, elapsed + min(left, max(l.Expires.Sub(l.Granted), 0))}
}

// sinceBoot is the time since this machine started, suspended or not.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// bootID names this start of the machine; "" where the kernel does not say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
