package fabric

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// freePort is a loopback UDP port that was free a moment ago.
func freePort(t testing.TB) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// udpPort attaches a UDP link and returns the addresses of both ends.
func udpPort(t testing.TB, s *Switch, c PortConfig) (local, peer netip.AddrPort) {
	t.Helper()
	local, peer = freePort(t), freePort(t)
	l, err := ListenUDP(local, peer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Attach(c, l); err != nil {
		t.Fatal(err)
	}
	return local, peer
}

// machine is a QEMU's socket: bound to its own port, sending to the switch's.
func machine(t testing.TB, own, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(own), net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestListenUDPRefuses(t *testing.T) {
	lo := netip.MustParseAddrPort("127.0.0.1:4000")
	taken := freePort(t)
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(taken))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range []struct {
		name        string
		local, peer netip.AddrPort
		want        string
	}{
		{"local on every address", netip.MustParseAddrPort("0.0.0.0:4000"), lo, "0.0.0.0 is not a loopback address"},
		{"peer elsewhere", lo, netip.MustParseAddrPort("192.0.2.1:4000"), "192.0.2.1 is not a loopback address"},
		{"peer is a group", lo, netip.MustParseAddrPort("230.0.0.1:4000"), "not a loopback address"},
		{"no address", netip.AddrPort{}, lo, "not a loopback address"},
		{"peer without port", lo, netip.MustParseAddrPort("127.0.0.1:0"), "the peer has no port"},
		{"port taken", taken, lo, "in use"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := ListenUDP(tt.local, tt.peer)
			if err == nil {
				l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ListenUDP(%v, %v) = %v; want %q", tt.local, tt.peer, err, tt.want)
			}
		})
	}
}

func TestUDPPortSurvivesItsPeer(t *testing.T) {
	s := startSwitch(t, Config{})
	local, peer := udpPort(t, s, PortConfig{Name: "machine"})
	other := plug(t, s, PortConfig{Name: "other"})

	// Nobody is there yet: each of these comes back as ECONNREFUSED to a later
	// call.
	for range 5 {
		send(t, other, ether(broadcast, mac(2), 0, "early"))
	}
	waitFor(t, "the early frames to leave", func() bool { return s.Port("machine").Stats().OutFrames == 5 })

	for life := range 3 {
		m := machine(t, peer, local)
		hello := ether(broadcast, mac(1), 0, "hello")
		if _, err := m.Write(hello); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2048)
		n, err := readFrame(t, other, buf)
		if err != nil || !bytes.Equal(buf[:n], hello) {
			t.Fatalf("life %d: other got %x, %v; want %x", life, buf[:n], err, hello)
		}
		answer := ether(mac(1), mac(2), 0, "answer")
		send(t, other, answer)
		m.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := m.Read(buf); err != nil || !bytes.Equal(buf[:n], answer) {
			t.Fatalf("life %d: the machine got %x, %v; want %x", life, buf[:n], err, answer)
		}
		m.Close()
		for range 5 {
			send(t, other, answer)
		}
		// All so far: the early ones, and in each life the answer and these.
		sent := uint64(5 + 6*(life+1))
		waitFor(t, "the frames to a machine that is off", func() bool { return s.Port("machine").Stats().OutFrames == sent })
	}
	if st := s.Port("machine").Stats(); st.WriteErrors != 0 || st.InFrames != 3 {
		t.Errorf("Stats() = %+v; want 3 in and no write errors", st)
	}
}

func TestUDPLinkHearsOnlyItsPeer(t *testing.T) {
	s := startSwitch(t, Config{})
	local, peer := udpPort(t, s, PortConfig{Name: "machine"})
	stranger, m := machine(t, freePort(t), local), machine(t, peer, local)
	if _, err := stranger.Write(ether(broadcast, mac(9), 0, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Write(ether(broadcast, mac(1), 0, "")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the machine's frame", func() bool { return s.Port("machine").Stats().InFrames > 0 })
	if st := s.Port("machine").Stats(); st.InFrames != 1 {
		t.Errorf("Stats() = %+v; want 1 frame in", st)
	}
}

// readFrame reads with a bound.
func readFrame(t testing.TB, l Link, b []byte) (int, error) {
	t.Helper()
	timer := time.AfterFunc(10*time.Second, func() { l.Close() })
	defer timer.Stop()
	return l.ReadFrame(b)
}

// waitFor polls for at most ten seconds.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

// TestUDPLabRestarts closes a switch and opens another on the same port, as a
// lab's daemon does that restarts under a running machine.
func TestUDPLabRestarts(t *testing.T) {
	local, peer := freePort(t), freePort(t)
	m := machine(t, peer, local)
	for life := range 3 {
		s := NewSwitch(Config{})
		l, err := ListenUDP(local, peer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Attach(PortConfig{Name: "machine"}, l); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "a frame of the machine", func() bool {
			m.Write(ether(broadcast, mac(1), 0, "")) // refused once for the lab that was gone
			return s.Port("machine").Stats().InFrames > 0
		})
		if err := s.Close(); err != nil {
			t.Errorf("life %d: Close() = %v; want nil", life, err)
		}
	}
}
