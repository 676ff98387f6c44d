package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// ndpHops proves that no router forwarded a message (RFC 4861 §6.1).
const ndpHops = 255

// routerConn is an [AdvertiseConn] on an interface.
type routerConn struct {
	net.PacketConn
	p      *ipv6.PacketConn
	ifname string
	mac    net.HardwareAddr
}

// ListenAdvertise opens an ICMPv6 socket on one interface for
// [Server.ServeAdvertisements]. It needs root or CAP_NET_RAW.
func ListenAdvertise(ifname string) (AdvertiseConn, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w: see `ip link` for the names", ifname, err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ifname) })
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("opening an ICMPv6 socket on %s: %w%s", ifname, err, listenHint(err))
	}
	p := ipv6.NewPacketConn(conn)
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	err = errors.Join(
		p.SetICMPFilter(&filter),
		p.SetControlMessage(ipv6.FlagHopLimit, true),
		p.SetHopLimit(ndpHops), p.SetMulticastHopLimit(ndpHops),
		p.SetMulticastInterface(ifi), p.SetMulticastLoopback(false),
		p.JoinGroup(ifi, &net.IPAddr{IP: net.IPv6linklocalallrouters}),
	)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("setting up an ICMPv6 socket on %s: %w: is IPv6 off there (sysctl net.ipv6.conf.%s.disable_ipv6)?", ifname, err, ifname)
	}
	return &routerConn{PacketConn: conn, p: p, ifname: ifname, mac: ifi.HardwareAddr}, nil
}

// ReadFrom implements net.PacketConn.
func (c *routerConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		k, cm, from, err := c.p.ReadFrom(b)
		if err != nil {
			return 0, nil, err
		}
		if cm != nil && cm.HopLimit == ndpHops {
			return k, from, nil
		}
	}
}

// WriteTo implements net.PacketConn; link-local addresses are the interface's.
func (c *routerConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if ip, ok := to.(*net.IPAddr); ok && ip.Zone == "" {
		to = &net.IPAddr{IP: ip.IP, Zone: c.ifname}
	}
	return c.p.WriteTo(b, nil, to)
}

// SetReadDeadline implements net.PacketConn.
func (c *routerConn) SetReadDeadline(t time.Time) error { return c.p.SetReadDeadline(t) }

// HardwareAddr implements [AdvertiseConn].
func (c *routerConn) HardwareAddr() net.HardwareAddr { return c.mac }
