package main

import (
	"context"
	"net"
	"net/netip"

	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/labs/fabric"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

// labStack is where a lab's services live: on the fabric's hosts of its
// networks, and for boot networks that are a bridge of this machine on this
// machine's own stack.
type labStack struct {
	lab    *labs.Lab
	bridge *hostStack // nil: there is no bridge
}

// bridgeStack is this machine's stack on the bridge that a plan's boot networks
// are; nil when they are the fabric's.
func bridgeStack(p *labs.Plan) (*hostStack, error) {
	if p.Options.BridgeNetwork == "" {
		return nil, nil
	}
	var nets []site.Network
	named := map[string]string{}
	for _, n := range p.Site.Networks {
		if n.Purpose == site.PurposeBoot {
			nets, named[n.Name] = append(nets, n), p.Options.BridgeNetwork
		}
	}
	return newHostStack(nets, named)
}

// on is the stack of a network that is no host's of the fabric; nil: there is
// such a host.
func (s labStack) on(n site.Network) *hostStack {
	if n.Purpose != site.PurposeBoot {
		return nil
	}
	return s.bridge
}

func (s labStack) DHCP(ctx context.Context, n site.Network) (net.PacketConn, error) {
	if h := s.on(n); h != nil {
		return h.DHCP(ctx, n)
	}
	return s.lab.Host(n.Name).ListenPacket(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), 67))
}

func (s labStack) ListenPacket(ctx context.Context, n site.Network, at netip.AddrPort) (net.PacketConn, error) {
	if h := s.on(n); h != nil {
		return h.ListenPacket(ctx, n, at)
	}
	return s.lab.Host(n.Name).ListenPacket(ctx, at)
}

func (s labStack) Listen(ctx context.Context, n site.Network, at netip.AddrPort) (net.Listener, error) {
	if h := s.on(n); h != nil {
		return h.Listen(ctx, n, at)
	}
	return s.lab.Host(n.Name).Listen(ctx, at)
}

func (s labStack) DHCP6(ctx context.Context, n site.Network) (net.PacketConn, error) {
	if h := s.on(n); h != nil {
		return h.DHCP6(ctx, n)
	}
	c, err := s.lab.Host(n.Name).ListenDHCP6(ctx)
	if err != nil {
		return nil, err
	}
	return labDHCP6{c}, nil
}

// Advertise is nil on a network without IPv6: the fabric itself says there that
// there is no router.
func (s labStack) Advertise(ctx context.Context, n site.Network) (pxe.AdvertiseConn, error) {
	if h := s.on(n); h != nil {
		return h.Advertise(ctx, n)
	}
	if !n.IPv6.Prefix.IsValid() {
		return nil, nil
	}
	c, err := s.lab.Host(n.Name).ListenRouters(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (s labStack) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return s.lab.DialContext(ctx, network, addr)
}

// labDHCP6 tells who sent each request.
type labDHCP6 struct{ *fabric.Link6Conn }

func (c labDHCP6) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.Link6Conn.ReadFrom(b)
	if udp, ok := from.(*net.UDPAddr); ok {
		return n, &pxe.Neighbor{UDPAddr: *udp, MAC: c.Station(udp.AddrPort().Addr())}, err
	}
	return n, from, err
}
