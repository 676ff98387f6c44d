package fabric

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// kind6 is what a Link6Conn speaks.
type kind6 int

// Protocols of one link.
const (
	routers6 kind6 = iota
	dhcp6
	kinds6
)

const (
	dhcp6Port  = 547  // of servers (RFC 8415 §7.2)
	link6Queue = 256  // messages that nobody has read yet
	maxHeard   = 4096 // whose hardware addresses a Link6Conn remembers
)

// Link6Conn is a host's socket of a protocol that machines speak over IPv6
// before they have an address: router discovery or DHCPv6. It hears frames, so
// that it knows the hardware address of each sender (Station), and answers by
// frame to that one, from the host's link-local address, without asking for it.
// It is a net.PacketConn; the host's stack hears nothing of these messages
// while it is open.
type Link6Conn struct {
	h    *Host
	kind kind6
	in   chan message6

	close  sync.Once
	closed chan struct{}

	mu       sync.Mutex
	deadline time.Time
	moved    chan struct{} // closed when deadline is another
	stations map[netip.Addr]net.HardwareAddr
}

// message6 is a message and where it came from.
type message6 struct {
	from netip.AddrPort // port 0: it has none
	body []byte
}

// ListenRouters opens a socket for router solicitations and advertisements
// (RFC 4861 §4.1, §4.2): whole ICMPv6 messages, whose hop limit is 255 and whose
// checksum is right. What is written is given both. Addresses are *net.IPAddr.
// ctx bounds only the opening.
func (h *Host) ListenRouters(ctx context.Context) (*Link6Conn, error) {
	return h.listen6(ctx, routers6, "router discovery")
}

// ListenDHCP6 opens the DHCPv6 server's port (RFC 8415 §7.2) for what is sent
// to all servers of the link or to the host. Addresses are *net.UDPAddr. ctx
// bounds only the opening.
func (h *Host) ListenDHCP6(ctx context.Context) (*Link6Conn, error) {
	return h.listen6(ctx, dhcp6, "DHCPv6")
}

func (h *Host) listen6(ctx context.Context, kind kind6, what string) (*Link6Conn, error) {
	if err := h.ready(ctx, netip.AddrPortFrom(netip.IPv6Unspecified(), 0)); err != nil {
		return nil, fmt.Errorf("host %s: listening to %s: %w", h.name, what, err)
	}
	c := &Link6Conn{h: h, kind: kind, in: make(chan message6, link6Queue), closed: make(chan struct{}),
		moved: make(chan struct{}), stations: map[netip.Addr]net.HardwareAddr{}}
	if !h.nic.link6[kind].CompareAndSwap(nil, c) {
		return nil, fmt.Errorf("host %s: listening to %s: somebody does already", h.name, what)
	}
	return c, nil
}

// toLink6 gives a frame to the socket that it is for; taken is false when there
// is none.
func (n *hostNIC) toLink6(b []byte) (taken bool, err error) {
	if len(b) < headerLen+ipv6Len || binary.BigEndian.Uint16(b[12:]) != uint16(header.IPv6ProtocolNumber) {
		return false, nil
	}
	switch b[headerLen+6] {
	case uint8(header.ICMPv6ProtocolNumber):
		c := n.link6[routers6].Load()
		if c == nil {
			return false, nil
		}
		src, msg, ok := parseNDP(b)
		if !ok || msg[0] != icmpRouterSolicitation && msg[0] != icmpRouterAdvertisement {
			return false, nil
		}
		return true, c.hear(b, netip.AddrPortFrom(src, 0), msg)
	case uint8(header.UDPProtocolNumber):
		c := n.link6[dhcp6].Load()
		if c == nil {
			return false, nil
		}
		from, msg, ok := parseDHCP6(b)
		if !ok {
			return false, nil
		}
		return true, c.hear(b, from, msg)
	}
	return false, nil
}

// parseDHCP6 is the datagram in a frame that is for a DHCPv6 server, and who
// sent it.
func parseDHCP6(b []byte) (from netip.AddrPort, body []byte, ok bool) {
	src, dst, u, ok := payload6(b, uint8(header.UDPProtocolNumber))
	if !ok || len(u) < header.UDPMinimumSize {
		return from, nil, false
	}
	udp := header.UDP(u)
	n := int(udp.Length())
	if udp.DestinationPort() != dhcp6Port || n < header.UDPMinimumSize || n > len(u) {
		return from, nil, false
	}
	udp = udp[:n]
	if udp.Checksum() == 0 || !udp.IsChecksumValid(address(src), address(dst), checksum.Checksum(udp.Payload(), 0)) {
		return from, nil, false // RFC 8200 §8.1: no IPv6 datagram goes without
	}
	return netip.AddrPortFrom(src, udp.SourcePort()), udp.Payload(), true
}

// hear queues a message, and remembers who has its sender's address.
func (c *Link6Conn) hear(frame []byte, from netip.AddrPort, body []byte) error {
	if a := from.Addr(); !a.IsUnspecified() && !a.IsMulticast() {
		c.mu.Lock()
		if _, known := c.stations[a]; !known && len(c.stations) >= maxHeard {
			for old := range c.stations {
				delete(c.stations, old) // it asks again before it is answered again
				break
			}
		}
		c.stations[a] = append(net.HardwareAddr(nil), frame[6:12]...)
		c.mu.Unlock()
	}
	select {
	case c.in <- message6{from, append([]byte(nil), body...)}:
		return nil
	default:
		return errQueueFull
	}
}

// Station is the hardware address of who last sent something from a; nil when
// nobody did.
func (c *Link6Conn) Station(a netip.Addr) net.HardwareAddr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(net.HardwareAddr(nil), c.stations[a.WithZone("")]...)
}

