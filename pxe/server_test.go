package pxe

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
)

func TestBaseURL(t *testing.T) {
	n := testNetwork()
	for port, want := range map[int]string{0: "http://192.0.2.1/boot", 80: "http://192.0.2.1/boot", 8080: "http://192.0.2.1:8080/boot"} {
		n.HTTPPort = port
		if got := n.BaseURL(); got != want {
			t.Errorf("BaseURL with port %d = %q; want %q", port, got, want)
		}
	}
}

// TestLoaderNames: every loader that the architecture table names is listed
// for whoever supplies them.
func TestLoaderNames(t *testing.T) {
	for a := range Arch(100) {
		info, _ := archs(a)
		for _, name := range []string{info.loader, info.native, info.signed, info.stub} {
			if name != "" && !slices.Contains(LoaderNames(), name) {
				t.Errorf("LoaderNames() = %v; lacks %s of %v", LoaderNames(), name, a)
			}
		}
	}
}

func TestClientsAreBounded(t *testing.T) {
	c := newClients(3)
	mac := func(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)} }
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}) }
	for i := range 1000 {
		c.update(mac(i), func(e *seen) { e.client.MAC, e.client.Addr = mac(i), addr(i) })
		c.update(mac(0), func(e *seen) { e.client.MAC, e.client.Addr = mac(0), addr(i+2000) })
	}
	if len(c.byMAC) != 3 || len(c.byAddr.four) != 3 {
		t.Errorf("%d clients, %d addresses; want 3 each", len(c.byMAC), len(c.byAddr.four))
	}
	if _, ok := c.of(mac(0)); !ok {
		t.Error("the client seen most often was forgotten")
	}
	if got, ok := c.at(addr(2999)); !ok || got.MAC.String() != mac(0).String() {
		t.Errorf("at(%v) = %v, %v; want the client's newest address to be known", addr(2999), got.MAC, ok)
	}
	if _, ok := c.at(addr(2000)); ok {
		t.Error("an address that a client has no more is still known as its own")
	}
}

// TestAddressesMoveOn gives a client the address that another one had: what the
// former one says afterwards takes it back only when it is given it again.
func TestAddressesMoveOn(t *testing.T) {
	c := newClients(3)
	first, second := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	given := func(mac net.HardwareAddr) {
		c.update(mac, func(e *seen) { e.client.MAC, e.client.Addr = mac, testAddr })
	}
	has := func(when string, want, not net.HardwareAddr) {
		t.Helper()
		if got, ok := c.at(testAddr); !ok || got.MAC.String() != want.String() {
			t.Errorf("%s: at(%v) = %v, %v; want %v", when, testAddr, got.MAC, ok, want)
		}
		if !c.holds(want, testAddr) || c.holds(not, testAddr) {
			t.Errorf("%s: holds = %v of %v and %v of %v; want the former alone", when, c.holds(want, testAddr), want, c.holds(not, testAddr), not)
		}
	}
	given(first)
	given(second)
	has("given to another", second, first)
	c.update(first, func(e *seen) { e.asked++ })
	has("the former one asks again", second, first)
	given(first)
	has("given back", first, second)
}

func TestUDPFrame(t *testing.T) {
	src, dst := netip.MustParseAddrPort("192.0.2.1:67"), netip.MustParseAddrPort("192.0.2.10:68")
	from := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, payload := range []string{"", "x", "even", pattern(1001)} {
		f, err := udpFrame(testMAC, from, src, dst, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		ip := f[etherHeader:]
		if got := sum16(ip[:ipHeader], 0); got != 0xffff {
			t.Errorf("IP header of %d bytes sums to %x; want ffff (RFC 1071)", len(payload), got)
		}
		udp := ip[ipHeader:]
		pseudo := append(append([]byte(nil), ip[12:20]...), 0, 17, udp[4], udp[5])
		if got := sum16(append(pseudo, udp...), 0); got != 0xffff {
			t.Errorf("UDP of %d bytes sums to %x; want ffff (RFC 768)", len(payload), got)
		}
		if int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || string(udp[8:]) != payload || net.HardwareAddr(f[:6]).String() != testMAC.String() {
			t.Errorf("frame of %d bytes is wrong: %x", len(payload), f)
		}
	}
	if _, err := udpFrame(nil, from, src, dst, nil); err == nil {
		t.Error("udpFrame without a MAC = nil; want an error")
	}
	if _, err := udpFrame(testMAC, from, src, dst, make([]byte, 70000)); err == nil {
		t.Error("udpFrame of 70000 bytes = nil; want an error")
	}
}
