package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	dhcpServerPort = 67
	dhcpClientPort = 68

	dhcpMaxPacket  = 4096 // longer datagrams are dropped
	dhcpWorkers    = 256  // requests answered at once; more wait in the socket
	dhcpTimeout    = 10 * time.Second
	readErrorLimit = 50 // consecutive errors of a socket before giving up
	readErrorPause = 100 * time.Millisecond
)

// ServeDHCP answers DHCP on one network until ctx ends, which is no error, or
// conn fails. It does not close conn. If conn is a [FrameSender], clients
// without an address get unicast frames, else broadcasts.
func (s *Server) ServeDHCP(ctx context.Context, network string, conn net.PacketConn) error {
	n := s.networks[network]
	if n == nil {
		return fmt.Errorf("pxe: no network named %q is configured", network)
	}
	if !n.has4() {
		return errNo4(n)
	}
	v := &service{s: s, n: n, conn: conn, what: "DHCP on network " + network}
	v.probe, _ = conn.(Prober)
	if q, ok := s.leases.(QuickLeases); ok && q.Quick() {
		v.quick = q
	}
	return v.serve(ctx)
}

// readPackets hands every datagram of conn to handle until ctx ends (nil) or
// conn fails for good.
func readPackets(ctx context.Context, conn net.PacketConn, size int, what string, handle func(b []byte, from net.Addr)) error {
	buf := make([]byte, size)
	return readLoop(ctx, conn, what, func() error {
		k, from, err := conn.ReadFrom(buf)
		if err == nil && ctx.Err() == nil {
			handle(buf[:k], from)
		}
		return err
	})
}

