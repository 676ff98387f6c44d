package pxe

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

var (
	linkLocal6 = netip.MustParseAddrPort("[fe80::5054:ff:fe01:203]:546") // testMAC's EUI-64
	random6    = netip.MustParseAddrPort("[fe80::1234:5678:9abc:def0]:546")
	duidEN     = []byte{0, 2, 0, 0, 0xab, 0x11, 1, 2, 3, 4, 5, 6, 7, 8}
)

// ask6 is a message of a client, made by the library.
func ask6(t testing.TB, kind dhcpv6.MessageType, opts ...dhcpv6.Option) []byte {
	t.Helper()
	m, err := dhcpv6.NewMessage()
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType, m.TransactionID = kind, dhcpv6.TransactionID{1, 2, 3}
	hasClient := false
	for _, o := range opts {
		hasClient = hasClient || o.Code() == dhcpv6.OptionClientID
		m.AddOption(o)
	}
	if !hasClient {
		m.AddOption(generic6(opt6ClientID, duidEN...))
	}
	return m.ToBytes()
}

func generic6(code uint16, b ...byte) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionCode(code), OptionData: b}
}

func iana6(iaid byte, addrs ...netip.Addr) dhcpv6.Option {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, iaid}}
	for _, a := range addrs {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: time.Hour, ValidLifetime: time.Hour})
	}
	return ia
}

// boot6 are the options of EDK2.
func boot6(class string, arch iana.Arch) []dhcpv6.Option {
	return []dhcpv6.Option{
		dhcpv6.OptClientArchType(arch), iana6(1),
		&dhcpv6.OptVendorClass{EnterpriseNumber: enterpriseIntel, Data: [][]byte{[]byte(class)}},
		dhcpv6.OptRequestedOption(dhcpv6.OptionBootfileURL, dhcpv6.OptionBootfileParam, dhcpv6.OptionDNSRecursiveNameServer),
	}
}

// said6 runs a message and decodes the answer with the library; nil is
// silence.
func (f *fixture) said6(t testing.TB, from netip.AddrPort, b []byte) *dhcpv6.Message {
	t.Helper()
	p := f.answer6(t.Context(), f.order[0], b, from, nil)
	if p == nil {
		return nil
	}
	m, err := dhcpv6.MessageFromBytes(p.bytes)
	if err != nil {
		t.Fatalf("the answer does not parse: %v", err)
	}
	if m.TransactionID != (dhcpv6.TransactionID{1, 2, 3}) || p.to != netip.AddrPortFrom(from.Addr(), dhcp6ClientPort) {
		t.Errorf("answer %v to %v; want transaction 010203 to port 546 of %v", m.TransactionID, p.to, from)
	}
	return m
}

func serverID6(f *fixture) dhcpv6.Option { return generic6(opt6ServerID, f.order[0].serverDUID()...) }

