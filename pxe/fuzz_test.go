package pxe

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// FuzzDHCP feeds packets to the whole handler: whatever comes, an answer is a
// packet that a peer can read, and is bounded.
func FuzzDHCP(f *testing.F) {
	for _, o := range []map[byte][]byte{biosOpts, uefiOpts, httpOpts, ipxeOpts, {optOverload: {3}}, {optRelayInfo: {5, 4, 192, 0, 2, 0}}} {
		f.Add(ask(dhcpv4.MessageTypeDiscover, o))
		f.Add(ask(dhcpv4.MessageTypeRequest, o))
	}
	f.Add(ask(dhcpv4.MessageTypeInform, nil, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = testAddr.AsSlice() }))
	f.Fuzz(func(t *testing.T, b []byte) {
		fx := newFixture(t)
		p := fx.answer(context.Background(), fx.order[0], b, nil)
		if p == nil {
			return
		}
		if len(p.bytes) < dhcpMinPacket || len(p.bytes) > dhcpMaxPacket+512 {
			t.Errorf("reply of %d bytes", len(p.bytes))
		}
		m, err := dhcpv4.FromBytes(p.bytes)
		if err != nil {
			t.Fatalf("reply does not parse: %v", err)
		}
		if m.OpCode != dhcpv4.OpcodeBootReply || !p.to.IsValid() {
			t.Errorf("reply op %v to %v", m.OpCode, p.to)
		}
		for _, e := range fx.timeline.all {
			if strings.ContainsAny(e.Text, "\x00\n\x1b") {
				t.Errorf("sentence holds what a terminal would obey: %q", e.Text)
			}
		}
	})
}

// FuzzDHCP6 feeds packets to the whole handler: whatever comes, an answer is
// one that a peer can read, is bounded, and holds nothing that a terminal
// obeys.
func FuzzDHCP6(f *testing.F) {
	n := testNetwork6()
	n.IPv6.Relays = []netip.Addr{netip.MustParseAddr("2001:db8::2")}
	for _, kind := range []dhcpv6.MessageType{1, 3, 4, 5, 6, 8, 9, 11} {
		f.Add(ask6(f, kind, append(boot6("HTTPClient:Arch:00016", iana.EFI_X86_64_HTTP), generic6(opt6Rapid), generic6(opt6ServerID, n.serverDUID()...))...))
		f.Add(ask6(f, kind, iana6(1, testAddr6), &dhcpv6.OptIAPD{IaId: [4]byte{9}}))
	}
	link := netip.MustParseAddr("2001:db8::2").As16()
	relay := append(append([]byte{msg6RelayForw, 0}, link[:]...), make([]byte, 16)...)
	relay = append6(append6(relay, opt6LinkLayer, append([]byte{0, 1}, testMAC...)...), opt6InterfaceID, 1)
	f.Add(append6(relay, opt6Relayed, ask6(f, dhcpv6.MessageTypeSolicit, iana6(1))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		fx := newFixture(t, n)
		p := fx.answer6(context.Background(), fx.order[0], b, linkLocal6, nil)
		for _, e := range fx.timeline.all {
			if strings.ContainsAny(e.Text, "\x00\n\x1b") {
				t.Errorf("sentence holds what a terminal would obey: %q", e.Text)
			}
		}
		if p == nil {
			return
		}
		if len(p.bytes) > 2*dhcpMaxPacket+2048 || !p.to.IsValid() {
			t.Errorf("reply of %d bytes to %v", len(p.bytes), p.to)
		}
		if err := readable6(p.bytes); err != nil {
			t.Errorf("reply does not parse: %v\n%x", err, p.bytes)
		}
	})
}

// readable6 walks an answer as a client does.
func readable6(b []byte) error {
	for len(b) > dhcp6RelayHeader && b[0] == msg6RelayRepl {
		var inner []byte
		err := options6(b[dhcp6RelayHeader:], func(code uint16, v []byte) error {
			if code == opt6Relayed {
				inner = v
			}
			return nil
		})
		if err != nil {
			return err
		}
		b = inner
	}
	if len(b) < 4 || b[0] != msg6Advertise && b[0] != msg6Reply {
		return errShort6
	}
	return options6(b[4:], func(code uint16, v []byte) error {
		if code != opt6NA && code != opt6PD {
			return nil
		}
		return options6(v[12:], func(uint16, []byte) error { return nil })
	})
}

