package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Vendor classes and options as firmware sends them (FIELD-NOTES, "What
// firmware sends").
const (
	classBIOS = "PXEClient:Arch:00000:UNDI:002001"
	classUEFI = "PXEClient:Arch:00007:UNDI:003000"
	classHTTP = "HTTPClient:Arch:00016:UNDI:003000"
)

// ask builds a client's packet; options by number.
func ask(kind dhcpv4.MessageType, opts map[byte][]byte, change ...func(*dhcpv4.DHCPv4)) []byte {
	p := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: testMAC,
		TransactionID: dhcpv4.TransactionID{1, 2, 3, 4}, Options: dhcpv4.Options{}}
	p.Options[optMessageType] = []byte{byte(kind)}
	for k, v := range opts {
		p.Options[k] = v
	}
	for _, f := range change {
		f(p)
	}
	return p.ToBytes()
}

func arch(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func uuidOption() []byte {
	return append([]byte{0}, []byte("\x2c\xfa\x9b\x0d\x3b\x5a\x1d\x4c\x8e\x2f\x00\x11\x22\x33\x44\x55")...)
}

var (
	biosOpts = map[byte][]byte{optVendorClass: []byte(classBIOS), optArch: arch(0), optUUID: uuidOption()}
	uefiOpts = map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(7), optUUID: uuidOption()}
	httpOpts = map[byte][]byte{optVendorClass: []byte(classHTTP), optArch: arch(16), optRequestList: {1, 3, 67}}
	ipxeOpts = map[byte][]byte{optVendorClass: []byte(classBIOS), optArch: arch(0), optUserClass: []byte("iPXE"), optIPXE: {0x13, 1, 1, 0x26, 1, 1},
		optClientID: append([]byte{1}, testMAC...)}
	ipxeUEFI = map[byte][]byte{optVendorClass: []byte("PXEClient:Arch:00007:UNDI:003010"), optArch: arch(7), optUserClass: []byte("iPXE"), optIPXE: {0x13, 1, 1, 0x26, 1, 1}}
)

// decode reads a reply with the library, as a peer would.
func decode(t *testing.T, p *reply) *dhcpv4.DHCPv4 {
	t.Helper()
	if p == nil {
		t.Fatal("the server stayed silent; want a reply")
	}
	m, err := dhcpv4.FromBytes(p.bytes)
	if err != nil {
		t.Fatalf("reply does not parse: %v", err)
	}
	return m
}

func (f *fixture) ask(kind dhcpv4.MessageType, opts map[byte][]byte, change ...func(*dhcpv4.DHCPv4)) *reply {
	return f.answer(context.Background(), f.order[0], ask(kind, opts, change...), nil)
}

// order lists a packet's option codes as they lie.
func order(b []byte) (codes []byte) {
	for b = b[dhcpHeader:]; len(b) > 0 && b[0] != optEnd; {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		codes = append(codes, b[0])
		b = b[2+int(b[1]):]
	}
	return codes
}

