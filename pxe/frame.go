package pxe

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

const (
	etherHeader = 14
	ipHeader    = 20
	ip6Header   = 40
	udpHeader   = 8
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	protoUDP    = 17
)

// udpFrame builds an Ethernet frame with a UDP datagram (RFC 894, RFC 791
// §3.1, RFC 768).
func udpFrame(to, from net.HardwareAddr, src, dst netip.AddrPort, payload []byte) ([]byte, error) {
	if len(to) != 6 || len(from) != 6 {
		return nil, fmt.Errorf("hardware addresses %v and %v: want 6 bytes each", to, from)
	}
	if !src.Addr().Is4() || !dst.Addr().Is4() {
		return nil, fmt.Errorf("addresses %v and %v: want IPv4", src, dst)
	}
	size := ipHeader + udpHeader + len(payload)
	if size > 0xffff {
		return nil, fmt.Errorf("payload of %d bytes is too long for a datagram", len(payload))
	}
	f := make([]byte, etherHeader+size)
	copy(f, to)
	copy(f[6:], from)
	binary.BigEndian.PutUint16(f[12:], etherIPv4)

	ip := f[etherHeader:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(size))
	ip[8] = 64 // TTL
	ip[9] = protoUDP
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:ipHeader], 0))

	udp := ip[ipHeader:]
	binary.BigEndian.PutUint16(udp, src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHeader+len(payload)))
	copy(udp[udpHeader:], payload)
	// The pseudo header: both addresses, protocol, length.
	c := ^sum16(udp, uint32(sum16(ip[12:20], protoUDP+uint32(udpHeader+len(payload)))))
	if c == 0 {
		c = 0xffff // 0 means no checksum
	}
	binary.BigEndian.PutUint16(udp[6:], c)
	return f, nil
}

// frame6 builds an Ethernet frame with a UDP datagram or a TCP segment over
// IPv6 (RFC 2464 §3, RFC 8200 §3 and §8.1). segment begins with its header,
// whose checksum, at offset sum, is filled in. The lengths say size, of which
// segment may be the start.
func frame6(to, from net.HardwareAddr, src, dst netip.Addr, proto byte, segment []byte, sum, size int) ([]byte, error) {
	if len(to) != 6 || len(from) != 6 {
		return nil, fmt.Errorf("hardware addresses %v and %v: want 6 bytes each", to, from)
	}
	if !src.Is6() || !dst.Is6() {
		return nil, fmt.Errorf("addresses %v and %v: want IPv6", src, dst)
	}
	if size > 0xffff {
		return nil, fmt.Errorf("payload of %d bytes is too long for a packet", size)
	}
	f := make([]byte, etherHeader+ip6Header, etherHeader+ip6Header+len(segment))
	copy(f, to)
	copy(f[6:], from)
	binary.BigEndian.PutUint16(f[12:], etherIPv6)
	ip := f[etherHeader:]
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(size))
	ip[6], ip[7] = proto, 64
	s, d := src.As16(), dst.As16()
	copy(ip[8:], s[:])
	copy(ip[24:], d[:])
	f = append(f, segment...)
	if size > len(segment) {
		return f, nil // the checksum is not known
	}
	part := uint32(sum16(f[etherHeader+8:etherHeader+ip6Header], uint32(proto)+uint32(len(segment))))
	c := ^sum16(f[etherHeader+ip6Header:], part)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(f[etherHeader+ip6Header+sum:], c)
	return f, nil
}

// sum16 is the Internet checksum's sum (RFC 1071), not complemented.
func sum16(b []byte, sum uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// datagram6 reads an IPv6 packet (RFC 8200 §3) that holds a UDP datagram.
func datagram6(b []byte) (src netip.AddrPort, data []byte, ok bool) {
	if len(b) < ip6Header+udpHeader || b[0]>>4 != 6 || b[6] != protoUDP {
		return src, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	udp := b[ip6Header:]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if n > len(udp) || size < udpHeader || size > n {
		return src, nil, false
	}
	src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), binary.BigEndian.Uint16(udp))
	return src, udp[udpHeader:size], true
}
