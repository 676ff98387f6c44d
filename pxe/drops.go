package pxe

import (
	"errors"
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
	silent int64 // requests without an answer since the log was told
	told   time.Time
}

// Drops is how many packets were dropped unread since the start, or read and not
// answered because leases could not be stored, by reason: "DHCP: malformed
// packet: ...".
func (s *Server) Drops() map[string]int64 {
	s.drops.mu.Lock()
	defer s.drops.mu.Unlock()
	return maps.Clone(s.drops.count)
}

// errUnstored is why a client got no answer whose lease could not be read or
// written: the disk, or the store, fails or is slow.
var errUnstored = errors.New("no answer, as leases cannot be read or written")

// unanswered counts a request that was read and got no answer, because of a
// failure here. Its machine's timeline says which.
func (s *Server) unanswered(what string, cause error) {
	now := s.now()
	d := &s.drops
	d.mu.Lock()
	if d.count == nil {
		d.count = map[string]int64{}
	}
	d.count[what+": "+errUnstored.Error()]++
	d.silent++
	silent, tell := d.silent, now.Sub(d.told) >= dropsEvery
	if tell {
		d.silent, d.told = 0, now
	}
	d.mu.Unlock()
	if tell {
		s.log.Error("machines get no answer: their leases cannot be read or written", "count", silent, "last", what, "err", cause)
	}
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
