package pxe

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/pxe/load"
)

// TestTFTPLossOnSockets has clients on the kernel's sockets lose packets, and
// never ask again: what is seen is the server's patience.
func TestTFTPLossOnSockets(t *testing.T) {
	want := pattern(150_000)
	to := netip.MustParseAddrPort(realUDP(t, mapFiles{"f": want}, 1500))
	for _, window := range []int{0, 8} {
		r := load.Fetches(t.Context(), 10, func(ctx context.Context, _ int) (int64, error) {
			conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				return 0, err
			}
			defer conn.Close()
			return load.Fetch{Server: to, Name: "f", Blksize: 1468, Window: window, Loss: 0.02, Timeout: 5 * time.Second, Tries: 1}.Run(ctx, conn)
		})
		// The request itself may be lost, and nobody asks again.
		if r.Time.Count < 6 {
			t.Errorf("windowsize %d: %d of 10 clients got the file, %v; want 6 at least", window, r.Time.Count, r.Failed)
		}
	}
}

// TestTFTPWaitsNoLonger has a client fall silent: a block is sent again after
// the shortest wait, though the deadline was set for an earlier block.
func TestTFTPWaitsNoLonger(t *testing.T) {
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(realUDP(t, mapFiles{"f": pattern(100_000)}, 1500)))
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.WriteTo(rrq("f", "tsize", "0"), to); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 600)
	var from net.Addr
	read := func() int {
		t.Helper()
		if _, from, err = conn.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
		return int(buf[2])<<8 | int(buf[3])
	}
	ack := func(n int) {
		t.Helper()
		if _, err := conn.WriteTo(ackOf(n), from); err != nil {
			t.Fatal(err)
		}
	}
	read() // OACK
	// Nothing of ours makes a wait shorter, and one that the machine does not
	// make longer is enough.
	least := time.Hour
	for n := 0; n < 90 && least > tftpMinRTO*12/10; n++ {
		if n%3 == 2 { // slower than before, but in time
			conn.SetReadDeadline(time.Now().Add(tftpMinRTO * 6 / 10))
			if k, _, err := conn.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Logf("%d bytes too early, %v", k, err)
			}
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		}
		silent := time.Now() // the block is sent later than that
		ack(n)
		for read() != n+1 {
		}
		if n%3 != 2 {
			continue // the round trip is measured anew
		}
		for read() != n+1 {
		}
		least = min(least, time.Since(silent))
	}
	if least < tftpMinRTO || least > tftpMinRTO*12/10 {
		t.Errorf("a block was sent again after %v; want about %v", least, tftpMinRTO)
	}
}

// TestTFTPOnIPv6 connects its sockets as IPv4's are.
func TestTFTPOnIPv6(t *testing.T) {
	server, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		missing(t, "no IPv6 on loopback: %v", err)
	}
	defer server.Close()
	client, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	to, _ := addrPortOf(client.LocalAddr())
	want := pattern(100_000)
	engines, err := newTFTPEngines(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer engines.close()
	w, ok := engines.carrier(server, to).(*engineWire)
	if !ok {
		t.Fatalf("the carrier of an IPv6 socket is no %T", w)
	}
	s := &sender{to: w, file: newTFTPFile(memorySource{strings.NewReader(want)}), now: time.Now, blksize: 1440, window: 4}
	done := make(chan error, 1)
	go func() { done <- w.run(t.Context(), s) }()
	var got bytes.Buffer
	client.SetDeadline(time.Now().Add(20 * time.Second))
	for buf, n := make([]byte, 2000), 1444; n == 1444; {
		if n, _, err = client.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
		got.Write(buf[4:n])
		if _, err := client.WriteTo(ackOf(int(buf[2])<<8|int(buf[3])), server.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil || got.String() != want || s.bytes != int64(len(want)) {
		t.Errorf("run = %v after %d bytes, of which the client got %d; want all %d", err, s.bytes, got.Len(), len(want))
	}
	other, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if c, ok := engines.carrier(other, to).(*packetWire); !ok {
		t.Errorf("the carrier of an IPv4 socket to an IPv6 client is no %T", c)
	}
}

// TestTFTPClientComesBack is a client whose port is closed for a while: the
// kernel refuses what is sent there, and the transfer goes on when it is open.
func TestTFTPClientComesBack(t *testing.T) {
	want := pattern(100_000)
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(realUDP(t, mapFiles{"f": want}, 1500)))
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	here := conn.LocalAddr().(*net.UDPAddr)
	if _, err := conn.WriteTo(rrq("f", "blksize", "1468"), to); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, from, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WriteTo(ackOf(0), from); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.ReadFrom(buf); err != nil { // block 1
		t.Fatal(err)
	}
	conn.Close()
	refused := noPorts(t)
	for end := time.Now().Add(10 * time.Second); noPorts(t) == refused; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("no block was sent to the closed port: %s now, %s before", noPorts(t), refused)
		}
	}
	if conn, err = net.ListenUDP("udp4", here); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	last, total := 0, 0
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("after block %d: %v", last, err)
		}
		if block := int(buf[2])<<8 | int(buf[3]); block == last+1 {
			last, total = block, total+n-4
		}
		if _, err := conn.WriteTo(ackOf(last), from); err != nil {
			t.Fatal(err)
		}
		if n < 1472 && total == len(want) {
			return
		}
	}
}

