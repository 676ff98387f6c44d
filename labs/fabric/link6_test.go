package fabric

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// ndpFrame is a frame with an ICMPv6 message whose checksum is right.
func ndpFrame(from, to net.HardwareAddr, src, dst string, msg ...byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	frame, body := frame6(from, to, s, d, uint8(header.ICMPv6ProtocolNumber), len(msg))
	copy(body, msg)
	binary.BigEndian.PutUint16(body[2:], icmp6Checksum(body, s, d))
	return frame
}

// changed is b with one byte another.
func changed(b []byte, i int, to byte) []byte {
	b = slices.Clone(b)
	b[i] = to
	return b
}

// read6 is the next frame on a machine's cable whose payload is of a protocol.
func read6(t *testing.T, nic Link, protocol uint8) []byte {
	t.Helper()
	got := make(chan []byte, 1)
	go func() {
		b := make([]byte, 2048)
		for {
			n, err := nic.ReadFrame(b)
			if err != nil {
				return
			}
			// The host's stack speaks too: neighbour discovery, MLD.
			_, _, body, ok := payload6(b[:n], protocol)
			if ok && (protocol != uint8(header.ICMPv6ProtocolNumber) || body[0] == icmpRouterAdvertisement) {
				got <- slices.Clone(b[:n])
				return
			}
		}
	}()
	select {
	case b := <-got:
		return b
	case <-time.After(10 * time.Second):
		t.Fatal("no frame came")
		return nil
	}
}

func TestListenRouters(t *testing.T) {
	s := startSwitch(t, Config{})
	h := newHost(t, s, "h", 10, "2001:db8::1/64")
	nic := plug(t, s, PortConfig{Name: "machine", VLAN: 10})
	c, err := h.ListenRouters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	const src = "fe80::5054:ff:fe00:5"
	routers := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}
	ask := ndpFrame(mac(5), routers, src, "ff02::2", icmpRouterSolicitation, 0, 0, 0, 0, 0, 0, 0, ndpSourceLinkAddress, 1, 0x52, 0x54, 0, 0, 0, 5)
	if ask[headerLen+7] != ndpHopLimit {
		t.Fatal("frame6 made a frame with another hop limit")
	}
	forwarded, broken := changed(ask, headerLen+7, 64), changed(ask, len(ask)-1, 6)
	neighbour := ndpFrame(mac(5), routers, src, "ff02::2", append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16)...)...)
	unspecified := ndpFrame(mac(6), routers, "::", "ff02::2", icmpRouterSolicitation, 0, 0, 0, 0, 0, 0, 0)
	for _, f := range [][]byte{forwarded, broken, neighbour, ask, unspecified} {
		send(t, nic, f)
	}
	b := make([]byte, 1500)
	n, from, err := c.ReadFrom(b)
	ip, ok := from.(*net.IPAddr)
	if err != nil || !ok || ip.String() != src || !bytes.Equal(b[:n], ask[headerLen+ipv6Len:]) {
		t.Fatalf("ReadFrom = %x from %v, %v; want the solicitation whose hop limit and checksum are right", b[:n], from, err)
	}
	if _, from, err = c.ReadFrom(b); err != nil || from.String() != "::" {
		t.Errorf("ReadFrom = from %v, %v; want the one without an address", from, err)
	}

	// To the machine that asked, without asking for its hardware address; to all.
	answer := append([]byte{icmpRouterAdvertisement, 0, 0xde, 0xad, 64, 0x80}, make([]byte, 10)...)
	for _, tt := range []struct {
		to  net.Addr
		mac net.HardwareAddr
	}{{ip, mac(5)}, {&net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: "h"}, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}}} {
		if _, err := c.WriteTo(answer, tt.to); err != nil {
			t.Fatal(err)
		}
		f := read6(t, nic, uint8(header.ICMPv6ProtocolNumber))
		from, msg, ok := parseNDP(f)
		if !ok || !from.IsLinkLocalUnicast() || !bytes.Equal(msg[4:], answer[4:]) || !bytes.Equal(f[:6], tt.mac) || !bytes.Equal(f[6:12], h.MAC()) {
			t.Errorf("to %v went %x; want the message with a right checksum from the host to %v", tt.to, f, tt.mac)
		}
	}
	for _, tt := range []struct {
		name string
		to   net.Addr
		b    []byte
		want string
	}{
		{"a stranger", &net.IPAddr{IP: net.ParseIP("fe80::99")}, answer, "nothing was heard from there"},
		{"IPv4", &net.IPAddr{IP: net.IPv4(192, 0, 2, 1)}, answer, "not an IPv6 address"},
		{"a port", &net.UDPAddr{IP: ip.IP, Port: 1}, answer, "not an IPv6 address of this protocol"},
		{"too much", ip, make([]byte, 1461), "do not fit"},
		{"too little", ip, []byte{1}, "not an ICMPv6 message"},
	} {
		if _, err := c.WriteTo(tt.b, tt.to); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("WriteTo %s = %v; want %q", tt.name, err, tt.want)
		}
	}
}

