package pxe

import (
	"context"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
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