// HardwareAddr is the host's own.
func (c *Link6Conn) HardwareAddr() net.HardwareAddr { return c.h.MAC() }

// ReadFrom implements net.PacketConn. After Close its error is net.ErrClosed.
func (c *Link6Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	m, err := c.next()
	if err != nil {
		return 0, nil, fmt.Errorf("host %s: reading: %w", c.h.name, err)
	}
	return copy(b, m.body), c.addr(m.from), nil
}

// next waits for a message, the deadline or the end.
func (c *Link6Conn) next() (message6, error) {
	passed := time.NewTimer(time.Hour)
	defer passed.Stop()
	for {
		c.mu.Lock()
		deadline, moved := c.deadline, c.moved
		c.mu.Unlock()
		if left := time.Until(deadline); deadline.IsZero() {
			passed.Reset(time.Hour) // and again
		} else if left > 0 {
			passed.Reset(left)
		} else {
			return message6{}, os.ErrDeadlineExceeded
		}
		select {
		case <-c.closed:
			return message6{}, net.ErrClosed
		case <-c.h.gone:
			return message6{}, net.ErrClosed
		case m := <-c.in:
			return m, nil
		case <-moved:
		case <-passed.C:
		}
	}
}

func (c *Link6Conn) addr(a netip.AddrPort) net.Addr {
	if c.kind == routers6 {
		return &net.IPAddr{IP: a.Addr().AsSlice()}
	}
	return net.UDPAddrFromAddrPort(a)
}

// WriteTo implements net.PacketConn: to a group, or to an address that
// something was heard from.
func (c *Link6Conn) WriteTo(b []byte, a net.Addr) (int, error) {
	fail := func(err error) (int, error) {
		return 0, fmt.Errorf("host %s: sending to %v: %w", c.h.name, a, err)
	}
	select {
	case <-c.closed:
		return fail(net.ErrClosed)
	case <-c.h.gone:
		return fail(net.ErrClosed)
	default:
	}
	to, ok := c.to(a)
	if !ok {
		return fail(errors.New("not an IPv6 address of this protocol"))
	}
	mac := c.Station(to.Addr())
	if to.Addr().IsMulticast() { // RFC 2464 §7
		g := to.Addr().As16()
		mac = net.HardwareAddr{0x33, 0x33, g[12], g[13], g[14], g[15]}
	}
	if mac == nil {
		return fail(errors.New("nothing was heard from there"))
	}
	src, _ := netip.AddrFromSlice(linkLocal(c.h.mac))
	var frame []byte
	if c.kind == routers6 {
		if len(b) < 4 {
			return fail(errors.New("not an ICMPv6 message"))
		}
		var msg []byte
		frame, msg = frame6(c.h.mac, mac, src, to.Addr(), uint8(header.ICMPv6ProtocolNumber), len(b))
		copy(msg, b)
		msg[2], msg[3] = 0, 0
		binary.BigEndian.PutUint16(msg[2:], icmp6Checksum(msg, src, to.Addr()))
	} else {
		frame = udpFrame6(c.h.mac, mac, netip.AddrPortFrom(src, dhcp6Port), to, b)
	}
	if n := len(frame) - headerLen; n > c.h.mtu {
		return fail(fmt.Errorf("%d bytes do not fit into one frame of MTU %d", n, c.h.mtu))
	}
	c.h.nic.port.receive(frame)
	return len(b), nil
}

// to is an address as the conn's protocol has them.
func (c *Link6Conn) to(a net.Addr) (netip.AddrPort, bool) {
	var ip net.IP
	var port int
	switch a := a.(type) {
	case *net.IPAddr:
		if a == nil || c.kind != routers6 {
			return netip.AddrPort{}, false
		}
		ip = a.IP
	case *net.UDPAddr:
		if a == nil || c.kind != dhcp6 {
			return netip.AddrPort{}, false
		}
		ip, port = a.IP, a.Port
	}
	to, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(to, uint16(port)), to.Is6() && !to.Is4In6()
}

// udpFrame6 is a frame with a datagram over IPv6 (RFC 768, RFC 8200 §8.1).
func udpFrame6(from, to net.HardwareAddr, src, dst netip.AddrPort, payload []byte) []byte {
	n := header.UDPMinimumSize + len(payload)
	frame, body := frame6(from, to, src.Addr(), dst.Addr(), uint8(header.UDPProtocolNumber), n)
	u := header.UDP(body)
	u.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(n)})
	copy(u[header.UDPMinimumSize:], payload)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(src.Addr()), address(dst.Addr()), uint16(n))
	if sum = ^u.CalculateChecksum(checksum.Checksum(payload, sum)); sum == 0 {
		sum = 0xffff
	}
	u.SetChecksum(sum)
	return frame
}

// Close implements net.PacketConn; it may be called twice.
func (c *Link6Conn) Close() error {
	c.close.Do(func() {
		c.h.nic.link6[c.kind].CompareAndSwap(c, nil)
		close(c.closed)
	})
	return nil
}

// LocalAddr implements net.PacketConn.
func (c *Link6Conn) LocalAddr() net.Addr {
	ll, _ := netip.AddrFromSlice(linkLocal(c.h.mac))
	return c.addr(netip.AddrPortFrom(ll, dhcp6Port))
}

// SetReadDeadline implements net.PacketConn.
func (c *Link6Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.moved)
	c.moved = make(chan struct{})
	return nil
}

// SetDeadline implements net.PacketConn.
func (c *Link6Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.PacketConn: a write never waits.
func (c *Link6Conn) SetWriteDeadline(time.Time) error { return nil }
