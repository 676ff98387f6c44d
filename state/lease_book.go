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

// held is a lease, and when it ends by the clock that nobody sets.
type held struct {
	Lease
	until time.Duration
}

func (h *held) who() leaseWho { return whoOf(h.MAC, h.Addr.Is6()) }

// leaseBook is every lease of an embedded store, in memory: its process is the
// only one that writes the directory. It holds what is on disk, and nothing
// else. In it are hardly any pointers: the collector looks at each of them
// whenever it runs, and in a burst it runs many times a second.
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
		macs   map[leaseWho]plainAddr
	}
	// A number is what maps are quickest with: the MAC, and below it a bit that
	// is set for IPv6.
	leaseWho uint64
	// plainAddr is an address of the family that its leaseWho names.
	plainAddr [16]byte
)

func whoOf(m site.MAC, six bool) leaseWho {
	w := leaseWho(m[0])<<48 | leaseWho(m[1])<<40 | leaseWho(m[2])<<32 | leaseWho(m[3])<<24 | leaseWho(m[4])<<16 | leaseWho(m[5])<<8
	if six {
		w |= 1
	}
	return w
}

func (w leaseWho) addr(p plainAddr) netip.Addr {
	if w&1 != 0 {
		return netip.AddrFrom16(p)
	}
	return netip.AddrFrom4([4]byte(p[12:]))
}

func newLeaseBook() *leaseBook { return &leaseBook{networks: map[string]*leaseNet{}} }

// at is the lease of an address, if it has one.
func (n *leaseNet) at(a netip.Addr) (held, bool) {
	first, place := pageOf(a)
	p := n.pages[first]
	if p == nil || !p.kept[place].there {
		return held{}, false
	}
	return p.held(n.name, a, place), true
}

// set is of a book that nobody reads yet.
func (n *leaseNet) set(h held) {
	first, place := pageOf(h.Addr)
	p := n.pages[first]
	if p == nil {
		p = &leasePage{}
		n.pages[first] = p
	}
	p.set(place, h)
}

// net finds or makes a network. b.mu is held for writing, or nobody else writes
// and the network is known.
func (b *leaseBook) net(name string) *leaseNet {
	n := b.networks[name]
	if n == nil {
		n = &leaseNet{name: name, prefix: pagePrefix(name), pages: map[netip.Addr]*leasePage{}, macs: map[leaseWho]plainAddr{}}
		b.networks[name] = n
	}
	return n
}

func (b *leaseBook) at(network string, a netip.Addr) (held, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if n := b.networks[network]; n != nil {
		return n.at(a)
	}
	return held{}, false
}

func (b *leaseBook) of(k leaseOf) (held, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if n := b.networks[k.network]; n != nil {
		who := whoOf(k.mac, k.six)
		if a, ok := n.macs[who]; ok {
			return n.at(who.addr(a))
		}
	}
	return held{}, false
}