func TestBootFileByFirmware(t *testing.T) {
	const base = "http://192.0.2.1/boot"
	for _, tc := range []struct {
		name  string
		opts  map[byte][]byte
		mac   net.HardwareAddr
		file  string
		class string // option 60 of the reply
		pxe43 bool
	}{
		{"BIOS: undionly by TFTP", biosOpts, nil, "undionly.kpxe", "PXEClient", true},
		{"UEFI x64, architecture 7", uefiOpts, nil, "snponly.efi", "PXEClient", true},
		{"UEFI x64, architecture 9", map[byte][]byte{optVendorClass: []byte("PXEClient:Arch:00009"), optArch: arch(9)}, nil, "snponly.efi", "PXEClient", true},
		{"UEFI arm64", map[byte][]byte{optVendorClass: []byte("PXEClient:Arch:00011"), optArch: arch(11)}, nil, "shimaa64.efi", "PXEClient", true},
		{"item 8: an HTTPClient needs an absolute URL", httpOpts, nil, base + "/files/loaders/snponly.efi", "HTTPClient", false},
		{"arm64 HTTP boot", map[byte][]byte{optVendorClass: []byte("HTTPClient:Arch:00019"), optArch: arch(19)}, nil, base + "/uki/52-54-00-01-02-03.efi", "HTTPClient", false},
		{"item 12: iPXE by option 77, raw", ipxeOpts, nil, base + "/script/52:54:00:01:02:03", "", false},
		{"item 12: iPXE by option 77, RFC 3004", map[byte][]byte{optVendorClass: []byte(classBIOS), optUserClass: []byte("\x04iPXE")}, nil, base + "/script/52:54:00:01:02:03", "", false},
		{"item 13: iPXE that has no HTTP is chainloaded", map[byte][]byte{optVendorClass: []byte(classBIOS), optArch: arch(0), optUserClass: []byte("iPXE"), optIPXE: {0x26, 1, 1}}, nil, "undionly.kpxe", "", false},
		{"item 9: option 93 absent: Arch of option 60", map[byte][]byte{optVendorClass: []byte(classUEFI)}, nil, "snponly.efi", "PXEClient", true},
		{"item 9: option 93 unknown: Arch of option 60", map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(999)}, nil, "snponly.efi", "PXEClient", true},
		{"item 9: option 93 is a list", map[byte][]byte{optVendorClass: []byte("PXEClient"), optArch: append(arch(999), arch(7)...)}, nil, "snponly.efi", "PXEClient", true},
		{"item 9: a Raspberry Pi says 0: no BIOS loader", biosOpts, net.HardwareAddr{0x2c, 0xcf, 0x67, 1, 2, 3}, "", "PXEClient", true},
		{"no architecture anywhere is an old BIOS ROM", map[byte][]byte{optVendorClass: []byte("PXEClient")}, nil, "undionly.kpxe", "PXEClient", true},
		{"IA32 UEFI has no loader", map[byte][]byte{optVendorClass: []byte("PXEClient"), optArch: arch(6)}, nil, "", "", false},
		{"item 8: no option 60 to others", map[byte][]byte{optVendorClass: []byte("udhcp 1.35.0")}, nil, "", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			mac := testMAC
			if tc.mac != nil {
				mac = tc.mac
				f.leases.fixed[mac.String()] = testAddr
			}
			p := f.ask(dhcpv4.MessageTypeDiscover, tc.opts, func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = mac })
			m := decode(t, p)
			if m.MessageType() != dhcpv4.MessageTypeOffer || !m.YourIPAddr.Equal(testAddr.AsSlice()) {
				t.Errorf("reply = %v of %v; want an OFFER of %v", m.MessageType(), m.YourIPAddr, testAddr)
			}
			if got := m.BootFileNameOption(); got != tc.file {
				t.Errorf("option 67 = %q; want %q", got, tc.file)
			}
			if m.BootFileName != tc.file {
				t.Errorf("header's file = %q; want %q (item 7: agrees with option 67)", m.BootFileName, tc.file)
			}
			if got := m.ClassIdentifier(); got != tc.class {
				t.Errorf("option 60 = %q; want %q", got, tc.class)
			}
			want43 := []byte(nil)
			if tc.pxe43 {
				want43 = []byte{6, 1, 8, 255} // item 15: 43.6=8; item 6: ends with 255
				if tc.file == "" {
					want43 = piMenu()
				}
			}
			if got := m.Options[optVendor]; !bytes.Equal(got, want43) {
				t.Errorf("option 43 = %v; want %v", got, want43)
			}
			if tc.file != "" {
				if !m.ServerIPAddr.Equal(net.IPv4(192, 0, 2, 1)) || m.TFTPServerName() != "192.0.2.1" || m.ServerHostName != "192.0.2.1" || !m.ServerIdentifier().Equal(m.ServerIPAddr) {
					t.Errorf("siaddr %v, 66 %q, sname %q, 54 %v; want all 192.0.2.1 (item 7)", m.ServerIPAddr, m.TFTPServerName(), m.ServerHostName, m.ServerIdentifier())
				}
				if o := order(p.bytes); o[len(o)-1] != optBootFile {
					t.Errorf("last option = %d; want 67 (item 7: EDK2 writes over the byte after it)", o[len(o)-1])
				}
			}
			if got := m.Options[optIPXE]; (len(tc.opts[optUserClass]) > 0) != bytes.Equal(got, []byte{176, 1, 1}) {
				t.Errorf("option 175 = %v; want 176=1 for iPXE alone (item 13)", got)
			}
		})
	}
}

