package pxe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Router advertisements (RFC 4861 §4.1, §4.2, §4.6; RFC 8106 for DNS).
const (
	icmpSolicit   = 133
	icmpAdvertise = 134

	ndpSourceLink = 1
	ndpPrefix     = 3
	ndpMTU        = 5
	ndpDNS        = 25
	ndpSearch     = 31

	raManaged = 0x80
	raOther   = 0x40
	raOnLink  = 0x80
	raAuto    = 0x40

	raHopLimit      = 64
	raLifetime      = 30 * time.Minute // of us as a router, and of name servers
	raInterval      = 5 * time.Minute  // between unsolicited ones
	raFirst         = 3                // that many at raFirstInterval (§6.2.4)
	raFirstInterval = 16 * time.Second
	raValid         = 30 * 24 * time.Hour // of a prefix (§6.2.1)
	raPreferred     = 7 * 24 * time.Hour
	raMulticastGap  = 3 * time.Second // MIN_DELAY_BETWEEN_RAS (§10)
	raMinMTU        = 1280
	raOtherFor      = time.Hour // another router is believed to be there: it speaks every 30 minutes at least (§6.2.1)
)

// AdvertiseConn is an ICMPv6 socket on one interface for router solicitations
// and advertisements. ReadFrom gives messages whose hop limit is 255 and whose
// checksum is right (RFC 4861 §6.1.1); what is written leaves with hop limit
// 255 and a checksum. Addresses are *[net.IPAddr].
type AdvertiseConn interface {
	net.PacketConn
	// HardwareAddr is the interface's own.
	HardwareAddr() net.HardwareAddr
}

// advertiser is the state of one network's advertisements.
type advertiser struct {
	s     *Server
	n     *Network
	conn  AdvertiseConn
	other netip.Addr // a router that is not us
	heard time.Time
	multi time.Time // when all nodes were told last
}

// ServeAdvertisements answers router solicitations on one network, as its
// Advertise says, until ctx ends, which is no error, or conn fails. It does
// not close conn. A network with [AdvertiseOff] is an error.
func (s *Server) ServeAdvertisements(ctx context.Context, network string, conn AdvertiseConn) error {
	n := s.networks[network]
	if n == nil {
		return fmt.Errorf("pxe: no network named %q is configured", network)
	}
	if n.Advertise == AdvertiseOff {
		return fmt.Errorf("pxe: network %q does not advertise", network)
	}
	a := &advertiser{s: s, n: n, conn: conn}
	if a.yields() {
		// A router that is there answers us too.
		if _, err := conn.WriteTo(a.solicitation(), &net.IPAddr{IP: net.IPv6linklocalallrouters}); err != nil {
			s.log.Warn("router solicitation not sent: a router of the network is heard later", "network", n.Name, "err", err)
		}
	}
	msgs := make(chan icmpMessage)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer cancel() // without a reader there is nothing to do
		ended <- readPackets(ctx, conn, 1500, "router solicitations on network "+n.Name, func(b []byte, from net.Addr) {
			ip, ok := from.(*net.IPAddr)
			if !ok {
				return
			}
			src, ok := netip.AddrFromSlice(ip.IP)
			if !ok {
				return
			}
			select {
			case msgs <- icmpMessage{append([]byte{}, b...), src, from}:
			case <-ctx.Done():
			}
		})
	}()
	a.run(ctx, msgs)
	cancel()
	return <-ended
}

// yields reports whether another router's word counts before ours.
func (a *advertiser) yields() bool { return a.n.Advertise == AdvertiseNothing || a.n.AdvertiseAlone }

type icmpMessage struct {
	b    []byte
	src  netip.Addr
	from net.Addr
}

