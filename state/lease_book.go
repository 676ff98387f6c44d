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

// leaseOf is a machine on a network, which has an address of each family.
type leaseOf struct {
	network string
	mac     site.MAC
	six     bool
}

func holder(l Lease) leaseOf { return leaseOf{l.Network, l.MAC, l.Addr.Is6()} }

// held is a lease, and when it ends by the clock that nobody sets. It is not
// changed once it is in a book.
type held struct {
	Lease
	until time.Duration
}

func (h *held) who() leaseWho { return leaseWho{h.MAC, h.Addr.Is6()} }

// leaseBook is every lease of an embedded store, in memory: its process is the
// only one that writes the directory. It holds what is on disk, and nothing
// else.
type leaseBook struct {
	mu       sync.RWMutex
	networks map[string]*leaseNet
}

// leaseNet is the leases of one network, leaseWho one of its machines.
type (
	leaseNet struct {
		name   string
		prefix string // of its pages' keys
		pages  map[netip.Addr]*leasePage
		macs   map[leaseWho]netip.Addr
	}
	leaseWho struct {
		mac site.MAC
		six bool
	}
)

func newLeaseBook() *leaseBook { return &leaseBook{networks: map[string]*leaseNet{}} }

func (n *leaseNet) at(a netip.Addr) *held {
	first, place := pageOf(a)
	if p := n.pages[first]; p != nil {
		return p[place]
	}
	return nil
}

func (n *leaseNet) set(a netip.Addr, h *held) {
	first, place := pageOf(a)
	p := n.pages[first]
	if p == nil {
		if h == nil {
			return
		}
		p = &leasePage{}
		n.pages[first] = p
	}
	if p[place] = h; h == nil && p.empty() {
		delete(n.pages, first)
	}
}

// net finds or makes a network. b.mu is held for writing, or nobody else writes
// and the network is known.
func (b *leaseBook) net(name string) *leaseNet {
	n := b.networks[name]
	if n == nil {
		n = &leaseNet{name: name, prefix: pagePrefix(name), pages: map[netip.Addr]*leasePage{}, macs: map[leaseWho]netip.Addr{}}
		b.networks[name] = n
	}
	return n
}

func (b *leaseBook) at(network string, a netip.Addr) (held, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if n := b.networks[network]; n != nil {
		if h := n.at(a); h != nil {
			return *h, true
		}
	}
	return held{}, false
}

func (b *leaseBook) of(k leaseOf) (held, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if n := b.networks[k.network]; n != nil {
		if a, ok := n.macs[leaseWho{k.mac, k.six}]; ok {
			if h := n.at(a); h != nil {
				return *h, true
			}
		}
	}
	return held{}, false
}

func (b *leaseBook) all() []held {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var out []held
	for _, n := range b.networks {
		for _, p := range n.pages {
			for _, h := range p {
				if h != nil {
					out = append(out, *h)
				}
			}
		}
	}
	slices.SortFunc(out, func(x, y held) int {
		return cmp.Or(cmp.Compare(x.Network, y.Network), x.Addr.Compare(y.Addr))
	})
	return out
}

// replace makes the book hold these leases and no others: of two of one address
// the later in the list. Of two leases of one MAC the one that ends later is the
// MAC's.
func (b *leaseBook) replace(leases []held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.networks)
	for i := range leases {
		b.net(leases[i].Network).set(leases[i].Addr, &leases[i])
	}
	for i := range leases {
		h := &leases[i]
		n := b.net(h.Network)
		if h.Declined || n.at(h.Addr) != h {
			continue
		}
		if a, ok := n.macs[h.who()]; ok && n.at(a).until > h.until {
			continue
		}
		n.macs[h.who()] = h.Addr
	}
}

// change is empty; the one before is over.
func (b *leaseBook) change(room *leaseChange) *leaseChange {
	if room.book != b {
		*room = leaseChange{book: b, addr: map[addrOn]*held{}, mac: map[whoOn]netip.Addr{}}
	}
	clear(room.addr)
	clear(room.mac)
	return room
}

