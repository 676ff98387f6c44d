package provision

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

var (
	_ pxe.Leases      = (*Provisioner)(nil)
	_ pxe.QuickLeases = (*Provisioner)(nil)
	_ pxe.Identifier  = (*Provisioner)(nil)
)

const (
	// bootLease is for firmware and the agent: they hold an address for
	// minutes. (MAAS gives 30 s; iPXE does not renew, so the agent's download
	// must fit.)
	bootLease = 10 * time.Minute
	// osLease is the default for everybody else.
	osLease = 12 * time.Hour
	// offerHold is how long an offered address is kept for its client.
	offerHold = 60 * time.Second
	// More offers than manyOffers are looked through every offerSweep for those
	// whose time is over.
	manyOffers = 4096
	offerSweep = 5 * time.Second
	// quarantine is how long a declined address is not given out.
	quarantine = time.Hour
)

type offerKey struct {
	network string
	addr    netip.Addr
}

type offer struct {
	mac   site.MAC
	until time.Time
}

// clientNetwork is the network and the reservation of a client; the address is
// invalid when it has none.
func (p *Provisioner) clientNetwork(c pxe.Client) (n *site.Network, mac site.MAC, name string, reserved netip.Addr, err error) {
	x := p.index()
	n = x.networks[c.Network]
	if n == nil {
		return n, mac, "", reserved, fmt.Errorf("network %s is not in the site file", c.Network)
	}
	if mac, err = macOf(c.MAC); err != nil {
		return n, mac, "", reserved, err
	}
	if b, ok := x.ofBMC(mac); ok && b.BMC.Network == n.Name {
		if c.IPv6 {
			return n, mac, b.Name + "-bmc", reserved, nil // from a pool
		}
		return n, mac, b.Name + "-bmc", b.BMC.Address, nil
	}
	m, nic, known := x.machine(mac)
	if known && nic.Network == n.Name {
		if c.IPv6 {
			return n, mac, m.Name, nic.IPv6, nil
		}
		return n, mac, m.Name, nic.Address, nil
	}
	if do, _ := x.site.Unknown(*n); !known && do == site.Ignore {
		return n, mac, "", reserved, pxe.ErrNoLease
	}
	return n, mac, m.Name, reserved, nil
}

func leaseTime(n *site.Network, c pxe.Client) time.Duration {
	switch {
	case c.PXE || c.HTTP || c.IPXE:
		return bootLease
	case n.Lease > 0:
		return n.Lease
	}
	return osLease
}

// Offer finds an address: the site's reservation, else the lease that the MAC
// has, else what it wishes for, else a free one of the network's pools.
func (p *Provisioner) Offer(ctx context.Context, c pxe.Client, want netip.Addr) (pxe.Lease, error) {
	n, mac, name, addr, err := p.clientNetwork(c)
	if err != nil {
		return pxe.Lease{}, err
	}
	l := pxe.Lease{Addr: addr, Hostname: name, Duration: leaseTime(n, c)}
	if addr.IsValid() {
		return l, nil
	}
	former := p.c.Store.LeaseByMAC
	if c.IPv6 {
		former = p.c.Store.LeaseByMAC6
	}
	if old, ok, err := former(ctx, n.Name, mac); err != nil {
		return pxe.Lease{}, fmt.Errorf("reading leases of %s: %w", n.Name, err)
	} else if ok && !old.Declined && p.inPool(n, old.Addr) {
		l.Addr = old.Addr
		return l, nil
	}
	now := p.now()
	if want.IsValid() && p.inPool(n, want) {
		if ok, err := p.hold(ctx, n, want, mac, now); err != nil || ok {
			l.Addr, l.Unproven = want, true
			return l, err
		}
	}
	a, ok, err := p.freeAddr(ctx, n, c.IPv6, mac, now)
	if err != nil {
		return pxe.Lease{}, err
	}
	if !ok {
		return pxe.Lease{}, fmt.Errorf("network %s: every pool address is taken: %w", n.Name, pxe.ErrNoLease)
	}
	l.Addr, l.Unproven = a, true
	return l, nil
}

// poolSearch is where the search of a network's pools goes on. A burst of new
// machines must not look at every address that the ones before it have.
type poolSearch struct {
	pool int // of Network.Pools
	next netip.Addr
	full time.Time // until then nothing is free
}

// poolFull is how long a search that found nothing is believed; clients ask
// again after 4 s.
const poolFull = time.Second

