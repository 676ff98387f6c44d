package provision

import (
	"net/netip"
	"testing"

	"github.com/fettle-dev/fettle/pxe"
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
