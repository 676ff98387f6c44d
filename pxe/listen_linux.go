package pxe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dhcpReceiveBuffer holds a burst of a few thousand requests.
const dhcpReceiveBuffer = 8 << 20

const dhcpSendBuffer = 4 << 20

// DHCPConn is a DHCP server's socket on one interface. It is a [FrameSender],
// a [Batcher], a [Prober] and a [FarProber].
type DHCPConn struct {
	*net.UDPConn
	ifname string
	index  int
	mac    net.HardwareAddr
	frames *os.File // an AF_PACKET socket that receives nothing
	raw    syscall.RawConn
	arp    *arpSocket
	echo   *echoSocket

	udp          syscall.RawConn // of UDPConn
	in, outgoing mmsg
}

// ListenDHCP opens port 67 on one interface, and a packet socket for replies
// to clients that have no address yet. It needs root or CAP_NET_RAW and
// CAP_NET_BIND_SERVICE.
func ListenDHCP(ifname string) (*DHCPConn, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w: see `ip link` for the names", ifname, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s is no Ethernet interface (hardware address %q): DHCP needs one", ifname, ifi.HardwareAddr)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = dhcpSockopts(int(fd), ifname) })
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp4", "0.0.0.0:67")
	if err != nil {
		return nil, fmt.Errorf("opening DHCP port 67 on %s: %w%s", ifname, err, listenHint(err))
	}
	udp := conn.(*net.UDPConn)
	// Protocol 0: this socket only sends.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		udp.Close()
		return nil, fmt.Errorf("opening a packet socket on %s: %w%s", ifname, err, listenHint(err))
	}
	frames := os.NewFile(uintptr(fd), "packet:"+ifname)
	raw, err := frames.SyscallConn()
	if err != nil {
		udp.Close()
		frames.Close()
		return nil, fmt.Errorf("packet socket on %s: %w", ifname, err)
	}
	udpRaw, err := udp.SyscallConn()
	if err != nil {
		udp.Close()
		frames.Close()
		return nil, fmt.Errorf("DHCP socket on %s: %w", ifname, err)
	}
	arp, err := openARP(ifi.Index, ifname)
	if err != nil {
		udp.Close()
		frames.Close()
		return nil, err
	}
	var id [2]byte
	rand.Read(id[:]) // it does not fail
	echo, err := openEcho(binary.BigEndian.Uint16(id[:]))
	if err != nil {
		return nil, errors.Join(err, udp.Close(), frames.Close(), arp.close())
	}
	return &DHCPConn{UDPConn: udp, ifname: ifname, index: ifi.Index, mac: ifi.HardwareAddr, frames: frames, raw: raw, arp: arp, echo: echo, udp: udpRaw}, nil
}

// dhcpSockopts binds a socket to the interface: replies leave where requests
// came in (FIELD-NOTES item 2), and port 67 is free on every other interface.
// Without SO_REUSEADDR, that a second DHCP server on the interface is an error
// and not a race: dnsmasq with bind-interfaces sets it.
func dhcpSockopts(fd int, ifname string) error {
	if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ifname); err != nil {
		return fmt.Errorf("binding to the interface: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
		return fmt.Errorf("allowing broadcasts: %w", err)
	}
	// Without CAP_NET_ADMIN the kernel's limit must do.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, dhcpReceiveBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, dhcpReceiveBuffer); err != nil {
			return fmt.Errorf("sizing the receive buffer: %w", err)
		}
	}
	// Answers to an address that does not answer ARP wait in this buffer.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, dhcpSendBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, dhcpSendBuffer); err != nil {
			return fmt.Errorf("sizing the send buffer: %w", err)
		}
	}
	return nil
}

func listenHint(err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return ": another DHCP server runs on this machine; `ss -lunp sport = :67` names it"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ": run as root, or give the program CAP_NET_RAW, CAP_NET_ADMIN and CAP_NET_BIND_SERVICE"
	}
	return ""
}

// SendFrame sends a datagram in a frame of its own, past ARP and routing.
func (c *DHCPConn) SendFrame(to net.HardwareAddr, src, dst netip.AddrPort, payload []byte) error {
	frame, err := udpFrame(to, c.mac, src, dst, payload)
	if err != nil {
		return err
	}
	sa := &unix.SockaddrLinklayer{Ifindex: c.index, Protocol: 0x0008, Halen: 6} // 0x0008: IPv4 in network order
	copy(sa.Addr[:], to)
	var serr error
	// A full queue drops the frame, as a wire would: the client asks again.
	if err := c.raw.Control(func(fd uintptr) { serr = unix.Sendto(int(fd), frame, 0, sa) }); err != nil {
		return err
	}
	if serr != nil {
		return fmt.Errorf("sending a frame on %s: %w", c.ifname, serr)
	}
	return nil
}

// Close closes all its sockets.
func (c *DHCPConn) Close() error {
	return errors.Join(c.UDPConn.Close(), c.frames.Close(), c.arp.close(), c.echo.close())
}
