//go:build linux

package pxe

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// TestFindServers finds dnsmasq and our own server on one wire, of both
// families, and takes no lease.
func TestFindServers(t *testing.T) {
	server, client := vethPair(t)
	awaitLinkLocal(t, server, "srv0")
	awaitLinkLocal(t, client, "cli0")
	other := newNS(t)
	for _, args := range [][]string{
		{"ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0"},
		{"ip", "link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", other.name},
		{"ip", "addr", "del", "192.0.2.1/24", "dev", "srv0"}, {"ip", "addr", "add", "192.0.2.1/24", "dev", "br0"},
		{"ip", "link", "set", "srv0", "master", "br0"}, {"ip", "link", "set", "v0", "master", "br0", "up"}, {"ip", "link", "set", "br0", "up"},
	} {
		server.run(t, args...)
	}
	for _, args := range [][]string{
		{"ip", "addr", "add", "192.0.2.2/24", "dev", "eth0"}, {"ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad"}, {"ip", "link", "set", "eth0", "up"},
	} {
		other.run(t, args...)
	}
	awaitLinkLocal(t, other, "eth0")
	dnsmasq(t, other, "--interface=eth0", "--dhcp-range=192.0.2.70,192.0.2.90,255.255.255.0,1h", "--dhcp-range=2001:db8::70,2001:db8::90,64,1h")
	n := testNetwork6()
	n.Proxy = true
	f := newFixture(t, n)
	f.now = time.Now
	mac := strings.TrimSpace(client.run(t, "cat", "/sys/class/net/cli0/address"))
	f.leases.fixed6[mac] = netip.MustParseAddr("2001:db8::10")
	awaitLinkLocal(t, server, "br0")
	server.serve(t, f.Server, "br0")
	want := map[string]bool{"192.0.2.1 proxy snponly.efi": false, "192.0.2.2 192.0.2": false, "fe80: 2001:db8::10 tftp://[2001:db8::1]/snponly.efi": false, "fe80: 2001:db8::": false}
	var found []FoundServer
	// dnsmasq may not be up yet: it is asked again.
	err := eventually(t.Context(), 20*time.Second, func() bool {
		err := client.do(func() (err error) {
			found, err = FindServers(t.Context(), "cli0")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return len(found) == 4
	})
	for _, s := range found {
		got := s.Server.String() + " "
		switch {
		case !s.Offers.IsValid():
			got += "proxy"
		default:
			got += s.Offers.String()
		}
		got += " " + s.File
		if s.IPv6 {
			got = "fe80: " + strings.SplitN(got, " ", 2)[1]
		}
		best := ""
		for w := range want {
			if strings.HasPrefix(got, w) && len(w) > len(best) {
				best = w
			}
		}
		if best == "" || want[best] || len(s.MAC) != 6 {
			t.Errorf("found %q by %v; want one of %v", got, s.MAC, want)
		}
		want[best] = true
	}
	if err != nil {
		t.Errorf("found %v; want 4 servers: %v", found, want)
	}
	if f.leases.commits > 0 {
		t.Errorf("%d leases taken; want none", f.leases.commits)
	}
}

// FuzzFind reads what servers answer.
func FuzzFind(f *testing.F) {
	fx := newFixture(f, testNetwork6())
	xid := findXID{1, 2, 3, 4}
	fx.leases.fixed6["02:00:00:00:00:01"] = testAddr6
	fx.leases.fixed["02:00:00:00:00:01"] = testAddr
	mac := []byte{2, 0, 0, 0, 0, 1}
	f.Add(fx.answer(f.Context(), fx.order[0], findDiscover(mac, xid), nil).bytes)
	f.Add(fx.answer6(f.Context(), fx.order[0], findSolicit(mac, xid), random6, mac).bytes)
	m, err := dhcpv6.NewMessage()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range []func([]byte, findXID) (FoundServer, bool){readOffer, readAdvertise} {
			if s, ok := read(b, xid); ok && strings.ContainsAny(s.File, "\x00\n\x1b") {
				t.Errorf("file %q holds what a terminal would obey", s.File)
			}
		}
	})
}
