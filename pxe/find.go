package pxe

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// FoundServer is a DHCP server that answered [FindServers].
type FoundServer struct {
	IPv6   bool
	Server netip.Addr       // by which it calls itself (option 54); of DHCPv6, where it answered from
	DUID   []byte           // of DHCPv6
	MAC    net.HardwareAddr // that sent the answer, or the router's before it
	Offers netip.Addr       // the address that it would give; invalid for a ProxyDHCP server
	File   string           // the boot file that it names
}

// findXID marks our questions; whoever hears the answers compares it.
type findXID [4]byte

// findDiscover asks as PXE firmware does, so that ProxyDHCP servers answer too.
// It asks for nothing to be kept: no REQUEST follows.
func findDiscover(mac net.HardwareAddr, xid findXID) []byte {
	b := make([]byte, dhcpHeader, dhcpMinPacket)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[4:], xid[:])
	b[10] = 0x80 // answers as broadcasts: we have no address there for sure
	copy(b[28:], mac)
	copy(b[236:], []byte{99, 130, 83, 99})
	option := func(code byte, v ...byte) { b = append(append(b, code, byte(len(v))), v...) }
	option(optMessageType, byte(dhcpv4.MessageTypeDiscover))
	option(optRequestList, optSubnetMask, optRouter, optDNS, optServerID, optVendorClass, optTFTPServer, optBootFile)
	option(optVendorClass, []byte("PXEClient:Arch:00007:UNDI:003000")...)
	option(optArch, 0, byte(ArchX64))
	option(94, 1, 3, 0) // network interface type: UNDI 3, RFC 4578 §2.2
	option(optUUID, make([]byte, 17)...)
	b = append(b, optEnd)
	return append(b, make([]byte, max(dhcpMinPacket-len(b), 0))...)
}

// readOffer reads an answer to findDiscover.
func readOffer(b []byte, xid findXID) (f FoundServer, ok bool) {
	p, err := dhcpv4.FromBytes(b)
	if err != nil || p.OpCode != dhcpv4.OpcodeBootReply || p.TransactionID != dhcpv4.TransactionID(xid) || p.MessageType() != dhcpv4.MessageTypeOffer {
		return f, false
	}
	f.Server = addrOf(p.Options[optServerID])
	f.Offers = addrOf(p.YourIPAddr)
	if f.File = printable(p.Options[optBootFile]); f.File == "" {
		f.File = printable([]byte(p.BootFileName))
	}
	return f, true
}

// findSolicit asks by DHCPv6, without rapid commit.
func findSolicit(mac net.HardwareAddr, xid findXID) []byte {
	b := []byte{msg6Solicit, xid[0], xid[1], xid[2]}
	b = append6(b, opt6ClientID, append([]byte{0, duidLL, 0, hardwareEthernet}, mac...)...)
	b = append6(b, 8, 0, 0) // elapsed time
	b = append6(b, opt6Wanted, 0, opt6DNS, 0, opt6BootURL)
	b = append6(b, opt6Arch, 0, byte(ArchX64))
	class := binary.BigEndian.AppendUint32(nil, enterpriseIntel)
	text := "PXEClient:Arch:00007:UNDI:003000"
	class = binary.BigEndian.AppendUint16(class, uint16(len(text)))
	b = append6(b, opt6VendorClass, append(class, text...)...)
	return append6(b, opt6NA, append(xid[:], make([]byte, 8)...)...)
}

// readAdvertise reads an answer to findSolicit. A server that says that it has
// no address is one all the same.
func readAdvertise(b []byte, xid findXID) (f FoundServer, ok bool) {
	if len(b) < 4 || b[0] != msg6Advertise && b[0] != msg6Reply || !bytes.Equal(b[1:4], xid[:3]) {
		return f, false
	}
	f.IPv6 = true
	err := options6(b[4:], func(code uint16, v []byte) error {
		switch code {
		case opt6ServerID:
			f.DUID = bytes.Clone(v)
		case opt6BootURL:
			f.File = printable(v)
		case opt6NA:
			if len(v) < 12 {
				return errShort6
			}
			return options6(v[12:], func(code uint16, v []byte) error {
				if code == opt6Address && len(v) >= 24 && !f.Offers.IsValid() {
					f.Offers = netip.AddrFrom16([16]byte(v[:16]))
				}
				return nil
			})
		}
		return nil
	})
	return f, err == nil && len(f.DUID) > 0
}

// IsServerDUID reports whether a DHCPv6 server's identifier is the one of a
// fettle that serves at an address.
func IsServerDUID(duid []byte, server netip.Addr) bool {
	n := Network{IPv6: Network6{Server: server}}
	return server.IsValid() && bytes.Equal(duid, n.serverDUID())
}

// same reports whether two answers are one server's.
func (f FoundServer) same(g FoundServer) bool {
	return f.IPv6 == g.IPv6 && f.Server == g.Server && bytes.Equal(f.DUID, g.DUID) && f.Offers.IsValid() == g.Offers.IsValid()
}
