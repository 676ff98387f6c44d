package main

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

func TestDHCPFinding(t *testing.T) {
	addr := netip.MustParseAddr
	own := pxe.FoundServer{Server: addr("10.0.0.1"), Offers: addr("10.0.0.100"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	ownProxy := pxe.FoundServer{Server: addr("10.0.0.1"), File: "snponly.efi", MAC: own.MAC}
	rogue := pxe.FoundServer{Server: addr("10.0.0.9"), Offers: addr("10.0.0.77"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}
	proxy := pxe.FoundServer{Server: addr("10.0.0.8"), File: "pxelinux.0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 8}}
	six := pxe.FoundServer{IPv6: true, Server: addr("fe80::9"), DUID: []byte{0, 3, 0, 1}, Offers: addr("2001:db8::9"), MAC: rogue.MAC}
	for _, tc := range []struct {
		name  string
		proxy bool
		found []pxe.FoundServer
		ok    bool
		want  string
	}{
		{"nobody", false, nil, true, "no other DHCP server answers"},
		{"we alone", false, []pxe.FoundServer{own}, true, "no other DHCP server answers"},
		{"another", false, []pxe.FoundServer{own, rogue}, false, "DHCPv4 server 10.0.0.9 (02:00:00:00:00:09) offers 10.0.0.77: machines may take its address"},
		{"another ProxyDHCP", false, []pxe.FoundServer{proxy}, false, "DHCPv4 server 10.0.0.8 (02:00:00:00:00:08) offers boot files alone and boot file pxelinux.0"},
		{"another of IPv6", false, []pxe.FoundServer{six}, false, "DHCPv6 server fe80::9 (02:00:00:00:00:09) offers 2001:db8::9"},
		{"proxy, with its server", true, []pxe.FoundServer{rogue, ownProxy}, true, "addresses come from DHCPv4 server 10.0.0.9"},
		{"proxy, alone", true, []pxe.FoundServer{ownProxy}, false, "nobody gives IPv4 addresses there"},
		{"proxy, with two", true, []pxe.FoundServer{rogue, {Server: addr("10.0.0.7"), Offers: addr("10.0.0.70")}}, false, "more than one gives addresses"},
		{"proxy, with another ProxyDHCP", true, []pxe.FoundServer{rogue, proxy}, false, "10.0.0.8"},
	} {
		n := site.Network{Name: "prov", Server: addr("10.0.0.1"), Proxy: tc.proxy}
		f := dhcpFinding(n, "eth0", tc.found)
		if f.OK != tc.ok || !strings.Contains(f.Text, tc.want) || len(f.Servers) != len(tc.found) {
			t.Errorf("%s: dhcpFinding = %v %q, %d servers; want %v %q", tc.name, f.OK, f.Text, len(f.Servers), tc.ok, tc.want)
		}
	}
}
