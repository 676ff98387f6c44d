package load

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestScriptFiles(t *testing.T) {
	urls, args := scriptFiles(`#!ipxe
:try1
imgfetch --name vmlinuz http://192.0.2.1/boot/files/k ${ramdisks} console=ttyS0 a=b || goto wait1
initrd --name r0 http://192.0.2.1/boot/files/i || goto wait1
boot || goto wait1
:try2
kernel --name vmlinuz http://192.0.2.1/boot/files/k ${ramdisks} console=ttyS0 a=b || goto giveup
`)
	if got := strings.Join(urls, " "); got != "http://192.0.2.1/boot/files/k http://192.0.2.1/boot/files/i" || args != "${ramdisks} console=ttyS0 a=b" {
		t.Errorf("scriptFiles = %q, %q", got, args)
	}
	if urls, args := scriptFiles("#!ipxe\nkernel http://192.0.2.1/k a=b\n"); len(urls) != 1 || args != "a=b" {
		t.Errorf("scriptFiles of another server's script = %q, %q; want its kernel", urls, args)
	}
	if urls, _ := scriptFiles("#!ipxe\nexit 1\n"); urls != nil {
		t.Errorf("scriptFiles of a script that boots a disk = %v; want none", urls)
	}
}

// silentWire has a server that never answers, and one that gives everybody the
// same address.
type silentWire struct{ addr netip.Addr }

type wireConn struct {
	net.PacketConn
	in     chan []byte
	closed chan struct{}
	addr   netip.Addr
}

func (w silentWire) DHCP(context.Context) (net.PacketConn, error) {
	return &wireConn{in: make(chan []byte, 100), closed: make(chan struct{}), addr: w.addr}, nil
}
func (silentWire) ListenPacket(context.Context, netip.Addr) (net.PacketConn, error) {
	return nil, fmt.Errorf("no port")
}
func (silentWire) Dial(context.Context, netip.Addr, string) (net.Conn, error) {
	return nil, fmt.Errorf("no connection")
}

func (c *wireConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	if !c.addr.IsValid() {
		return len(b), nil
	}
	r := append([]byte(nil), b[:240]...)
	r[0] = 2
	a := c.addr.As4()
	copy(r[16:], a[:])
	kind := byte(offer)
	if b[242] == request {
		kind = ack
	}
	r = append(r, optType, 1, kind, optServer, 4, 192, 0, 2, 1, 255)
	c.in <- r
	return len(b), nil
}

func (c *wireConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case r := <-c.in:
		return copy(b, r), nil, nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *wireConn) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return nil
}

// TestStormSaysWhy has servers that fail in every way: each failure is counted
// by its reason, and a storm ends at its limit.
func TestStormSaysWhy(t *testing.T) {
	for _, tc := range []struct {
		name  string
		addr  string
		limit time.Duration
		want  []string
	}{
		{"silence", "", 300 * time.Millisecond, []string{"bios: dhcp: not done in time", "ipxe: dhcp-ipxe: not done in time"}},
		{"one address for all", "192.0.2.130", time.Minute, []string{"was given an address that another machine has"}},
		{"another address", "203.0.113.5", time.Minute, []string{"was given an address outside 192.0.2.128/25"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var addr netip.Addr
			if tc.addr != "" {
				addr = netip.MustParseAddr(tc.addr)
			}
			told := 0
			s := Storm{Wire: silentWire{addr}, Server: netip.MustParseAddr("192.0.2.1"), Count: 9, Allowed: netip.MustParsePrefix("192.0.2.128/25"),
				Limit: tc.limit, Progress: func(done, failed int) { told++ }}
			begun := time.Now()
			r, err := s.Run(t.Context())
			if err != nil || r.Booted != 0 || r.Machines != 9 || told != 9 {
				t.Errorf("Run = %+v, %v, told %d times; want 9 machines that failed", r, err, told)
			}
			if d := time.Since(begun); d > 10*time.Second {
				t.Errorf("it took %v; want 0.3 s at most", d)
			}
			for _, w := range tc.want {
				if !strings.Contains(r.Summary(), w) {
					t.Errorf("Summary = %s; want %q in it", r.Summary(), w)
				}
			}
		})
	}
	for _, bad := range []Storm{{Count: 0, Limit: 1}, {Count: 1}, {Count: 60001, Limit: 1},
		{Count: 1, Limit: 1, Server: netip.MustParseAddr("192.0.2.1"), Allowed: netip.MustParsePrefix("192.0.2.0/24")}} {
		if _, err := bad.Run(t.Context()); err == nil {
			t.Errorf("Run(%+v) = nil; want an error", bad)
		}
	}
}

// FuzzDecode reads answers of servers.
func FuzzDecode(f *testing.F) {
	f.Add(encode(discover, 1, [6]byte{2}, netip.Addr{}, option(optClass, 'x')))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err == nil && len(m.file) > len(b) {
			t.Errorf("decode = %+v", m)
		}
		urls, _ := scriptFiles(string(b))
		for _, u := range urls {
			if !strings.HasPrefix(u, "http://") {
				t.Errorf("scriptFiles = %q", u)
			}
		}
	})
}
