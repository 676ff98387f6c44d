package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// reply6 is an encoded answer and where it goes.
type reply6 struct {
	bytes []byte
	to    netip.AddrPort
	mac   net.HardwareAddr
}

// ServeDHCP6 answers DHCPv6 (RFC 8415) on one network until ctx ends, which is
// no error, or conn fails. It does not close conn, which hears
// ff02::1:2 port 547; its ReadFrom may return a *[Neighbor].
func (s *Server) ServeDHCP6(ctx context.Context, network string, conn net.PacketConn) error {
	n := s.networks[network]
	if n == nil {
		return fmt.Errorf("pxe: no network named %q is configured", network)
	}
	if !n.has6() {
		return fmt.Errorf("pxe: network %q has no IPv6", network)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slots := make(chan struct{}, dhcpWorkers)
	return readPackets(ctx, conn, dhcpMaxPacket+1, "DHCPv6 on network "+network, func(b []byte, addr net.Addr) {
		from, frame, ok := sender6(addr)
		if !ok {
			return
		}
		slots <- struct{}{}
		packet := slices.Clone(b)
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, dhcpTimeout)
			defer cancel()
			reply := s.answer6(ctx, n, packet, from, frame)
			if reply == nil {
				return
			}
			if n.ReplyDelay > 0 {
				select {
				case <-time.After(n.ReplyDelay):
				case <-ctx.Done():
					return
				}
			}
			s.send6(conn, n, reply)
		})
	})
}

// sender6 is where a datagram came from; the zone of a link-local address is
// kept.
func sender6(a net.Addr) (from netip.AddrPort, frame net.HardwareAddr, ok bool) {
	switch a := a.(type) {
	case *Neighbor:
		from, frame = a.UDPAddr.AddrPort(), a.MAC
	case *net.UDPAddr:
		from = a.AddrPort()
	}
	return from, frame, from.Addr().Is6() && !from.Addr().Is4In6()
}

func (s *Server) send6(conn net.PacketConn, on *Network, p *reply6) {
	s.capture.packet(Packet{Time: s.now(), MAC: p.mac, From: netip.AddrPortFrom(on.IPv6.Server, dhcp6ServerPort),
		To: netip.AddrPortFrom(p.to.Addr().WithZone(""), p.to.Port()), Sent: true, Data: p.bytes})
	if _, err := conn.WriteTo(p.bytes, net.UDPAddrFromAddrPort(p.to)); err != nil {
		err = fmt.Errorf("sending a DHCPv6 reply to %v: %w", p.to, err)
		s.recorder.Record(Exchange{Time: s.now(), MAC: p.mac, Network: on.Name, Kind: "dhcp.send",
			Text: "could not be answered: " + err.Error(), Err: err})
	}
}

// capture6 shows a client's packet to the capture.
func (s *Server) capture6(on *Network, b []byte, from netip.AddrPort, mac net.HardwareAddr) {
	if !s.capture.listens() {
		return
	}
	to := netip.AddrPortFrom(allServers6(), dhcp6ServerPort)
	if !from.Addr().IsLinkLocalUnicast() {
		to = netip.AddrPortFrom(on.IPv6.Server, dhcp6ServerPort)
	}
	s.capture.packet(Packet{Time: s.now(), MAC: mac, From: netip.AddrPortFrom(from.Addr().WithZone(""), from.Port()), To: to, Data: b})
}

// allServers6 is All_DHCP_Relay_Agents_and_Servers (RFC 8415 §7.1).
func allServers6() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 13: 1, 15: 2})
}