// TestDHCP6Boot has what each kind of firmware is told. FIELD-NOTES item 20:
// "DHCPv6: options 59 to 62, 16; EDK2 chokes on 60." Item 8: "An HTTPClient
// needs an absolute URL."
func TestDHCP6Boot(t *testing.T) {
	ipxe := append(boot6("PXEClient:Arch:00007:UNDI:003010", iana.EFI_X86_64), &dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte("iPXE")}})
	for _, tc := range []struct {
		name  string
		opts  []dhcpv6.Option
		disk  bool
		url   string
		class string
		who   string
	}{
		{"UEFI PXE", boot6("PXEClient:Arch:00007:UNDI:003000", iana.EFI_X86_64), false, "tftp://[2001:db8::1]/snponly.efi", "", "PXE firmware (UEFI x64) over IPv6"},
		{"UEFI HTTP", boot6("HTTPClient:Arch:00016:UNDI:003000", iana.EFI_X86_64_HTTP), false, "http://[2001:db8::1]/boot/files/loaders/snponly.efi", "HTTPClient", "HTTP boot firmware (UEFI x64 HTTP) over IPv6"},
		{"iPXE", ipxe, false, "http://[2001:db8::1]/boot/script/52:54:00:01:02:03", "", "iPXE (UEFI x64) over IPv6"},
		{"no vendor class", append(boot6("", iana.EFI_ARM64)[:2], dhcpv6.OptRequestedOption(dhcpv6.OptionBootfileURL, dhcpv6.OptionDNSRecursiveNameServer)), false, "tftp://[2001:db8::1]/shimaa64.efi", "", "PXE firmware (UEFI ARM64) over IPv6"},
		{"UEFI PXE to its disk", boot6("PXEClient:Arch:00007", iana.EFI_X86_64), true, "tftp://[2001:db8::1]/next-boot-device", "", "PXE firmware (UEFI x64) over IPv6"},
		{"an operating system", []dhcpv6.Option{iana6(1)}, false, "", "", "a client that does not boot from the network over IPv6"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, testNetwork6())
			if tc.disk {
				f.decision = Decision{Action: BootDisk}
			}
			offer := f.said6(t, linkLocal6, ask6(t, dhcpv6.MessageTypeSolicit, tc.opts...))
			if offer == nil || offer.MessageType != dhcpv6.MessageTypeAdvertise {
				t.Fatalf("SOLICIT: %v; want an ADVERTISE\n%s", offer, f.timeline.text())
			}
			reply := f.said6(t, linkLocal6, ask6(t, dhcpv6.MessageTypeRequest, append(tc.opts, serverID6(f))...))
			if reply == nil || reply.MessageType != dhcpv6.MessageTypeReply {
				t.Fatalf("REQUEST: %v; want a REPLY\n%s", reply, f.timeline.text())
			}
			for _, m := range []*dhcpv6.Message{offer, reply} {
				if got := m.Options.BootFileURL(); got != tc.url {
					t.Errorf("%v: boot file %q; want %q", m.MessageType, got, tc.url)
				}
				if m.GetOneOption(dhcpv6.OptionBootfileParam) != nil {
					t.Errorf("%v has option 60, which EDK2 chokes on", m.MessageType)
				}
				class := ""
				if o, ok := m.GetOneOption(dhcpv6.OptionVendorClass).(*dhcpv6.OptVendorClass); ok {
					class = string(o.Data[0])
				}
				if class != tc.class {
					t.Errorf("%v: class %q; want %q", m.MessageType, class, tc.class)
				}
				ia := m.Options.OneIANA()
				if ia == nil || ia.IaId != [4]byte{0, 0, 0, 1} || ia.Options.OneAddress() == nil || !ia.Options.OneAddress().IPv6Addr.Equal(testAddr6.AsSlice()) {
					t.Fatalf("%v: IA %v; want %v", m.MessageType, ia, testAddr6)
				}
				if a := ia.Options.OneAddress(); ia.T1 != 30*time.Minute || ia.T2 != 48*time.Minute || a.ValidLifetime != time.Hour || a.PreferredLifetime != time.Hour {
					t.Errorf("%v: times %v %v %v; want T1, T2 of 0.5 and 0.8 of an hour", m.MessageType, ia.T1, ia.T2, a)
				}
				if dns := m.Options.DNS(); len(dns) != 1 || dns[0].String() != "2001:db8::53" {
					t.Errorf("%v: DNS %v; want 2001:db8::53", m.MessageType, dns)
				}
			}
			if f.leases.commits != 1 {
				t.Errorf("%d commits; want 1, by the REQUEST alone", f.leases.commits)
			}
			if e, _ := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.discover" }); e.Client != tc.who {
				t.Errorf("timeline names %q; want %q", e.Client, tc.who)
			}
		})
	}
}

