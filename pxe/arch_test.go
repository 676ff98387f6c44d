package pxe

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestOtherFirmware answers packets as U-Boot and the Raspberry Pi's boot ROM
// send them (U-Boot's net/bootp.c with CONFIG_BOOTP_PXE; the Pi's boot loader
// documentation; IANA's processor architecture types): an address, the server
// that they ask by themselves or nothing that they cannot run, and a sentence
// that says so.
func TestOtherFirmware(t *testing.T) {
	pi := map[byte][]byte{
		optVendorClass: []byte("PXEClient:Arch:00000:UNDI:002001"), optArch: arch(0), 94: {1, 2, 1},
		optUUID:        append([]byte{0}, "RPi4\x14\x41\xd0\x00\xa1\xb2\xc3\xd4\xa1\xb2\xc3\xd4"...),
		optRequestList: {1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135},
	}
	pi41 := map[byte][]byte{}
	for k, v := range pi {
		pi41[k] = v
	}
	pi41[optArch], pi41[optVendorClass] = arch(41), []byte("PXEClient:Arch:00041:UNDI:002001")
	uboot := func(class string, a uint16) map[byte][]byte {
		return map[byte][]byte{optVendorClass: []byte(class), optArch: arch(a), 94: {1, 0, 0}, optMaxSize: {2, 64},
			optUUID: append(make([]byte, 16), 1), optRequestList: {1, 3, 6, 12, 17}}
	}
	for _, tc := range []struct {
		name string
		opts map[byte][]byte
		mac  net.HardwareAddr
		who  string
		asks string // what it is sent to this server for
	}{
		{"Raspberry Pi 4 says 0", pi, net.HardwareAddr{0xdc, 0xa6, 0x32, 1, 2, 3}, "Raspberry Pi", piConfig},
		{"Raspberry Pi 5 says 0", pi, net.HardwareAddr{0x2c, 0xcf, 0x67, 1, 2, 3}, "Raspberry Pi", piConfig},
		{"architecture 41", pi41, net.HardwareAddr{0xd8, 0x3a, 0xdd, 1, 2, 3}, "Raspberry Pi", piConfig},
		{"U-Boot ARM32, 21", uboot("U-Boot.armv7", 21), testMAC, "U-Boot ARM32", ""},
		{"U-Boot ARM64, 22", uboot("U-Boot.armv8", 22), testMAC, "U-Boot ARM64", pxelinuxFolder},
		{"U-Boot ARM64, 22, as a PXEClient", uboot("PXEClient:Arch:00022:UNDI:003000", 22), testMAC, "U-Boot ARM64", pxelinuxFolder},
		{"U-Boot ARM32 HTTP, 23", uboot("HTTPClient:Arch:00023:UNDI:003000", 23), testMAC, "U-Boot ARM32 HTTP", ""},
		{"U-Boot ARM64 HTTP, 24", uboot("HTTPClient:Arch:00024:UNDI:003000", 24), testMAC, "U-Boot ARM64 HTTP", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.leases.fixed[tc.mac.String()] = testAddr
			m := decode(t, f.ask(dhcpv4.MessageTypeDiscover, tc.opts, func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = tc.mac }))
			if m.MessageType() != dhcpv4.MessageTypeOffer || !m.YourIPAddr.Equal(testAddr.AsSlice()) {
				t.Errorf("reply = %v of %v; want an OFFER of %v", m.MessageType(), m.YourIPAddr, testAddr)
			}
			if m.BootFileNameOption() != "" || m.BootFileName != "" || tc.asks == "" && (m.ClassIdentifier() != "" || len(m.Options[optVendor]) != 0) {
				t.Errorf("reply names file %q, class %q, option 43 %v; want nothing that it cannot run", m.BootFileNameOption(), m.ClassIdentifier(), m.Options[optVendor])
			}
			if got := m.ServerIPAddr.Equal(net.IPv4(192, 0, 2, 1)) && m.TFTPServerName() == "192.0.2.1"; got != (tc.asks != "") {
				t.Errorf("reply sends it to %v, %q; want this server: %v", m.ServerIPAddr, m.TFTPServerName(), tc.asks != "")
			}
			want := "no boot loader for " + tc.who
			if tc.asks != "" {
				want = "this TFTP server, which it asks for " + tc.asks
			}
			if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.offer" }); !ok || !strings.Contains(e.Text, want) || !strings.Contains(e.Client, tc.who) {
				t.Errorf("the timeline says %+v; want %q for %s", e, want, tc.who)
			}
			if got := Why(f.timeline.all, time.Now()); !strings.Contains(got, tc.who) {
				t.Errorf("Why() = %q; want %s in it", got, tc.who)
			}
		})
	}
	// U-Boot with UEFI says that it is UEFI firmware, and is.
	f := newFixture(t)
	m := decode(t, f.ask(dhcpv4.MessageTypeDiscover, uboot("PXEClient:Arch:00011:UNDI:003000", 11)))
	if got := m.BootFileNameOption(); got != loaderShimAA64 {
		t.Errorf("U-Boot as UEFI ARM64 is given %q; want %q", got, loaderShimAA64)
	}
}
