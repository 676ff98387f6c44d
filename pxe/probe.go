package pxe

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	// probeTries are the addresses that one DISCOVER may find in use: each
	// costs a wait, and the client asks again.
	probeTries = 3
	// probeKeeps is how long a probe's result is believed.
	probeKeeps = time.Minute
)

// lease finds an address that nobody uses. An address of a pool that answers
// is declined in the client's place, and the next one is tried.
func (x *exchange) lease(ctx context.Context) (Lease, error) {
	c, want := x.r.client, x.r.want
	for try := 1; ; try++ {
		l, err := x.s.leases.Offer(ctx, c, want)
		if err != nil || !l.Unproven || !x.n.Probe || x.probe == nil || x.s.probed(x, l) {
			return l, err
		}
		by, used, err := x.inUse(ctx, l.Addr)
		if err != nil {
			// Better an address that was not asked for than none.
			x.record("dhcp.probe", fmt.Sprintf("was offered %v without a probe: %v", l.Addr, err), err)
			return l, nil
		}
		if !used || by != nil && bytes.Equal(by, c.MAC) {
			x.s.noteProbed(x, l)
			return l, nil
		}
		x.record("dhcp.conflict", fmt.Sprintf("is not offered %v, because %s uses it without asking: give that machine a reservation, or take the address out of the pool", l.Addr, userOf(by)), nil)
		if err := x.s.leases.Decline(ctx, c, l.Addr); err != nil {
			return l, fmt.Errorf("keeping %v, which is in use, out of the pool: %w", l.Addr, err)
		}
		if try == probeTries {
			return l, fmt.Errorf("%d addresses of the pool are used by machines that did not ask for them: %w", try, ErrNoLease)
		}
		if want == l.Addr {
			want = Lease{}.Addr
		}
	}
}

// inUse asks for an address by ARP, or behind a relay by ICMP.
func (x *exchange) inUse(ctx context.Context, a netip.Addr) (by net.HardwareAddr, used bool, err error) {
	if !x.r.giaddr.IsValid() {
		return x.probe.Probe(ctx, a)
	}
	far, ok := x.probe.(FarProber)
	if !ok {
		return nil, false, nil
	}
	used, err = far.ProbeFar(ctx, a)
	return nil, used, err
}

func userOf(by net.HardwareAddr) string {
	if by == nil {
		return "a machine that answers pings"
	}
	return by.String()
}

// probed reports whether a client's address was probed lately.
func (s *Server) probed(x *exchange, l Lease) (yes bool) {
	s.clients.update(x.r.client.MAC, func(e *seen) {
		yes = e.probed == l.Addr && x.start.Sub(e.probedAt) < probeKeeps
	})
	return yes
}

func (s *Server) noteProbed(x *exchange, l Lease) {
	s.clients.update(x.r.client.MAC, func(e *seen) { e.probed, e.probedAt = l.Addr, x.start })
}