// TestDHCP6States are the messages of RFC 8415 §18.3, each with what may come
// of it.
func TestDHCP6States(t *testing.T) {
	elsewhere, foreign := netip.MustParseAddr("2001:db8:77::7"), netip.MustParseAddr("2001:db8::99")
	const silent = "silence"
	// outcome is "KIND status/address:valid ...".
	outcome := func(m *dhcpv6.Message) string {
		if m == nil {
			return silent
		}
		s := m.MessageType.String()
		if st := m.Options.Status(); st != nil {
			s += " " + st.StatusCode.String()
		}
		if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			s += " rapid"
		}
		for _, ia := range m.Options.IANA() {
			for _, a := range ia.Options.Addresses() {
				s += " " + a.IPv6Addr.String() + ":" + a.ValidLifetime.String()
			}
			if st := ia.Options.Status(); st != nil {
				s += " IA:" + st.StatusCode.String()
			}
		}
		for _, pd := range m.Options.IAPD() {
			s += " PD:" + pd.Options.Status().StatusCode.String()
		}
		return s
	}
	for _, tc := range []struct {
		name   string
		kind   dhcpv6.MessageType
		opts   []dhcpv6.Option
		ours   bool // names this server
		change func(*fixture)
		want   string
		seen   string // kind of an exchange
	}{
		{name: "solicit", kind: 1, opts: []dhcpv6.Option{iana6(1)}, want: "ADVERTISE 2001:db8::10:1h0m0s", seen: "dhcp.offer"},
		{name: "solicit with two associations", kind: 1, opts: []dhcpv6.Option{iana6(1), iana6(2)}, want: "ADVERTISE 2001:db8::10:1h0m0s IA:NoAddrsAvail"},
		{name: "solicit for a prefix too", kind: 1, opts: []dhcpv6.Option{iana6(1), &dhcpv6.OptIAPD{IaId: [4]byte{9}}}, want: "ADVERTISE 2001:db8::10:1h0m0s PD:NoPrefixAvail"},
		{name: "solicit for a prefix alone", kind: 1, opts: []dhcpv6.Option{&dhcpv6.OptIAPD{IaId: [4]byte{9}}}, want: silent, seen: "dhcp.silent"},
		{name: "solicit that names a server", kind: 1, opts: []dhcpv6.Option{iana6(1)}, ours: true, want: silent, seen: "dhcp.drop"},
		{name: "solicit of a machine without an address", kind: 1, opts: []dhcpv6.Option{iana6(1)}, change: func(f *fixture) { f.leases.fixed6 = nil }, want: silent, seen: "dhcp.silent"},
		{name: "rapid commit of a reservation", kind: 1, opts: []dhcpv6.Option{iana6(1), generic6(opt6Rapid)}, want: "REPLY rapid 2001:db8::10:1h0m0s", seen: "dhcp.ack"},
		{name: "no rapid commit from a pool", kind: 1, opts: []dhcpv6.Option{iana6(1), generic6(opt6Rapid)}, change: func(f *fixture) { f.leases.unproven = true }, want: "ADVERTISE 2001:db8::10:1h0m0s"},
		{name: "request", kind: 3, opts: []dhcpv6.Option{iana6(1, testAddr6)}, ours: true, want: "REPLY 2001:db8::10:1h0m0s", seen: "dhcp.ack"},
		{name: "request to another server", kind: 3, opts: []dhcpv6.Option{iana6(1, testAddr6), generic6(opt6ServerID, 0, 3, 0, 1, 9, 9, 9, 9, 9, 9)}, want: silent, seen: "dhcp.refused"},
		{name: "request without a server", kind: 3, opts: []dhcpv6.Option{iana6(1)}, want: silent, seen: "dhcp.drop"},
		{name: "request of a foreign address", kind: 3, opts: []dhcpv6.Option{iana6(1, foreign)}, ours: true, want: "REPLY 2001:db8::10:1h0m0s 2001:db8::99:0s", seen: "dhcp.ack"},
		{name: "request without leases", kind: 3, opts: []dhcpv6.Option{iana6(1, testAddr6)}, ours: true, change: func(f *fixture) { f.leases.fixed6 = nil }, want: "REPLY 2001:db8::10:0s IA:NoAddrsAvail", seen: "dhcp.nak"},
		{name: "request while leases fail", kind: 3, opts: []dhcpv6.Option{iana6(1, testAddr6)}, ours: true, change: func(f *fixture) { f.leases.err = errors.New("disk full") }, want: silent, seen: "dhcp.request"},
		{name: "renew", kind: 5, opts: []dhcpv6.Option{iana6(1, testAddr6)}, ours: true, want: "REPLY 2001:db8::10:1h0m0s"},
		{name: "renew of an address of elsewhere", kind: 5, opts: []dhcpv6.Option{iana6(1, elsewhere)}, ours: true, want: "REPLY 2001:db8::10:1h0m0s 2001:db8:77::7:0s"},
		{name: "rebind", kind: 6, opts: []dhcpv6.Option{iana6(1, testAddr6)}, want: "REPLY 2001:db8::10:1h0m0s"},
		{name: "rebind of a stranger", kind: 6, opts: []dhcpv6.Option{iana6(1, testAddr6)}, change: func(f *fixture) { f.leases.fixed6 = nil }, want: silent},
		{name: "confirm", kind: 4, opts: []dhcpv6.Option{iana6(1, testAddr6)}, want: "REPLY Success"},
		{name: "confirm of another link", kind: 4, opts: []dhcpv6.Option{iana6(1, elsewhere)}, want: "REPLY NotOnLink", seen: "dhcp.nak"},
		{name: "confirm of nothing", kind: 4, opts: []dhcpv6.Option{iana6(1)}, want: silent},
		{name: "release", kind: 8, opts: []dhcpv6.Option{iana6(1, testAddr6)}, ours: true, want: "REPLY Success", seen: "dhcp.release"},
		{name: "release of elsewhere", kind: 8, opts: []dhcpv6.Option{iana6(1, elsewhere)}, ours: true, want: "REPLY Success IA:NoBinding"},
		{name: "decline", kind: 9, opts: []dhcpv6.Option{iana6(1, testAddr6)}, ours: true, want: "REPLY Success", seen: "dhcp.decline"},
		{name: "decline of another's", kind: 9, opts: []dhcpv6.Option{iana6(1, foreign)}, ours: true, change: func(f *fixture) { f.leases.declineErr = ErrWrongAddress }, want: "REPLY Success IA:NoBinding", seen: "dhcp.drop"},
		{name: "information", kind: 11, want: "REPLY", seen: "dhcp.inform"},
		{name: "information with an address", kind: 11, opts: []dhcpv6.Option{iana6(1)}, want: silent, seen: "dhcp.drop"},
		{name: "information of another server", kind: 11, opts: []dhcpv6.Option{generic6(opt6ServerID, 0, 3, 9)}, want: silent},
		{name: "a server's message", kind: 7, want: silent, seen: "dhcp.drop"},
		{name: "reconfigure", kind: 10, want: silent, seen: "dhcp.drop"},
		{name: "the booter fails", kind: 1, opts: boot6("PXEClient", iana.EFI_X86_64), change: func(f *fixture) { f.bootErr = errors.New("no state") }, want: silent, seen: "boot.undecided"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, testNetwork6())
			if tc.change != nil {
				tc.change(f)
			}
			if tc.ours {
				tc.opts = append(tc.opts, serverID6(f))
			}
			got := outcome(f.said6(t, linkLocal6, ask6(t, tc.kind, tc.opts...)))
			if got != tc.want {
				t.Errorf("%s: %q; want %q\n%s", tc.name, got, tc.want, f.timeline.text())
			}
			if tc.seen != "" {
				if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == tc.seen }); !ok {
					t.Errorf("%s: no %s on the timeline:\n%s", tc.name, tc.seen, f.timeline.text())
				}
			}
		})
	}
}