// run answers until ctx ends.
func (a *advertiser) run(ctx context.Context, msgs <-chan icmpMessage) {
	var tick <-chan time.Time // never, where there is nothing to tell everybody
	if !a.yields() {
		a.toAll(raLifetime)
		defer a.farewell()
		t := time.NewTicker(raFirstInterval)
		defer t.Stop()
		tick = t.C
		for sent := 1; sent < raFirst; {
			select {
			case <-tick:
				sent++
				a.toAll(raLifetime)
			case m := <-msgs:
				a.take(m)
			case <-ctx.Done():
				return
			}
		}
		t.Reset(raInterval)
	}
	for {
		select {
		case <-tick:
			a.toAll(raLifetime)
		case m := <-msgs:
			a.take(m)
		case <-ctx.Done():
			return
		}
	}
}

// toAll tells all nodes; lifetime 0 says that we are no router any more.
func (a *advertiser) toAll(lifetime time.Duration) {
	a.multi = a.s.now()
	if _, err := a.conn.WriteTo(a.n.advertisement(a.conn.HardwareAddr(), lifetime), &net.IPAddr{IP: net.IPv6linklocalallnodes}); err != nil {
		a.s.log.Warn("router advertisement not sent", "network", a.n.Name, "err", err)
	}
}

// farewell takes back that we are a router (§6.2.5).
func (a *advertiser) farewell() {
	if a.n.IPv6.Gateway == a.n.IPv6.Server {
		a.toAll(0)
	}
}

// take handles one message.
func (a *advertiser) take(m icmpMessage) {
	if len(m.b) == 0 {
		return
	}
	switch m.b[0] {
	case icmpAdvertise:
		if speaks, err := parseAdvertisement(m.b); err == nil && speaks && m.src.IsLinkLocalUnicast() {
			if a.other != m.src || a.s.now().Sub(a.heard) > raOtherFor {
				a.s.log.Info("another router advertises on the network", "network", a.n.Name, "router", m.src)
			}
			a.other, a.heard = m.src, a.s.now()
		}
	case icmpSolicit:
		link, err := parseSolicitation(m.b, m.src)
		if err != nil {
			a.s.log.Debug("dropped a router solicitation", "network", a.n.Name, "from", m.src, "reason", err)
			return
		}
		a.solicited(m, link)
	}
}

// solicited answers one machine. There is one advertiser, so that nothing is
// gained by the delay of §6.2.6, and iPXE waits for the answer.
func (a *advertiser) solicited(m icmpMessage, link net.HardwareAddr) {
	now := a.s.now()
	if a.yields() && a.other.IsValid() && now.Sub(a.heard) < raOtherFor {
		return // that router's word counts
	}
	if m.src.IsUnspecified() {
		if now.Sub(a.multi) >= raMulticastGap {
			a.toAll(raLifetime)
		}
		return
	}
	_, err := a.conn.WriteTo(a.n.advertisement(a.conn.HardwareAddr(), raLifetime), m.from)
	if link == nil {
		link = eui64MAC(m.src)
	}
	if _, known := a.s.clients.of(link); !known {
		return // what never booted from here has no timeline that this is of use to
	}
	text := "looked for an IPv6 router and was told that there is none, nor DHCPv6: it need not wait"
	switch a.n.Advertise {
	case AdvertiseManaged:
		text = "looked for an IPv6 router and was told to ask DHCPv6 for an address"
	case AdvertiseOther:
		text = "looked for an IPv6 router and was told to make its own address and to ask DHCPv6 for the rest"
	case AdvertiseSLAAC:
		text = "looked for an IPv6 router and was told to make its own address"
	case AdvertiseOff, AdvertiseNothing:
	}
	if err != nil {
		text = "looked for an IPv6 router and could not be answered: " + err.Error()
	}
	a.s.recorder.Record(Exchange{Time: now, MAC: link, Addr: m.src, Network: a.n.Name, Kind: "ra", Text: text, Err: err})
}

func (a *advertiser) solicitation() []byte {
	b := make([]byte, 8, 16)
	b[0] = icmpSolicit
	return appendLink(b, a.conn.HardwareAddr())
}

var errNDP = errors.New("malformed neighbour discovery message")

