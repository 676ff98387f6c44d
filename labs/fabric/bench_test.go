package fabric

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// qemuBuffer asks for what QEMU's socket has: net.core.rmem_default, which the
// kernel counts double when asked for.
const qemuBuffer = 212992 / 2

// BenchmarkSwitchForward moves full frames from a port to another.
func BenchmarkSwitchForward(b *testing.B) {
	payload := strings.Repeat("x", 1500)
	b.Run("memory", func(b *testing.B) {
		s := NewSwitch(Config{})
		defer s.Close()
		from, _ := s.attach(PortConfig{Name: "from"}, sink{}, false)
		to, _ := s.attach(PortConfig{Name: "to"}, sink{}, false)
		to.receive(ether(broadcast, mac(2), 0, ""))
		f := ether(mac(2), mac(1), 0, payload)
		b.SetBytes(int64(len(f)))
		b.ReportAllocs()
		for b.Loop() {
			from.receive(f)
		}
	})
	// A sender that sends as fast as it can, a receiver with a socket buffer
	// like QEMU's or like ours: what is lost before and behind the switch?
	for _, rx := range []int{qemuBuffer, socketBuffer} {
		b.Run(fmt.Sprintf("udp/receiver=%dKiB", 2*rx>>10), func(b *testing.B) { benchUDP(b, payload, rx) })
	}
}

func benchUDP(b *testing.B, payload string, rx int) {
	s := startSwitch(b, Config{})
	txTo, txOwn := udpPort(b, s, PortConfig{Name: "from"})
	rxTo, rxOwn := udpPort(b, s, PortConfig{Name: "to"})
	tx, recv := machine(b, txOwn, txTo), machine(b, rxOwn, rxTo)
	if err := setBuffers(recv, rx); err != nil {
		b.Fatal(err)
	}
	if _, err := recv.Write(ether(broadcast, mac(2), 0, "")); err != nil {
		b.Fatal(err)
	}
	waitFor(b, "the receiver to be learnt", func() bool { return s.Port("to").Stats().InFrames == 1 })
	got := make(chan int, 1)
	go func() {
		n, buf := 0, make([]byte, 2048)
		for {
			if _, err := recv.Read(buf); err != nil {
				got <- n
				return
			}
			n++
			recv.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		}
	}()
	f := ether(mac(2), mac(1), 0, payload)
	b.SetBytes(int64(len(f)))
	n := 0
	for b.Loop() {
		if _, err := tx.Write(f); err != nil {
			b.Fatal(err)
		}
		n++
	}
	recv.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	st := s.Port("from").Stats()
	b.ReportMetric(100*(1-float64(st.InFrames)/float64(n)), "%lost-before")
	b.ReportMetric(100*(1-float64(<-got)/float64(n)), "%lost-in-all")
}

// BenchmarkTCPThroughHost sends 64 MiB from a host to another one on a second
// switch; a UDP link joins the switches, as between the lab and a machine.
func BenchmarkTCPThroughHost(b *testing.B) {
	for _, bb := range []struct {
		name string
		rx   int // of the receiving side's UDP socket
	}{{"memory", 0}, {"udp/receiver=416KiB", 2 * qemuBuffer}, {"udp/receiver=208KiB", qemuBuffer}, {"udp/receiver=8MiB", socketBuffer}} {
		b.Run(bb.name, func(b *testing.B) {
			near := startSwitch(b, Config{})
			far := near
			if bb.rx != 0 {
				far = startSwitch(b, Config{})
				local, peer := udpPort(b, near, PortConfig{Name: "cable"})
				l, err := ListenUDP(peer, local)
				if err != nil {
					b.Fatal(err)
				}
				if err := setBuffers(l.(*udpLink).c, bb.rx); err != nil {
					b.Fatal(err)
				}
				if _, err := far.Attach(PortConfig{Name: "cable"}, l); err != nil {
					b.Fatal(err)
				}
			}
			server, client := newHost(b, near, "server", 0, "192.0.2.1/24"), newHost(b, far, "client", 0, "192.0.2.2/24")
			const size = 64 << 20
			b.SetBytes(size)
			ln, err := server.Listen(b.Context(), netip.MustParseAddrPort("192.0.2.1:80"))
			if err != nil {
				b.Fatal(err)
			}
			go serveBytes(ln, size)
			for b.Loop() {
				c, err := client.DialContext(b.Context(), "tcp", "192.0.2.1:80")
				if err != nil {
					b.Fatal(err)
				}
				c.SetDeadline(time.Now().Add(2 * time.Minute))
				if n, err := io.Copy(io.Discard, c); err != nil || n != size {
					b.Fatalf("read %d, %v; want %d", n, err, size)
				}
				c.Close()
			}
			ln.Close()
			if bb.rx != 0 {
				sent, got := near.Port("cable").Stats().OutFrames, far.Port("cable").Stats().InFrames
				b.ReportMetric(100*(1-float64(got)/float64(sent)), "%lost")
			}
			st := server.ip.Stats().TCP
			b.ReportMetric(100*float64(st.Retransmits.Value())/float64(st.SegmentsSent.Value()), "%resent")
			b.ReportMetric(float64(st.Timeouts.Value())/float64(b.N), "RTOs/op")
		})
	}
}

// serveBytes gives every caller n bytes until ln is closed.
func serveBytes(ln net.Listener, n int) {
	buf := make([]byte, 256<<10)
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		for left := n; left > 0 && err == nil; left -= len(buf) {
			_, err = c.Write(buf)
		}
		c.Close()
	}
}