// TestDHCP6Preference sends firmware on at once.
func TestDHCP6Preference(t *testing.T) {
	f := newFixture(t, testNetwork6())
	m := f.said6(t, linkLocal6, ask6(t, dhcpv6.MessageTypeSolicit, boot6("PXEClient", iana.EFI_X86_64)...))
	if o := m.GetOneOption(dhcpv6.OptionPreference); o == nil || !bytes.Equal(o.ToBytes(), []byte{255}) {
		t.Errorf("preference %v; want 255", o)
	}
}

// TestDHCP6ReleaseOfAnother keeps an address that another program of the
// machine has: OVMF's IPv6 configuration releases what its PXE was just given.
// FIELD-NOTES item 5: "Firmware, iPXE and the OS send different option 61 for
// the same NIC: key on the MAC."
func TestDHCP6ReleaseOfAnother(t *testing.T) {
	f := newFixture(t, testNetwork6())
	for _, iaid := range []byte{1, 2} {
		if f.said6(t, linkLocal6, ask6(t, dhcpv6.MessageTypeRequest, iana6(iaid, testAddr6), serverID6(f))) == nil {
			t.Fatal("silence")
		}
	}
	for _, tc := range []struct {
		iaid byte
		want int
	}{{1, 0}, {2, 1}} {
		f.said6(t, linkLocal6, ask6(t, dhcpv6.MessageTypeRelease, iana6(tc.iaid, testAddr6), serverID6(f)))
		if len(f.leases.released) != tc.want {
			t.Errorf("released %v after the RELEASE of association %d; want %d", f.leases.released, tc.iaid, tc.want)
		}
	}
}

