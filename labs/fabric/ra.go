package fabric

import (
	"encoding/binary"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	ipv6Len = 40

	icmpRouterSolicitation  = 133 // RFC 4861 §4.1
	icmpRouterAdvertisement = 134 // RFC 4861 §4.2
	ndpHopLimit             = 255 // RFC 4861 §6.1: proof that no router forwarded it

	ndpSourceLinkAddress = 1 // RFC 4861 §4.6.1
	ndpMTU               = 5 // RFC 4861 §4.6.4
)

// solicitor is who asked for a router: where the answer goes.
type solicitor struct {
	mac  net.HardwareAddr
	addr netip.Addr
}

// allNodes is the answer's way to a solicitor without an address
// (RFC 4861 §6.2.6; RFC 2464 §7).
func allNodes() solicitor {
	return solicitor{net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, netip.IPv6LinkLocalAllNodes()}
}

// parseNDP is the neighbour discovery message in a frame and its sender; no
// router forwarded it, and its checksum is right (RFC 4861 §6.1).
func parseNDP(b []byte) (src netip.Addr, msg []byte, ok bool) {
	src, dst, msg, ok := payload6(b, uint8(header.ICMPv6ProtocolNumber))
	if !ok || len(msg) < 8 || b[headerLen+7] != ndpHopLimit || msg[1] != 0 || icmp6Checksum(msg, src, dst) != binary.BigEndian.Uint16(msg[2:]) {
		return src, nil, false
	}
	return src, msg, true
}

// payload6 is what a frame carries of a protocol right behind an IPv6 header
// (RFC 8200 §3).
func payload6(b []byte, protocol uint8) (src, dst netip.Addr, body []byte, ok bool) {
	if len(b) < headerLen+ipv6Len || binary.BigEndian.Uint16(b[12:]) != uint16(header.IPv6ProtocolNumber) {
		return src, dst, nil, false
	}
	ip := b[headerLen:]
	n := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != 6 || ip[6] != protocol || len(ip) < ipv6Len+n {
		return src, dst, nil, false
	}
	return netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:])), ip[ipv6Len : ipv6Len+n], true
}

// parseSolicitation recognises a valid router solicitation (RFC 4861 §6.1.1).
func parseSolicitation(b []byte) (solicitor, bool) {
	none := solicitor{}
	src, msg, ok := parseNDP(b)
	if !ok || msg[0] != icmpRouterSolicitation {
		return none, false
	}
	for opts := msg[8:]; len(opts) > 0; {
		if len(opts) < 8 || opts[1] == 0 || int(opts[1])*8 > len(opts) {
			return none, false
		}
		if opts[0] == ndpSourceLinkAddress && src.IsUnspecified() {
			return none, false
		}
		opts = opts[int(opts[1])*8:]
	}
	if src.IsUnspecified() {
		return allNodes(), true
	}
	if src.IsMulticast() {
		return none, false
	}
	return solicitor{net.HardwareAddr(append([]byte(nil), b[6:12]...)), src}, true
}

// advertisement is the frame that answers a solicitation: no prefix, no router
// (lifetime 0), no DHCPv6. It says only that there is nothing to wait for.
//
// It goes out at once, without the delay of RFC 4861 §6.2.6: there is one
// advertiser per segment.
func advertisement(h *Host, to solicitor) []byte {
	const optLen = 8
	src, _ := netip.AddrFromSlice(linkLocal(h.mac))

	b, msg := frame6(h.mac, to.mac, src, to.addr, uint8(header.ICMPv6ProtocolNumber), 16+2*optLen)
	msg[0] = icmpRouterAdvertisement
	msg[4] = 64 // the hop limit that hosts should use
	mac, mtu := msg[16:], msg[16+optLen:]
	mac[0], mac[1] = ndpSourceLinkAddress, 1
	copy(mac[2:], h.mac)
	mtu[0], mtu[1] = ndpMTU, 1
	binary.BigEndian.PutUint32(mtu[4:], uint32(h.mtu))
	binary.BigEndian.PutUint16(msg[2:], icmp6Checksum(msg, src, to.addr))
	return b
}

// frame6 is a frame with an IPv6 header, and the n bytes behind that.
func frame6(from, to net.HardwareAddr, src, dst netip.Addr, protocol uint8, n int) (frame, body []byte) {
	b := make([]byte, headerLen+ipv6Len+n)
	copy(b, to)
	copy(b[6:], from)
	binary.BigEndian.PutUint16(b[12:], uint16(header.IPv6ProtocolNumber))
	ip := b[headerLen:]
	ip[0] = 6 << 4
	binary.BigEndian.PutUint16(ip[4:], uint16(n))
	ip[6], ip[7] = protocol, ndpHopLimit
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	return b, ip[ipv6Len:]
}

// linkLocal is the link-local address of a station (RFC 4291 appendix A).
func linkLocal(mac net.HardwareAddr) []byte {
	a := header.LinkLocalAddr(tcpip.LinkAddress(mac))
	return a.AsSlice()
}

// icmp6Checksum is the checksum of msg (RFC 4443 §2.3), its own field left out.
func icmp6Checksum(msg []byte, src, dst netip.Addr) uint16 {
	return header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: header.ICMPv6(msg),
		Src:    address(src),
		Dst:    address(dst),
	})
}
