package pxe

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

func TestNetworkOptions(t *testing.T) {
	n := testNetwork()
	n.Search = []string{"lab.example.org", "example.org", "gpu.lab.example.org"}
	n.Routes = []Route{
		{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("192.0.2.253")},
		{netip.MustParsePrefix("203.0.113.128/25"), netip.MustParseAddr("192.0.2.252")},
	}
	n.Options = []Option{{Number: 150, Value: []byte{192, 0, 2, 9}}, {Number: 224, Value: []byte("always"), Always: true}}
	f := newFixture(t, n)
	m := decode(t, f.ask(dhcpv4.MessageTypeDiscover, map[byte][]byte{optRequestList: {1, 3, optMTU, optNTP, optSearch, optRoutes, 150}}))

	if l, err := rfc1035label.FromBytes(m.Options[optSearch]); err != nil || !slices.Equal(l.Labels, n.Search) {
		t.Errorf("option 119 = %v, %v; want %v", l, err, n.Search)
	}
	if got, max := len(m.Options[optSearch]), len("lab.example.org")+2+2+len("gpu")+1+2; got > max {
		t.Errorf("option 119 is %d bytes; want at most %d: endings that were there are pointed at", got, max)
	}
	var routes dhcpv4.Routes
	if err := routes.FromBytes(m.Options[optRoutes]); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes {
		got = append(got, r.Dest.String()+" "+r.Router.String())
	}
	if want := []string{"198.51.100.0/24 192.0.2.253", "203.0.113.128/25 192.0.2.252", "0.0.0.0/0 192.0.2.254"}; !slices.Equal(got, want) {
		t.Errorf("option 121 = %q; want %q: the client must ignore option 3 then", got, want)
	}
	if !bytes.Equal(m.Options[150], []byte{192, 0, 2, 9}) || string(m.Options[224]) != "always" {
		t.Errorf("options 150 %v and 224 %q; want the network's own", m.Options[150], m.Options[224])
	}
	if !bytes.Equal(m.Options[optMTU], []byte{5, 220}) || len(m.Options[optNTP]) != 4 {
		t.Errorf("options 26 %v, 42 %v; want MTU 1500 and one server", m.Options[optMTU], m.Options[optNTP])
	}

	m = decode(t, f.ask(dhcpv4.MessageTypeDiscover, map[byte][]byte{optRequestList: {1, 3}}))
	for _, code := range []uint8{optSearch, optRoutes, optRoutesMS, 150, optMTU, optNTP} {
		if m.Options[code] != nil {
			t.Errorf("option %d was sent to a client that did not ask for it", code)
		}
	}
	if m.Options[224] == nil {
		t.Error("option 224 was not sent; want it always")
	}
}

func TestNetworkChecks(t *testing.T) {
	for _, tc := range []struct {
		change func(*Network)
		want   string
	}{
		{func(n *Network) { n.Routes = []Route{{}} }, "route"},
		{func(n *Network) { n.Options = []Option{{Number: 255, Value: []byte{1}}} }, "option 255"},
		{func(n *Network) { n.Options = []Option{{Number: 150}} }, "option 150"},
		{func(n *Network) { n.Proxy, n.Probe = true, true }, "Probe"},
	} {
		n := testNetwork()
		tc.change(&n)
		if err := n.check(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("check() = %v; want an error about %q", err, tc.want)
		}
	}
}

// relayFixture has three networks on one server: its own, and two behind
// relays.
func relayFixture(t *testing.T) *fixture {
	direct, far, farther := testNetwork(), testNetwork(), testNetwork()
	far.Name, far.Prefix, far.Gateway = "far", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("198.51.100.1")
	far.Relays = []netip.Addr{far.Gateway}
	farther.Name, farther.Prefix, farther.Gateway = "farther", netip.MustParsePrefix("203.0.113.0/24"), netip.MustParseAddr("203.0.113.1")
	farther.Relays = []netip.Addr{far.Gateway, farther.Gateway}
	return newFixture(t, direct, far, farther)
}

