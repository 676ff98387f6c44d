package fabric

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// transfer sends n random bytes from one host to another and compares digests.
func transfer(t testing.TB, from, to *Host, addr string, n int64) time.Duration {
	t.Helper()
	ctx := within(t, time.Minute)
	ln, err := to.Listen(ctx, netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	type result struct {
		sum []byte
		err error
	}
	got := make(chan result, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- result{err: err}
			return
		}
		defer c.Close()
		h := sha256.New()
		_, err = io.Copy(h, c)
		got <- result{h.Sum(nil), err}
	}()
	c, err := from.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	start := time.Now()
	h := sha256.New()
	src := io.LimitReader(rand.NewChaCha8([32]byte{1}), n)
	if _, err := io.Copy(io.MultiWriter(c, h), src); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.err != nil || !bytes.Equal(r.sum, h.Sum(nil)) {
		t.Fatalf("received %x, %v; want %x", r.sum, r.err, h.Sum(nil))
	}
	return time.Since(start)
}

func TestHostsTCP(t *testing.T) {
	for _, tt := range []struct{ name, a, b, to string }{
		{"IPv4", "192.0.2.1/24", "192.0.2.2/24", "192.0.2.2:80"},
		{"IPv6", "2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := startSwitch(t, Config{})
			a, b := newHost(t, s, "a", 10, tt.a), newHost(t, s, "b", 10, tt.b)
			t.Logf("10 MB in %v", transfer(t, a, b, tt.to, 10<<20))
		})
	}
}

func TestHostsTCPThroughLoss(t *testing.T) {
	s := startSwitch(t, Config{})
	a, b := newHost(t, s, "a", 0, "192.0.2.1/24"), newHost(t, s, "b", 0, "192.0.2.2/24")
	b.Port().SetFault(Fault{Loss: 0.01})
	transfer(t, a, b, "192.0.2.2:80", 2<<20)
	if st := b.Port().Stats(); st.Faulted == 0 {
		t.Errorf("Stats() = %+v; want some faulted", st)
	}
}

func TestHostsVLANIsolation(t *testing.T) {
	s := startSwitch(t, Config{})
	a, _ := newHost(t, s, "a", 10, "192.0.2.1/24"), newHost(t, s, "b", 20, "192.0.2.2/24")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if c, err := a.DialContext(ctx, "tcp", "192.0.2.2:80"); err == nil {
		c.Close()
		t.Error("a host on VLAN 10 reached one on VLAN 20")
	}
	if st := s.Port("b").Stats(); st.OutFrames != 0 {
		t.Errorf("VLAN 20 saw %d frames; want 0", st.OutFrames)
	}
}

func listenUDP(t testing.TB, h *Host, a string) *PacketConn {
	t.Helper()
	c, err := h.ListenPacket(t.Context(), netip.MustParseAddrPort(a))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*PacketConn)
}

func readFrom(t testing.TB, c net.PacketConn) (string, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 2048)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from.(*net.UDPAddr).AddrPort()
}

