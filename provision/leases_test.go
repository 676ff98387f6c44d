package provision

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// TestOfferUnproven tells which addresses the boot server should ask the wire
// for: those of a pool that the client did not have before.
func TestOfferUnproven(t *testing.T) {
	b := newBench(t, nil)
	if l, err := b.p.Offer(t.Context(), client(), netip.Addr{}); err != nil || l.Unproven {
		t.Errorf("Offer(known) = %+v, %v; want a reservation, which nobody questions", l, err)
	}
	stranger := pxe.Client{MAC: []byte{2, 0, 0, 0, 0, 1}, Network: "prov"}
	l, err := b.p.Offer(t.Context(), stranger, netip.Addr{})
	if err != nil || !l.Unproven {
		t.Fatalf("Offer(stranger) = %+v, %v; want an unproven address", l, err)
	}
	if l, err := b.p.Offer(t.Context(), stranger, l.Addr.Next()); err != nil || !l.Unproven {
		t.Errorf("Offer(stranger, its wish) = %+v, %v; want an unproven address", l, err)
	}
	if _, err := b.p.Commit(t.Context(), stranger, l.Addr); err != nil {
		t.Fatal(err)
	}
	if again, err := b.p.Offer(t.Context(), stranger, netip.Addr{}); err != nil || again.Unproven || again.Addr != l.Addr {
		t.Errorf("Offer(stranger again) = %+v, %v; want %v, its own", again, err, l.Addr)
	}
}