// FuzzNDP parses router solicitations and advertisements.
func FuzzNDP(f *testing.F) {
	n := testNetwork6()
	n.Advertise = AdvertiseOther
	f.Add(n.advertisement(testMAC, time.Hour), linkLocal6.Addr().AsSlice())
	f.Add([]byte{icmpSolicit, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9}, linkLocal6.Addr().AsSlice())
	f.Add([]byte{icmpSolicit, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16))
	f.Fuzz(func(t *testing.T, b, from []byte) {
		src, ok := netip.AddrFromSlice(from)
		if !ok {
			return
		}
		fx := newFixture(t, n)
		conn := &raConn{}
		a := &advertiser{s: fx.Server, n: fx.order[0], conn: conn}
		a.take(icmpMessage{b, src, &net.IPAddr{IP: from}})
		for _, w := range conn.sent {
			if _, err := parseAdvertisement(w.b); err != nil {
				t.Errorf("advertisement does not parse: %v\n%x", err, w.b)
			}
		}
		if link, err := parseSolicitation(b, src); err == nil && link != nil && len(link) != 6 {
			t.Errorf("link-layer address of %d bytes", len(link))
		}
	})
}

// FuzzFrame reads captured frames of both families.
func FuzzFrame(f *testing.F) {
	six := Packet{MAC: testMAC, From: linkLocal6, To: netip.MustParseAddrPort("[ff02::1:2]:547"), Data: []byte{1, 0, 0, 1}}
	four := Packet{MAC: testMAC, From: netip.MustParseAddrPort("192.0.2.10:68"), To: netip.MustParseAddrPort("192.0.2.1:67"), Data: []byte("x")}
	for _, p := range []Packet{six, four} {
		b, _, err := p.frame()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(linkEthernet), b)
		f.Add(uint16(linkRaw), b[etherHeader:])
	}
	f.Fuzz(func(t *testing.T, link uint16, b []byte) {
		p, ok := decodeFrame(link, b, time.Time{})
		if !ok {
			return
		}
		if len(p.Data) > len(b) || p.To.Addr().Is6() != p.From.Addr().Is6() {
			t.Errorf("decodeFrame = %+v of %d bytes", p, len(b))
		}
		if _, data, ok := datagram6(b); ok && len(data) > len(b) {
			t.Errorf("datagram6 gives %d bytes of %d", len(data), len(b))
		}
	})
}

// FuzzTFTP parses requests: no name leaves the root.
func FuzzTFTP(f *testing.F) {
	f.Add(rrq("undionly.kpxe\xff", "blksize", "1468", "windowsize", "4"))
	f.Add(rrq(`..\..\etc/passwd`))
	f.Add(append(rrq("a", "tsize", "0"), 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseTFTP(b)
		if err != nil {
			return
		}
		if q.blksize > tftpMaxBlksize || q.window > tftpMaxWindow || q.timeout > 255 {
			t.Errorf("parseTFTP = %+v", q)
		}
		if o := q.negotiate(1500, 1); len(o) > 200 || q.blksize > 1468 {
			t.Errorf("negotiate = %q, %+v", o, q)
		}
		name, err := cleanName(q.name)
		if err == nil && (strings.HasPrefix(name, "/") || strings.Contains("/"+name+"/", "/../") || strings.ContainsAny(name, "\x00\\")) {
			t.Errorf("cleanName(%q) = %q", q.name, name)
		}
	})
}

func BenchmarkDHCPExchange(b *testing.B) {
	f := newFixture(b)
	f.recorder = discard{}
	f.booter = booterFunc(func(Client) (Decision, error) { return Decision{Action: BootKernel, Kernel: "k"}, nil })
	discover := ask(dhcpv4.MessageTypeDiscover, uefiOpts)
	taken := ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(7), optServerID: {192, 0, 2, 1}, optRequestedAddr: {192, 0, 2, 10}})
	b.ReportAllocs()
	r, out := new(request), make([]byte, 0, replyRoom)
	for b.Loop() {
		r.out = out
		if f.answerWith(b.Context(), f.order[0], r, discover, nil) == nil {
			b.Fatal("silence")
		}
		r.out = out
		if f.answerWith(b.Context(), f.order[0], r, taken, nil) == nil {
			b.Fatal("silence")
		}
	}
}
