package pxe

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// binlPort is where clients ask a boot server that is no DHCP server
// (PXE 2.1 §2.2.2; Microsoft calls the service BINL).
const binlPort = 4011

// proxy answers beside a DHCP server that is somebody else's (PXE 2.1 §2.2.3):
// boot information without an address, to clients that boot and to nobody
// else.
func (x *exchange) proxy(ctx context.Context) *reply {
	r, c := x.r, &x.r.client
	switch r.kind {
	case dhcpv4.MessageTypeDiscover:
		if !c.boots() {
			return nil
		}
		x.record("dhcp.discover", fmt.Sprintf("asked for an address on %s: %s", x.n.Name, c.describe()), nil)
		x.s.noteDiscover(x.start, x.n, x.r.client, x.r.broadcast())
		return x.proxyOffer(ctx)
	case dhcpv4.MessageTypeRequest:
		if !x.ours(r.server) {
			x.learn()
			return nil
		}
		// Some ROMs ask on port 67 too.
		return x.binl(ctx)
	case dhcpv4.MessageTypeInform:
		return x.binl(ctx)
	default:
		return nil // addresses are the other server's
	}
}

// proxyOffer names the boot file. siaddr and file are always set: without them
// iPXE goes to port 4011 (FIELD-NOTES item 14).
func (x *exchange) proxyOffer(ctx context.Context) *reply {
	boot, err := x.boot(ctx)
	if err != nil {
		return nil
	}
	if boot.file == "" {
		x.record("dhcp.silent", "was offered nothing by ProxyDHCP"+boot.note, nil)
		return nil
	}
	x.s.noteStage(x.r.client, stageOffered, boot.file)
	x.told("dhcp.offer", boot.file, fmt.Sprintf("was offered boot file %s by ProxyDHCP%s", boot.file, boot.note))
	return x.proxyReply(msgOffer, boot)
}

// learn sees which address a client takes from the other server: its fetches
// are known by it.
func (x *exchange) learn() {
	r, c := x.r, x.r.client
	addr := r.want
	if !addr.IsValid() {
		addr = r.ciaddr
	}
	if !addr.IsValid() || !x.n.Prefix.Contains(addr) {
		return
	}
	known, ok := x.s.clients.of(c.MAC)
	if !ok || !known.boots() {
		return // it has never asked for a boot file
	}
	c.Addr = addr
	x.s.noteAddress(c)
	from := "the network's DHCP server"
	if r.server.IsValid() {
		from = "DHCP server " + r.server.String()
	}
	x.s.record(x.start, x.n, c, "dhcp.address", fmt.Sprintf("takes %v from %s", addr, from), nil)
}

// ServeBINL answers on port 4011 until ctx ends, which is no error, or conn
// fails. It does not close conn. Firmware asks there when the offer that it
// took says PXEClient and has no valid option 43 (FIELD-NOTES item 15).
func (s *Server) ServeBINL(ctx context.Context, network string, conn net.PacketConn) error {
	n := s.networks[network]
	if n == nil {
		return fmt.Errorf("pxe: no network named %q is configured", network)
	}
	if !n.has4() {
		return errNo4(n)
	}
	v := &service{s: s, n: n, conn: conn, what: "boot requests (port 4011) on network " + network, binl: true}
	return v.serve(ctx)
}

// answerBINL is a whole exchange on port 4011 without a socket.
func (s *Server) answerBINL(ctx context.Context, n *Network, packet []byte, from netip.AddrPort) *reply {
	return s.answerBINLWith(ctx, n, new(request), packet, from)
}

func (s *Server) answerBINLWith(ctx context.Context, n *Network, r *request, packet []byte, from netip.AddrPort) *reply {
	start := s.now()
	if err := r.parse(packet, dhcpMaxPacket); err != nil {
		s.drop("port 4011", err)
		return nil
	}
	on := n
	// A client behind a relay asks here without it: its address tells its
	// network.
	if far := s.networkOf(r.ciaddr); far != nil && len(far.Relays) > 0 {
		n = far
	}
	r.client.Network = n.Name
	x := &exchange{s: s, start: start, on: on, n: n, r: r}
	switch r.kind {
	case dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeInform:
	default:
		x.record("dhcp.drop", fmt.Sprintf("sent DHCP message type %d to port %d", r.kind, binlPort), nil)
		return nil
	}
	r.client.Addr = s.binlAddr(n, r, from.Addr())
	p := x.binl(ctx)
	if p != nil {
		// To where it came from, port and all; ciaddr is kept (FIELD-NOTES item 15).
		p.to, p.unicastFrame = from, false
	}
	return p
}

// binlAddr is the address that an asker on port 4011 is known by from now on:
// that which it asks from, if it is its word too. What a machine boots is told
// to its address, and a packet that names another machine's MAC moves nothing:
// where we give addresses, it is the one that we gave.
func (s *Server) binlAddr(n *Network, r *request, from netip.Addr) netip.Addr {
	given := s.clients.addrOf(r.client.MAC, from)
	switch {
	case r.ciaddr.IsValid() && r.ciaddr != from, !n.Prefix.Contains(from):
		return netip.Addr{}
	case !n.Proxy && given.IsValid() && given != from:
		return netip.Addr{}
	}
	return from
}

// binl acknowledges a client that has its address and asks for a boot file.
func (x *exchange) binl(ctx context.Context) *reply {
	c := x.r.client
	if !c.boots() {
		return nil
	}
	boot, err := x.boot(ctx)
	if err != nil {
		return nil
	}
	if boot.file == "" {
		x.record("dhcp.binl", "asked for a boot file and got none"+boot.note, nil)
		return nil
	}
	x.s.noteStage(c, boot.stage(c), boot.file)
	x.told("dhcp.binl", boot.file, fmt.Sprintf("asked for a boot file and was told %s%s", boot.file, boot.note))
	return x.proxyReply(msgAck, boot)
}

// proxyReply encodes an OFFER or ACK that gives no address: yiaddr is 0.
func (x *exchange) proxyReply(kind byte, boot bootInfo) *reply {
	e := newEncoder(x.r, kind, x.serverID())
	e.proxy = true
	e.boot(x.on.Server, boot.file, x.r)
	p := x.r.answer(e.finish(boot.file))
	p.destination(x.r, netip.Addr{}, false)
	return p
}
