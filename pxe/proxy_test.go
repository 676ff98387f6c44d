package pxe

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func proxyFixture(t *testing.T) *fixture {
	n := testNetwork()
	n.Proxy = true
	f := newFixture(t, n)
	f.leases.err = errors.New("Leases was asked")
	return f
}

func TestProxyOffer(t *testing.T) {
	const base = "http://192.0.2.1/boot"
	for _, tc := range []struct {
		name     string
		opts     map[byte][]byte
		decision Decision
		file     string // "": silence
		class    string
		v43      []byte
	}{
		{"BIOS", biosOpts, Decision{Action: BootKernel, Kernel: "k"}, "undionly.kpxe", "PXEClient", []byte{6, 1, 8, 255}},
		{"UEFI PXE", uefiOpts, Decision{Action: BootKernel, Kernel: "k"}, "snponly.efi", "PXEClient", []byte{6, 1, 8, 255}},
		{"UEFI HTTP", httpOpts, Decision{Action: BootKernel, Kernel: "k"}, base + "/files/loaders/snponly.efi", "HTTPClient", nil},
		{"item 14: iPXE gets siaddr and file, and knows the offer by option 60", ipxeOpts, Decision{Action: BootKernel, Kernel: "k"}, base + "/script/52:54:00:01:02:03", "PXEClient", nil},
		{"to the disk by a missing file", uefiOpts, Decision{Action: BootDisk}, quirkNextDevice, "PXEClient", []byte{6, 1, 8, 255}},
		{"ignored", uefiOpts, Decision{Action: Ignore, Reason: "the site does not know it"}, "", "", nil},
		{"an operating system is not ours", map[byte][]byte{optVendorClass: []byte("udhcp 1.35.0")}, Decision{Action: BootKernel, Kernel: "k"}, "", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := proxyFixture(t)
			f.decision = tc.decision
			p := f.ask(dhcpv4.MessageTypeDiscover, tc.opts)
			if tc.file == "" {
				if p != nil {
					t.Errorf("answered; want silence:\n%s", f.timeline.text())
				}
				return
			}
			m := decode(t, p)
			if m.MessageType() != dhcpv4.MessageTypeOffer || addrOf(m.YourIPAddr).IsValid() {
				t.Errorf("reply = %v of %v; want an OFFER with yiaddr 0 (item 14)", m.MessageType(), m.YourIPAddr)
			}
			if !m.ServerIPAddr.Equal(net.IPv4(192, 0, 2, 1)) || m.BootFileName != tc.file || m.BootFileNameOption() != tc.file || !m.ServerIdentifier().Equal(m.ServerIPAddr) {
				t.Errorf("siaddr %v, file %q, 67 %q, 54 %v; want 192.0.2.1 and %q", m.ServerIPAddr, m.BootFileName, m.BootFileNameOption(), m.ServerIdentifier(), tc.file)
			}
			if m.ClassIdentifier() != tc.class || !bytes.Equal(m.Options[optVendor], tc.v43) {
				t.Errorf("options 60 %q, 43 %v; want %q, %v", m.ClassIdentifier(), m.Options[optVendor], tc.class, tc.v43)
			}
			for _, code := range []uint8{optLeaseTime, optSubnetMask, optRouter, optDNS, optHostname, optIPXE} {
				if m.Options[code] != nil {
					t.Errorf("option %d = %v; addresses and their options are the other server's", code, m.Options[code])
				}
			}
			if p.to.String() != "255.255.255.255:68" || p.unicastFrame {
				t.Errorf("reply to %v, frame %v; want a broadcast: the client has no address yet", p.to, p.unicastFrame)
			}
		})
	}
}

// TestProxyLearnsAddress sees what the other server gave, so that fetches and
// scripts belong to their machine.
func TestProxyLearnsAddress(t *testing.T) {
	f := proxyFixture(t)
	if p := f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optServerID: {192, 0, 2, 2}, optRequestedAddr: {192, 0, 2, 60}}); p != nil || f.timeline.text() != "" {
		t.Errorf("a client that never asked for a boot file is on the timeline:\n%s", f.timeline.text())
	}
	f.ask(dhcpv4.MessageTypeDiscover, ipxeOpts)
	if p := f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optServerID: {192, 0, 2, 2}, optRequestedAddr: {192, 0, 2, 77}}); p != nil {
		t.Error("a REQUEST to the other server was answered; want silence")
	}
	c, ok := f.clients.at(netip.MustParseAddr("192.0.2.77"))
	if !ok || c.MAC.String() != testMAC.String() || !c.IPXE {
		t.Errorf("clients.at(192.0.2.77) = %+v, %v; want the machine", c, ok)
	}
	if !strings.Contains(f.timeline.text(), "takes 192.0.2.77 from DHCP server 192.0.2.2") || strings.Contains(f.timeline.text(), "another DHCP server") {
		t.Errorf("timeline:\n%s; want where the address is from, and no complaint", f.timeline.text())
	}
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease} {
		if p := f.ask(kind, map[byte][]byte{optRequestedAddr: {192, 0, 2, 77}}); p != nil || len(f.leases.declined)+len(f.leases.released) > 0 {
			t.Errorf("%v was taken; want silence", kind)
		}
	}
	f.clock = f.clock.Add(30 * time.Second)
	f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)
	f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optServerID: {192, 0, 2, 2}, optRequestedAddr: {192, 0, 2, 77}})
	f.clock = f.clock.Add(30 * time.Second)
	f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)
	if !strings.Contains(f.timeline.text(), `was given boot file "snponly.efi", which it never fetched`) {
		t.Errorf("a boot that ended before TFTP is not explained beside another server:\n%s", f.timeline.text())
	}
}