func TestUDPBroadcast(t *testing.T) {
	s := startSwitch(t, Config{})
	server := newHost(t, s, "server", 10, "192.0.2.1/24", "192.0.2.9/24")
	client := newHost(t, s, "client", 10, "192.0.2.50/24")
	dhcp, boot := listenUDP(t, server, "0.0.0.0:67"), listenUDP(t, client, "0.0.0.0:68")

	t.Run("a request from 0.0.0.0 arrives", func(t *testing.T) {
		nic := plug(t, s, PortConfig{Name: "machine", VLAN: 10})
		f, err := udpFrame(mac(5), broadcast, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), []byte("discover"), 1500)
		if err != nil {
			t.Fatal(err)
		}
		send(t, nic, f)
		if got, from := readFrom(t, dhcp); got != "discover" || from != netip.MustParseAddrPort("0.0.0.0:68") {
			t.Errorf("ReadFrom = %q from %v; want discover from 0.0.0.0:68", got, from)
		}
		if err := s.Port("machine").Close(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a reply to everyone comes from the first address", func(t *testing.T) {
		for _, to := range []net.IP{net.IPv4bcast, net.IPv4bcast.To4(), net.IPv4(192, 0, 2, 255)} {
			if _, err := dhcp.WriteTo([]byte("offer"), &net.UDPAddr{IP: to, Port: 68}); err != nil {
				t.Fatal(err)
			}
			if got, from := readFrom(t, boot); got != "offer" || from != netip.MustParseAddrPort("192.0.2.1:67") {
				t.Errorf("to %v: ReadFrom = %q from %v; want offer from 192.0.2.1:67", to, got, from)
			}
		}
	})
	t.Run("a reply by frame needs no ARP", func(t *testing.T) {
		src, dst := netip.MustParseAddrPort("192.0.2.1:67"), netip.MustParseAddrPort("192.0.2.50:68")
		for _, payload := range []string{"ack", strings.Repeat("z", 1472), "even"} {
			if err := dhcp.SendFrame(client.MAC(), src, dst, []byte(payload)); err != nil {
				t.Fatal(err)
			}
			if got, from := readFrom(t, boot); got != payload || from != src {
				t.Errorf("ReadFrom = %q from %v; want %q from %v", got, from, payload, src)
			}
		}
	})
	t.Run("what does not fit is refused", func(t *testing.T) {
		a4, a6 := netip.MustParseAddrPort("192.0.2.1:67"), netip.MustParseAddrPort("[2001:db8::1]:67")
		if err := dhcp.SendFrame(client.MAC(), a4, a4, make([]byte, 1473)); err == nil {
			t.Error("SendFrame of 1473 bytes = nil; want an error")
		}
		if err := dhcp.SendFrame(client.MAC(), a6, a6, nil); err == nil {
			t.Error("SendFrame over IPv6 = nil; want an error")
		}
		if err := dhcp.SendFrame(nil, a4, a4, nil); err == nil {
			t.Error("SendFrame to no address = nil; want an error")
		}
	})
	t.Run("an ephemeral port", func(t *testing.T) {
		tid := listenUDP(t, server, "192.0.2.9:0")
		if _, err := tid.WriteTo([]byte("data"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 50), Port: 68}); err != nil {
			t.Fatal(err)
		}
		got, from := readFrom(t, boot)
		if got != "data" || from.Addr() != netip.MustParseAddr("192.0.2.9") || from.Port() == 0 {
			t.Errorf("ReadFrom = %q from %v; want data from 192.0.2.9 and a port", got, from)
		}
		if _, err := boot.WriteTo([]byte("ack"), net.UDPAddrFromAddrPort(from)); err != nil {
			t.Fatal(err)
		}
		if got, _ := readFrom(t, tid); got != "ack" {
			t.Errorf("ReadFrom = %q; want ack", got)
		}
	})
	t.Run("dialed", func(t *testing.T) {
		c, err := client.DialContext(t.Context(), "udp", "192.0.2.1:67")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("inform")); err != nil {
			t.Fatal(err)
		}
		if got, _ := readFrom(t, dhcp); got != "inform" {
			t.Errorf("ReadFrom = %q; want inform", got)
		}
	})
}

func TestAddAddr(t *testing.T) {
	s := startSwitch(t, Config{})
	h, peer := newHost(t, s, "h", 0, "192.0.2.1/24"), newHost(t, s, "peer", 0, "198.51.100.2/24")
	if err := h.AddAddr(netip.MustParsePrefix("198.51.100.1/24")); err != nil {
		t.Fatal(err)
	}
	transfer(t, peer, h, "198.51.100.1:80", 1<<10)
	transfer(t, h, peer, "198.51.100.2:80", 1<<10)
	// To itself, as the virtual BMCs' client does.
	transfer(t, h, h, "198.51.100.1:443", 1<<20)
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("224.0.0.1/4")} {
		if err := h.AddAddr(bad); err == nil {
			t.Errorf("AddAddr(%v) = nil; want an error", bad)
		}
	}
}

func TestNewHostRefuses(t *testing.T) {
	s := startSwitch(t, Config{})
	first := newHost(t, s, "first", 10, "192.0.2.1/24")
	for _, tt := range []struct {
		name string
		c    HostConfig
		want string
	}{
		{"name taken", HostConfig{Name: "first", VLAN: 10}, "has a port of that name"},
		{"address taken", HostConfig{Name: "second", VLAN: 10, MAC: first.MAC()}, "another host on VLAN 10 has the address"},
		{"a group address", HostConfig{Name: "second", MAC: broadcast}, "not the address of a station"},
		{"MTU too small", HostConfig{Name: "second", MTU: 576}, "MTU 576 is not in 1280 to 9216"},
		{"a bad address", HostConfig{Name: "second", Addrs: []netip.Prefix{{}}}, "not an address with a prefix length"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(s.Ports())
			_, err := s.NewHost(tt.c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewHost(%+v) = %v; want %q", tt.c, err, tt.want)
			}
			if n := len(s.Ports()); n != before {
				t.Errorf("the switch has %d ports; want %d", n, before)
			}
		})
	}
	transfer(t, newHost(t, s, "third", 10, "192.0.2.3/24"), first, "192.0.2.1:80", 1<<10)
}