// leaseChange is what a batch of requests would change in a book, each
// decided on what those before it left. Only one at a time is made, and nobody
// else writes the book.
type leaseChange struct {
	book *leaseBook
	addr map[addrOn]*held     // nil: freed
	mac  map[whoOn]netip.Addr // invalid: none
}

type (
	addrOn struct {
		net  *leaseNet
		addr netip.Addr
	}
	whoOn struct {
		net *leaseNet
		who leaseWho
	}
)

// net finds a network, or begins it.
func (c *leaseChange) net(name string) *leaseNet {
	if n := c.book.networks[name]; n != nil {
		return n
	}
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	return c.book.net(name)
}

// at is the lease of an address; nil when it has none.
func (c *leaseChange) at(k addrOn) *held {
	if h, ok := c.addr[k]; ok {
		return h
	}
	return k.net.at(k.addr)
}

func (c *leaseChange) of(k whoOn) (netip.Addr, bool) {
	if a, ok := c.mac[k]; ok {
		return a, a.IsValid()
	}
	a, ok := k.net.macs[k.who]
	return a, ok
}

// put takes a lease in, or says who has its address.
func (c *leaseChange) put(h *held, elapsed time.Duration) error {
	n := c.net(h.Network)
	at, of := addrOn{n, h.Addr}, whoOn{n, h.who()}
	if old := c.at(at); old != nil {
		if err := refusal(old.Lease, elapsed < old.until, h.Lease); err != nil {
			return err
		}
		if old.MAC != h.MAC && !old.Declined {
			if former := (whoOn{n, old.who()}); c.points(former, h.Addr) {
				c.mac[former] = netip.Addr{}
			}
		}
	}
	c.addr[at] = h
	former, had := c.of(of)
	switch {
	case h.Declined && had && former == h.Addr:
		c.mac[of] = netip.Addr{}
	case !h.Declined && had && former != h.Addr:
		c.addr[addrOn{n, former}] = nil
		c.mac[of] = h.Addr
	case !h.Declined && !had:
		c.mac[of] = h.Addr
	}
	return nil
}

func (c *leaseChange) points(k whoOn, a netip.Addr) bool {
	at, ok := c.of(k)
	return ok && at == a
}

// drop frees the address of a lease; with own, only if it is the lease's MAC
// that has it.
func (c *leaseChange) drop(l Lease, own bool) {
	k := addrOn{c.net(l.Network), l.Addr}
	old := c.at(k)
	if old == nil || own && !old.heldBy(l.MAC) {
		return
	}
	c.addr[k] = nil
	if of := (whoOn{k.net, old.who()}); c.points(of, l.Addr) {
		c.mac[of] = netip.Addr{}
	}
}

// rewrite takes every lease in that is not in yet, as it is.
func (c *leaseChange) rewrite() {
	for _, n := range c.book.networks {
		for _, p := range n.pages {
			for _, h := range p {
				if h == nil {
					continue
				}
				if k := (addrOn{n, h.Addr}); c.addr[k] == nil {
					if _, freed := c.addr[k]; !freed {
						c.addr[k] = h
					}
				}
			}
		}
	}
}

// pages calls f with each page that the change changes, as it will be.
func (c *leaseChange) pages(f func(n *leaseNet, first netip.Addr, p *leasePage)) {
	next := make(map[addrOn]*leasePage, 1+len(c.addr)/4)
	for k, h := range c.addr {
		first, place := pageOf(k.addr)
		at := addrOn{k.net, first}
		p := next[at]
		if p == nil {
			p = &leasePage{}
			if now := k.net.pages[first]; now != nil {
				*p = *now
			}
			next[at] = p
		}
		p[place] = h
	}
	for k, p := range next {
		f(k.net, k.addr, p)
	}
}

// apply makes the change the book's. It is on disk already.
func (c *leaseChange) apply() {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	for k, h := range c.addr {
		k.net.set(k.addr, h)
	}
	for k, a := range c.mac {
		if a.IsValid() {
			k.net.macs[k.who] = a
		} else {
			delete(k.net.macs, k.who)
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
