package fabric

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// A machine whose gateway is a trap is refused at once, and what it tried is
// remembered.
func TestTrap(t *testing.T) {
	s := startSwitch(t, Config{})
	gateway := netip.MustParseAddr("10.0.0.254")
	trap, err := s.NewTrap(TrapConfig{Name: "trap", Addrs: []netip.Addr{gateway}, Known: func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.2") }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- trap.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v; want nil", err)
		}
	})
	m := newHost(t, s, "machine", 0, "10.0.0.1/24")
	newHost(t, s, "neighbour", 0, "10.0.0.2/24")
	m.ip.AddRoute(tcpip.Route{Destination: subnet(netip.MustParsePrefix("0.0.0.0/0")), Gateway: address(gateway), NIC: nic})

	dial := func(network, to string) (net.Conn, error) {
		return m.DialContext(within(t, 5*time.Second), network, to)
	}
	if _, err := dial("tcp", "192.0.2.7:443"); !errors.Is(err, syscall.ECONNREFUSED) && (err == nil || !strings.Contains(err.Error(), "refused")) {
		t.Errorf("Dial of an address outside = %v; want connection refused", err)
	}
	if _, err := dial("tcp", "10.0.0.2:80"); err == nil {
		t.Error("Dial of a port that a neighbour has closed = nil; want an error")
	}
	short, cancelShort := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancelShort()
	if _, err := m.DialContext(short, "tcp", "10.0.0.9:80"); err == nil {
		t.Error("Dial of an address that nobody has = nil; want an error")
	}

	dns, err := m.ListenPacket(within(t, 5*time.Second), netip.MustParseAddrPort("10.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer dns.Close()
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName("Updates.example.org."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway, 53))
	if _, err := dns.WriteTo(b, to); err != nil {
		t.Fatal(err)
	}
	if err := dns.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 512)
	n, _, err := dns.ReadFrom(buf)
	if err != nil {
		t.Fatalf("no answer to a DNS query: %v", err)
	}
	var a dnsmessage.Message
	if err := a.Unpack(buf[:n]); err != nil || a.ID != 77 || a.RCode != dnsmessage.RCodeNameError {
		t.Errorf("answer = %+v, %v; want NXDOMAIN to question 77", a.Header, err)
	}
	if _, err := dns.WriteTo([]byte("time?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.1:123"))); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"10.0.0.1 asked 10.0.0.254 for the name updates.example.org (A)",
		"10.0.0.1 looked for 10.0.0.9, which nobody has",
		"10.0.0.1 tried to reach 192.0.2.7:443 by TCP",
		"10.0.0.1 tried to reach 198.51.100.1:123 by UDP",
	}
	var got []string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && len(got) < len(want); {
		all, _ := trap.Attempts()
		got = nil
		for _, a := range all {
			got = append(got, a.String())
		}
		select {
		case <-t.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("attempts:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Frames of any content do no harm.
func FuzzTrap(f *testing.F) {
	f.Add(ether(mac(1), mac(2), 0, "x"))
	me := mac(1)
	if b, err := udpFrame(mac(2), me, netip.MustParseAddrPort("10.0.0.1:99"), netip.MustParseAddrPort("192.0.2.1:53"), []byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01"), defaultMTU); err == nil {
		f.Add(b)
	}
	f.Add(frame4(mac(2), me, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.1"), 6, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		trap := &Trap{mac: me, now: time.Now, seen: map[attemptKey]*Attempt{}, c: TrapConfig{Known: func(netip.Addr) bool { return false }}}
		if reply := trap.frame(b); reply != nil && len(reply) < minFrame {
			t.Errorf("frame(%x) answers %d bytes", b, len(reply))
		}
	})
}
