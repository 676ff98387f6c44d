package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/pxe/load"
)

func rrq(name string, opts ...string) []byte {
	b := append([]byte{0, tftpRead}, name+"\x00octet\x00"...)
	for _, o := range opts {
		b = append(append(b, o...), 0)
	}
	return b
}

func TestParseTFTP(t *testing.T) {
	for _, tc := range []struct {
		name string
		b    []byte
		want tftpRequest
		code int // of the ERROR that is owed; -1: dropped
	}{
		{"plain", rrq("a"), tftpRequest{name: "a"}, 0},
		{"all options", rrq("a", "blksize", "1468", "tsize", "0", "timeout", "3", "windowsize", "4"), tftpRequest{name: "a", blksize: 1468, tsize: true, timeout: 3, window: 4}, 0},
		{"case does not matter", rrq("a", "BlkSize", "1024"), tftpRequest{name: "a", blksize: 1024}, 0},
		{"item 17: padded datagram", append(rrq("a", "blksize", "1024"), make([]byte, 100)...), tftpRequest{name: "a", blksize: 1024}, 0},
		{"absurd values are not acknowledged", rrq("a", "blksize", "4", "timeout", "999", "windowsize", "0", "tsize", "x"), tftpRequest{name: "a"}, 0},
		{"huge window is clamped", rrq("a", "windowsize", "65535"), tftpRequest{name: "a", window: tftpMaxWindow}, 0},
		{"unknown option", rrq("a", "multicast", "", "blksize", "512"), tftpRequest{name: "a", blksize: 512}, 0},
		{"write", append([]byte{0, tftpWrite}, "a\x00octet\x00"...), tftpRequest{}, tftpErrAccess},
		{"mail mode", append([]byte{0, tftpRead}, "a\x00mail\x00"...), tftpRequest{name: "a"}, tftpErrIllegal},
		{"no mode", append([]byte{0, tftpRead}, "abcd\x00"...), tftpRequest{name: "abcd"}, tftpErrIllegal},
		{"no name", append([]byte{0, tftpRead}, "\x00octet\x00"...), tftpRequest{}, tftpErrIllegal},
		{"ack", []byte{0, tftpAck, 0, 1}, tftpRequest{}, -1},
		{"short", []byte{0}, tftpRequest{}, -1},
		{"too long", append(rrq("a"), make([]byte, tftpMaxRequest)...), tftpRequest{}, -1},
	} {
		got, err := parseTFTP(tc.b)
		code := 0
		if r, ok := err.(*tftpRefusal); ok {
			code = int(r.code)
		} else if err != nil {
			code = -1
		}
		if got != tc.want || code != tc.code {
			t.Errorf("%s: parseTFTP = %+v, code %d; want %+v, %d", tc.name, got, code, tc.want, tc.code)
		}
	}
}

func TestQuirkNames(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"undionly.kpxe", "undionly.kpxe"},
		{"undionly.kpxe\xff", "undionly.kpxe"},            // item 7: Intel ROMs append 0xFF
		{"undionly.kpxe\xff\xff\x00x", "undionly.kpxe"},   // item 7
		{"snponly.efi\x00\x01", "snponly.efi"},            // item 7: old EDK2
		{"//grubx64.efi", "grubx64.efi"},                  // shim
		{`\boot\x64\snponly.efi`, "boot/x64/snponly.efi"}, // Windows loaders
		{"/tftpboot//a", "tftpboot/a"},
		{"grüße.efi", "grüße.efi"},
	} {
		if got := quirkName(tc.in); got != tc.want {
			t.Errorf("quirkName(%q) = %q; want %q", tc.in, got, tc.want)
		}
	}
	for _, bad := range []string{"", "/", "..", "../etc/passwd", "a/../../b", `..\..\etc`, "a/./b", "a\nb", "\xfe\xfd"} {
		if got, err := cleanName(bad); err == nil {
			t.Errorf("cleanName(%q) = %q; want an error", bad, got)
		}
	}
}

// tftpClient is a receiver of RFC 7440 over a fake connection.
type tftpClient struct {
	conn   *fakeConn
	peer   net.Addr
	window int
	lose   func(n int) bool // loses the nth DATA packet that arrives
	dupAck bool             // acknowledges twice, ever more slowly
	delay  time.Duration
	data   bytes.Buffer
	oack   string
}