func (b *leaseBook) all() []held {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var out []held
	for _, n := range b.networks {
		for first, p := range n.pages {
			for place := range p.kept {
				if p.kept[place].there {
					out = append(out, p.held(n.name, placeOn(first, place), place))
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
	for _, h := range leases {
		b.net(h.Network).set(h)
	}
	for _, h := range leases {
		n := b.net(h.Network)
		if now, _ := n.at(h.Addr); h.Declined || now.Declined || now.MAC != h.MAC || now.until != h.until {
			continue
		}
		if a, ok := n.macs[h.who()]; ok {
			if other, _ := n.at(h.who().addr(a)); other.until > h.until {
				continue
			}
		}
		n.macs[h.who()] = h.Addr.As16()
	}
}

// reckon puts every lease in terms of the wall clock as it is now.
func (b *leaseBook) reckon(now time.Time, elapsed time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now = now.UTC().Round(0)
	for _, n := range b.networks {
		for _, p := range n.pages {
			for place := range p.kept {
				if !p.kept[place].there {
					continue
				}
				h := p.held(n.name, netip.Addr{}, place)
				length := h.Expires.Sub(h.Granted)
				h.Expires = now.Add(h.until - elapsed)
				h.Granted = h.Expires.Add(-length)
				p.set(place, h)
			}
		}
	}
}

// keyed is a page and its key.
type keyed struct {
	key   string
	first netip.Addr
	page  *leasePage
}

// after is the pages whose keys come after one, in the order of their keys. Only
// who writes the book calls it.
func (b *leaseBook) after(done string) []keyed {
	var out []keyed
	for _, n := range b.networks {
		for first, p := range n.pages {
			if key := n.prefix + first.String(); key > done {
				out = append(out, keyed{key, first, p})
			}
		}
	}
	slices.SortFunc(out, func(x, y keyed) int { return cmp.Compare(x.key, y.key) })
	return out
}

// change is empty; the one before is over.
func (b *leaseBook) change(room *leaseChange) *leaseChange {
	if room.book != b {
		*room = leaseChange{book: b, pages: map[pageOn]*leasePage{}, mac: map[whoOn]netip.Addr{}}
	}
	for _, p := range room.pages { // it came to nothing
		room.spare(p)
	}
	clear(room.pages)
	clear(room.mac)
	return room
}

// leaseChange is what a batch of requests would change in a book, each
// decided on what those before it left. Only one at a time is made, and nobody
// else writes the book.
type leaseChange struct {
	book  *leaseBook
	pages map[pageOn]*leasePage // those that it changes, as they will be
	mac   map[whoOn]netip.Addr  // invalid: none
	room  []*leasePage          // for pages of the next
}

type (
	pageOn struct {
		net   *leaseNet
		first netip.Addr
	}
	whoOn struct {
		net *leaseNet
		who leaseWho
	}
)

// sparePages is how many pages are kept to be used again.
const sparePages = 64

func (c *leaseChange) spare(p *leasePage) {
	if p != nil && len(c.room) < sparePages {
		c.room = append(c.room, p)
	}
}

// net finds a network, or begins it.
func (c *leaseChange) net(name string) *leaseNet {
	if n := c.book.networks[name]; n != nil {
		return n
	}
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	return c.book.net(name)
}

// at is the lease of an address, if it has one.
func (c *leaseChange) at(n *leaseNet, a netip.Addr) (held, bool) {
	first, place := pageOf(a)
	p, ok := c.pages[pageOn{n, first}]
	if !ok {
		p = n.pages[first]
	}
	if p == nil || !p.kept[place].there {
		return held{}, false
	}
	return p.held(n.name, a, place), true
}

// draft is an address's page as it will be, and the place on it.
func (c *leaseChange) draft(n *leaseNet, a netip.Addr) (p *leasePage, place int) {
	first, place := pageOf(a)
	k := pageOn{n, first}
	if p = c.pages[k]; p != nil {
		return p, place
	}
	if last := len(c.room) - 1; last >= 0 {
		p, c.room = c.room[last], c.room[:last]
	} else {
		p = new(leasePage)
	}
	p.copyOf(n.pages[first])
	c.pages[k] = p
	return p, place
}

func (c *leaseChange) set(n *leaseNet, h held) {
	p, place := c.draft(n, h.Addr)
	p.set(place, h)
}

func (c *leaseChange) free(n *leaseNet, a netip.Addr) {
	p, place := c.draft(n, a)
	p.free(place)
}

func (c *leaseChange) of(k whoOn) (netip.Addr, bool) {
	if a, ok := c.mac[k]; ok {
		return a, a.IsValid()
	}
	a, ok := k.net.macs[k.who]
	if !ok {
		return netip.Addr{}, false
	}
	return k.who.addr(a), true
}

// put takes a lease in, or says who has its address.
func (c *leaseChange) put(h held, elapsed time.Duration) error {
	n := c.net(h.Network)
	of := whoOn{n, h.who()}
	if old, ok := c.at(n, h.Addr); ok {
		if err := refusal(old.Lease, elapsed < old.until, h.Lease); err != nil {
			return err
		}
		if old.MAC != h.MAC && !old.Declined {
			if former := (whoOn{n, old.who()}); c.points(former, h.Addr) {
				c.mac[former] = netip.Addr{}
			}
		}
	}
	c.set(n, h)
	former, had := c.of(of)
	switch {
	case h.Declined && had && former == h.Addr:
		c.mac[of] = netip.Addr{}
	case !h.Declined && had && former != h.Addr:
		c.free(n, former)
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
	n := c.net(l.Network)
	old, ok := c.at(n, l.Addr)
	if !ok || own && !old.heldBy(l.MAC) {
		return
	}
	c.free(n, l.Addr)
	if of := (whoOn{n, old.who()}); c.points(of, l.Addr) {
		c.mac[of] = netip.Addr{}
	}
}

// apply makes the change the book's. It is on disk already.
func (c *leaseChange) apply() {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	for k, p := range c.pages {
		c.spare(k.net.pages[k.first]) // who read it copied what is on it
		if p.empty() {
			delete(k.net.pages, k.first)
			c.spare(p)
		} else {
			k.net.pages[k.first] = p
		}
	}
	clear(c.pages)
	for k, a := range c.mac {
		if a.IsValid() {
			k.net.macs[k.who] = a.As16()
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
