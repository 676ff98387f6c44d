package main

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

// TestNetworksOfBMCs: which networks of BMCs are served, and that what a
// network says of ways reaches the boot server.
func TestNetworksOfBMCs(t *testing.T) {
	pools := []site.Pool{{From: netip.MustParseAddr("10.20.0.100"), To: netip.MustParseAddr("10.20.0.109")}}
	server := netip.MustParseAddr("10.20.0.1")
	s := &site.Site{
		Networks: []site.Network{
			{Name: "prov", Purpose: site.PurposeBoot, BootWays: []site.BootWay{site.BootHTTP}},
			{Name: "pool", Purpose: site.PurposeBMC, Server: server, Pools: pools},
			{Name: "reserved", Purpose: site.PurposeBMC, Server: server},
			{Name: "elsewhere", Purpose: site.PurposeBMC, Server: server, Pools: pools},
			{Name: "no-server", Purpose: site.PurposeBMC, Pools: pools},
			{Name: "nothing-to-give", Purpose: site.PurposeBMC, Server: server},
		},
		Machines: []site.Machine{{Name: "a", BMC: site.BMC{Network: "reserved", MAC: site.MAC{2}}}, {Name: "b", BMC: site.BMC{Network: "nothing-to-give"}}},
	}
	sv := &services{site: func() *site.Site { return s }}
	if got := sv.bmcNetworksOf(s); got != nil {
		t.Errorf("a lab serves %d networks of BMCs; want none: its BMCs have their addresses", len(got))
	}
	sv.bmcDHCP, sv.bmcUnserved = true, []string{"elsewhere"}
	var names []string
	for _, n := range sv.bmcNetworksOf(s) {
		names = append(names, n.Name)
	}
	if !slices.Equal(names, []string{"pool", "reserved"}) {
		t.Errorf("networks of BMCs that are served: %v; want pool and reserved", names)
	}
	if got := pxeNetworks(sv.bootNetworksOf(s)); !reflect.DeepEqual(got[0].Ways, []pxe.Way{pxe.WayHTTP}) {
		t.Errorf("ways of prov = %v; want http alone", got[0].Ways)
	}
	next := s.Clone()
	if err := sv.sameNetworks(next); err != nil {
		t.Errorf("sameNetworks(the same) = %v", err)
	}
	next.Networks[1].Prefix = netip.MustParsePrefix("10.20.0.0/23")
	if err := sv.sameNetworks(next); err == nil {
		t.Error("sameNetworks(another prefix of a network of BMCs) = nil; want an error: its socket is open")
	}
}