// TestDecline keeps a declined address out of use, and lets nobody decline what
// is not theirs.
func TestDecline(t *testing.T) {
	b := newBench(t, nil)
	ctx := t.Context()
	c := pxe.Client{MAC: []byte{2, 0, 0, 0, 0, 1}, Network: "prov"}
	other := pxe.Client{MAC: []byte{2, 0, 0, 0, 0, 2}, Network: "prov"}
	l, err := b.p.Offer(ctx, c, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.p.Decline(ctx, other, l.Addr); !errors.Is(err, pxe.ErrWrongAddress) {
		t.Errorf("Decline of another's offer = %v; want ErrWrongAddress", err)
	}
	if err := b.p.Decline(ctx, other, netip.MustParseAddr("10.77.0.11")); !errors.Is(err, pxe.ErrWrongAddress) {
		t.Errorf("Decline of a reservation = %v; want ErrWrongAddress", err)
	}
	if _, err := b.p.Commit(ctx, c, l.Addr); err != nil {
		t.Fatal(err)
	}
	if err := b.p.Decline(ctx, c, l.Addr); err != nil {
		t.Errorf("Decline of its own lease = %v; want nil", err)
	}
	next, err := b.p.Offer(ctx, c, l.Addr)
	if err != nil || next.Addr == l.Addr {
		t.Errorf("Offer after a decline = %+v, %v; want another address than %v", next, err, l.Addr)
	}
	if err := b.p.Decline(ctx, c, next.Addr); err != nil { // as the conflict probe does
		t.Errorf("Decline of its own offer = %v; want nil", err)
	}
}

// TestLeaseTimes is FIELD-NOTES item 5: "Leases in PXE stages are short (MAAS:
// 30 s)."
func TestLeaseTimes(t *testing.T) {
	n := site.Network{Lease: time.Hour}
	for name, tc := range map[string]struct {
		n    site.Network
		c    pxe.Client
		want time.Duration
	}{
		"firmware":              {n, pxe.Client{PXE: true}, bootLease},
		"HTTP boot":             {n, pxe.Client{HTTP: true, IPv6: true}, bootLease},
		"iPXE":                  {n, pxe.Client{IPXE: true}, bootLease},
		"an operating system":   {n, pxe.Client{}, time.Hour},
		"where nothing is said": {site.Network{}, pxe.Client{}, osLease},
	} {
		if got := leaseTime(&tc.n, tc.c); got != tc.want || bootLease > 10*time.Minute {
			t.Errorf("%s: leaseTime = %v; want %v, and 10 minutes at most in PXE stages", name, got, tc.want)
		}
	}
}

// TestPoolIsNotSearchedFromItsBeginning has a burst of new machines: the work
// of each must not grow with the number of those before it.
func TestPoolIsNotSearchedFromItsBeginning(t *testing.T) {
	counted := &countingStore{}
	b := newBench(t, func(c *Config) {
		counted.embedded, c.Store = c.Store, counted
		s := c.Site()
		for i := range s.Networks {
			if s.Networks[i].Name == "prov" {
				s.Networks[i].Pools = []site.Pool{
					{From: netip.MustParseAddr("10.77.0.200"), To: netip.MustParseAddr("10.77.0.209")},
					{From: netip.MustParseAddr("10.77.0.220"), To: netip.MustParseAddr("10.77.0.229")},
				}
			}
		}
		s.Networks = append(s.Networks, site.Network{Name: "empty", Purpose: site.PurposeBoot})
	})
	stranger := func(i byte) pxe.Client { return pxe.Client{MAC: []byte{2, 0, 0, 0, 1, i}, Network: "prov"} }
	for i := range byte(20) {
		before := counted.reads
		l, err := b.p.Offer(t.Context(), stranger(i), netip.Addr{})
		want := netip.AddrFrom4([4]byte{10, 77, 0, 200 + i%10 + i/10*20})
		if err != nil || l.Addr != want {
			t.Fatalf("Offer(stranger %d) = %+v, %v; want %v", i, l, err, want)
		}
		if n := counted.reads - before; n > 2 {
			t.Errorf("Offer(stranger %d) looked at %d addresses; want 2 at most", i, n)
		}
		if _, err := b.p.Commit(t.Context(), stranger(i), l.Addr); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.p.Offer(t.Context(), pxe.Client{MAC: []byte{2, 0, 0, 0, 1, 0}, Network: "empty"}, netip.Addr{}); !errors.Is(err, pxe.ErrNoLease) {
		t.Errorf("Offer on a network without pools = %v; want ErrNoLease", err)
	}
	// Full: one whole search, and then none for a while.
	for try, most := range []int{20, 0} {
		before := counted.reads
		if _, err := b.p.Offer(t.Context(), stranger(99), netip.Addr{}); !errors.Is(err, pxe.ErrNoLease) {
			t.Errorf("Offer with the pools full = %v; want ErrNoLease", err)
		}
		if n := counted.reads - before; n > most {
			t.Errorf("try %d with the pools full looked at %d addresses; want %d at most", try+1, n, most)
		}
	}
	freed := netip.MustParseAddr("10.77.0.203")
	if err := b.p.Release(t.Context(), stranger(3), freed); err != nil {
		t.Fatal(err)
	}
	if l, err := b.p.Offer(t.Context(), stranger(99), netip.Addr{}); err != nil || l.Addr != freed {
		t.Errorf("Offer after a release = %+v, %v; want %v", l, err, freed)
	}
}

// countingStore counts looks at addresses.
type countingStore struct {
	embedded
	reads int
}

// embedded has another name than its method Events.
type embedded = Events

func (c *countingStore) LeaseByAddr(ctx context.Context, network string, addr netip.Addr) (state.Lease, bool, error) {
	c.reads++
	return c.embedded.LeaseByAddr(ctx, network, addr)
}

// TestOffersAreForgotten bounds what is remembered of offers: those that became
// leases, and those that nobody took.
func TestOffersAreForgotten(t *testing.T) {
	b := newBench(t, nil)
	c := pxe.Client{MAC: []byte{2, 0, 0, 0, 0, 1}, Network: "prov"}
	l, err := b.p.Offer(t.Context(), c, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.p.offers[offerKey{"prov", l.Addr}]; !ok {
		t.Fatalf("offers = %v; want that of %v", b.p.offers, l.Addr)
	}
	if _, err := b.p.Commit(t.Context(), c, l.Addr); err != nil {
		t.Fatal(err)
	}
	other := pxe.Client{MAC: []byte{2, 0, 0, 0, 0, 2}, Network: "prov"}
	if o, err := b.p.Offer(t.Context(), other, l.Addr); err != nil || o.Addr == l.Addr {
		t.Errorf("Offer(another, %v) = %+v, %v; want another address", l.Addr, o, err)
	}
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	if _, ok := b.p.offers[offerKey{"prov", l.Addr}]; ok {
		t.Errorf("the offer of %v, which is leased, is still remembered", l.Addr)
	}
	now := b.p.now()
	for i := range manyOffers + 1 {
		b.p.offers[offerKey{"far", netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}] = offer{until: now.Add(-time.Second)}
	}
	b.p.forgetOffers(now)
	if len(b.p.offers) > 1 { // the one above
		t.Errorf("%d offers are remembered whose time is over; want none", len(b.p.offers)-1)
	}
}

// lateStore has something happen after a look at an address.
type lateStore struct {
	embedded
	then func()
}

func (s *lateStore) LeaseByAddr(ctx context.Context, network string, addr netip.Addr) (state.Lease, bool, error) {
	l, ok, err := s.embedded.LeaseByAddr(ctx, network, addr)
	if s.then != nil {
		s.then()
	}
	return l, ok, err
}

// TestLateRelease has a machine release the address of its expired lease while
// another one gets it: that one keeps it.
func TestLateRelease(t *testing.T) {
	late := &lateStore{}
	b := newBench(t, func(c *Config) { late.embedded, c.Store = c.Store, late })
	first, second := pxe.Client{MAC: []byte{2, 0, 0, 0, 0, 1}, Network: "prov"}, pxe.Client{MAC: []byte{2, 0, 0, 0, 0, 2}, Network: "prov"}
	l, err := b.p.Offer(t.Context(), first, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.PutLease(t.Context(), state.Lease{Network: "prov", Addr: l.Addr, MAC: site.MAC(first.MAC), Granted: b.p.now().Add(-time.Hour), Expires: b.p.now().Add(-time.Minute)}); err != nil {
		t.Fatal(err)
	}
	late.then = func() {
		if _, err := b.p.Commit(t.Context(), second, l.Addr); err != nil {
			t.Errorf("Commit(%v) of an address whose lease is over = %v; want nil", l.Addr, err)
		}
	}
	if err := b.p.Release(t.Context(), first, l.Addr); err != nil {
		t.Errorf("Release = %v; want nil", err)
	}
	if got, ok, err := b.store.LeaseByAddr(t.Context(), "prov", l.Addr); err != nil || !ok || got.MAC != site.MAC(second.MAC) {
		t.Errorf("the lease after a late release = %+v, %v, %v; want %v to keep it", got, ok, err, second.MAC)
	}
}

func TestLeases(t *testing.T) {
	for name, commit := range map[string]func(*Provisioner, context.Context, pxe.Client, netip.Addr) (pxe.Lease, error){"Commit": (*Provisioner).Commit, "CommitSoon": commitSoon} {
		t.Run(name, func(t *testing.T) { testLeases(t, commit) })
	}
}

// told is a [pxe.Waiter] of one commit.
type told chan func() (pxe.Lease, error)

func (c told) Committed(l pxe.Lease, err error) { c <- func() (pxe.Lease, error) { return l, err } }

// commitSoon is CommitSoon, waited for.
func commitSoon(p *Provisioner, ctx context.Context, c pxe.Client, addr netip.Addr) (pxe.Lease, error) {
	w := make(told, 2)
	if !p.CommitSoon(c, addr, w) {
		return pxe.Lease{}, errors.New("CommitSoon does nothing")
	}
	select {
	case l := <-w:
		if len(w) > 0 {
			return pxe.Lease{}, errors.New("CommitSoon tells twice")
		}
		return l()
	case <-ctx.Done():
		return pxe.Lease{}, ctx.Err()
	}
}

func testLeases(t *testing.T, commit func(*Provisioner, context.Context, pxe.Client, netip.Addr) (pxe.Lease, error)) {
	b := newBench(t, nil)
	if !b.p.Quick() {
		t.Error("Quick() with an embedded state = false; want true")
	}
	ctx := t.Context()
	reserved, err := b.p.Offer(ctx, client(), netip.Addr{})
	if err != nil || reserved.Addr != netip.MustParseAddr("10.77.0.11") || reserved.Hostname != "gpu-01" {
		t.Errorf("Offer(known) = %+v, %v; want its reservation 10.77.0.11", reserved, err)
	}
	if _, err := commit(b.p, ctx, client(), netip.MustParseAddr("10.77.0.100")); !errors.Is(err, pxe.ErrWrongAddress) {
		t.Errorf("Commit(known, pool address) = %v; want ErrWrongAddress", err)
	}
	stranger := func(n byte) pxe.Client {
		return pxe.Client{MAC: net.HardwareAddr{2, 0, 0, 0, 0, n}, Network: "prov"}
	}
	seen := map[netip.Addr]bool{}
	for n := range byte(3) {
		l, err := b.p.Offer(ctx, stranger(n), netip.Addr{})
		if err != nil || seen[l.Addr] {
			t.Fatalf("Offer(stranger %d) = %+v, %v; want a fresh address", n, l, err)
		}
		seen[l.Addr] = true
		got, err := commit(b.p, ctx, stranger(n), l.Addr)
		if err != nil || got.Addr != l.Addr || got.Duration != l.Duration {
			t.Fatalf("Commit(stranger %d) = %+v, %v; want what it was offered, %+v", n, got, err, l)
		}
		if l, ok, err := b.store.LeaseByAddr(ctx, "prov", l.Addr); !ok || err != nil || !bytes.Equal(l.MAC[:], stranger(n).MAC) {
			t.Errorf("after Commit(stranger %d) the state has %+v, %v, %v; want its lease", n, l, ok, err)
		}
	}
	if _, err := b.p.Offer(ctx, stranger(9), netip.Addr{}); !errors.Is(err, pxe.ErrNoLease) {
		t.Errorf("Offer with the pool full = %v; want ErrNoLease", err)
	}
	again, err := b.p.Offer(ctx, stranger(1), netip.Addr{})
	if err != nil || !seen[again.Addr] {
		t.Errorf("Offer(stranger 1 again) = %+v, %v; want the address that it has", again, err)
	}
	if _, err := commit(b.p, ctx, stranger(0), again.Addr); !errors.Is(err, pxe.ErrWrongAddress) {
		t.Errorf("Commit of somebody else's address = %v; want ErrWrongAddress", err)
	}
	if err := b.p.Release(ctx, stranger(1), again.Addr); err != nil {
		t.Fatal(err)
	}
	if l, err := b.p.Offer(ctx, stranger(9), netip.Addr{}); err != nil || l.Addr != again.Addr {
		t.Errorf("Offer after a release = %+v, %v; want %s", l, err, again.Addr)
	}
	b.site.Policy.UnknownMachines = site.Ignore
	if _, err := b.p.Offer(ctx, stranger(1), netip.Addr{}); !errors.Is(err, pxe.ErrNoLease) {
		t.Errorf("Offer to a stranger who is to be ignored = %v; want ErrNoLease", err)
	}
}

// TestLeases6 gives IPv6 addresses beside IPv4 ones, by the same rules.
func TestLeases6(t *testing.T) {
	b := newBench(t, nil)
	ctx := t.Context()
	for i := range b.site.Networks {
		if n := &b.site.Networks[i]; n.Name == "prov" {
			n.IPv6 = site.IPv6{Prefix: netip.MustParsePrefix("2001:db8::/64"), Server: netip.MustParseAddr("2001:db8::1"),
				Pools: []site.Pool{{From: netip.MustParseAddr("2001:db8::1"), To: netip.MustParseAddr("2001:db8::3")}}}
		}
	}
	for i := range b.site.Machines[0].NICs {
		if nic := &b.site.Machines[0].NICs[i]; nic.Boot {
			nic.IPv6 = netip.MustParseAddr("2001:db8::2")
		}
	}
	known := client()
	known.IPv6 = true
	if l, err := b.p.Offer(ctx, known, netip.Addr{}); err != nil || l.Addr != netip.MustParseAddr("2001:db8::2") || l.Unproven {
		t.Errorf("Offer(known) = %+v, %v; want its reservation 2001:db8::2", l, err)
	}
	stranger := pxe.Client{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Network: "prov", IPv6: true}
	want := netip.MustParseAddr("2001:db8::3") // ::1 is the server's, ::2 reserved
	l, err := b.p.Offer(ctx, stranger, netip.Addr{})
	if err != nil || l.Addr != want {
		t.Fatalf("Offer(stranger) = %+v, %v; want %v", l, err, want)
	}
	if _, err := b.p.Commit(ctx, stranger, want); err != nil {
		t.Fatal(err)
	}
	four := stranger
	four.IPv6 = false
	l4, err := b.p.Offer(ctx, four, netip.Addr{})
	if err != nil || !l4.Addr.Is4() {
		t.Fatalf("Offer(stranger, IPv4) = %+v, %v; want an IPv4 address", l4, err)
	}
	if _, err := b.p.Commit(ctx, four, l4.Addr); err != nil {
		t.Fatal(err)
	}
	if again, err := b.p.Offer(ctx, stranger, netip.Addr{}); err != nil || again.Addr != want || again.Unproven {
		t.Errorf("Offer(stranger again) = %+v, %v; want %v still, beside its IPv4 lease", again, err, want)
	}
	if _, err := b.p.Commit(ctx, stranger, netip.MustParseAddr("2001:db8::9")); !errors.Is(err, pxe.ErrWrongAddress) {
		t.Errorf("Commit outside the pool = %v; want ErrWrongAddress", err)
	}
	other := stranger
	other.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	if _, err := b.p.Offer(ctx, other, netip.Addr{}); !errors.Is(err, pxe.ErrNoLease) {
		t.Errorf("Offer with the pool full = %v; want ErrNoLease", err)
	}
	if err := b.p.Release(ctx, stranger, want); err != nil {
		t.Fatal(err)
	}
	if l, err := b.p.Offer(ctx, other, netip.Addr{}); err != nil || l.Addr != want {
		t.Errorf("Offer after a release = %+v, %v; want %v", l, err, want)
	}
	m := b.site.Machines[0]
	if got := b.p.MACOf(ctx, "prov", strings.ToUpper(m.UUID)); got.String() != client().MAC.String() {
		t.Errorf("MACOf(%s) = %v; want %v", m.UUID, got, client().MAC)
	}
	if got := b.p.MACOf(ctx, "prov", "00000000-0000-0000-0000-000000000001"); got != nil {
		t.Errorf("MACOf(nobody's) = %v; want nil", got)
	}
}