func (c *tftpClient) write(b []byte) { c.conn.in <- datagram{b: b, addr: c.peer} }

func (c *tftpClient) ack(n uint16) {
	if c.dupAck {
		c.delay += time.Millisecond
		time.Sleep(c.delay / 2) // of the bubble's clock
	}
	c.write(binary.BigEndian.AppendUint16([]byte{0, tftpAck}, n))
	if c.dupAck {
		c.write(binary.BigEndian.AppendUint16([]byte{0, tftpAck}, n))
	}
}

// receive runs until the file is complete, in packets of at most limit.
func (c *tftpClient) receive(blksize, limit int) error {
	var last uint16
	inWindow := 0
	for k := range limit {
		var d datagram
		select {
		case d = <-c.conn.out:
		case <-time.After(2 * time.Minute):
			return fmt.Errorf("nothing more after %d packets, block %d", k, last)
		}
		switch binary.BigEndian.Uint16(d.b) {
		case tftpOack:
			c.oack = string(d.b[2:])
			c.ack(0)
		case tftpError:
			return fmt.Errorf("error %q", d.b[2:])
		case tftpData:
			if c.lose != nil && c.lose(k) {
				continue
			}
			n := binary.BigEndian.Uint16(d.b[2:])
			if n != last+1 {
				c.ack(last) // out of order: RFC 7440 §4
				inWindow = 0
				continue
			}
			last = n
			c.data.Write(d.b[4:])
			done := len(d.b)-4 < blksize
			if inWindow++; inWindow >= c.window || done {
				c.ack(last)
				inWindow = 0
			}
			if done {
				return nil
			}
		}
	}
	return fmt.Errorf("not complete after %d packets", limit)
}

func pattern(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

// TestTFTPTransfer runs transfers with loss and repeated packets, on a clock
// that costs no time.
func TestTFTPTransfer(t *testing.T) {
	every := func(n int) func(int) bool { return func(k int) bool { return k%n == n/2 } }
	for _, tc := range []struct {
		name    string
		size    int
		opts    []string
		blksize int
		window  int
		lose    func(int) bool
		dup     bool
		limit   int
		oack    string
	}{
		{"lockstep", 5000, nil, 512, 1, nil, false, 10, ""},
		{"exact multiple ends with an empty block", 1024, nil, 512, 1, nil, false, 3, ""},
		{"empty file", 0, nil, 512, 1, nil, false, 1, ""},
		{"options", 5000, []string{"blksize", "1468", "tsize", "0"}, 1468, 1, nil, false, 5, "blksize\x001468\x00tsize\x005000\x00"},
		{"item 17: blksize is clamped to the MTU", 5000, []string{"blksize", "8192"}, 1468, 1, nil, false, 5, "blksize\x001468\x00"},
		{"item 17: EDK2's window of 4", 50000, []string{"blksize", "1468", "windowsize", "4"}, 1468, 4, nil, false, 36, "blksize\x001468\x00windowsize\x004\x00"},
		{"lockstep with loss", 50000, nil, 512, 1, every(10), false, 120, ""},
		{"window with loss", 200000, []string{"blksize", "1024", "windowsize", "16"}, 1024, 16, every(50), false, 400, "blksize\x001024\x00windowsize\x0016\x00"},
		{"RFC 1123 §4.2.3.1: repeated ACKs double nothing", 50000, nil, 512, 1, nil, true, 99, ""},
		{"window with repeated ACKs", 50000, []string{"windowsize", "8"}, 512, 8, nil, true, 210, "windowsize\x008\x00"},
		{"item 17: block numbers roll over", 70000 * 8, []string{"blksize", "8"}, 8, 1, nil, false, 70010, "blksize\x008\x00"},
		{"roll-over with a window and loss", 70000 * 8, []string{"blksize", "8", "windowsize", "7"}, 8, 7, every(500), false, 73000, "blksize\x008\x00windowsize\x007\x00"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.now = time.Now
				want := pattern(tc.size)
				f.files = mapFiles{"loaders/f": want}
				main := newFakeConn("192.0.2.1:69")
				peer := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.10:2070"))
				c := &tftpClient{conn: newFakeConn("192.0.2.1:40000"), peer: peer, window: tc.window, lose: tc.lose, dupAck: tc.dup}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				var local netip.Addr
				go func() {
					done <- f.ServeTFTP(ctx, main, func(_ context.Context, a netip.Addr) (net.PacketConn, error) { local = a; return c.conn, nil })
				}()
				main.in <- datagram{b: rrq("f", tc.opts...), addr: peer}
				if err := c.receive(tc.blksize, tc.limit); err != nil {
					t.Error(err)
				}
				if c.oack != tc.oack {
					t.Errorf("OACK = %q; want %q", c.oack, tc.oack)
				}
				if c.data.String() != want {
					t.Errorf("received %d bytes; want the file's %d", c.data.Len(), len(want))
				}
				synctest.Wait()
				cancel()
				if err := <-done; err != nil {
					t.Errorf("ServeTFTP = %v; want nil", err)
				}
				e, _ := f.timeline.find(func(e Exchange) bool { return e.Kind == "tftp.read" })
				if e.Err != nil || e.Bytes != int64(tc.size) || e.Name != "loaders/f" || local != netip.MustParseAddr("192.0.2.1") {
					t.Errorf("recorded %+v, sent from %v; want %d bytes of loaders/f without error", e, local, tc.size)
				}
			})
		})
	}
}