// TestArchitectureTable holds item 10's whole list.
func TestArchitectureTable(t *testing.T) {
	for _, tc := range []struct {
		codes      []Arch
		uefi, http bool
	}{
		{[]Arch{0, 21, 22, 41}, false, false},
		{[]Arch{6, 7, 9, 10, 11, 27, 39}, true, false},
		{[]Arch{15, 16, 17, 18, 19, 28, 40}, true, true},
		{[]Arch{20, 23, 24}, false, true},
	} {
		for _, a := range tc.codes {
			info, ok := archs(a)
			if !ok || info.uefi != tc.uefi || info.http != tc.http || info.name == "" {
				t.Errorf("archs(%d) = %+v, %v; want UEFI %v, HTTP %v", a, info, ok, tc.uefi, tc.http)
			}
		}
	}
}

func TestReplyEchoes(t *testing.T) {
	// Item 3: echo xid, flags, giaddr, option 82 (unchanged, last), 61, 97.
	n := testNetwork()
	relay := netip.MustParseAddr("192.0.2.200")
	n.Relays = []netip.Addr{relay}
	f := newFixture(t, n)
	info := []byte{1, 3, 'e', 't', 'h', 5, 4, 192, 0, 2, 0}
	id := []byte{255, 1, 2, 3, 4, 0, 1}
	p := f.ask(dhcpv4.MessageTypeDiscover, map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(7), optRelayInfo: info, optClientID: id, optUUID: uuidOption()},
		func(p *dhcpv4.DHCPv4) { p.GatewayIPAddr = relay.AsSlice(); p.Flags = 0x8000 })
	m := decode(t, p)
	if m.TransactionID != (dhcpv4.TransactionID{1, 2, 3, 4}) || m.Flags != 0x8000 || !m.GatewayIPAddr.Equal(relay.AsSlice()) {
		t.Errorf("xid %v, flags %x, giaddr %v; want the client's own", m.TransactionID, m.Flags, m.GatewayIPAddr)
	}
	if !bytes.Equal(m.Options[optClientID], id) || !bytes.Equal(m.Options[optUUID], uuidOption()) {
		t.Errorf("options 61 %v and 97 %v; want the client's own", m.Options[optClientID], m.Options[optUUID])
	}
	if o := order(p.bytes); o[len(o)-1] != optRelayInfo || !bytes.Equal(m.Options[optRelayInfo], info) {
		t.Errorf("options %v, 82 = %v; want 82 unchanged and last", o, m.Options[optRelayInfo])
	}
	if want := netip.AddrPortFrom(relay, 67); p.to != want {
		t.Errorf("reply goes to %v; want %v", p.to, want)
	}
	for name, at := range map[string]string{"unlisted relay": "192.0.2.201", "unknown subnet": "198.51.100.1"} {
		if p := f.ask(dhcpv4.MessageTypeDiscover, biosOpts, func(p *dhcpv4.DHCPv4) { p.GatewayIPAddr = net.ParseIP(at) }); p != nil {
			t.Errorf("%s %s was answered; want silence (item 3)", name, at)
		}
	}
}

func TestReplySize(t *testing.T) {
	// Item 6: at least 300 bytes; option 57 is honoured.
	f := newFixture(t)
	p := f.ask(dhcpv4.MessageTypeDiscover, nil)
	if len(p.bytes) < 300 {
		t.Errorf("reply of %d bytes; want 300 or more", len(p.bytes))
	}
	f.order[0].Domain = strings.Repeat("long.", 60) + "example.org"
	for _, tc := range []struct {
		max  []byte
		want int
		full bool
	}{{nil, 548, false}, {arch(576), 548, false}, {arch(100), 548, false}, {arch(1472), 1444, true}, {arch(65280), 1472, true}} {
		p := f.ask(dhcpv4.MessageTypeDiscover, map[byte][]byte{optVendorClass: []byte(classBIOS), optArch: arch(0), optMaxSize: tc.max})
		m := decode(t, p)
		if len(p.bytes) > tc.want || (m.DomainName() == f.order[0].Domain) != tc.full || m.BootFileNameOption() != "undionly.kpxe" {
			t.Errorf("with option 57 = %v: %d bytes, domain of %d, file %q; want at most %d, domain %v, the file always", tc.max, len(p.bytes), len(m.DomainName()), m.BootFileNameOption(), tc.want, tc.full)
		}
	}
}

