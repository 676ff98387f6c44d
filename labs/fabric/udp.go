package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// socketBuffer is asked of the kernel for each direction of a UDP link: some
// 1,700 frames of 1,514 bytes (the kernel counts 2,304 for each). Without root
// the kernel grants net.core.rmem_max at most.
const socketBuffer = 4 << 20

// ListenUDP makes a link that carries an Ethernet frame per UDP datagram,
// without any header: QEMU's -netdev socket,udp=LOCAL,localaddr=PEER, libvirt's
// <interface type='udp'> whose <source> is local and whose <local> is peer.
// Both must be on 127.0.0.1 or ::1, so that no frame leaves the machine.
// The socket is connected: datagrams of other senders are not received.
func ListenUDP(local, peer netip.AddrPort) (Link, error) {
	for _, a := range []netip.AddrPort{local, peer} {
		if !a.Addr().IsLoopback() {
			return nil, fmt.Errorf("UDP link %s to %s: %s is not a loopback address, and frames must not leave this machine: use 127.0.0.1", local, peer, a.Addr())
		}
	}
	if peer.Port() == 0 {
		return nil, fmt.Errorf("UDP link %s to %s: the peer has no port", local, peer)
	}
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(local), net.UDPAddrFromAddrPort(peer))
	if err != nil {
		return nil, fmt.Errorf("UDP link %s to %s (is the port in use?): %w", local, peer, err)
	}
	if err := setBuffers(c, socketBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("UDP link %s to %s: socket buffers: %w", local, peer, err), c.Close())
	}
	return &udpLink{c}, nil
}

type udpLink struct{ c *net.UDPConn }

// LocalAddr is the address that the peer sends to.
func (l *udpLink) LocalAddr() net.Addr { return l.c.LocalAddr() }

func (l *udpLink) ReadFrame(b []byte) (int, error) {
	for {
		n, err := l.c.Read(b)
		if err == nil || !passing(err) {
			return n, err
		}
	}
}

// WriteFrame sends b. The error of an earlier datagram (ICMP port unreachable:
// the machine is off) is reported by the kernel instead of sending this one, so
// it is tried again once; a machine that is off drops frames like a cable
// without a machine does.
func (l *udpLink) WriteFrame(b []byte) error {
	_, err := l.c.Write(b)
	if err != nil && passing(err) {
		_, err = l.c.Write(b)
	}
	if err != nil && passing(err) {
		return nil
	}
	return err
}

func (l *udpLink) Close() error {
	if err := l.c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("closing UDP link %s: %w", l.c.LocalAddr(), err)
	}
	return nil
}

// passing reports whether err says only that the peer is absent or the kernel
// short of memory at this moment.
func passing(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.EINTR)
}
