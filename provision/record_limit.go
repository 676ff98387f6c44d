package provision

import (
	"net"
	"net/netip"
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

// fill brings the bucket up to date and reports whether anything is in it.
func (b *bucket) fill(now time.Time, burst, rate float64) bool {
	switch passed := now.Sub(b.at).Seconds(); {
	case b.at.IsZero():
		b.left = burst
	case passed > 0:
		b.left = min(burst, b.left+passed*rate)
	}
	b.at = now
	return b.left >= 1
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
	return l.look(x, e.MAC, e.Addr, now, 1)
}

// look is allow for an exchange with the client at an address, which takes so
// much of what is left.
func (l *recordLimit) look(x *siteIndex, hw net.HardwareAddr, addr netip.Addr, now time.Time, takes float64) (ok bool, tell int64) {
	name := x.byNIC[addr]
	if mac, err := macOf(hw); err == nil {
		m, _, _ := x.machine(mac)
		name = m.Name
		if b, ok := x.ofBMC(mac); ok {
			name = b.Name
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.strangers
	if name == "" {
		ok = b.fill(now, strangerBurst, strangerRate)
	} else {
		b = l.machines[name]
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
		ok = b.fill(now, machineBurst, machineRate)
	}
	if !ok {
		return false, l.countLocked(now)
	}
	b.left -= takes
	return true, 0
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