func TestRequestStates(t *testing.T) {
	// Item 4: REQUEST has four states.
	ours, other := []byte{192, 0, 2, 1}, []byte{192, 0, 2, 99}
	good, bad, far := []byte{192, 0, 2, 10}, []byte{192, 0, 2, 11}, []byte{198, 51, 100, 7}
	stranger := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	const silent = dhcpv4.MessageTypeNone
	for _, tc := range []struct {
		name   string
		opts   map[byte][]byte
		ciaddr []byte
		mac    net.HardwareAddr
		want   dhcpv4.MessageType
	}{
		{"selecting us", map[byte][]byte{optServerID: ours, optRequestedAddr: good}, nil, nil, dhcpv4.MessageTypeAck},
		{"selecting another server", map[byte][]byte{optServerID: other, optRequestedAddr: good}, nil, nil, silent},
		{"selecting a wrong address", map[byte][]byte{optServerID: ours, optRequestedAddr: bad}, nil, nil, dhcpv4.MessageTypeNak},
		{"selecting us, unknown", map[byte][]byte{optServerID: ours, optRequestedAddr: good}, nil, stranger, dhcpv4.MessageTypeNak},
		{"init-reboot", map[byte][]byte{optRequestedAddr: good}, nil, nil, dhcpv4.MessageTypeAck},
		{"init-reboot, wrong address", map[byte][]byte{optRequestedAddr: bad}, nil, nil, dhcpv4.MessageTypeNak},
		{"init-reboot, another network", map[byte][]byte{optRequestedAddr: far}, nil, nil, dhcpv4.MessageTypeNak},
		{"init-reboot, not our client", map[byte][]byte{optRequestedAddr: good}, nil, stranger, silent},
		{"init-reboot, another network, not our client", map[byte][]byte{optRequestedAddr: far}, nil, stranger, silent},
		{"renewing", nil, good, nil, dhcpv4.MessageTypeAck},
		{"renewing, wrong address", nil, bad, nil, dhcpv4.MessageTypeNak},
		{"rebinding, not our client", nil, good, stranger, silent},
		{"rebinding, another network", nil, far, nil, dhcpv4.MessageTypeNak},
		{"nothing named", nil, nil, nil, silent},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			p := f.ask(dhcpv4.MessageTypeRequest, tc.opts, func(p *dhcpv4.DHCPv4) {
				p.ClientIPAddr = tc.ciaddr
				if tc.mac != nil {
					p.ClientHWAddr = tc.mac
				}
			})
			if tc.want == silent {
				if p != nil {
					t.Fatalf("answered %v; want silence", decode(t, p).MessageType())
				}
				return
			}
			m := decode(t, p)
			if m.MessageType() != tc.want {
				t.Fatalf("answer = %v; want %v", m.MessageType(), tc.want)
			}
			if tc.want == dhcpv4.MessageTypeNak {
				if p.to.Addr() != limitedBroadcast() || p.unicastFrame || addrOf(m.YourIPAddr).IsValid() || addrOf(m.ClientIPAddr).IsValid() {
					t.Errorf("NAK to %v, yiaddr %v; want a broadcast without addresses (item 1)", p.to, m.YourIPAddr)
				}
				if len(p.bytes) < 300 {
					t.Errorf("NAK of %d bytes; want 300 or more (item 6)", len(p.bytes))
				}
				if f.leases.commits != 0 {
					t.Errorf("a NAK committed %d leases", f.leases.commits)
				}
				return
			}
			if f.leases.commits != 1 || m.IPAddressLeaseTime(0) != time.Hour || m.IPAddressRenewalTime(0) != 30*time.Minute || m.HostName() != "node-1" || len(m.DNS()) != 1 {
				t.Errorf("commits %d, lease %v, renewal %v, host %q, DNS %v", f.leases.commits, m.IPAddressLeaseTime(0), m.IPAddressRenewalTime(0), m.HostName(), m.DNS())
			}
		})
	}
}

func TestDestination(t *testing.T) {
	// Item 1: giaddr; ciaddr; broadcast flag; else a frame without ARP.
	f := newFixture(t)
	for _, tc := range []struct {
		name   string
		kind   dhcpv4.MessageType
		ciaddr net.IP
		flags  uint16
		to     string
		frame  bool
	}{
		{"no flag: a frame to chaddr", dhcpv4.MessageTypeDiscover, nil, 0, "192.0.2.10:68", true},
		{"broadcast flag", dhcpv4.MessageTypeDiscover, nil, 0x8000, "255.255.255.255:68", false},
		{"ciaddr", dhcpv4.MessageTypeRequest, net.IPv4(192, 0, 2, 10), 0x8000, "192.0.2.10:68", false},
		{"INFORM", dhcpv4.MessageTypeInform, net.IPv4(192, 0, 2, 77), 0, "192.0.2.77:68", false},
	} {
		p := f.ask(tc.kind, nil, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr, p.Flags = tc.ciaddr, tc.flags })
		if p == nil || p.to.String() != tc.to || p.unicastFrame != tc.frame {
			t.Errorf("%s: reply %+v; want to %s, frame %v", tc.name, p, tc.to, tc.frame)
		}
		if tc.kind == dhcpv4.MessageTypeInform {
			if m := decode(t, p); m.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || addrOf(m.YourIPAddr).IsValid() || f.leases.commits > 1 {
				t.Errorf("INFORM was answered with a lease: %v (item 4)", m.Summary())
			}
		}
	}
}