// ndpOptions walks options (§4.6).
func ndpOptions(b []byte, f func(kind byte, value []byte)) error {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return errNDP
		}
		f(b[0], b[2:int(b[1])*8])
		b = b[int(b[1])*8:]
	}
	return nil
}

// parseSolicitation checks a router solicitation (§6.1.1) and returns the
// hardware address that its sender names, if it does.
func parseSolicitation(b []byte, src netip.Addr) (link net.HardwareAddr, err error) {
	if len(b) < 8 || b[0] != icmpSolicit || b[1] != 0 || src.IsMulticast() {
		return nil, errNDP
	}
	err = ndpOptions(b[8:], func(kind byte, v []byte) {
		if kind == ndpSourceLink && len(v) == 6 {
			link = append(net.HardwareAddr{}, v...)
		}
	})
	if err == nil && link != nil && src.IsUnspecified() {
		return nil, errNDP
	}
	return link, err
}

// parseAdvertisement tells whether a router's advertisement (§6.1.2) says
// anything that a machine goes by: a router, DHCPv6 or a prefix.
func parseAdvertisement(b []byte) (speaks bool, err error) {
	if len(b) < 16 || b[0] != icmpAdvertise || b[1] != 0 {
		return false, errNDP
	}
	speaks = b[5]&(raManaged|raOther) != 0 || binary.BigEndian.Uint16(b[6:]) != 0
	err = ndpOptions(b[16:], func(kind byte, _ []byte) { speaks = speaks || kind == ndpPrefix })
	return speaks, err
}

// advertisement is what the network's machines are told (§4.2). The checksum
// is the socket's.
func (n *Network) advertisement(own net.HardwareAddr, lifetime time.Duration) []byte {
	v := n.IPv6
	b := make([]byte, 16, 160)
	b[0], b[4] = icmpAdvertise, raHopLimit
	auto := byte(0)
	switch n.Advertise {
	case AdvertiseManaged:
		b[5] = raManaged | raOther
	case AdvertiseOther:
		b[5], auto = raOther, raAuto
	case AdvertiseSLAAC:
		auto = raAuto
	case AdvertiseOff, AdvertiseNothing:
	}
	if n.has6() && v.Gateway == v.Server {
		binary.BigEndian.PutUint16(b[6:], uint16(lifetime/time.Second))
	}
	b = appendLink(b, own)
	if n.MTU >= raMinMTU {
		b = append(b, ndpMTU, 1, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(n.MTU))
	}
	if !n.has6() || n.Advertise == AdvertiseNothing {
		return b
	}
	b = append(b, ndpPrefix, 4, byte(v.Prefix.Bits()), raOnLink|auto)
	b = binary.BigEndian.AppendUint32(b, uint32(raValid/time.Second))
	b = binary.BigEndian.AppendUint32(b, uint32(raPreferred/time.Second))
	p := v.Prefix.Masked().Addr().As16()
	b = append(append(b, 0, 0, 0, 0), p[:]...)
	if len(v.DNS) > 0 { // RFC 8106 §5.1
		b = append(b, ndpDNS, byte(1+2*len(v.DNS)), 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(raLifetime/time.Second))
		for _, d := range v.DNS {
			a := d.As16()
			b = append(b, a[:]...)
		}
	}
	return n.appendSearch(b)
}

// appendSearch appends the DNS search list (RFC 8106 §5.2).
func (n *Network) appendSearch(b []byte) []byte {
	names := n.Search
	if len(names) == 0 && n.Domain != "" {
		names = []string{n.Domain}
	}
	var list []byte
	for _, name := range names {
		if next := append(list, searchList([]string{name})...); len(next) <= 200 {
			list = next
		}
	}
	if len(list) == 0 {
		return b
	}
	list = append(list, make([]byte, -len(list)&7)...)
	b = append(b, ndpSearch, byte(1+len(list)/8), 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(raLifetime/time.Second))
	return append(b, list...)
}

func appendLink(b []byte, mac net.HardwareAddr) []byte {
	if len(mac) != 6 {
		return b
	}
	return append(append(b, ndpSourceLink, 1), mac...)
}
