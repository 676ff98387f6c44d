package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// DHCP6Conn is a DHCPv6 server's socket on one interface. It reads frames, so
// that [Neighbor] names the hardware address of each datagram's sender: a
// client whose link-local address is random (RFC 7217) and whose DUID is a
// number of its own has nothing else that a site could know it by.
type DHCP6Conn struct {
	udp    *net.UDPConn // sends, joins the group, and hears nothing
	frames *os.File
	raw    syscall.RawConn
	ifname string
}

// ListenDHCP6 opens port 547 on one interface and joins the group of DHCPv6
// servers there (RFC 8415 §7.1).
func ListenDHCP6(ifname string) (*DHCP6Conn, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w: see `ip link` for the names", ifname, err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ifname); err != nil {
				return
			}
			drop, ferr := filterOf([]bpf.Instruction{bpf.RetConstant{Val: 0}})
			if err = ferr; err == nil {
				err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, drop)
			}
			if err == nil {
				err = unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: allServers6().As16(), Interface: uint32(ifi.Index)})
			}
		})
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp6", fmt.Sprintf("[::]:%d", dhcp6ServerPort))
	if err != nil {
		return nil, fmt.Errorf("opening DHCPv6 port 547 on %s: %w%s", ifname, err, listen6Hint(err))
	}
	c := &DHCP6Conn{udp: conn.(*net.UDPConn), ifname: ifname}
	if err := c.openFrames(ifi.Index); err != nil {
		c.udp.Close()
		return nil, fmt.Errorf("opening a packet socket on %s: %w%s", ifname, err, listen6Hint(err))
	}
	return c, nil
}

func listen6Hint(err error) string {
	if errors.Is(err, unix.EADDRINUSE) {
		return ": another DHCPv6 server runs on this machine; `ss -lunp sport = :547` names it"
	}
	return listenHint(err)
}

// openFrames opens a packet socket that hears UDP over IPv6 to the server's
// port. Datagrams with extension headers or in fragments are not heard: no
// client sends them (RFC 8415 §7.2 has it in one datagram).
func (c *DHCP6Conn) openFrames(index int) error {
	// Protocol 0: nothing is heard before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	filter, err := filterOf([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: ip6Header + 2, Size: 2}, // destination port
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: dhcp6ServerPort, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err == nil {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, filter)
	}
	if err == nil && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, dhcpReceiveBuffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, dhcpReceiveBuffer)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: 0xdd86}) // IPv6 in network order
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	c.frames = os.NewFile(uintptr(fd), "packet6:"+c.ifname)
	c.raw, err = c.frames.SyscallConn()
	return err
}

// filterOf assembles a socket filter.
func filterOf(program []bpf.Instruction) (*unix.SockFprog, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, err
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return &unix.SockFprog{Len: uint16(len(out)), Filter: &out[0]}, nil
}

// ReadFrom implements net.PacketConn; the address is a *[Neighbor].
func (c *DHCP6Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	buf := make([]byte, ip6Header+udpHeader+len(b))
	for {
		var k int
		var from unix.Sockaddr
		var rerr error
		err := c.raw.Read(func(fd uintptr) bool {
			k, from, rerr = unix.Recvfrom(int(fd), buf, 0)
			return rerr != unix.EAGAIN
		})
		if err == nil {
			err = rerr
		}
		if errors.Is(err, os.ErrClosed) {
			err = net.ErrClosed
		}
		if err != nil {
			return 0, nil, err
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING || ll.Pkttype == unix.PACKET_OTHERHOST {
			continue
		}
		src, data, ok := datagram6(buf[:k])
		if !ok {
			continue
		}
		ap := src
		if src.Addr().IsLinkLocalUnicast() {
			ap = netip.AddrPortFrom(src.Addr().WithZone(c.ifname), src.Port())
		}
		n := &Neighbor{UDPAddr: *net.UDPAddrFromAddrPort(ap)}
		if ll.Halen == 6 {
			n.MAC = append(net.HardwareAddr{}, ll.Addr[:6]...)
		}
		return copy(b, data), n, nil
	}
}

// WriteTo implements net.PacketConn.
func (c *DHCP6Conn) WriteTo(b []byte, to net.Addr) (int, error) { return c.udp.WriteTo(b, to) }

// LocalAddr implements net.PacketConn.
func (c *DHCP6Conn) LocalAddr() net.Addr { return c.udp.LocalAddr() }

// SetDeadline implements net.PacketConn.
func (c *DHCP6Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.frames.SetDeadline(t), c.udp.SetDeadline(t))
}

// SetReadDeadline implements net.PacketConn.
func (c *DHCP6Conn) SetReadDeadline(t time.Time) error { return c.frames.SetReadDeadline(t) }

// SetWriteDeadline implements net.PacketConn.
func (c *DHCP6Conn) SetWriteDeadline(t time.Time) error { return c.udp.SetWriteDeadline(t) }

// Close implements net.PacketConn.
func (c *DHCP6Conn) Close() error { return errors.Join(c.frames.Close(), c.udp.Close()) }