func TestMachineCannotTakeHostsAddress(t *testing.T) {
	s := startSwitch(t, Config{})
	a, b := newHost(t, s, "a", 0, "192.0.2.1/24"), newHost(t, s, "b", 0, "192.0.2.2/24")
	nic := plug(t, s, PortConfig{Name: "machine"})
	send(t, nic, ether(broadcast, b.MAC(), 0, "I am b"))
	transfer(t, a, b, "192.0.2.2:80", 1<<16)
	if st := s.Port("machine").Stats(); st.Malformed != 1 {
		t.Errorf("Stats() = %+v; want 1 malformed", st)
	}
}

func TestSocketErrors(t *testing.T) {
	s := startSwitch(t, Config{})
	h := newHost(t, s, "h", 0, "192.0.2.1/24")
	any4 := netip.MustParseAddrPort("0.0.0.0:80")
	ln, err := h.Listen(t.Context(), any4)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("port taken", func(t *testing.T) {
		if _, err := h.Listen(t.Context(), any4); err == nil || !strings.Contains(err.Error(), "port is in use") {
			t.Errorf("Listen = %v; want port is in use", err)
		}
	})
	t.Run("not our address", func(t *testing.T) {
		if _, err := h.Listen(t.Context(), netip.MustParseAddrPort("192.0.2.7:80")); err == nil {
			t.Error("Listen = nil; want an error")
		}
	})
	t.Run("names are not resolved", func(t *testing.T) {
		if _, err := h.DialContext(t.Context(), "tcp", "example.org:80"); err == nil || !strings.Contains(err.Error(), "resolves no names") {
			t.Errorf("DialContext = %v; want resolves no names", err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		if _, err := h.DialContext(t.Context(), "tcp", "192.0.2.1:81"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("DialContext = %v; want refused", err)
		}
	})
	t.Run("no route", func(t *testing.T) {
		if _, err := h.DialContext(t.Context(), "tcp", "203.0.113.1:80"); err == nil {
			t.Error("DialContext = nil; want an error")
		}
	})
	t.Run("deadline", func(t *testing.T) {
		c := listenUDP(t, h, "0.0.0.0:67")
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, _, err := c.ReadFrom(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ReadFrom = %v; want os.ErrDeadlineExceeded", err)
		}
	})
	t.Run("closed while reading", func(t *testing.T) {
		c := listenUDP(t, h, "0.0.0.0:69")
		c.SetDeadline(time.Time{})
		errs := make(chan error, 2)
		go func() { _, _, err := c.ReadFrom(make([]byte, 9)); errs <- err }()
		go func() { _, err := ln.Accept(); errs <- err }()
		c.Close()
		ln.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v; want net.ErrClosed", err)
			}
		}
	})
}