func TestDecisions(t *testing.T) {
	for _, tc := range []struct {
		name     string
		decision Decision
		opts     map[byte][]byte
		file     string
	}{
		{"Ignore: address only", Decision{Action: Ignore}, ipxeOpts, ""},
		{"Ignore, firmware: address only", Decision{Action: Ignore}, uefiOpts, ""},
		{"BootDisk, plain BIOS: a file that is missing", Decision{Action: BootDisk}, biosOpts, "next-boot-device"},
		{"BootDisk, plain UEFI: a file that is missing", Decision{Action: BootDisk}, uefiOpts, "next-boot-device"},
		{"BootDisk, UEFI HTTP: a URL that is missing", Decision{Action: BootDisk}, httpOpts, "http://192.0.2.1/boot/files/next-boot-device"},
		{"BootDisk, iPXE: a script that leaves", Decision{Action: BootDisk}, ipxeOpts, "http://192.0.2.1/boot/script/52:54:00:01:02:03"},
	} {
		f := newFixture(t)
		f.decision = tc.decision
		m := decode(t, f.ask(dhcpv4.MessageTypeDiscover, tc.opts))
		if m.BootFileNameOption() != tc.file || m.BootFileName != tc.file || !m.YourIPAddr.Equal(testAddr.AsSlice()) {
			t.Errorf("%s: address %v, file %q; want %v, %q", tc.name, m.YourIPAddr, m.BootFileName, testAddr, tc.file)
		}
		if tc.file == "" && (m.ClassIdentifier() != "" || m.Options[optVendor] != nil) {
			t.Errorf("%s: options 60 %q and 43 without a boot file: EDK2 would go on to port 4011", tc.name, m.ClassIdentifier())
		}
	}
	t.Run("a Booter's error is silence", func(t *testing.T) {
		f := newFixture(t)
		f.bootErr = errors.New("the store is down")
		if p := f.ask(dhcpv4.MessageTypeDiscover, uefiOpts); p != nil {
			t.Error("answered; want silence, so that the firmware asks again")
		}
		if !strings.Contains(f.timeline.text(), "the store is down") {
			t.Errorf("timeline does not say why:\n%s", f.timeline.text())
		}
		if p := f.ask(dhcpv4.MessageTypeDiscover, nil); p == nil {
			t.Error("an operating system's DHCP depends on the Booter; want an OFFER")
		}
	})
	t.Run("native drivers", func(t *testing.T) {
		n := testNetwork()
		n.NativeDrivers, n.HTTPPort = true, 8080
		f := newFixture(t, n)
		if got := decode(t, f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)).BootFileName; got != "ipxe.efi" {
			t.Errorf("file = %q; want ipxe.efi", got)
		}
		if got, want := decode(t, f.ask(dhcpv4.MessageTypeDiscover, httpOpts)).BootFileName, "http://192.0.2.1:8080/boot/files/loaders/ipxe.efi"; got != want {
			t.Errorf("file = %q; want %q", got, want)
		}
	})
}

func TestDeclineAndRelease(t *testing.T) {
	f := newFixture(t)
	if p := f.ask(dhcpv4.MessageTypeDecline, map[byte][]byte{optRequestedAddr: {192, 0, 2, 10}, optServerID: {192, 0, 2, 1}}); p != nil {
		t.Error("DECLINE was answered; want silence (RFC 2131 §4.3.3)")
	}
	if p := f.ask(dhcpv4.MessageTypeRelease, map[byte][]byte{optServerID: {192, 0, 2, 1}}, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = testAddr.AsSlice() }); p != nil {
		t.Error("RELEASE was answered; want silence (RFC 2131 §4.3.4)")
	}
	f.ask(dhcpv4.MessageTypeRelease, map[byte][]byte{optServerID: {192, 0, 2, 99}}, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = testAddr.AsSlice() })
	if fmt.Sprint(f.leases.declined, f.leases.released) != "[192.0.2.10] [192.0.2.10]" {
		t.Errorf("declined %v, released %v; want 192.0.2.10 once each", f.leases.declined, f.leases.released)
	}
}

