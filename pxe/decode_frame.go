package pxe

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

const (
	tcpHeader = 20
	protoTCP  = 6
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
)

// decodeFrame reads a captured frame: the UDP datagram or the TCP segment with
// data in it. Anything else, and fragments, are left out.
func decodeFrame(link uint16, b []byte, at time.Time) (Packet, bool) {
	var src, dst net.HardwareAddr
	kind := uint16(etherIPv4)
	switch link {
	case linkEthernet:
		if len(b) < etherHeader {
			return Packet{}, false
		}
		dst, src = net.HardwareAddr(b[:6]), net.HardwareAddr(b[6:12])
		kind, b = binary.BigEndian.Uint16(b[12:]), b[14:]
		for range 2 {
			if (kind == etherVLAN || kind == etherQinQ) && len(b) >= 4 {
				kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
			}
		}
	case linkSLL:
		if len(b) < 16 {
			return Packet{}, false
		}
		src, kind, b = net.HardwareAddr(b[6:12]), binary.BigEndian.Uint16(b[14:]), b[16:]
	case linkSLL2:
		if len(b) < 20 {
			return Packet{}, false
		}
		kind, src, b = binary.BigEndian.Uint16(b), net.HardwareAddr(b[12:18]), b[20:]
	case linkRaw:
	default:
		return Packet{}, false
	}
	if link == linkRaw && len(b) > 0 && b[0]>>4 == 6 {
		kind = etherIPv6
	}
	from, to, proto, size, b, ok := ipPayload(kind, b)
	if !ok {
		return Packet{}, false
	}
	p := Packet{Time: at}
	switch {
	case proto == protoUDP && len(b) >= udpHeader:
		p.Size = max(min(int(binary.BigEndian.Uint16(b[4:])), size)-udpHeader, 0)
		p.Data = b[udpHeader:]
		p.Data = bytes.Clone(p.Data[:min(len(p.Data), p.Size)])
	case proto == protoTCP && len(b) >= tcpHeader:
		off := int(b[12]>>4) * 4
		if off < tcpHeader || off >= len(b) {
			return Packet{}, false
		}
		p.TCP, p.Size, p.Data = true, size-off, bytes.Clone(b[off:])
	default:
		return Packet{}, false
	}
	p.From = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b))
	p.To = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:]))
	p.Sent = fromServer(p)
	p.MAC = bytes.Clone(src)
	if p.Sent {
		p.MAC = bytes.Clone(dst)
	}
	return p, true
}

// ipPayload is what an IPv4 or IPv6 packet carries, and how much it was on the
// wire. Fragments and IPv6 extension headers are left out.
func ipPayload(kind uint16, b []byte) (from, to netip.Addr, proto byte, size int, payload []byte, ok bool) {
	switch {
	case kind == etherIPv4 && len(b) >= ipHeader && b[0]>>4 == 4:
		ihl, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if ihl < ipHeader || ihl > len(b) || total < ihl || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			return from, to, 0, 0, nil, false
		}
		from, to = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		return from, to, b[9], total - ihl, b[ihl:min(total, len(b))], true // without Ethernet's padding
	case kind == etherIPv6 && len(b) >= ip6Header && b[0]>>4 == 6:
		size = int(binary.BigEndian.Uint16(b[4:]))
		from, to = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		return from, to, b[6], size, b[ip6Header:min(ip6Header+size, len(b))], true
	}
	return from, to, 0, 0, nil, false
}

// fromServer tells which side sent a packet, by what it says: in a capture
// nobody else does.
func fromServer(p Packet) bool {
	switch {
	case p.TCP:
		return bytes.HasPrefix(p.Data, []byte("HTTP/"))
	case isDHCP(p):
		return p.Data[0] == 2
	case isDHCP6(p):
		switch p.Data[0] {
		case msg6Advertise, msg6Reply, msg6Reconfigure, msg6RelayRepl:
			return true
		}
		return false
	case len(p.Data) >= 2 && p.Data[0] == 0:
		return p.Data[1] == tftpData || p.Data[1] == tftpOack
	}
	return false
}

// isDHCP knows a DHCP packet by its port and its magic cookie.
func isDHCP(p Packet) bool {
	port := func(n uint16) bool { return n == dhcpServerPort || n == dhcpClientPort || n == binlPort }
	return !p.TCP && (port(p.From.Port()) || port(p.To.Port())) && len(p.Data) >= dhcpHeader && bytes.Equal(p.Data[236:240], []byte{99, 130, 83, 99})
}

// isDHCP6 knows a DHCPv6 packet by its ports.
func isDHCP6(p Packet) bool {
	port := func(n uint16) bool { return n == dhcp6ServerPort || n == dhcp6ClientPort }
	return !p.TCP && p.To.Addr().Is6() && port(p.To.Port()) && len(p.Data) >= 4
}
