package labs

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/site"
)

// sixSite is testSite with an IPv6 side on its boot network.
func sixSite(t *testing.T) *site.Site {
	t.Helper()
	addr := netip.MustParseAddr
	s := testSite(t)
	s.Networks[0].IPv6 = site.IPv6{Prefix: netip.MustParsePrefix("2001:db8:20::/64"), Server: addr("2001:db8:20::1"), Gateway: addr("fe80::1"),
		DNS: []netip.Addr{addr("2001:db8:20::53")}, Pools: []site.Pool{{From: addr("2001:db8:20::100"), To: addr("2001:db8:20::1ff")}}}
	s.Machines[0].NICs[0].IPv6, s.Machines[1].NICs[0].IPv6 = addr("2001:db8:20::11"), addr("2001:db8:20::12")
	return s
}

// only6Site is sixSite without IPv4 on its boot network.
func only6Site(t *testing.T) *site.Site {
	t.Helper()
	s := sixSite(t)
	n := &s.Networks[0]
	n.Prefix, n.Server, n.Gateway, n.DNS, n.NTP, n.Pools = netip.Prefix{}, netip.Addr{}, netip.Addr{}, nil, nil, nil
	for i := range s.Machines {
		for j := range s.Machines[i].NICs {
			if nic := &s.Machines[i].NICs[j]; nic.Network == n.Name {
				nic.Address = netip.Addr{}
			}
		}
	}
	if err := s.Validate(); err != nil {
		t.Fatalf("the site for the test: %v", err)
	}
	return s
}

// TestPlanIPv6: a lab has the site's own IPv6 addresses, beside IPv4 or alone.
func TestPlanIPv6(t *testing.T) {
	for _, tt := range []struct {
		name string
		site *site.Site
		only bool
	}{{"both", sixSite(t), false}, {"IPv6 alone", only6Site(t), true}} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := NewPlan(tt.site, Options{})
			if err != nil {
				t.Fatal(err)
			}
			want := tt.site.Networks[0]
			if got := p.Site.Networks[0]; !reflect.DeepEqual(got.IPv6, want.IPv6) || got.Prefix != want.Prefix || got.Server != want.Server {
				t.Errorf("the lab's network = %+v; want the site's, %+v", got, want)
			}
			if np := p.Networks[0]; np.Prefix6 != want.IPv6.Prefix || np.Server6 != want.IPv6.Server || np.Prefix != want.Prefix || np.Server != want.Server {
				t.Errorf("network of the plan = %+v; want the site's addresses", np)
			}
			for i, m := range p.Machines {
				if got := p.Site.Machines[i].NICs[0]; got.IPv6 != tt.site.Machines[i].NICs[0].IPv6 || got.Address != tt.site.Machines[i].NICs[0].Address {
					t.Errorf("%s has %v and %v; want the site's addresses", m.Name, got.Address, got.IPv6)
				}
				if m.boots6() != tt.only || m.NICs[0].Only6 != tt.only {
					t.Errorf("%s boots over IPv6 alone: %v; want %v", m.Name, m.boots6(), tt.only)
				}
			}
			if n, ok := p.networkOf(netip.MustParseAddr("2001:db8:20::77")); !ok || n.Name != "boot" {
				t.Errorf("networkOf an IPv6 address = %q, %v; want boot", n.Name, ok)
			}
			if n, ok := p.networkOf(netip.MustParseAddr("2001:db8:21::77")); ok {
				t.Errorf("networkOf an address of no network = %q; want none", n.Name)
			}
		})
	}
}

// TestPlanIPv6Routers: what a router does in production, the lab's fettle does.
func TestPlanIPv6Routers(t *testing.T) {
	for _, tt := range []struct{ site, want site.Advertise }{
		{site.AdvertiseOff, ""}, {site.AdvertiseOther, site.AdvertiseOther}, {site.AdvertiseSLAAC, site.AdvertiseSLAAC}, {"", ""},
	} {
		s := only6Site(t)
		s.Networks[0].Advertise = tt.site
		p, err := NewPlan(s, Options{})
		if err != nil || p.Site.Networks[0].Advertise != tt.want {
			t.Errorf("a lab of a network that advertises %q advertises %q, %v; want %q", tt.site, p.Site.Networks[0].Advertise, err, tt.want)
		}
	}
}

// TestPlanBehindRelays: on a network behind relays fettle takes the place of
// one, with its addresses.
func TestPlanBehindRelays(t *testing.T) {
	addr := netip.MustParseAddr
	s := sixSite(t)
	far := s.Networks[0]
	far.Name, far.VLAN, far.Prefix, far.Gateway, far.DNS, far.Pools = "far", 40, netip.MustParsePrefix("198.18.0.0/24"), addr("198.18.0.1"), nil, nil
	far.Relays = []netip.Addr{addr("192.0.2.9"), addr("198.18.0.1")}
	far.IPv6 = site.IPv6{Prefix: netip.MustParsePrefix("2001:db8:40::/64"), Server: s.Networks[0].IPv6.Server, Relays: []netip.Addr{addr("2001:db8:40::9")}}
	s.Networks = append(s.Networks, far)
	if err := s.Validate(); err != nil {
		t.Fatalf("the site for the test: %v", err)
	}
	p, err := NewPlan(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.Networks, func(n NetworkPlan) bool { return n.Name == "far" })
	n, np := p.Site.Networks[i], p.Networks[i]
	if n.Server != addr("198.18.0.1") || n.IPv6.Server != addr("2001:db8:40::9") || np.Server != n.Server || np.Server6 != n.IPv6.Server || len(n.Relays)+len(n.IPv6.Relays) > 0 {
		t.Errorf("fettle is at %v and %v on the network behind relays, %+v; want it at the relays' own addresses there, and no relays", n.Server, n.IPv6.Server, np)
	}
	s.Networks[len(s.Networks)-1].IPv6.Relays = []netip.Addr{addr("2001:db8:20::9")}
	if _, err := NewPlan(s, Options{}); err == nil || !strings.Contains(err.Error(), "network far is behind relays, none of which has an address in 2001:db8:40::/64") {
		t.Errorf("NewPlan with relays that are elsewhere = %v; want an error that names the network", err)
	}
}

// TestPlanTrapIPv6: a trap watches IPv4 alone, so that it takes the IPv6 side
// away, and refuses machines that have nothing else.
func TestPlanTrapIPv6(t *testing.T) {
	p, err := NewPlan(sixSite(t), Options{Trap: true})
	if err != nil {
		t.Fatal(err)
	}
	if np := p.Networks[0]; p.Site.Networks[0].IPv6.Prefix.IsValid() || np.Prefix6.IsValid() || np.Server6.IsValid() || len(np.Trap) == 0 {
		t.Errorf("network with a trap = %+v; want it without IPv6", np)
	}
	if _, err := NewPlan(only6Site(t), Options{Trap: true}); err == nil || !strings.Contains(err.Error(), "machine gpu-01: network boot has IPv6 alone, and a trap") {
		t.Errorf("NewPlan of a trap without IPv4 = %v; want an error that names machine and network", err)
	}
}