// TestListenDHCP6 has netstack for its client, which checks what it is sent.
func TestListenDHCP6(t *testing.T) {
	s := startSwitch(t, Config{})
	server, client := newHost(t, s, "server", 0, "2001:db8::1/64"), newHost(t, s, "client", 0)
	c, err := server.ListenDHCP6(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	cli := listenUDP(t, client, "[::]:546")
	b := make([]byte, 1500)
	for _, payload := range []string{"solicit", "odd", strings.Repeat("z", 1400)} {
		if _, err := cli.WriteTo([]byte(payload), &net.UDPAddr{IP: net.ParseIP("ff02::1:2"), Port: dhcp6Port}); err != nil {
			t.Fatal(err)
		}
		n, from, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok || string(b[:n]) != payload || udp.Port != 546 || !udp.IP.IsLinkLocalUnicast() {
			t.Fatalf("ReadFrom = %q from %v; want %q from port 546 of a link-local address", b[:n], from, payload)
		}
		if got := c.Station(udp.AddrPort().Addr()); !bytes.Equal(got, client.MAC()) {
			t.Errorf("Station(%v) = %v; want %v", udp.IP, got, client.MAC())
		}
		if _, err := c.WriteTo([]byte("re: "+payload), udp); err != nil {
			t.Fatal(err)
		}
		if got, from := readFrom(t, cli); got != "re: "+payload || from.Port() != dhcp6Port || !from.Addr().IsLinkLocalUnicast() {
			t.Errorf("the client reads %q from %v; want the answer from port 547 of a link-local address", got, from)
		}
	}
	// What is for others is left to them.
	other := listenUDP(t, server, "[2001:db8::1]:69")
	if err := client.AddAddr(netip.MustParsePrefix("2001:db8::2/64")); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.WriteTo([]byte("tftp"), &net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 69}); err != nil {
		t.Fatal(err)
	}
	if got, _ := readFrom(t, other); got != "tftp" {
		t.Errorf("port 69 reads %q; want tftp", got)
	}
}

func TestLink6ConnEnds(t *testing.T) {
	s := startSwitch(t, Config{})
	h := newHost(t, s, "h", 0, "2001:db8::1/64")
	c, err := h.ListenDHCP6(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.ListenDHCP6(t.Context()); err == nil || !strings.Contains(err.Error(), "somebody does already") {
		t.Errorf("ListenDHCP6 twice = %v; want an error", err)
	}
	if _, err := h.ListenRouters(t.Context()); err != nil {
		t.Errorf("ListenRouters beside ListenDHCP6 = %v; want nil", err)
	}
	read := func() chan error {
		out := make(chan error, 1)
		go func() {
			_, _, err := c.ReadFrom(make([]byte, 9))
			out <- err
		}()
		return out
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	if err := <-read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ReadFrom past its deadline = %v; want os.ErrDeadlineExceeded", err)
	}
	c.SetReadDeadline(time.Time{})
	waiting := read()
	c.SetReadDeadline(time.Unix(1, 0)) // as a server that ends does
	if err := <-waiting; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ReadFrom whose deadline comes = %v; want os.ErrDeadlineExceeded", err)
	}
	c.SetReadDeadline(time.Time{})
	waiting = read()
	c.Close()
	c.Close()
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadFrom of a closed socket = %v; want net.ErrClosed", err)
	}
	if c, err = h.ListenDHCP6(t.Context()); err != nil {
		t.Fatalf("ListenDHCP6 after Close = %v; want nil", err)
	}
	waiting = read()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadFrom of a closed host = %v; want net.ErrClosed", err)
	}
	if _, err := c.WriteTo(nil, &net.UDPAddr{IP: net.ParseIP("ff02::1"), Port: 546}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteTo of a closed host = %v; want net.ErrClosed", err)
	}
	if _, err := h.ListenDHCP6(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("ListenDHCP6 of a closed host = %v; want ErrClosed", err)
	}
}

// FuzzLink6 gives the parsers any frame: what they take is what a right sender
// would have sent.
func FuzzLink6(f *testing.F) {
	f.Add(ndpFrame(mac(5), net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}, "fe80::5", "ff02::2", icmpRouterSolicitation, 0, 0, 0, 0, 0, 0, 0))
	f.Add(udpFrame6(mac(5), mac(6), netip.MustParseAddrPort("[fe80::5]:546"), netip.MustParseAddrPort("[ff02::1:2]:547"), []byte("solicit")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if src, msg, ok := parseNDP(b); ok {
			dst := netip.AddrFrom16([16]byte(b[headerLen+24:]))
			again := ndpFrame(b[6:12], b[:6], src.String(), dst.String(), msg...)
			if got, twice, ok := parseNDP(again); !ok || got != src || !bytes.Equal(twice, msg) {
				t.Errorf("parseNDP of %x, made again, = %v %x, %v; want the same", msg, got, twice, ok)
			}
		}
		if from, body, ok := parseDHCP6(b); ok {
			dst := netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[headerLen+24:])), dhcp6Port)
			if got, twice, ok := parseDHCP6(udpFrame6(b[6:12], b[:6], from, dst, body)); !ok || got != from || !bytes.Equal(twice, body) {
				t.Errorf("parseDHCP6 of %x, made again, = %v %x, %v; want the same", body, got, twice, ok)
			}
		}
	})
}
