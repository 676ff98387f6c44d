package provision

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/site"
)

// TestNothingStartsWithoutAnAgent: a machine that cannot boot the agent is not
// switched on to find out.
func TestNothingStartsWithoutAnAgent(t *testing.T) {
	for _, missing := range []string{"agent", "loaders"} {
		b := newBench(t, nil)
		rel := testReleases()
		delete(rel, missing)
		b.p.c.Releases = rel
		want := "image " + missing + " is not built: fettle image build " + missing
		if _, err := b.p.Plan(t.Context(), []string{"gpu-01"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Plan without %s = %v; want %q", missing, err, want)
		}
		if _, err := b.p.Inspect(t.Context(), "user:test", []string{"gpu-01"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Inspect without %s = %v; want %q", missing, err, want)
		}
		if said := b.bmc.said(); len(said) != 0 {
			t.Errorf("BMC was told %q; want nothing", said)
		}
	}
}

// TestNetworkWithoutIPv4: a machine that boots from a network without IPv4 is
// given URLs of IPv6, and its system asks no DHCPv4 server there.
func TestNetworkWithoutIPv4(t *testing.T) {
	b := newBench(t, nil)
	n := &b.site.Networks[slices.IndexFunc(b.site.Networks, func(n site.Network) bool { return n.Purpose == site.PurposeBoot })]
	n.Prefix, n.Server, n.Pools = netip.Prefix{}, netip.Addr{}, nil
	n.IPv6 = site.IPv6{Prefix: netip.MustParsePrefix("2001:db8::/64"), Server: netip.MustParseAddr("2001:db8::1"), Pools: []site.Pool{{}}}
	m := b.site.Machines[slices.IndexFunc(b.site.Machines, func(m site.Machine) bool { return m.Name == "gpu-01" })]
	for i := range m.NICs {
		m.NICs[i].Address = netip.Addr{}
	}
	if _, err := b.p.Inspect(t.Context(), "user:test", []string{"gpu-01"}); err != nil {
		t.Errorf("Inspect = %v", err)
	}
	if got := b.p.agentURL(*n); got != "https://[2001:db8::1]:8443" {
		t.Errorf("agentURL = %q", got)
	}
	if got := b.p.fileURL(*n, "release/x"); !strings.HasPrefix(got, "http://[2001:db8::1]") {
		t.Errorf("fileURL = %q; want an address in brackets", got)
	}
	conf, err := networkConfig(b.site, m)
	if err != nil {
		t.Fatal(err)
	}
	boot, _, _ := strings.Cut(string(conf), "nic1:")
	if !strings.Contains(boot, "dhcp4: false") || !strings.Contains(boot, "dhcp6: true") {
		t.Errorf("network-config of the port that boots:\n%s; want DHCPv6 alone", boot)
	}
}