// TestTFTPEnds are transfers that do not complete.
func TestTFTPEnds(t *testing.T) {
	for _, tc := range []struct {
		name    string
		request []byte
		answer  []byte // the client's, to the first packet
		first   string // the server's first packet
		kind    string
		text    string
	}{
		{"missing file", rrq("nope"), nil, "\x00\x05\x00\x01no such file\x00", "tftp.read", "did not get nope by TFTP"},
		{"out of the root", rrq("../../etc/passwd"), nil, "\x00\x05\x00\x00the server could not open the file\x00", "tftp.read", "is not a file name"},
		{"probe of the size ends with error 8 (item 17)", rrq("f", "tsize", "0"), []byte("\x00\x05\x00\x08User aborted\x00"), "\x00\x06tsize\x003\x00", "tftp.read", "asked by TFTP how long loaders/f is: 3 bytes"},
		{"client that never answers", rrq("f", "tsize", "0"), nil, "\x00\x06tsize\x003\x00", "tftp.read", "did not answer"},
		{"client aborts", rrq("f"), []byte("\x00\x05\x00\x03disk full\x00"), "\x00\x03\x00\x01abc", "tftp.read", "disk full (error 3)"},
		{"write request", append([]byte{0, tftpWrite}, "f\x00octet\x00"...), nil, "\x00\x05\x00\x02this server is read-only\x00", "tftp.error", "read-only"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.now = time.Now
				f.files = mapFiles{"loaders/f": "abc"}
				main, conn := newFakeConn("192.0.2.1:69"), newFakeConn("192.0.2.1:40000")
				peer := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.10:2070"))
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- f.ServeTFTP(ctx, main, func(context.Context, netip.Addr) (net.PacketConn, error) { return conn, nil })
				}()
				main.in <- datagram{b: tc.request, addr: peer}
				var d datagram
				select {
				case d = <-conn.out:
				case d = <-main.out:
				}
				if string(d.b) != tc.first {
					t.Errorf("first packet = %q; want %q", d.b, tc.first)
				}
				if tc.answer != nil {
					// A stranger's packet to the transfer's port changes nothing (RFC 1350 §4).
					conn.in <- datagram{b: []byte("\x00\x05\x00\x00go away\x00"), addr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.66:1"))}
					conn.in <- datagram{b: tc.answer, addr: peer}
				}
				time.Sleep(5 * time.Minute) // of the bubble's clock: every retry is over
				synctest.Wait()
				e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == tc.kind })
				if !ok || !strings.Contains(e.Text, tc.text) {
					t.Errorf("recorded %q; want a sentence with %q", e.Text, tc.text)
				}
				if n := len(conn.out); n > 10 {
					t.Errorf("%d repeated packets; want a bounded number", n)
				}
				if f.tftp.silent.Len() != 0 || len(f.tftp.active) != 0 || len(f.tftp.perHost) != 0 {
					t.Errorf("transfers left: %+v", &f.tftp)
				}
				cancel()
				<-done
			})
		})
	}
}