// answer6 is a whole DHCPv6 exchange without a socket: nil means silence.
// frame is the hardware address that the datagram came from, if it is known.
func (s *Server) answer6(ctx context.Context, on *Network, packet []byte, from netip.AddrPort, frame net.HardwareAddr) *reply6 {
	start := s.now()
	m, err := parse6(packet)
	if err != nil {
		s.capture6(on, packet, from, frame)
		s.log.Debug("dropped a DHCPv6 packet", "network", on.Name, "reason", err)
		return nil
	}
	r := &request6{message6: m, client: clientOf6(m), from: from.Addr()}
	if k := len(m.relays); k > 0 {
		near := m.relays[k-1]
		r.from = near.peer
		r.client.Relay = Relay{Agent: near.link, Circuit: printable(near.interfaceID)}
		if len(near.remoteID) > 4 {
			r.client.Relay.Remote = printable(near.remoteID[4:])
		}
	}
	n, err := s.subnet6(on, m, from.Addr())
	if err == nil {
		r.client.Network = n.Name
		r.client.MAC = s.hardwareOf(ctx, n.Name, m, frame, r.from)
	}
	s.capture6(on, packet, from, r.client.MAC)
	if err != nil {
		s.record(start, on, r.client, "dhcp.drop", err.Error(), err)
		return nil
	}
	x := &exchange6{s: s, start: start, on: on, n: n, r: r}
	if err := r.check(on); err != nil {
		if !errors.Is(err, errNotOurs6) {
			x.record("dhcp.drop", err.Error(), err)
		} else if m.kind == msg6Request {
			x.refused()
		}
		return nil
	}
	if r.client.MAC == nil {
		x.record("dhcp.drop", fmt.Sprintf("asked by DHCPv6 from %v without a hardware address, neither in its link-local address nor in its DUID: let its relay add option 79 (RFC 6939), or set its UUID in the site", r.from.WithZone("")), nil)
		return nil
	}
	for _, ia := range m.ias {
		if ia.kind == opt6NA && len(ia.addrs) > 0 {
			r.want = ia.addrs[0]
			break
		}
	}
	body := x.answer(ctx)
	if body == nil {
		return nil
	}
	to := netip.AddrPortFrom(from.Addr(), dhcp6ClientPort)
	if len(m.relays) > 0 {
		body = relayReply6(m.relays, body)
		to = netip.AddrPortFrom(from.Addr(), dhcp6ServerPort)
		if m.relays[0].port != nil {
			to = from // RFC 8357 §5.4
		}
	}
	return &reply6{bytes: body, to: to, mac: r.client.MAC}
}

// subnet6 chooses the network of a client: by the link address of the relay
// nearest to it (RFC 8415 §13.1), the relay's own address where that says
// nothing, else the interface. The relay must be one that the network lists.
func (s *Server) subnet6(on *Network, m *message6, from netip.Addr) (*Network, error) {
	from = from.WithZone("")
	if len(m.relays) == 0 {
		// A client that a relay brought here may renew past it.
		if n := s.networkOf(from); n != nil && n != on && len(n.IPv6.Relays) > 0 {
			return n, nil
		}
		return on, nil
	}
	link := netip.Addr{}
	for i := len(m.relays) - 1; i >= 0 && !link.IsValid(); i-- {
		if l := m.relays[i].link; !l.IsUnspecified() && !l.IsLinkLocalUnicast() {
			link = l
		}
	}
	if !link.IsValid() {
		for _, n := range s.order {
			if slices.Contains(n.IPv6.Relays, from) {
				return n, nil
			}
		}
		return nil, fmt.Errorf("asked by DHCPv6 through relay %v, which names no link and is listed by no network: add it to the relays of its network if it is yours", from)
	}
	n := s.networkOf(link)
	if n == nil {
		return nil, fmt.Errorf("asked by DHCPv6 through relay %v for the subnet of %v, which no configured network has", from, link)
	}
	if !slices.Contains(n.IPv6.Relays, link) && !slices.Contains(n.IPv6.Relays, from) {
		return nil, fmt.Errorf("asked by DHCPv6 through relay %v at %v, which network %s does not list: add it to the network's IPv6 relays if it is yours", from, link, n.Name)
	}
	return n, nil
}

// relayReply6 wraps an answer for each relay on its way back (RFC 8415 §9.2
// and §19.3): interface id and port are the relay's own; its remote id is not
// echoed (RFC 4649 §3).
func relayReply6(relays []relay6, body []byte) []byte {
	for i := len(relays) - 1; i >= 0; i-- {
		r := relays[i]
		b := make([]byte, 0, dhcp6RelayHeader+len(body)+16+len(r.interfaceID))
		b = append(b, msg6RelayRepl, r.hops)
		link, peer := r.link.As16(), r.peer.As16()
		b = append(append(b, link[:]...), peer[:]...)
		if r.interfaceID != nil {
			b = append6(b, opt6InterfaceID, r.interfaceID...)
		}
		if r.port != nil {
			b = append6(b, opt6RelayPort, r.port...)
		}
		body = append6(b, opt6Relayed, body...)
	}
	return body
}