// TestDHCP6Machine finds the machine behind a message.
func TestDHCP6Machine(t *testing.T) {
	llt := append([]byte{0, 1, 0, 1, 1, 2, 3, 4}, testMAC...)
	ll := append([]byte{0, 3, 0, 1}, testMAC...)
	smbios := []byte{0, 4, 0x2c, 0xfa, 0x9b, 0x0d, 0x3b, 0x5a, 0x1d, 0x4c, 0x8e, 0x2f, 0, 0x11, 0x22, 0x33, 0x44, 0x55}
	written := []byte{0, 4, 0x0d, 0x9b, 0xfa, 0x2c, 0x5a, 0x3b, 0x4c, 0x1d, 0x8e, 0x2f, 0, 0x11, 0x22, 0x33, 0x44, 0x55}
	const uuid = "0d9bfa2c-5a3b-4c1d-8e2f-001122334455"
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, tc := range []struct {
		name  string
		from  netip.AddrPort
		frame net.HardwareAddr
		duid  []byte
		want  string
	}{
		{"the frame's sender", random6, testMAC, append([]byte{0, 3, 0, 1}, other...), testMAC.String()},
		{"EUI-64", linkLocal6, nil, append([]byte{0, 3, 0, 1}, other...), testMAC.String()},
		{"DUID-LL", random6, nil, ll, testMAC.String()},
		{"DUID-LLT", random6, nil, llt, testMAC.String()},
		{"DUID-UUID as SMBIOS has it", random6, nil, smbios, testMAC.String()},
		{"DUID-UUID as RFC 6355 has it", random6, nil, written, testMAC.String()},
		{"nothing", random6, nil, duidEN, ""},
		{"a DUID of InfiniBand", random6, nil, append([]byte{0, 3, 0, 32}, testMAC...), ""},
		{"a UUID of nobody", random6, nil, append([]byte{0, 4}, make([]byte, 16)...), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, testNetwork6())
			f.leases.uuids = map[string]net.HardwareAddr{uuid: testMAC}
			p := f.answer6(t.Context(), f.order[0], ask6(t, dhcpv6.MessageTypeSolicit, iana6(1), generic6(opt6ClientID, tc.duid...)), tc.from, tc.frame)
			got := ""
			if p != nil {
				got = p.mac.String()
			}
			if got != tc.want {
				t.Errorf("answered %q; want %q\n%s", got, tc.want, f.timeline.text())
			}
			if tc.want == "" {
				if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.drop" }); !ok || !strings.Contains(e.Text, "option 79") {
					t.Errorf("timeline says %q; want what to do", e.Text)
				}
			}
		})
	}
}

