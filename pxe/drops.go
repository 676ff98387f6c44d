package pxe

import (
	"maps"
	"sync"
	"time"
)

// dropsEvery is how often the log tells of dropped packets: a flood must not
// become one of log lines.
const dropsEvery = time.Minute

// drops counts the packets that were dropped unread, by reason.
type drops struct {
	mu     sync.Mutex
	count  map[string]int64
	fresh  int64 // since the log was told
	logged time.Time
}

// Drops is how many packets were dropped unread since the start, by reason:
// "DHCP: malformed packet: ...".
func (s *Server) Drops() map[string]int64 {
	s.drops.mu.Lock()
	defer s.drops.mu.Unlock()
	return maps.Clone(s.drops.count)
}

// drop counts a packet. Reasons are few: they are errors of this package.
func (s *Server) drop(what string, reason error) {
	now := s.now()
	d := &s.drops
	d.mu.Lock()
	if d.count == nil {
		d.count = map[string]int64{}
	}
	d.count[what+": "+reason.Error()]++
	d.fresh++
	fresh, tell := d.fresh, now.Sub(d.logged) >= dropsEvery
	if tell {
		d.fresh, d.logged = 0, now
	}
	d.mu.Unlock()
	if tell {
		s.log.Warn("dropped packets that no client of ours sends", "count", fresh, "last", what+": "+reason.Error())
	}
}