func TestTFTPLimits(t *testing.T) {
	var l tftpLimits
	flood, honest := netip.MustParseAddr("192.0.2.66"), netip.MustParseAddr("192.0.2.10")
	ended := 0
	proven := l.take(tftpKey{netip.AddrPortFrom(flood, 1), "mine"}, time.Time{}, func(error) { t.Error("a transfer whose client answers was ended for another") })
	l.answered(proven)
	for port := range 20000 {
		if l.take(tftpKey{netip.AddrPortFrom(flood, uint16(port+1)), "f"}, time.Time{}, func(error) { ended++ }) == nil {
			t.Fatalf("request %d of an address whose others are not answered was refused", port)
		}
	}
	if want := 20000 - (tftpMaxPerHost - 1); ended != want || l.perHost[flood].count != tftpMaxPerHost {
		t.Errorf("%d transfers were ended and %d run; want %d and %d", ended, l.perHost[flood].count, want, tftpMaxPerHost)
	}
	if l.give(proven) {
		t.Error("a transfer whose client answered was replaced")
	}
	k := tftpKey{netip.AddrPortFrom(honest, 1), "f"}
	slot := l.take(k, time.Time{}, func(error) {})
	if slot == nil {
		t.Fatal("a flood from one address starves another")
	}
	if l.take(k, time.Time{}, func(error) {}) != nil {
		t.Error("a repeated request started a second transfer")
	}
	l.give(slot)
	l.give(slot)
	if slot = l.take(k, time.Time{}, func(error) {}); slot == nil {
		t.Fatal("a finished transfer still blocks its client")
	}
	l.answered(slot)
	for port := range tftpMaxPerHost {
		if s := l.take(tftpKey{netip.AddrPortFrom(honest, uint16(port+2)), "f"}, time.Time{}, func(error) {}); s != nil {
			l.answered(s)
		}
	}
	if l.take(tftpKey{netip.AddrPortFrom(honest, 999), "f"}, time.Time{}, func(error) {}) != nil {
		t.Errorf("address %v has more than %d transfers that all answer", honest, tftpMaxPerHost)
	}
}