// freeAddr holds the next free address of the network's pools for a client.
func (p *Provisioner) freeAddr(ctx context.Context, n *site.Network, six bool, mac site.MAC, now time.Time) (netip.Addr, bool, error) {
	key, pools := poolsOf{n.Name, six}, poolsFor(n, six)
	p.mu.Lock()
	s := p.pools[key]
	p.mu.Unlock()
	if len(pools) == 0 || now.Before(s.full) {
		return netip.Addr{}, false, nil
	}
	// From where the last search ended, through every pool, and that one again.
	for j := range len(pools) + 1 {
		k := (s.pool + j) % len(pools)
		pool := pools[k]
		a := pool.From
		if j == 0 && a.Compare(s.next) <= 0 && s.next.Compare(pool.To) <= 0 {
			a = s.next
		} else if j == len(pools) && a == s.next {
			break
		}
		for ; a.IsValid() && a.Compare(pool.To) <= 0; a = a.Next() {
			if !p.inPool(n, a) {
				continue
			}
			ok, err := p.hold(ctx, n, a, mac, now)
			if err != nil {
				return netip.Addr{}, false, err
			}
			if ok {
				next := poolSearch{pool: k, next: a.Next()}
				if a == pool.To {
					next.pool = (k + 1) % len(pools)
					next.next = pools[next.pool].From
				}
				p.setPool(key, next)
				return a, true, nil
			}
		}
	}
	s.full = now.Add(poolFull)
	p.setPool(key, s)
	return netip.Addr{}, false, nil
}

func (p *Provisioner) setPool(key poolsOf, s poolSearch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[key] = s
}

// poolsOf are a network's pools of one address family.
type poolsOf struct {
	network string
	six     bool
}

func poolsFor(n *site.Network, six bool) []site.Pool {
	if six {
		return n.IPv6.Pools
	}
	return n.Pools
}

// inPool tells whether a may be given to a client without a reservation.
func (p *Provisioner) inPool(n *site.Network, a netip.Addr) bool {
	if a == n.Server || a == n.Gateway || a == n.IPv6.Server || a == n.IPv6.Gateway || p.reservedAddr(a) {
		return false
	}
	for _, pool := range poolsFor(n, a.Is6()) {
		if a.Compare(pool.From) >= 0 && a.Compare(pool.To) <= 0 {
			return true
		}
	}
	return false
}

func (p *Provisioner) reservedAddr(a netip.Addr) bool {
	_, taken := p.index().taken[a]
	return taken
}

// hold keeps an address for a client that it is offered to, unless somebody
// has it or was offered it.
func (p *Provisioner) hold(ctx context.Context, n *site.Network, a netip.Addr, mac site.MAC, now time.Time) (bool, error) {
	k := offerKey{n.Name, a}
	p.mu.Lock()
	if o, ok := p.offers[k]; ok && o.mac != mac && now.Before(o.until) {
		p.mu.Unlock()
		return false, nil
	}
	p.offers[k] = offer{mac, now.Add(offerHold)}
	p.forgetOffers(now)
	p.mu.Unlock()
	// In this order: an offer that is taken is a lease before it is an offer no
	// more.
	l, ok, err := p.c.Store.LeaseByAddr(ctx, n.Name, a)
	if err == nil && (!ok || !now.Before(l.Expires) || !l.Declined && l.MAC == mac) {
		return true, nil
	}
	p.endOffer(k, mac)
	if err != nil {
		return false, fmt.Errorf("reading leases of %s: %w", n.Name, err)
	}
	return false, nil
}

// forgetOffers drops those whose time is over, now and then. p.mu is held.
func (p *Provisioner) forgetOffers(now time.Time) {
	if len(p.offers) <= manyOffers || now.Before(p.forgot.Add(offerSweep)) {
		return
	}
	p.forgot = now
	for k, o := range p.offers {
		if now.After(o.until) {
			delete(p.offers, k)
		}
	}
}

// endOffer takes an offer to a client back.
func (p *Provisioner) endOffer(k offerKey, mac site.MAC) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.offers[k].mac == mac {
		delete(p.offers, k)
	}
}

// Commit makes addr the client's before it returns.
func (p *Provisioner) Commit(ctx context.Context, c pxe.Client, addr netip.Addr) (pxe.Lease, error) {
	l, err := p.leaseFor(c, addr)
	if err != nil {
		return pxe.Lease{}, err
	}
	return p.committed(l, p.c.Store.PutLease(ctx, l))
}

// leaseFor is the lease that makes addr the client's.
func (p *Provisioner) leaseFor(c pxe.Client, addr netip.Addr) (state.Lease, error) {
	n, mac, name, reserved, err := p.clientNetwork(c)
	if err != nil {
		return state.Lease{}, err
	}
	switch {
	case reserved.IsValid() && reserved != addr:
		return state.Lease{}, fmt.Errorf("%s is reserved %s, not %s: %w", name, reserved, addr, pxe.ErrWrongAddress)
	case !reserved.IsValid() && !p.inPool(n, addr):
		return state.Lease{}, fmt.Errorf("%s is in no pool of network %s: %w", addr, n.Name, pxe.ErrWrongAddress)
	}
	now := p.now()
	return state.Lease{Network: n.Name, Addr: addr, MAC: mac, Hostname: name, Granted: now, Expires: now.Add(leaseTime(n, c))}, nil
}

