package state

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// TestLeasePage stores a page and reads it again.
func TestLeasePage(t *testing.T) {
	at := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	leases := []Lease{
		{Network: "rack 1/2", Addr: netip.MustParseAddr("192.0.2.16"), MAC: site.MAC{2, 0, 0, 0, 0, 1}, Hostname: "gpu-01", Granted: at, Expires: at.Add(time.Hour)},
		{Network: "rack 1/2", Addr: netip.MustParseAddr("192.0.2.19"), MAC: site.MAC{2, 0, 0, 0, 0, 2}, Expires: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), Declined: true},
		{Network: "rack 1/2", Addr: netip.MustParseAddr("192.0.2.31"), MAC: site.MAC{2, 0, 0, 0, 0, 3}, Hostname: strings.Repeat("x", 300), Granted: at, Expires: at},
		{Network: "rack 1/2", Addr: netip.MustParseAddr("2001:db8::f1"), MAC: site.MAC{2, 0, 0, 0, 0, 4}, Granted: at, Expires: at},
	}
	b := newLeaseBook()
	n := b.net("rack 1/2")
	for _, l := range leases {
		n.set(held{Lease: l})
	}
	if len(n.pages) != 2 {
		t.Fatalf("the leases are on %d pages; want 2", len(n.pages))
	}
	var got []Lease
	for first, p := range n.pages {
		on, err := decodePage(n.prefix+first.String(), p.encode(first, nil))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, on...)
	}
	slices.SortFunc(got, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	if !slices.Equal(got, leases) {
		t.Errorf("decodePage(encode) = %+v; want %+v", got, leases)
	}
	change := b.change(new(leaseChange))
	for _, l := range leases {
		change.drop(l, false)
	}
	change.apply()
	if len(n.pages) != 0 {
		t.Errorf("%d pages are left of no lease; want none", len(n.pages))
	}
}

// FuzzLeasePage reads what is on a disk that somebody wrote to.
func FuzzLeasePage(f *testing.F) {
	at := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	p := new(leasePage)
	p.set(3, held{Lease: Lease{Hostname: "x", Granted: at, Expires: at}})
	f.Add(prefixLeasePages+"n/192.0.2.0", p.encode(netip.MustParseAddr("192.0.2.0"), nil))
	f.Add(prefixLeasePages+"%2/x", []byte{})
	f.Add("n", []byte{1, 0, 16})
	f.Add(prefixLeasePages+"n/::", append([]byte{1, 0, 4}, make([]byte, 35)...))
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		leases, err := decodePage(key, b)
		if err != nil {
			return
		}
		if len(leases)*36 > len(b) {
			t.Errorf("decodePage of %d bytes = %d leases; want fewer", len(b), len(leases))
		}
	})
}