// TestTFTPFromTheStart is firmware that is reset in the middle of a transfer
// and asks from the same port as before.
func TestTFTPFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.now = time.Now
		f.files = mapFiles{"loaders/f": pattern(2000)}
		main := newFakeConn("192.0.2.1:69")
		conns := []*fakeConn{newFakeConn("192.0.2.1:40000"), newFakeConn("192.0.2.1:40001")}
		peer := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.10:2070"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		dialed := 0
		go func() {
			done <- f.ServeTFTP(ctx, main, func(context.Context, netip.Addr) (net.PacketConn, error) {
				dialed++
				return conns[dialed-1], nil
			})
		}()
		ask := func(want string, transfers int) {
			t.Helper()
			main.in <- datagram{b: rrq("f"), addr: peer}
			synctest.Wait()
			if dialed != transfers {
				t.Fatalf("%s: %d transfers; want %d", want, dialed, transfers)
			}
		}
		ask("the request", 1)
		ask("repeated before the first answer", 1)
		time.Sleep(2 * time.Second)
		ask("repeated later, before the first answer", 1)
		conns[0].in <- datagram{b: ackOf(1), addr: peer}
		synctest.Wait()
		ask("repeated while the transfer runs", 1)
		time.Sleep(tftpRestart + time.Millisecond)
		ask("after a reset", 2)
		c := &tftpClient{conn: conns[1], peer: peer, window: 1}
		if err := c.receive(512, 10); err != nil || c.data.String() != pattern(2000) {
			t.Errorf("the second transfer brought %d bytes, %v; want all 2000", c.data.Len(), err)
		}
		synctest.Wait()
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Err != nil }); !ok || !strings.Contains(e.Text, "after 512 of 2000 bytes it fell silent, and asked for it again from the start") {
			t.Errorf("of the first transfer was recorded %q", e.Text)
		}
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Err == nil && e.Kind == "tftp.read" }); !ok || e.Bytes != 2000 {
			t.Errorf("of the second transfer was recorded %+v", e)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestTFTPMutations sends 20,000 broken requests from the address of a client
// that wants its file: it gets it, again and again.
func TestTFTPMutations(t *testing.T) {
	want := pattern(200_000)
	addr := realUDP(t, mapFiles{"f": want}, 1500)
	to, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	good := rrq("f", "tsize", "0", "blksize", "1468", "windowsize", "4")
	done := make(chan struct{})
	go func() {
		defer close(done)
		var conns []net.PacketConn
		for range 100 {
			c, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			conns = append(conns, c)
		}
		for i := range 20000 {
			b := bytes.Clone(good)
			for range rng.IntN(4) {
				b[rng.IntN(len(b))] = byte(rng.Uint32())
			}
			if rng.IntN(4) == 0 {
				b = b[:rng.IntN(len(b))]
			}
			if _, err := conns[i%len(conns)].WriteTo(b, to); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for fetched, flooding := 0, true; flooding || fetched < 5; fetched++ {
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f := load.Fetch{Server: to.AddrPort(), Name: "f", Blksize: 1468, Window: 4, Timeout: 300 * time.Millisecond, Tries: 50}
		n, err := f.Run(t.Context(), conn)
		conn.Close()
		if err != nil || n != int64(len(want)) {
			t.Errorf("fetch %d amid the flood = %d bytes, %v; want %d", fetched, n, err, len(want))
			break
		}
		select {
		case <-done:
			flooding = false
		default:
		}
	}
	<-done
}

// realUDP serves TFTP on loopback; it returns the server's address.
func realUDP(t testing.TB, files Files, mtu int) string {
	t.Helper()
	s, err := New(Config{Networks: []Network{{Name: "lo", Prefix: netip.MustParsePrefix("127.0.0.0/8"), Server: netip.MustParseAddr("127.0.0.1"), MTU: mtu}},
		Booter: booterFunc(nil), Leases: &memLeases{}, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.ServeTFTP(ctx, conn, func(_ context.Context, a netip.Addr) (net.PacketConn, error) {
			return net.ListenPacket("udp4", netip.AddrPortFrom(a, 0).String())
		})
	}()
	t.Cleanup(func() { cancel(); <-done; conn.Close() })
	return conn.LocalAddr().String()
}

// fetch gets a file over real sockets.
func fetch(addr, name string, blksize, window int, w io.Writer) (int64, error) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	return fetchOn(conn, addr, name, blksize, window, w)
}

func fetchOn(conn net.PacketConn, addr, name string, blksize, window int, w io.Writer) (int64, error) {
	to, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		return 0, err
	}
	if _, err := conn.WriteTo(rrq(name, "blksize", fmt.Sprint(blksize), "windowsize", fmt.Sprint(min(window, tftpMaxBurst/blksize))), to); err != nil {
		return 0, err
	}
	buf := make([]byte, 4+blksize)
	ack := []byte{0, tftpAck, 0, 0}
	var last uint16
	var total int64
	for got := 0; ; {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return total, err
		}
		switch binary.BigEndian.Uint16(buf) {
		case tftpOack:
		case tftpData:
			if binary.BigEndian.Uint16(buf[2:]) != last+1 {
				binary.BigEndian.PutUint16(ack[2:], last)
				conn.WriteTo(ack, from)
				got = 0
				continue
			}
			last++
			total += int64(n - 4)
			if _, err := w.Write(buf[4:n]); err != nil {
				return total, err
			}
			got++
			if n == len(buf) && got < min(window, tftpMaxBurst/blksize) {
				continue
			}
			got = 0
		default:
			return total, fmt.Errorf("packet %q", buf[:n])
		}
		binary.BigEndian.PutUint16(ack[2:], last)
		if _, err := conn.WriteTo(ack, from); err != nil {
			return total, err
		}
		if last > 0 && n < len(buf) {
			return total, nil
		}
	}
}

func TestTFTPOverLoopback(t *testing.T) {
	want := pattern(3 << 20)
	addr := realUDP(t, mapFiles{"f": want}, 1500)
	var b bytes.Buffer
	if _, err := fetch(addr, "f", 1468, 16, &b); err != nil || b.String() != want {
		t.Errorf("fetch = %d bytes, %v; want %d", b.Len(), err, len(want))
	}
}

func BenchmarkTFTP(b *testing.B) {
	const size = 4 << 20
	addr := realUDP(b, mapFiles{"f": pattern(size)}, 9000)
	for _, tc := range []struct{ blksize, window int }{{512, 1}, {1468, 1}, {1468, 4}, {1468, 16}, {8192, 16}} {
		b.Run(fmt.Sprintf("blksize=%d/windowsize=%d", tc.blksize, tc.window), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if n, err := fetch(addr, "f", tc.blksize, tc.window, io.Discard); err != nil || n != size {
					b.Fatalf("fetch = %d, %v", n, err)
				}
			}
		})
	}
}
