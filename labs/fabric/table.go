package fabric

import (
	"sync"
	"sync/atomic"
)

// maxStations bounds the table: a machine that invents source addresses makes
// the switch flood, not grow.
const maxStations = 1 << 16

// station is where an address was last heard. A static one (a Host) neither
// moves nor ages: no machine can take a host's address.
type station struct {
	port   atomic.Pointer[Port]
	seen   atomic.Uint32
	static bool
}

// table maps VLAN and MAC address to ports. Time passes by tick: the fast path
// reads no clock.
type table struct {
	mu   sync.RWMutex
	m    map[uint64]*station
	tick atomic.Uint32
}

func newTable() *table { return &table{m: make(map[uint64]*station)} }

func stationKey(vlan int, mac uint64) uint64 { return uint64(vlan)<<48 | mac }

func (t *table) lookup(key uint64) *Port {
	t.mu.RLock()
	s := t.m[key]
	t.mu.RUnlock()
	if s == nil {
		return nil
	}
	return s.port.Load()
}

// learn notes that key was heard on p. It reports false if key belongs to a
// host on another port.
func (t *table) learn(key uint64, p *Port) bool {
	tick := t.tick.Load()
	t.mu.RLock()
	s := t.m[key]
	t.mu.RUnlock()
	if s == nil {
		return t.add(key, p, false)
	}
	if s.static {
		return s.port.Load() == p
	}
	if s.seen.Load() != tick {
		s.seen.Store(tick)
	}
	if s.port.Load() != p {
		s.port.Store(p)
	}
	return true
}

func (t *table) add(key uint64, p *Port, static bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.m[key]; s != nil {
		if s.static {
			return s.port.Load() == p
		}
	} else if len(t.m) >= maxStations && !static {
		return true
	}
	if p.gone.Load() { // forget has run, or waits for mu
		return true
	}
	s := &station{static: static}
	s.port.Store(p)
	s.seen.Store(t.tick.Load())
	t.m[key] = s
	return true
}

// age forgets what was not heard for n ticks.
func (t *table) age(n uint32) {
	now := t.tick.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, s := range t.m {
		if !s.static && now-s.seen.Load() > n {
			delete(t.m, k)
		}
	}
}

// forget drops every address of p.
func (t *table) forget(p *Port) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, s := range t.m {
		if s.port.Load() == p {
			delete(t.m, k)
		}
	}
}
