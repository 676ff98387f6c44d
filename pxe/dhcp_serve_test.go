package pxe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestServeDHCP has a whole conversation over a packet connection in memory.
func TestServeDHCP(t *testing.T) {
	for _, frames := range []bool{true, false} {
		f := newFixture(t)
		c := newFakeConn("0.0.0.0:67")
		var conn net.PacketConn = c
		if frames {
			conn = frameConn{c}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.ServeDHCP(ctx, "prov", conn) }()
		c.in <- datagram{b: []byte("junk"), addr: c.local}
		var xid byte
		for _, step := range []struct {
			kind, want dhcpv4.MessageType
			opts       map[byte][]byte
		}{
			{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeOffer, uefiOpts},
			{dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeAck, map[byte][]byte{optServerID: {192, 0, 2, 1}, optRequestedAddr: {192, 0, 2, 10}}},
		} {
			xid++
			c.in <- datagram{b: ask(step.kind, step.opts, func(p *dhcpv4.DHCPv4) { p.TransactionID[0] = xid }), addr: c.local}
			select {
			case d := <-c.out:
				m, err := dhcpv4.FromBytes(d.b)
				if err != nil || m.MessageType() != step.want || m.TransactionID[0] != xid {
					t.Errorf("reply = %v, %v; want %v", m, err, step.want)
				}
				want, mac := "192.0.2.10:68", testMAC.String()
				if !frames {
					want, mac = "255.255.255.255:68", ""
				}
				if d.addr.String() != want || d.frame.String() != mac {
					t.Errorf("reply to %v, frame to %q; want %s, %q", d.addr, d.frame, want, mac)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("no %v", step.want)
			}
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ServeDHCP = %v; want nil after ctx ended", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("ServeDHCP did not end with its context")
		}
	}
}

func TestServeDHCPErrors(t *testing.T) {
	f := newFixture(t)
	c := newFakeConn("0.0.0.0:67")
	if err := f.ServeDHCP(t.Context(), "other", c); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("ServeDHCP of an unknown network = %v; want an error that names it", err)
	}
	c.Close()
	if err := f.ServeDHCP(t.Context(), "prov", c); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ServeDHCP on a closed socket = %v; want net.ErrClosed", err)
	}
}

func TestNewChecks(t *testing.T) {
	for _, tc := range []struct {
		change func(*Network)
		want   string
	}{
		{func(n *Network) { n.Server = netip.MustParseAddr("198.51.100.1") }, "outside"},
		{func(n *Network) { n.Name = "" }, "no name"},
		{func(n *Network) { n.Prefix = netip.Prefix{} }, "not an IPv4 prefix"},
		{func(n *Network) { n.Gateway = netip.MustParseAddr("198.51.100.1") }, "gateway"},
		{func(n *Network) { *n = testNetworkOnly6(); n.Gateway = testAddr }, "a gateway of IPv4, and no IPv4 prefix"},
		{func(n *Network) { *n = testNetworkOnly6(); n.Proxy = true }, "ProxyDHCP of IPv4"},
		{func(n *Network) { *n = testNetworkOnly6(); n.Server = testAddr }, "not an IPv4 prefix"},
		{func(n *Network) { *n = testNetworkOnly6(); n.IPv6.Server = testAddr }, "not an IPv6 address"},
	} {
		n := testNetwork()
		tc.change(&n)
		_, err := New(Config{Networks: []Network{n}, Booter: booterFunc(nil), Leases: &memLeases{}, Files: mapFiles{}})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("New = %v; want an error with %q", err, tc.want)
		}
	}
}

// TestOnlyIPv6 has a network without IPv4: nothing of IPv4 is served there, and
// every URL is IPv6's.
func TestOnlyIPv6(t *testing.T) {
	f := newFixture(t, testNetworkOnly6())
	conn := newFakeConn("0.0.0.0:67")
	defer conn.Close()
	for what, err := range map[string]error{"ServeDHCP": f.ServeDHCP(t.Context(), "prov", conn), "ServeBINL": f.ServeBINL(t.Context(), "prov", conn)} {
		if err == nil || !strings.Contains(err.Error(), "has no IPv4") {
			t.Errorf("%s = %v; want that there is no IPv4", what, err)
		}
	}
	n := f.order[0]
	n.HTTPSPort = 8444
	for what, got := range map[string]string{
		"base URL": n.baseURLFor(false), "script": n.scriptURL(Client{MAC: testMAC, IPv6: true}), "secure URL": n.secureURL(false), "autoexec": n.autoexec(false), "GRUB's server": n.grubServer(testAddr6),
	} {
		if !strings.Contains(got, "[2001:db8::1]") || strings.Contains(got, "invalid") {
			t.Errorf("%s = %q; want it to lead to 2001:db8::1", what, got)
		}
	}
}