// readLoop calls read, which waits for conn, until ctx ends (nil) or conn fails
// for good.
func readLoop(ctx context.Context, conn net.PacketConn, what string, read func() error) error {
	// A deadline in the past wakes the read below; conn stays open: it is the
	// caller's.
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	failures := 0
	for {
		err := read()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			failures = 0
			continue
		}
		failures++
		if errors.Is(err, net.ErrClosed) || failures >= readErrorLimit {
			return fmt.Errorf("pxe: reading %s: %w", what, err)
		}
		// An interface that is down for a moment must not end the server.
		select {
		case <-time.After(readErrorPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// answer is a whole DHCP exchange without a socket: nil means silence.
func (s *Server) answer(ctx context.Context, on *Network, packet []byte, probe Prober) *reply {
	return s.answerWith(ctx, on, new(request), packet, probe)
}

// answerWith is answer with room for the request and the reply in r.
func (s *Server) answerWith(ctx context.Context, on *Network, r *request, packet []byte, probe Prober) *reply {
	var x exchange
	if !s.begin(&x, s.now(), on, r, packet, probe) {
		return nil
	}
	return x.answer(ctx)
}

// begin reads a packet; it reports whether there is anything to answer.
func (s *Server) begin(x *exchange, start time.Time, on *Network, r *request, packet []byte, probe Prober) bool {
	if err := r.parse(packet, dhcpMaxPacket); err != nil {
		s.drop("DHCP", err)
		return false
	}
	n, err := s.subnet(on, r)
	if err != nil {
		s.record(start, on, r.client, "dhcp.drop", err.Error(), err)
		return false
	}
	r.client.Network = n.Name
	*x = exchange{s: s, start: start, on: on, n: n, r: r, probe: probe}
	return true
}

// answer answers it; nil means silence.
func (x *exchange) answer(ctx context.Context) *reply {
	if x.n.Proxy {
		return x.proxy(ctx)
	}
	switch r := x.r; r.kind {
	case dhcpv4.MessageTypeDiscover:
		return x.discover(ctx)
	case dhcpv4.MessageTypeRequest:
		return x.request(ctx)
	case dhcpv4.MessageTypeDecline:
		return x.decline(ctx)
	case dhcpv4.MessageTypeRelease:
		return x.release(ctx)
	case dhcpv4.MessageTypeInform:
		return x.inform(ctx)
	default:
		x.record("dhcp.drop", fmt.Sprintf("sent DHCP message type %d, which no client sends to a server", r.kind), nil)
		return nil
	}
}

// subnet chooses the network of a client: by the relay's link selection
// (82.5, RFC 3527), the subnet selection option (118, RFC 3011), the relay's
// address, or the interface (FIELD-NOTES item 3). A relay must be one that
// the network lists.
func (s *Server) subnet(on *Network, r *request) (*Network, error) {
	if !r.giaddr.IsValid() {
		// A client that a relay brought here renews by unicast, past the relay
		// (RFC 2131 §4.3.2): its address tells its network.
		if n := s.networkOf(r.ciaddr); n != nil && len(n.Relays) > 0 && !on.Prefix.Contains(r.ciaddr) {
			return n, nil
		}
		return on, nil
	}
	at := r.giaddr
	if a := addrOf(r.opt(optSubnetSel)); a.IsValid() {
		at = a
	}
	if a := addrOf(subOption(r.opt(optRelayInfo), relaySubnetSel)); a.IsValid() {
		at = a
	}
	n := s.networkOf(at)
	if n == nil {
		return nil, fmt.Errorf("asked through relay %v for the subnet of %v, which no configured network has", r.giaddr, at)
	}
	if !slices.Contains(n.Relays, r.giaddr) {
		return nil, fmt.Errorf("asked through relay %v, which network %s does not list: add it to the network's relays if it is yours", r.giaddr, n.Name)
	}
	return n, nil
}

// captureRequest shows a client's packet to the capture.
func (s *Server) captureRequest(conn net.PacketConn, n *Network, b []byte, from netip.AddrPort) {
	if !s.capture.listens() || len(b) < dhcpHeader {
		return
	}
	to := netip.AddrPortFrom(limitedBroadcast(), dhcpServerPort)
	if from.Addr().IsValid() && !from.Addr().IsUnspecified() {
		to = netip.AddrPortFrom(n.Server, localPort(conn))
	} else {
		from = netip.AddrPortFrom(netip.IPv4Unspecified(), dhcpClientPort)
	}
	s.capture.packet(Packet{Time: s.now(), MAC: net.HardwareAddr(b[28:34]), From: from, To: to, Data: b})
}

func localPort(conn net.PacketConn) uint16 {
	if ap, ok := addrPortOf(conn.LocalAddr()); ok {
		return ap.Port()
	}
	return dhcpServerPort
}

// send writes a reply to where RFC 2131 §4.1 wants it.
func (s *Server) send(conn net.PacketConn, on *Network, p *reply) {
	s.captureReply(conn, on, p)
	var err error
	frames, ok := conn.(FrameSender)
	switch {
	case (p.unicastFrame || p.onLink) && ok:
		err = frames.SendFrame(p.mac, netip.AddrPortFrom(on.Server, dhcpServerPort), p.to, p.bytes)
	case p.unicastFrame:
		_, err = conn.WriteTo(p.bytes, net.UDPAddrFromAddrPort(netip.AddrPortFrom(limitedBroadcast(), dhcpClientPort)))
	default:
		_, err = conn.WriteTo(p.bytes, net.UDPAddrFromAddrPort(p.to))
		if err != nil && ok && p.to.Addr() == limitedBroadcast() {
			// A stack without a broadcast route still sends a frame.
			err = frames.SendFrame(net.HardwareAddr{255, 255, 255, 255, 255, 255}, netip.AddrPortFrom(on.Server, dhcpServerPort), p.to, p.bytes)
		}
	}
	if err != nil {
		s.notSent(on, p, err)
	}
}

func (s *Server) notSent(on *Network, p *reply, err error) {
	err = fmt.Errorf("sending a DHCP reply to %v: %w", p.to, err)
	s.recorder.Record(Exchange{Time: s.now(), MAC: p.mac, Network: on.Name, Kind: "dhcp.send",
		Text: "could not be answered: " + err.Error(), Err: err})
}

// captureReply shows a reply to the capture.
func (s *Server) captureReply(conn net.PacketConn, on *Network, p *reply) {
	if s.capture.listens() {
		s.capture.packet(Packet{Time: s.now(), MAC: p.mac, From: netip.AddrPortFrom(on.Server, localPort(conn)), To: p.to, Sent: true, Data: p.bytes})
	}
}

func limitedBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// destination is the order of RFC 2131 §4.1: relay; ciaddr; broadcast flag;
// else a frame to chaddr and yiaddr, because the client cannot answer ARP yet.
// A NAK is broadcast, or sent to the relay.
func (p *reply) destination(r *request, yiaddr netip.Addr, nak bool) {
	broadcast := netip.AddrPortFrom(limitedBroadcast(), dhcpClientPort)
	switch {
	case r.giaddr.IsValid():
		p.to = netip.AddrPortFrom(r.giaddr, dhcpServerPort)
	case nak:
		p.to = broadcast
	case r.ciaddr.IsValid():
		p.to = netip.AddrPortFrom(r.ciaddr, dhcpClientPort)
	case r.broadcast() || !yiaddr.IsValid():
		p.to = broadcast
	default:
		p.to, p.unicastFrame = netip.AddrPortFrom(yiaddr, dhcpClientPort), true
	}
}
