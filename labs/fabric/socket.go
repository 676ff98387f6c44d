package fabric

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	listenBacklog    = 1024
	udpReceiveBuffer = 4 << 20
)

// Listen opens a TCP listener on a. An unspecified address means every address
// of that family that the host has or is given later; port 0 means any port.
// ctx bounds only the opening.
func (h *Host) Listen(ctx context.Context, a netip.AddrPort) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("host %s: listening on TCP %s: %w", h.name, a, err)
	}
	if err := h.ready(ctx, a); err != nil {
		return fail(err)
	}
	var wq waiter.Queue
	ep, terr := h.ip.NewEndpoint(tcp.ProtocolNumber, protocol(a.Addr()), &wq)
	if terr != nil {
		return fail(tcpipError(terr))
	}
	ep.SocketOptions().SetV6Only(protocol(a.Addr()) == ipv6.ProtocolNumber)
	if terr = ep.Bind(full(a)); terr == nil {
		terr = ep.Listen(listenBacklog)
	}
	if terr != nil {
		ep.Close()
		return fail(tcpipError(terr))
	}
	return &listener{TCPListener: gonet.NewTCPListener(h.ip, &wq, ep)}, nil
}

// ListenPacket opens a UDP socket on a. Port 0 means any port. On an
// unspecified address it receives broadcasts too, also of senders that have no
// address yet; it sends to 255.255.255.255 from the host's first address. The
// result is a *[PacketConn]. ctx bounds only the opening.
func (h *Host) ListenPacket(ctx context.Context, a netip.AddrPort) (net.PacketConn, error) {
	if err := h.ready(ctx, a); err != nil {
		return nil, fmt.Errorf("host %s: listening on UDP %s: %w", h.name, a, err)
	}
	c, err := h.openUDP(full(a), nil, protocol(a.Addr()))
	if err != nil {
		return nil, fmt.Errorf("host %s: listening on UDP %s: %w", h.name, a, err)
	}
	return c, nil
}

// DialContext connects to addr, a literal address and port; network is tcp or
// udp, or one of them with 4 or 6 appended.
func (h *Host) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("host %s: dialing %s %s: %w", h.name, network, addr, err)
	}
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fail(fmt.Errorf("a host of the fabric resolves no names, give an IP address and a port: %w", err))
	}
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	if err := h.ready(ctx, a); err != nil {
		return fail(err)
	}
	switch network {
	case "tcp", "udp":
	case "tcp4", "udp4":
		if !a.Addr().Is4() {
			return fail(errors.New("not an IPv4 address"))
		}
	case "tcp6", "udp6":
		if a.Addr().Is4() {
			return fail(errors.New("not an IPv6 address"))
		}
	default:
		return fail(net.UnknownNetworkError(network))
	}
	to := full(a)
	if network[:3] == "udp" {
		c, err := h.openUDP(tcpip.FullAddress{NIC: nic}, &to, protocol(a.Addr()))
		if err != nil {
			return fail(err)
		}
		return c, nil
	}
	c, err := gonet.DialContextTCP(ctx, h.ip, to, protocol(a.Addr()))
	if err != nil {
		return fail(err)
	}
	return &conn{TCPConn: c}, nil
}

func (h *Host) ready(ctx context.Context, a netip.AddrPort) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !a.Addr().IsValid() {
		return errors.New("there is no address")
	}
	select {
	case <-h.gone:
		return ErrClosed
	default:
		return nil
	}
}

func (h *Host) openUDP(local tcpip.FullAddress, to *tcpip.FullAddress, proto tcpip.NetworkProtocolNumber) (*PacketConn, error) {
	var wq waiter.Queue
	ep, terr := h.ip.NewEndpoint(udp.ProtocolNumber, proto, &wq)
	if terr != nil {
		return nil, tcpipError(terr)
	}
	o := ep.SocketOptions()
	o.SetBroadcast(true)
	o.SetV6Only(proto == ipv6.ProtocolNumber)
	o.SetReceiveBufferSize(udpReceiveBuffer, true)
	if terr = ep.Bind(local); terr == nil && to != nil {
		terr = ep.Connect(*to)
	}
	if terr != nil {
		ep.Close()
		return nil, tcpipError(terr)
	}
	return &PacketConn{UDPConn: gonet.NewUDPConn(&wq, ep), h: h, v4: proto == ipv4.ProtocolNumber}, nil
}

// PacketConn is a host's UDP socket: net.PacketConn, net.Conn when dialed, and
// SendFrame.
type PacketConn struct {
	*gonet.UDPConn
	h      *Host
	v4     bool
	closed atomic.Bool
}

// ReadFrom implements net.PacketConn. After Close its error is net.ErrClosed.
func (c *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, a, err := c.UDPConn.ReadFrom(b)
	return n, a, c.wrap(err)
}

// Read implements net.Conn.
func (c *PacketConn) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	return n, c.wrap(err)
}

// WriteTo implements net.PacketConn; a is a *net.UDPAddr.
func (c *PacketConn) WriteTo(b []byte, a net.Addr) (int, error) {
	u, ok := a.(*net.UDPAddr)
	if !ok || u == nil {
		return 0, fmt.Errorf("host %s: sending to %v: not a UDP address", c.h.name, a)
	}
	to := netip.AddrPortFrom(u.AddrPort().Addr().Unmap(), uint16(u.Port))
	if to.Addr().Is4() != c.v4 {
		return 0, fmt.Errorf("host %s: sending to %s from %s: another address family", c.h.name, to, c.LocalAddr())
	}
	n, err := c.UDPConn.WriteTo(b, &net.UDPAddr{IP: to.Addr().AsSlice(), Port: u.Port})
	return n, c.wrap(err)
}

// Write implements net.Conn.
func (c *PacketConn) Write(b []byte) (int, error) {
	n, err := c.UDPConn.Write(b)
	return n, c.wrap(err)
}

// Close implements net.PacketConn; it may be called twice.
func (c *PacketConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.UDPConn.Close()
}

func (c *PacketConn) wrap(err error) error { return wrapError(err, c.closed.Load() || c.h.isGone()) }

func (h *Host) isGone() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// listener is gonet's with net.ErrClosed where net's callers expect it.
type listener struct {
	*gonet.TCPListener
	once sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err != nil {
		// A listening endpoint fails only when it, or its host, is closed.
		return nil, wrapError(err, true)
	}
	return &conn{TCPConn: c.(*gonet.TCPConn)}, nil
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.Shutdown()
		l.TCPListener.Close()
	})
	return nil
}

// conn is gonet's with the errors that net's callers expect.
type conn struct {
	*gonet.TCPConn
	closed atomic.Bool
}

func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := c.TCPConn.Read(b)
	if err != nil {
		err = wrapError(err, c.closed.Load())
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, wrapError(err, c.closed.Load())
}

func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.TCPConn.Close()
}

// wrapError gives an error of gonet the identity that the net package gives it:
// net.ErrClosed for a socket that this side closed, os.ErrDeadlineExceeded for
// a deadline.
func wrapError(err error, closed bool) error {
	if err == nil {
		return nil
	}
	if closed {
		return fmt.Errorf("%w (%w)", net.ErrClosed, err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Timeout() {
		op.Err = os.ErrDeadlineExceeded
	}
	return err
}

// tcpipError makes an error of netstack's.
func tcpipError(e tcpip.Error) error {
	if e == nil {
		return nil
	}
	return errors.New(e.String())
}

// full is netstack's form of a; an unspecified address is the zero Address.
func full(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: nic, Port: a.Port()}
	if !a.Addr().IsUnspecified() {
		f.Addr = address(a.Addr())
	}
	return f
}