func TestRelays(t *testing.T) {
	far, farther := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1")
	linkOf := func(a netip.Addr) []byte { a4 := a.As4(); return append([]byte{1, 2, 0, 7, 5, 4}, a4[:]...) }
	for _, tc := range []struct {
		name    string
		giaddr  netip.Addr
		opts    map[byte][]byte
		lease   string
		network string // "": silence
		router  string
		id      string
	}{
		{"giaddr chooses the network", far, nil, "198.51.100.9", "far", "198.51.100.1", "192.0.2.1"},
		{"item 3: 82.5 before giaddr", far, map[byte][]byte{optRelayInfo: linkOf(netip.MustParseAddr("203.0.113.0"))}, "203.0.113.9", "farther", "203.0.113.1", "192.0.2.1"},
		{"item 3: 82.5 before 118", far, map[byte][]byte{optSubnetSel: {192, 0, 2, 0}, optRelayInfo: linkOf(netip.MustParseAddr("203.0.113.0"))}, "203.0.113.9", "farther", "203.0.113.1", "192.0.2.1"},
		{"item 3: 118 before giaddr", far, map[byte][]byte{optSubnetSel: {203, 0, 113, 0}}, "203.0.113.9", "farther", "203.0.113.1", "192.0.2.1"},
		{"a relay that the network does not list", farther, map[byte][]byte{optSubnetSel: {198, 51, 100, 0}}, "", "", "", ""},
		{"an unknown relay", netip.MustParseAddr("198.51.100.2"), nil, "", "", "", ""},
		{"a relay for our own network, which lists none", netip.MustParseAddr("192.0.2.200"), nil, "", "", "", ""},
		{"the relay's own server identifier", far, map[byte][]byte{optRelayInfo: {11, 4, 198, 51, 100, 1}}, "198.51.100.9", "far", "198.51.100.1", "198.51.100.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := relayFixture(t)
			if tc.lease != "" {
				f.leases.fixed[testMAC.String()] = netip.MustParseAddr(tc.lease)
			}
			opts := map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(7)}
			for k, v := range tc.opts {
				opts[k] = v
			}
			giaddr := func(p *dhcpv4.DHCPv4) { p.GatewayIPAddr = tc.giaddr.AsSlice() }
			p := f.ask(dhcpv4.MessageTypeDiscover, opts, giaddr)
			if tc.network == "" {
				if p != nil {
					t.Errorf("answered %v; want silence, and a sentence on the timeline", decode(t, p))
				}
				if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.drop" && strings.Contains(e.Text, tc.giaddr.String()) }); !ok {
					t.Errorf("the timeline does not name relay %v:\n%s", tc.giaddr, f.timeline.text())
				}
				return
			}
			m := decode(t, p)
			if !m.YourIPAddr.Equal(net.ParseIP(tc.lease)) || len(m.Router()) != 1 || m.Router()[0].String() != tc.router || m.ServerIdentifier().String() != tc.id {
				t.Errorf("address %v, router %v, server %v; want %s, %s, %s", m.YourIPAddr, m.Router(), m.ServerIdentifier(), tc.lease, tc.router, tc.id)
			}
			if p.to != netip.AddrPortFrom(tc.giaddr, 67) || p.unicastFrame {
				t.Errorf("reply to %v; want relay %v", p.to, tc.giaddr)
			}
			if !bytes.Equal(m.Options[optSubnetSel], tc.opts[optSubnetSel]) || !bytes.Equal(m.Options[optRelayInfo], tc.opts[optRelayInfo]) {
				t.Errorf("options 118 %v, 82 %v; want the client's own", m.Options[optSubnetSel], m.Options[optRelayInfo])
			}
			if c := f.asked[len(f.asked)-1]; c.Network != tc.network {
				t.Errorf("Client.Network = %q; want %q", c.Network, tc.network)
			}
			// The client answers to the identifier that it was given.
			id := m.ServerIdentifier().To4()
			opts[optServerID], opts[optRequestedAddr] = id, m.YourIPAddr.To4()
			if m := decode(t, f.ask(dhcpv4.MessageTypeRequest, opts, giaddr)); m.MessageType() != dhcpv4.MessageTypeAck {
				t.Errorf("REQUEST to server %v = %v; want an ACK", net.IP(id), m.MessageType())
			}
		})
	}
}