// committed is what a client hears of its lease that was written, or was not.
func (p *Provisioner) committed(l state.Lease, err error) (pxe.Lease, error) {
	if errors.Is(err, state.ErrAddressTaken) {
		return pxe.Lease{}, fmt.Errorf("%s: %w: %w", l.Addr, pxe.ErrWrongAddress, err)
	}
	if err != nil {
		return pxe.Lease{}, fmt.Errorf("writing the lease of %s: %w", l.Addr, err)
	}
	p.leased.Add(1)
	p.endOffer(offerKey{l.Network, l.Addr}, l.MAC)
	return pxe.Lease{Addr: l.Addr, Hostname: l.Hostname, Duration: l.Expires.Sub(l.Granted)}, nil
}

// quickStore is an optional extra of [Events]: leases are read from memory, and
// put without waiting. *state.Store has it.
type quickStore interface {
	Quick() bool
	PutLeaseSoon(l state.Lease, w state.Waiter) bool
}

// Quick is of [pxe.QuickLeases].
func (p *Provisioner) Quick() bool {
	q, ok := p.c.Store.(quickStore)
	return ok && q.Quick()
}

// CommitSoon is of [pxe.QuickLeases].
func (p *Provisioner) CommitSoon(c pxe.Client, addr netip.Addr, w pxe.Waiter) bool {
	q, ok := p.c.Store.(quickStore)
	if !ok {
		return false
	}
	l, err := p.leaseFor(c, addr)
	if err != nil {
		w.Committed(pxe.Lease{}, err)
		return true
	}
	s, _ := p.soon.Get().(*soonLease)
	if s == nil {
		s = &soonLease{p: p}
	}
	s.lease, s.waits = l, w
	if q.PutLeaseSoon(l, s) {
		return true
	}
	s.end()
	return false
}

// soonLease is a lease that is being written, and who waits for it.
type soonLease struct {
	p     *Provisioner
	lease state.Lease
	waits pxe.Waiter
}

// Written is a [state.Waiter].
func (s *soonLease) Written(err error) {
	l, err := s.p.committed(s.lease, err)
	w := s.waits
	s.end()
	w.Committed(l, err)
}

func (s *soonLease) end() {
	s.lease, s.waits = state.Lease{}, nil
	s.p.soon.Put(s)
}

// MACOf is a [pxe.Identifier] by the machines' UUIDs.
func (p *Provisioner) MACOf(_ context.Context, network, uuid string) net.HardwareAddr {
	for _, m := range p.c.Site().Machines {
		if !strings.EqualFold(m.UUID, uuid) {
			continue
		}
		for _, nic := range m.NICs {
			if nic.Network == network {
				return nic.MAC[:]
			}
		}
	}
	return nil
}

// Release frees a client's address.
func (p *Provisioner) Release(ctx context.Context, c pxe.Client, addr netip.Addr) error {
	l, ok, err := p.c.Store.LeaseByAddr(ctx, c.Network, addr)
	if err != nil {
		return fmt.Errorf("reading the lease of %s: %w", addr, err)
	}
	mac, err := macOf(c.MAC)
	if err != nil || !ok || l.MAC != mac || l.Declined {
		return err
	}
	p.endOffer(offerKey{c.Network, addr}, mac)
	p.mu.Lock()
	if key := (poolsOf{c.Network, addr.Is6()}); !p.pools[key].full.IsZero() {
		s := p.pools[key]
		s.full = time.Time{}
		p.pools[key] = s
	}
	p.mu.Unlock()
	return p.c.Store.ReleaseLease(ctx, c.Network, addr, mac)
}

// Decline keeps an address that somebody else answers on out of the pool for a
// while. Only who was given or offered it may.
func (p *Provisioner) Decline(ctx context.Context, c pxe.Client, addr netip.Addr) error {
	mac, err := macOf(c.MAC)
	if err != nil {
		return err
	}
	now := p.now()
	l, ok, err := p.c.Store.LeaseByAddr(ctx, c.Network, addr)
	if err != nil {
		return fmt.Errorf("reading the lease of %s: %w", addr, err)
	}
	p.mu.Lock()
	o, offered := p.offers[offerKey{c.Network, addr}]
	p.mu.Unlock()
	// Or anybody could take every address out of a pool.
	if !(ok && l.MAC == mac) && !(offered && o.mac == mac) {
		return fmt.Errorf("%s was not given to %s: %w", addr, mac, pxe.ErrWrongAddress)
	}
	return p.c.Store.PutLease(ctx, state.Lease{
		Network: c.Network, Addr: addr, MAC: mac, Granted: now, Expires: now.Add(quarantine), Declined: true,
	})
}