// TestDHCP6Relays goes through relay agents. FIELD-NOTES item 3: "Trust only
// relays that the site lists."
func TestDHCP6Relays(t *testing.T) {
	near, far := testNetwork6(), testNetwork6()
	far.Name, far.Prefix, far.Gateway = "far", netip.MustParsePrefix("198.51.100.0/24"), netip.Addr{}
	far.Relays = []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	far.IPv6 = Network6{Prefix: netip.MustParsePrefix("2001:db8:7::/64"), Server: near.IPv6.Server, Relays: []netip.Addr{netip.MustParseAddr("2001:db8:7::1")}}
	from := netip.MustParseAddrPort("[2001:db8::2]:547")
	relay := func(inner []byte, link string, peer netip.Addr, opts ...byte) []byte {
		l, p := netip.MustParseAddr(link).As16(), peer.As16()
		b := append([]byte{msg6RelayForw, 0}, l[:]...)
		b = append(append(b, p[:]...), opts...)
		return append6(b, opt6Relayed, inner...)
	}
	solicit := ask6(t, dhcpv6.MessageTypeSolicit, iana6(1))
	linkLayer := append6(nil, opt6LinkLayer, append([]byte{0, 1}, testMAC...)...)
	ids := append6(append6(nil, opt6InterfaceID, []byte("ge-0/0/1")...), opt6RemoteID, 0, 0, 0, 9, 'x')
	for _, tc := range []struct {
		name string
		b    []byte
		net  string // "": silence
		say  string
	}{
		{"listed", relay(solicit, "2001:db8:7::1", linkLocal6.Addr()), "far", ""},
		{"option 79", relay(solicit, "2001:db8:7::1", random6.Addr(), linkLayer...), "far", ""},
		{"interface and remote id", relay(solicit, "2001:db8:7::1", linkLocal6.Addr(), ids...), "far", ""},
		{"two of them", relay(relay(solicit, "2001:db8:7::1", linkLocal6.Addr(), ids...), "2001:db8:9::1", netip.MustParseAddr("2001:db8:7::1")), "far", ""},
		{"the outer one's option 79 is the inner relay", relay(relay(solicit, "2001:db8:7::1", linkLocal6.Addr()), "2001:db8:9::1", netip.MustParseAddr("2001:db8:7::1"), append6(nil, opt6LinkLayer, 0, 1, 2, 0, 0, 0, 0, 9)...), "far", ""},
		{"not listed", relay(solicit, "2001:db8:7::66", linkLocal6.Addr()), "", "does not list"},
		{"of no network", relay(solicit, "2001:db8:8::1", linkLocal6.Addr()), "", "no configured network"},
		{"that names no link", relay(solicit, "::", linkLocal6.Addr()), "", "names no link"},
		{"no hardware address", relay(solicit, "2001:db8:7::1", random6.Addr()), "", "option 79"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, near, far)
			p := f.answer6(t.Context(), f.order[0], tc.b, from, net.HardwareAddr{2, 0, 0, 0, 0, 1})
			if tc.net == "" {
				e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.drop" })
				if p != nil || !ok || !strings.Contains(e.Text, tc.say) {
					t.Errorf("answer %v, %q; want silence that says %q", p, e.Text, tc.say)
				}
				return
			}
			if p == nil {
				t.Fatalf("silence\n%s", f.timeline.text())
			}
			if p.to != from || p.mac.String() != testMAC.String() {
				t.Errorf("to %v of %v; want %v of %v", p.to, p.mac, from, testMAC)
			}
			out, err := dhcpv6.RelayMessageFromBytes(p.bytes)
			if err != nil {
				t.Fatal(err)
			}
			in, err := dhcpv6.RelayMessageFromBytes(tc.b)
			if err != nil {
				t.Fatal(err)
			}
			for in != nil { // the answer takes the same way back
				if out.MessageType != dhcpv6.MessageTypeRelayReply || out.HopCount != in.HopCount || !out.LinkAddr.Equal(in.LinkAddr) || !out.PeerAddr.Equal(in.PeerAddr) || !bytes.Equal(out.Options.InterfaceID(), in.Options.InterfaceID()) {
					t.Errorf("relay reply %v; want the way of %v", out, in)
				}
				if out.GetOneOption(dhcpv6.OptionRemoteID) != nil {
					t.Error("the remote id is echoed")
				}
				next, _ := in.Options.RelayMessage().(*dhcpv6.RelayMessage)
				if next != nil {
					out = out.Options.RelayMessage().(*dhcpv6.RelayMessage)
				}
				in = next
			}
			m := out.Options.RelayMessage().(*dhcpv6.Message)
			if m.MessageType != dhcpv6.MessageTypeAdvertise {
				t.Errorf("inner message %v; want an ADVERTISE", m)
			}
			if e, _ := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.offer" }); e.Network != tc.net {
				t.Errorf("offered on %q; want %q", e.Network, tc.net)
			}
		})
	}
}