// TestRelayedClientRenews has a client renew by unicast, past its relay.
func TestRelayedClientRenews(t *testing.T) {
	f := relayFixture(t)
	f.leases.fixed[testMAC.String()] = netip.MustParseAddr("198.51.100.9")
	p := f.ask(dhcpv4.MessageTypeRequest, nil, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.IPv4(198, 51, 100, 9) })
	if m := decode(t, p); m.MessageType() != dhcpv4.MessageTypeAck || p.to.String() != "198.51.100.9:68" || m.Router()[0].String() != "198.51.100.1" {
		t.Errorf("renewing = %v to %v; want an ACK of its own network", m.Summary(), p.to)
	}
	f.ask(dhcpv4.MessageTypeRelease, nil, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.IPv4(198, 51, 100, 9) })
	if len(f.leases.released) != 1 {
		t.Errorf("released %v; want one address", f.leases.released)
	}
}

// poolLeases gives addresses one after the other; declined ones are gone.
type poolLeases struct {
	memLeases
	next netip.Addr
	old  bool // the client had it before
}

func (p *poolLeases) Offer(_ context.Context, _ Client, want netip.Addr) (Lease, error) {
	l := Lease{Addr: p.next, Duration: time.Hour, Unproven: !p.old}
	if want.IsValid() && !slices.Contains(p.declined, want) {
		l.Addr = want
	}
	return l, nil
}

func (p *poolLeases) Decline(_ context.Context, _ Client, a netip.Addr) error {
	p.declined = append(p.declined, a)
	p.next = a.Next()
	return nil
}

func (p *poolLeases) Commit(_ context.Context, _ Client, a netip.Addr) (Lease, error) {
	return Lease{Addr: a, Duration: time.Hour}, nil
}

// probeFunc probes by a function.
type probeFunc func(netip.Addr) (net.HardwareAddr, bool, error)

func (f probeFunc) Probe(_ context.Context, a netip.Addr) (net.HardwareAddr, bool, error) {
	return f(a)
}

func TestProbe(t *testing.T) {
	intruder := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	a := netip.MustParseAddr
	for _, tc := range []struct {
		name   string
		off    bool
		old    bool
		used   map[string]net.HardwareAddr
		err    error
		want   string // "": silence
		probes int
		kind   string
	}{
		{"free", false, false, nil, nil, "192.0.2.50", 1, ""},
		{"two in use: the third", false, false, map[string]net.HardwareAddr{"192.0.2.50": intruder, "192.0.2.51": intruder}, nil, "192.0.2.52", 3, "dhcp.conflict"},
		{"in use by the client itself", false, false, map[string]net.HardwareAddr{"192.0.2.50": testMAC}, nil, "192.0.2.50", 1, ""},
		{"all in use: silence", false, false, map[string]net.HardwareAddr{"192.0.2.50": intruder, "192.0.2.51": intruder, "192.0.2.52": intruder}, nil, "", 3, "dhcp.conflict"},
		{"its own of before: no probe", false, true, map[string]net.HardwareAddr{"192.0.2.50": intruder}, nil, "192.0.2.50", 0, ""},
		{"switched off", true, false, map[string]net.HardwareAddr{"192.0.2.50": intruder}, nil, "192.0.2.50", 0, ""},
		{"the probe fails: offered all the same", false, false, nil, errors.New("link is down"), "192.0.2.50", 1, "dhcp.probe"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := testNetwork()
			n.Probe = !tc.off
			f := newFixture(t, n)
			l := &poolLeases{next: a("192.0.2.50"), old: tc.old}
			f.Server.leases = l
			probes := 0
			probe := probeFunc(func(a netip.Addr) (net.HardwareAddr, bool, error) {
				probes++
				by, ok := tc.used[a.String()]
				return by, ok, tc.err
			})
			p := f.answer(context.Background(), f.order[0], ask(dhcpv4.MessageTypeDiscover, uefiOpts), probe)
			got := ""
			if p != nil {
				got = decode(t, p).YourIPAddr.String()
			}
			if got != tc.want || probes != tc.probes {
				t.Errorf("offered %q after %d probes; want %q after %d:\n%s", got, probes, tc.want, tc.probes, f.timeline.text())
			}
			if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == tc.kind }); tc.kind != "" && !ok {
				t.Errorf("the timeline has no %s:\n%s", tc.kind, f.timeline.text())
			}
			if tc.err == nil && tc.probes == 1 { // the client asks again: the answer is known
				if f.answer(context.Background(), f.order[0], ask(dhcpv4.MessageTypeDiscover, uefiOpts), probe); probes != 1 {
					t.Errorf("%d probes for a client that asks again; want 1", probes)
				}
			}
		})
	}
}
