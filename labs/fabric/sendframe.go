package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// SendFrame sends a UDP datagram over IPv4 in a frame to the station to, without
// ARP: RFC 2131 §4.1 wants it for clients that have no address yet.
func (c *PacketConn) SendFrame(to net.HardwareAddr, src, dst netip.AddrPort, payload []byte) error {
	if c.closed.Load() || c.h.isGone() {
		return net.ErrClosed
	}
	b, err := udpFrame(c.h.mac, to, src, dst, payload, c.h.mtu)
	if err != nil {
		return fmt.Errorf("host %s: sending to %s at %s: %w", c.h.name, dst, to, err)
	}
	c.h.nic.port.receive(b)
	return nil
}

// udpFrame builds a frame (IEEE 802.3, RFC 894) with IPv4 (RFC 791) and UDP
// (RFC 768).
func udpFrame(from, to net.HardwareAddr, src, dst netip.AddrPort, payload []byte, mtu int) ([]byte, error) {
	const ipLen, udpLen = header.IPv4MinimumSize, header.UDPMinimumSize
	sa, da := src.Addr().Unmap(), dst.Addr().Unmap()
	switch {
	case len(to) != 6:
		return nil, errors.New("not an Ethernet address")
	case !sa.Is4() || !da.Is4():
		return nil, fmt.Errorf("from %s: both addresses must be IPv4", src)
	case ipLen+udpLen+len(payload) > mtu:
		return nil, fmt.Errorf("%d bytes do not fit into one frame of MTU %d", len(payload), mtu)
	}
	b := make([]byte, headerLen+ipLen+udpLen+len(payload), max(minFrame, headerLen+ipLen+udpLen+len(payload)))
	copy(b, to)
	copy(b[6:], from)
	b[12], b[13] = 0x08, 0x00

	ip := header.IPv4(b[headerLen:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(ipLen + udpLen + len(payload)),
		TTL:         64, // RFC 1700, IP time to live
		Protocol:    uint8(header.UDPProtocolNumber),
		SrcAddr:     address(sa),
		DstAddr:     address(da),
	})
	ip.SetChecksum(^ip.CalculateChecksum())

	u := header.UDP(ip[ipLen:])
	u.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(udpLen + len(payload))})
	copy(u[udpLen:], payload)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(sa), address(da), uint16(udpLen+len(payload)))
	sum = ^u.CalculateChecksum(checksum.Checksum(payload, sum))
	if sum == 0 {
		sum = 0xffff // RFC 768: zero means no checksum
	}
	u.SetChecksum(sum)
	return pad(b, 0), nil
}