// TestDHCP6Hostile drops what no client sends.
func TestDHCP6Hostile(t *testing.T) {
	deep := ask6(t, dhcpv6.MessageTypeSolicit, iana6(1))
	for range dhcp6MaxRelays + 1 {
		deep = append6(append([]byte{msg6RelayForw, 0}, make([]byte, 32)...), opt6Relayed, deep...)
	}
	many := ask6(t, dhcpv6.MessageTypeSolicit)
	for range dhcp6MaxIAs + 1 {
		many = append6(many, opt6NA, make([]byte, 12)...)
	}
	for name, b := range map[string][]byte{
		"empty": {}, "cut header": {1, 2}, "cut option": {1, 0, 0, 1, 0, 1, 0, 9}, "cut relay": {12, 0, 1}, "too deep": deep, "too many associations": many,
		"long": make([]byte, dhcpMaxPacket+1), "relay without a message": append([]byte{msg6RelayForw, 0}, make([]byte, 32)...),
		"long DUID": append6([]byte{1, 0, 0, 1}, opt6ClientID, make([]byte, 200)...), "no client": {1, 0, 0, 1},
	} {
		f := newFixture(t, testNetwork6())
		if p := f.answer6(t.Context(), f.order[0], b, linkLocal6, nil); p != nil {
			t.Errorf("%s: answered %x; want silence", name, p.bytes)
		}
	}
}

// TestWhyIPv6 reads a machine that asked by IPv4, and then by IPv6.
func TestWhyIPv6(t *testing.T) {
	f := newFixture(t, testNetwork6())
	f.leases.fixed = nil
	f.answer(t.Context(), f.order[0], ask(1, uefiOpts), nil)
	f.said6(t, linkLocal6, ask6(t, dhcpv6.MessageTypeSolicit, boot6("PXEClient:Arch:00007", iana.EFI_X86_64)...))
	f.said6(t, linkLocal6, ask6(t, dhcpv6.MessageTypeRequest, append(boot6("PXEClient:Arch:00007", iana.EFI_X86_64), serverID6(f))...))
	got := Why(f.timeline.all, f.clock.Add(time.Minute))
	want := "was told to fetch tftp://[2001:db8::1]/snponly.efi 1m0s ago, and never asked for it: TFTP"
	if !strings.HasPrefix(got, want) {
		t.Errorf("Why = %q; want %q...", got, want)
	}
}
