package labs

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/site"
)

func TestPlanTrap(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		name    string
		change  func(n *site.Network)
		gateway string
		dns     []string
		trap    []string
	}{
		{"no gateway, no DNS", func(n *site.Network) { n.Gateway, n.DNS = netip.Addr{}, nil }, "10.77.0.254", []string{"10.77.0.254"}, []string{"10.77.0.254"}},
		{"its own", func(n *site.Network) {
			n.Gateway, n.DNS = addr("10.77.0.3"), []netip.Addr{addr("10.77.0.2"), addr("192.0.2.1")}
		},
			"10.77.0.3", []string{"10.77.0.2", "192.0.2.1"}, []string{"10.77.0.2", "10.77.0.3"}},
		{"fettle is both", func(n *site.Network) { n.Gateway, n.DNS = n.Server, []netip.Addr{n.Server} }, "10.77.0.254", []string{"10.77.0.254"}, []string{"10.77.0.254"}},
		{"the last address is taken", func(n *site.Network) {
			n.Gateway, n.DNS, n.Pools = netip.Addr{}, nil, []site.Pool{{From: addr("10.77.0.100"), To: addr("10.77.0.254")}}
		}, "10.77.0.99", []string{"10.77.0.99"}, []string{"10.77.0.99"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := site.Load("../examples/two-gpu")
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(s.Networks, func(n site.Network) bool { return n.Purpose == site.PurposeBoot })
			tt.change(&s.Networks[i])
			s.Networks[i].IPv6 = site.IPv6{Prefix: netip.MustParsePrefix("2001:db8:77::/64"), Server: addr("2001:db8:77::1")}
			s.Machines[0].NICs[0].IPv6 = addr("2001:db8:77::11")
			p, err := NewPlan(s, Options{Name: "a", Trap: true})
			if err != nil {
				t.Fatal(err)
			}
			texts := func(as []netip.Addr) []string {
				var out []string
				for _, a := range as {
					out = append(out, a.String())
				}
				return out
			}
			n, np := p.Site.Networks[i], p.Networks[i]
			if n.Gateway.String() != tt.gateway || !slices.Equal(texts(n.DNS), tt.dns) || !slices.Equal(texts(np.Trap), tt.trap) {
				t.Errorf("gateway %s, DNS %v, trap %v; want %s, %v, %v", n.Gateway, n.DNS, np.Trap, tt.gateway, tt.dns, tt.trap)
			}
			if n.IPv6.Prefix.IsValid() || p.Site.Machines[0].NICs[0].IPv6.IsValid() {
				t.Error("a network with a trap has an IPv6 side, which goes past the trap")
			}
			plain, err := NewPlan(s, Options{Name: "a"})
			if err != nil || len(plain.Networks[i].Trap) != 0 || plain.Site.Networks[i].Gateway != s.Networks[i].Gateway {
				t.Errorf("without Trap: %v, %v; want the site's network", plain.Networks[i], err)
			}
		})
	}
	s, err := site.Load("../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewPlan(s, Options{Name: "a", Trap: true, BridgeNetwork: "br0"}); err == nil || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("NewPlan with a bridge and a trap = %v; want an error", err)
	}
}