func TestBINL(t *testing.T) {
	from := netip.MustParseAddrPort("192.0.2.77:4321")
	ciaddr := func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.IPv4(192, 0, 2, 77) }
	for _, tc := range []struct {
		name   string
		kind   dhcpv4.MessageType
		opts   map[byte][]byte
		change func(*dhcpv4.DHCPv4)
		file   string
	}{
		{"item 15: REQUEST of EDK2", dhcpv4.MessageTypeRequest, uefiOpts, ciaddr, "snponly.efi"},
		{"REQUEST of a BIOS that names another server", dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classBIOS), optArch: arch(0), optServerID: {192, 0, 2, 2}}, ciaddr, "undionly.kpxe"},
		{"iPXE without its address in ciaddr", dhcpv4.MessageTypeRequest, ipxeOpts, func(*dhcpv4.DHCPv4) {}, "http://192.0.2.1/boot/script/52:54:00:01:02:03"},
		{"INFORM", dhcpv4.MessageTypeInform, uefiOpts, ciaddr, "snponly.efi"},
		{"DISCOVER, as old boot servers take it", dhcpv4.MessageTypeDiscover, uefiOpts, ciaddr, "snponly.efi"},
		{"not a boot client", dhcpv4.MessageTypeRequest, nil, ciaddr, ""},
		{"RELEASE", dhcpv4.MessageTypeRelease, uefiOpts, ciaddr, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t) // beside our own DHCP too: item 15
			p := f.answerBINL(context.Background(), f.order[0], ask(tc.kind, tc.opts, tc.change), from)
			if tc.file == "" {
				if p != nil {
					t.Errorf("answered %v; want silence", decode(t, p))
				}
				return
			}
			m := decode(t, p)
			want := &dhcpv4.DHCPv4{}
			tc.change(want)
			if m.MessageType() != dhcpv4.MessageTypeAck || m.BootFileName != tc.file || addrOf(m.YourIPAddr).IsValid() || addrOf(m.ClientIPAddr) != addrOf(want.ClientIPAddr) {
				t.Errorf("reply = %v; want an ACK with file %s, ciaddr kept and no address", m.Summary(), tc.file)
			}
			if p.to != from || p.unicastFrame {
				t.Errorf("reply to %v, frame %v; want to the source address and port", p.to, p.unicastFrame)
			}
			if f.leases.commits != 0 {
				t.Error("port 4011 committed a lease")
			}
			if c, ok := f.clients.at(from.Addr()); !ok || c.MAC.String() != testMAC.String() {
				t.Errorf("clients.at(%v) = %v, %v; want the machine", from.Addr(), c, ok)
			}
		})
	}
	t.Run("the boot item is mirrored", func(t *testing.T) {
		f := newFixture(t)
		opts := map[byte][]byte{optVendorClass: []byte(classBIOS), optArch: arch(0), optVendor: {71, 4, 0, 0, 0, 0, 255}}
		m := decode(t, f.answerBINL(context.Background(), f.order[0], ask(dhcpv4.MessageTypeRequest, opts, ciaddr), from))
		if want := []byte{6, 1, 8, 71, 4, 0, 0, 0, 0, 255}; !bytes.Equal(m.Options[optVendor], want) {
			t.Errorf("option 43 = %v; want %v", m.Options[optVendor], want)
		}
	})
}

// TestBINLMovesNobody has somebody ask on port 4011 in the name of a machine that
// has its address: what that one boots is still told there and nowhere else.
func TestBINLMovesNobody(t *testing.T) {
	near, far := netip.MustParseAddrPort("192.0.2.99:4321"), netip.MustParseAddrPort("198.51.100.9:4321")
	for _, tc := range []struct {
		name   string
		from   netip.AddrPort
		ciaddr netip.Addr
	}{
		{"from its own address", near, near.Addr()},
		{"without an address", near, netip.Addr{}},
		{"with the machine's address", near, testAddr},
		{"from another network", far, far.Addr()},
		{"from another network with the machine's address", far, testAddr},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.lease(t, testMAC, uefiOpts)
			f.answerBINL(t.Context(), f.order[0], ask(dhcpv4.MessageTypeRequest, uefiOpts, func(p *dhcpv4.DHCPv4) {
				if tc.ciaddr.IsValid() {
					p.ClientIPAddr = tc.ciaddr.AsSlice()
				}
			}), tc.from)
			if f.clients.holds(testMAC, tc.from.Addr()) || !f.clients.holds(testMAC, testAddr) {
				t.Errorf("the machine is known by %v; want %v", f.clients.addrOf(testMAC, testAddr), testAddr)
			}
		})
	}
	t.Run("a hardware address of no length", func(t *testing.T) {
		f := newFixture(t)
		f.answerBINL(t.Context(), f.order[0], ask(dhcpv4.MessageTypeRequest, uefiOpts, func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = nil }), near)
	})
}

func TestServeBINL(t *testing.T) {
	f := proxyFixture(t)
	c := newFakeConn("192.0.2.1:4011")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.ServeBINL(ctx, "prov", c) }()
	from := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.77:68"))
	c.in <- datagram{b: []byte("junk"), addr: from}
	c.in <- datagram{b: ask(dhcpv4.MessageTypeRequest, uefiOpts, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.IPv4(192, 0, 2, 77) }), addr: from}
	select {
	case d := <-c.out:
		if d.addr.String() != "192.0.2.77:68" {
			t.Errorf("reply to %v; want its source", d.addr)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no answer")
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("ServeBINL = %v; want nil after ctx ended", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("ServeBINL did not end with its context")
	}
	if err := f.ServeBINL(t.Context(), "other", c); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("ServeBINL of an unknown network = %v; want an error that names it", err)
	}
}
