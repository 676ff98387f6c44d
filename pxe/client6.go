package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
)

// request6 is a message of a client on its way to an answer.
type request6 struct {
	*message6
	client Client
	want   netip.Addr // the address that its first IA_NA names, may be invalid
	from   netip.Addr // of the client's link, RFC 8415 §14.1
}

// clientOf6 reads who the client is, without its hardware address.
func clientOf6(m *message6) Client {
	c := Client{
		IPv6:        true,
		VendorClass: printable(m.vendor),
		UserClass:   printable(m.user),
		UUID:        uuidOfDUID(m.clientID),
	}
	c.PXE = strings.HasPrefix(c.VendorClass, "PXEClient")
	c.HTTP = strings.HasPrefix(c.VendorClass, "HTTPClient")
	c.Arch, c.ArchKnown = archOf(m.archs, c.VendorClass)
	info, _ := archs(c.Arch)
	c.UEFI = c.ArchKnown && info.uefi
	c.IPXE = strings.HasPrefix(c.UserClass, "iPXE")
	// A vendor class is not demanded of a client that asks for a boot file
	// (RFC 5970 §3): its architecture and its wish tell it.
	if c.ArchKnown && !c.PXE && !c.HTTP && !c.IPXE && m.wants(opt6BootURL) {
		c.PXE, c.HTTP = !info.http, info.http
	}
	return c
}

// uuidOfDUID is the UUID of a DUID-UUID (RFC 6355 §4). Observed: OVMF 2022.11
// copies it as SMBIOS has it, the first three fields little-endian, and so
// does iPXE of 2019.
func uuidOfDUID(duid []byte) string {
	if len(duid) != 18 || binary.BigEndian.Uint16(duid) != duidUUID {
		return ""
	}
	return uuidOf(append([]byte{0}, duid[2:]...))
}

// uuidAsWritten is the UUID of a DUID-UUID in network order, as RFC 6355 has
// it.
func uuidAsWritten(duid []byte) string {
	if len(duid) != 18 || binary.BigEndian.Uint16(duid) != duidUUID {
		return ""
	}
	h := hex.EncodeToString(duid[2:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// hardwareOf finds the hardware address of the port that a client asks by,
// the surest first: what its relay saw (option 79, RFC 6939), the sender of
// the frame, its link-local address, its DUID, and the machine whose UUID is
// in the DUID. A DUID is the machine's, and may have another port's address
// in it.
func (s *Server) hardwareOf(ctx context.Context, network string, m *message6, frame net.HardwareAddr, linkLocal netip.Addr) net.HardwareAddr {
	if k := len(m.relays); k > 0 {
		frame = nil // the relay's
		if mac := ethernet(m.relays[k-1].linkLayer); mac != nil {
			return mac
		}
	}
	if len(frame) == 6 {
		return frame
	}
	if mac := eui64MAC(linkLocal); mac != nil {
		return mac
	}
	if len(m.clientID) >= 4 {
		switch rest := m.clientID[2:]; binary.BigEndian.Uint16(m.clientID) {
		case duidLL:
			if mac := ethernet(rest); mac != nil {
				return mac
			}
		case duidLLT:
			if len(rest) >= 6 {
				if mac := ethernet(append(rest[:2:2], rest[6:]...)); mac != nil {
					return mac
				}
			}
		}
	}
	id, ok := s.leases.(Identifier)
	if !ok {
		return nil
	}
	for _, uuid := range []string{uuidOfDUID(m.clientID), uuidAsWritten(m.clientID)} {
		if uuid == "" {
			continue
		}
		if mac := id.MACOf(ctx, network, uuid); len(mac) == 6 {
			return mac
		}
	}
	return nil
}

// ethernet reads a hardware type and an address.
func ethernet(b []byte) net.HardwareAddr {
	if len(b) != 8 || binary.BigEndian.Uint16(b) != hardwareEthernet || bytes.Equal(b[2:], make([]byte, 6)) {
		return nil
	}
	return append(net.HardwareAddr{}, b[2:]...)
}
