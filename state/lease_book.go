package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// leaseAt is an address of a network, leaseOf a machine on it, which has one of
// each family.
type (
	leaseAt struct {
		network string
		addr    netip.Addr
	}
	leaseOf struct {
		network string
		mac     site.MAC
		six     bool
	}
)

func holder(l Lease) leaseOf { return leaseOf{l.Network, l.MAC, l.Addr.Is6()} }

// held is a lease, and when it ends by the clock that nobody sets.
type held struct {
	Lease
	until time.Duration
}

// leaseBook is every lease of an embedded store, in memory: its process is the
// only one that writes the directory. It holds what is on disk, and nothing
// else.
type leaseBook struct {
	mu     sync.RWMutex
	byAddr map[leaseAt]held
	byMAC  map[leaseOf]netip.Addr
}

func newLeaseBook() *leaseBook {
	return &leaseBook{byAddr: map[leaseAt]held{}, byMAC: map[leaseOf]netip.Addr{}}
}

func (b *leaseBook) at(k leaseAt) (held, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	h, ok := b.byAddr[k]
	return h, ok
}

func (b *leaseBook) of(k leaseOf) (held, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	a, ok := b.byMAC[k]
	if !ok {
		return held{}, false
	}
	h, ok := b.byAddr[leaseAt{k.network, a}]
	return h, ok
}

func (b *leaseBook) all() []held {
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := make([]held, 0, len(b.byAddr))
	for _, h := range b.byAddr {
		out = append(out, h)
	}
	slices.SortFunc(out, func(x, y held) int {
		return cmp.Or(cmp.Compare(x.Network, y.Network), x.Addr.Compare(y.Addr))
	})
	return out
}

// replace makes the book hold these leases and no others. Of two leases of one
// MAC the one that ends later is the MAC's.
func (b *leaseBook) replace(leases []held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.byAddr)
	clear(b.byMAC)
	for _, h := range leases {
		b.byAddr[leaseAt{h.Network, h.Addr}] = h
		if h.Declined {
			continue
		}
		of := holder(h.Lease)
		if a, ok := b.byMAC[of]; ok && b.byAddr[leaseAt{h.Network, a}].until > h.until {
			continue
		}
		b.byMAC[of] = h.Addr
	}
}

// leaseChange is what a batch of requests would change in a book, each
// decided on what those before it left.
type leaseChange struct {
	book *leaseBook
	addr map[leaseAt]*held      // nil: freed
	mac  map[leaseOf]netip.Addr // invalid: none
}

func (b *leaseBook) change() *leaseChange {
	return &leaseChange{book: b, addr: map[leaseAt]*held{}, mac: map[leaseOf]netip.Addr{}}
}

func (c *leaseChange) at(k leaseAt) (held, bool) {
	if h, ok := c.addr[k]; ok {
		if h == nil {
			return held{}, false
		}
		return *h, true
	}
	return c.book.at(k)
}

func (c *leaseChange) of(k leaseOf) (netip.Addr, bool) {
	if a, ok := c.mac[k]; ok {
		return a, a.IsValid()
	}
	c.book.mu.RLock()
	defer c.book.mu.RUnlock()
	a, ok := c.book.byMAC[k]
	return a, ok
}

// put takes a lease in, or says who has its address.
func (c *leaseChange) put(h held, elapsed time.Duration) error {
	at, of := leaseAt{h.Network, h.Addr}, holder(h.Lease)
	if old, ok := c.at(at); ok {
		if err := refusal(old.Lease, elapsed < old.until, h.Lease); err != nil {
			return err
		}
		if old.MAC != h.MAC && !old.Declined {
			if former := holder(old.Lease); c.points(former, h.Addr) {
				c.mac[former] = netip.Addr{}
			}
		}
	}
	c.addr[at] = &h
	former, had := c.of(of)
	switch {
	case h.Declined && had && former == h.Addr:
		c.mac[of] = netip.Addr{}
	case !h.Declined && had && former != h.Addr:
		c.addr[leaseAt{h.Network, former}] = nil
		c.mac[of] = h.Addr
	case !h.Declined && !had:
		c.mac[of] = h.Addr
	}
	return nil
}

func (c *leaseChange) points(k leaseOf, a netip.Addr) bool {
	at, ok := c.of(k)
	return ok && at == a
}

// drop frees an address.
func (c *leaseChange) drop(k leaseAt) {
	old, ok := c.at(k)
	if !ok {
		return
	}
	c.addr[k] = nil
	if of := holder(old.Lease); c.points(of, k.addr) {
		c.mac[of] = netip.Addr{}
	}
}

// apply makes the change the book's. It is on disk already.
func (c *leaseChange) apply() {
	b := c.book
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, h := range c.addr {
		if h == nil {
			delete(b.byAddr, k)
		} else {
			b.byAddr[k] = *h
		}
	}
	for k, a := range c.mac {
		if a.IsValid() {
			b.byMAC[k] = a
		} else {
			delete(b.byMAC, k)
		}
	}
}

// refusal is why a lease may not take the place of old; nil when it may.
func refusal(old Lease, live bool, l Lease) error {
	switch {
	case live && old.Declined && !l.Declined:
		return fmt.Errorf("%w: it was declined, and is quarantined until %s",
			ErrAddressTaken, old.Expires.UTC().Format("15:04:05Z"))
	case live && !old.Declined && old.MAC != l.MAC:
		return fmt.Errorf("%w: %s holds it until %s",
			ErrAddressTaken, macText(old.MAC), old.Expires.UTC().Format("15:04:05Z"))
	}
	return nil
}