// noPorts counts what the kernel refused because nobody has the port.
func noPorts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/snmp") // of this thread: others are in namespaces of other tests
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nUdp: ")
	_, rest, ok := strings.Cut(rest, "\nUdp: ")
	f := strings.Fields(rest)
	if !ok || len(f) < 2 {
		t.Fatalf("/proc/thread-self/net/snmp tells nothing of UDP: %q", b)
	}
	return f[1]
}

// TestTFTPStops has the server stop while a client is silent: nothing is left.
func TestTFTPStops(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("serve", func(t *testing.T) {
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(realUDP(t, mapFiles{"f": pattern(100_000)}, 1500)))
		for range 5 {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := conn.WriteTo(rrq("f"), to); err != nil {
				t.Fatal(err)
			}
			if _, _, err := conn.ReadFrom(make([]byte, 2000)); err != nil {
				t.Fatal(err)
			}
		}
	})
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines are left; want %d", runtime.NumGoroutine(), before)
		}
	}
}

// TestTFTPFloodOfItsOwn has clients flood the sockets of their own transfers:
// these end, though the flood does not, and another client gets its file.
func TestTFTPFloodOfItsOwn(t *testing.T) {
	to := netip.MustParseAddrPort(realUDP(t, mapFiles{"f": pattern(1_000_000)}, 1500))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var floods sync.WaitGroup
	for i := range 4 {
		floods.Go(func() {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			buf := make([]byte, 600)
			_, err = conn.WriteTo(rrq("f", "tsize", "0"), net.UDPAddrFromAddrPort(to))
			var from netip.AddrPort
			if err == nil {
				_, from, err = conn.ReadFromUDPAddrPort(buf)
			}
			if err != nil {
				t.Errorf("flood %d got no answer: %v", i, err)
				return
			}
			// Connected, it learns that the server's port is closed.
			own := conn.LocalAddr().(*net.UDPAddr)
			conn.Close()
			flood, err := net.DialUDP("udp4", own, net.UDPAddrFromAddrPort(from))
			if err != nil {
				t.Error(err)
				return
			}
			defer flood.Close()
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := flood.Write([]byte("garbage")); errors.Is(err, syscall.ECONNREFUSED) {
					t.Logf("flood %d: the transfer ended after %d packets", i, n)
					return
				}
			}
			t.Errorf("flood %d: the transfer goes on", i)
		})
	}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n, err := load.Fetch{Server: to, Name: "f", Blksize: 1468, Timeout: time.Second, Tries: 10}.Run(ctx, conn)
	if err != nil || n != 1_000_000 {
		t.Errorf("the other client got %d bytes, %v; want all", n, err)
	}
	floods.Wait()
}

// TestTFTPStrangersPutNothingOff has strangers send to a transfer's port without
// end: its client is asked again in time.
func TestTFTPStrangersPutNothingOff(t *testing.T) {
	listen := func() *net.UDPConn {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	server, client, stranger := listen(), listen(), listen()
	w := &packetWire{conn: server, udp: server, to: client.LocalAddr().(*net.UDPAddr).AddrPort()}
	s := &sender{to: w, file: newTFTPFile(memorySource{strings.NewReader("x")}), now: time.Now, blksize: 8, window: 1, oack: []byte{0, tftpOack}}
	done := make(chan error, 1)
	go func() { done <- w.run(t.Context(), s) }()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(tftpFirstRTO / 20)
		defer tick.Stop()
		for range 20 * 30 { // bounded, and longer than the client waits
			<-tick.C
			if _, err := stranger.WriteTo([]byte("x"), server.LocalAddr()); err != nil {
				return
			}
		}
	}()
	client.SetReadDeadline(time.Now().Add(20 * tftpFirstRTO))
	buf := make([]byte, 600)
	for i := range 3 { // sent, and again after one and two waits
		if _, _, err := client.ReadFrom(buf); err != nil {
			t.Fatalf("the OACK came %d times, then: %v", i, err)
		}
	}
	stranger.Close()
	server.Close()
	<-done
	<-ended
}
