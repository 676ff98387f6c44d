package pxe

import (
	"bytes"
	"context"
	"fmt"
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
		// Behind a relay there is nobody to ask with ARP.
		if err != nil || !l.Unproven || !x.n.Probe || x.probe == nil || x.r.giaddr.IsValid() || x.s.probed(x, l) {
			return l, err
		}
		by, used, err := x.probe.Probe(ctx, l.Addr)
		if err != nil {
			// Better an address that was not asked for than none.
			x.record("dhcp.probe", fmt.Sprintf("was offered %v without a probe: %v", l.Addr, err), err)
			return l, nil
		}
		if !used || bytes.Equal(by, c.MAC) {
			x.s.noteProbed(x, l)
			return l, nil
		}
		x.record("dhcp.conflict", fmt.Sprintf("is not offered %v, because %v uses it without asking: give that machine a reservation, or take the address out of the pool", l.Addr, by), nil)
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
