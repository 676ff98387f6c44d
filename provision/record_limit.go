package provision

import (
	"sync"
	"time"

	"github.com/fettle-dev/fettle/pxe"
)

// What is recorded of the wire: anybody on a boot network can send packets for
// ever, and every event stays. A machine's boot is some ten exchanges.
const (
	machineBurst  = 500   // exchanges of one machine of the site at once
	machineRate   = 5.0   // and a second, for ever
	strangerBurst = 20000 // of all others together
	strangerRate  = 20.0
	shedEvery     = time.Minute // how often the log tells of what was not recorded
)

// bucket holds what may still be recorded now.
type bucket struct {
	left float64
	at   time.Time
}

func (b *bucket) take(now time.Time, burst, rate float64) bool {
	switch passed := now.Sub(b.at).Seconds(); {
	case b.at.IsZero():
		b.left = burst
	case passed > 0:
		b.left = min(burst, b.left+passed*rate)
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// recordLimit bounds what is recorded, each machine of the site for itself: a
// flood of strangers takes nothing from the timeline of a machine.
type recordLimit struct {
	mu        sync.Mutex
	machines  map[string]*bucket
	strangers bucket
	shed      int64
	told      time.Time
}

// allow reports whether e is to be recorded, and how many were not since the
// log was last told, if it is time to tell.
func (l *recordLimit) allow(x *siteIndex, e *pxe.Exchange, now time.Time) (ok bool, tell int64) {
	name := x.byNIC[e.Addr]
	if mac, err := macOf(e.MAC); err == nil {
		m, _, _ := x.machine(mac)
		name = m.Name
		if b, ok := x.ofBMC(mac); ok {
			name = b.Name
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "" {
		ok = l.strangers.take(now, strangerBurst, strangerRate)
	} else {
		b := l.machines[name]
		if b == nil {
			if len(l.machines) > 2*len(x.site.Machines) { // of sites read before
				clear(l.machines)
			}
			b = &bucket{}
			if l.machines == nil {
				l.machines = map[string]*bucket{}
			}
			l.machines[name] = b
		}
		ok = b.take(now, machineBurst, machineRate)
	}
	if !ok {
		tell = l.countLocked(now)
	}
	return ok, tell
}

// lost counts an exchange that was allowed and could not be kept.
func (l *recordLimit) lost(now time.Time) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.countLocked(now)
}

func (l *recordLimit) countLocked(now time.Time) (tell int64) {
	l.shed++
	if now.Sub(l.told) < shedEvery {
		return 0
	}
	tell, l.shed, l.told = l.shed, 0, now
	return tell
}