func TestClientIdentity(t *testing.T) {
	// Item 11: 97 missing, zero or duplicated: mirrored, never trusted alone.
	for _, tc := range []struct {
		name string
		b    []byte
		want string
	}{
		{"SMBIOS byte order", uuidOption(), "0d9bfa2c-5a3b-4c1d-8e2f-001122334455"},
		{"missing", nil, ""},
		{"zero", make([]byte, 17), ""},
		{"all ones", append([]byte{0}, bytes.Repeat([]byte{255}, 16)...), ""},
		{"short", []byte{0, 1, 2}, ""},
		{"another type", append([]byte{7}, uuidOption()[1:]...), ""},
	} {
		if got := uuidOf(tc.b); got != tc.want {
			t.Errorf("%s: uuidOf(%x) = %q; want %q", tc.name, tc.b, got, tc.want)
		}
	}
}

func TestOverloadedRequest(t *testing.T) {
	// Item 6: options overload (52): the message type lies in the file field.
	b := ask(dhcpv4.MessageTypeDiscover, map[byte][]byte{optOverload: {1}, optVendorClass: []byte(classUEFI)})
	copy(b[108:], []byte{optArch, 2, 0, 7, optEnd})
	f := newFixture(t)
	if got := decode(t, f.answer(context.Background(), f.order[0], b, nil)).BootFileName; got != "snponly.efi" {
		t.Errorf("file = %q; want snponly.efi, by option 93 in the overloaded file field", got)
	}
}

func TestStallIsExplained(t *testing.T) {
	f := newFixture(t)
	for range 4 {
		f.ask(dhcpv4.MessageTypeDiscover, httpOpts)
		f.clock = f.clock.Add(8 * time.Second)
	}
	e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "boot.stalled" })
	if !ok || !strings.Contains(e.Text, "asked 4 times and took no offer") || !strings.Contains(e.Text, "HTTP boot firmware (UEFI x64 HTTP)") {
		t.Errorf("timeline = %s; want a sentence about 4 unanswered offers", f.timeline.text())
	}
	f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optServerID: {192, 0, 2, 99}, optRequestedAddr: {192, 0, 2, 50}})
	if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.refused" }); !ok || !strings.Contains(e.Text, "192.0.2.99") {
		t.Errorf("the other server is not named: %q", e.Text)
	}
	f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(7), optServerID: {192, 0, 2, 1}, optRequestedAddr: {192, 0, 2, 10}})
	f.clock = f.clock.Add(time.Minute)
	f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)
	if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "boot.restarted" }); !ok || !strings.Contains(e.Text, `"snponly.efi", which it never fetched`) {
		t.Errorf("a boot that ended before TFTP is not explained: %s", f.timeline.text())
	}
}

// TestUnstoredLeases has the disk fail under the leases: machines get no
// answer, which is counted and on their timeline, until leases are stored again.
func TestUnstoredLeases(t *testing.T) {
	f := newFixture(t)
	f.leases.err = errors.New("disk broken")
	request := func() *reply {
		return f.ask(dhcpv4.MessageTypeRequest, uefiOpts, func(p *dhcpv4.DHCPv4) {
			p.UpdateOption(dhcpv4.OptRequestedIPAddress(testAddr.AsSlice()))
			p.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1)))
		})
	}
	for range 3 {
		if p := request(); p != nil {
			t.Fatalf("answer to a REQUEST whose lease is not stored = %v; want none", decode(t, p))
		}
	}
	if got := f.Drops()["DHCP: "+errUnstored.Error()]; got != 3 {
		t.Errorf("Drops()[%q] = %d; want 3", errUnstored, got)
	}
	if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.request" && strings.Contains(e.Text, "disk broken") }); !ok {
		t.Errorf("timeline:\n%s\nwant the reason", f.timeline.text())
	}
	f.leases.err = nil
	if p := request(); p == nil || decode(t, p).MessageType() != dhcpv4.MessageTypeAck {
		t.Error("a REQUEST got no ACK although its lease is stored")
	}
}