func TestHostCloseEndsSockets(t *testing.T) {
	s := startSwitch(t, Config{})
	h, peer := newHost(t, s, "h", 0, "192.0.2.1/24"), newHost(t, s, "peer", 0, "192.0.2.2/24")
	ln, err := h.Listen(t.Context(), netip.MustParseAddrPort("192.0.2.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	pc := listenUDP(t, h, "0.0.0.0:67")
	pc.SetDeadline(time.Time{})
	c, err := peer.DialContext(within(t, 10*time.Second), "tcp", "192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	acc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 4)
	go func() { _, err := ln.Accept(); errs <- err }()
	go func() { _, _, err := pc.ReadFrom(make([]byte, 9)); errs <- err }()
	go func() { _, err := acc.Read(make([]byte, 9)); errs <- err }()
	go func() { _, err := c.Read(make([]byte, 9)); errs <- err }() // reset
	if err := h.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
	for range 4 {
		select {
		case err := <-errs:
			if err == nil {
				t.Error("a socket of a closed host returned no error")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a socket of a closed host still waits")
		}
	}
	if err := h.Close(); err != nil {
		t.Errorf("second Close() = %v; want nil", err)
	}
	if _, err := h.Listen(t.Context(), netip.MustParseAddrPort("0.0.0.0:80")); !errors.Is(err, ErrClosed) {
		t.Errorf("Listen on a closed host = %v; want ErrClosed", err)
	}
}

// solicitation builds a router solicitation (RFC 4861 §4.1).
func solicitation(src netip.Addr, from net.HardwareAddr, hop byte, options []byte) []byte {
	dst := netip.IPv6LinkLocalAllRouters()
	b := append(append([]byte{}, 0x33, 0x33, 0, 0, 0, 2), from...)
	b = append(b, 0x86, 0xdd)
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, 58, hop
	binary.BigEndian.PutUint16(ip[4:], uint16(8+len(options)))
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	msg := append(make([]byte, 8), options...)
	msg[0] = icmpRouterSolicitation
	binary.BigEndian.PutUint16(msg[2:], icmp6Checksum(msg, src, dst))
	return append(append(b, ip...), msg...)
}

func TestRouterAdvertisement(t *testing.T) {
	ll := netip.MustParseAddr("fe80::5054:ff:fe00:1")
	slla := []byte{1, 1, 0x52, 0x54, 0, 0, 0, 1}
	badSum := solicitation(ll, mac(1), 255, slla)
	badSum[headerLen+40+2] ^= 1
	for _, tt := range []struct {
		name  string
		frame []byte
		want  string // destination of the answer, empty for none
	}{
		{"from an address", solicitation(ll, mac(1), 255, slla), "fe80::5054:ff:fe00:1"},
		{"without options", solicitation(ll, mac(1), 255, nil), "fe80::5054:ff:fe00:1"},
		{"from no address", solicitation(netip.IPv6Unspecified(), mac(1), 255, nil), "ff02::1"},
		{"from no address with a link address", solicitation(netip.IPv6Unspecified(), mac(1), 255, slla), ""},
		{"forwarded", solicitation(ll, mac(1), 254, slla), ""},
		{"bad checksum", badSum, ""},
		{"option of length 0", solicitation(ll, mac(1), 255, []byte{1, 0, 0, 0, 0, 0, 0, 0}), ""},
		{"option too long", solicitation(ll, mac(1), 255, []byte{1, 2, 0, 0, 0, 0, 0, 0}), ""},
		{"cut", solicitation(ll, mac(1), 255, slla)[:headerLen+41], ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewSwitch(Config{})
			defer s.Close()
			h, err := s.NewHost(HostConfig{Name: "router", RouterAdvertisements: true})
			if err != nil {
				t.Fatal(err)
			}
			nic, far := Pipe()
			p, err := s.attach(PortConfig{Name: "machine"}, far, false)
			if err != nil {
				t.Fatal(err)
			}
			p.receive(tt.frame) // the answer is in the pipe when this returns
			var got []byte
			for _, f := range drain(nic) {
				if len(f) > headerLen+40 && f[headerLen+6] == 58 && f[headerLen+40] == icmpRouterAdvertisement {
					got = f
				}
			}
			if got == nil || tt.want == "" {
				if (got == nil) != (tt.want == "") {
					t.Fatalf("answer %x; want one to %q", got, tt.want)
				}
				return
			}
			ip := got[headerLen:]
			src, dst := netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
			msg := ip[40:]
			if dst.String() != tt.want || !src.IsLinkLocalUnicast() || ip[7] != 255 {
				t.Errorf("answer from %v to %v, hop limit %d; want to %s, hop limit 255", src, dst, ip[7], tt.want)
			}
			if sum := icmp6Checksum(msg, src, dst); sum != binary.BigEndian.Uint16(msg[2:]) {
				t.Errorf("checksum %x; want %x", msg[2:4], sum)
			}
			if flags, life := msg[5], binary.BigEndian.Uint16(msg[6:]); flags != 0 || life != 0 {
				t.Errorf("flags %#x, lifetime %d; want 0, 0", flags, life)
			}
			if !bytes.Equal(msg[18:24], h.MAC()) || binary.BigEndian.Uint32(msg[28:]) != 1500 {
				t.Errorf("options %x; want the address %s and MTU 1500", msg[16:], h.MAC())
			}
		})
	}
}

func FuzzParseSolicitation(f *testing.F) {
	f.Add(solicitation(netip.MustParseAddr("fe80::1"), mac(1), 255, []byte{1, 1, 0, 0, 0, 0, 0, 0}))
	f.Add(solicitation(netip.IPv6Unspecified(), mac(1), 255, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if to, ok := parseSolicitation(b); ok && (len(to.mac) != 6 || !to.addr.Is6()) {
			t.Errorf("parseSolicitation(%x) = %+v; want an address", b, to)
		}
	})
}
