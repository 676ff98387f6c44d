package pxe

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// DHCP options (RFC 2132 unless said otherwise).
const (
	optSubnetMask    = 1
	optRouter        = 3
	optDNS           = 6
	optHostname      = 12
	optDomain        = 15
	optMTU           = 26
	optBroadcast     = 28
	optNTP           = 42
	optVendor        = 43
	optRequestedAddr = 50
	optLeaseTime     = 51
	optOverload      = 52
	optMessageType   = 53
	optServerID      = 54
	optRequestList   = 55
	optMessage       = 56
	optMaxSize       = 57
	optRenewal       = 58
	optRebinding     = 59
	optVendorClass   = 60
	optClientID      = 61
	optTFTPServer    = 66
	optBootFile      = 67
	optUserClass     = 77  // RFC 3004
	optRelayInfo     = 82  // RFC 3046
	optArch          = 93  // RFC 4578 §2.1
	optUUID          = 97  // RFC 4578 §2.3
	optSubnetSel     = 118 // RFC 3011
	optSearch        = 119 // RFC 3397
	optRoutes        = 121 // RFC 3442
	optIPXE          = 175 // iPXE's own encapsulated options
	optRoutesMS      = 249 // what Windows before Vista asks for instead of 121
	optEnd           = 255

	relayCircuitID = 1  // RFC 3046 §3.1
	relayRemoteID  = 2  // RFC 3046 §3.2
	relaySubnetSel = 5  // RFC 3527: link selection
	relayServerID  = 11 // RFC 5107: the client shall speak to the relay

	pxeBootItem = 71 // 43.71: the boot item that a client asks for (PXE 2.1 §2.2.3)

	ipxeNoProxy = 176  // 175.176: do not wait for a ProxyDHCP offer
	ipxeHTTP    = 0x13 // 175.19: this iPXE can fetch by HTTP
)

// request is a decoded DHCP packet of a client.
type request struct {
	packet
	kind   dhcpv4.MessageType
	client Client
	ciaddr netip.Addr
	giaddr netip.Addr
	want   netip.Addr // option 50
	server netip.Addr // option 54
	http   bool       // an iPXE that says it can fetch by HTTP

	// Room for the answer, which is used again with the request.
	out    []byte // nil: it is made
	reply  reply
	encode encoder
}

// parseRequest decodes a packet. It returns an error for what is no request
// of a client, in words fit for a log.
func parseRequest(b []byte, longest int) (*request, error) {
	r := new(request)
	return r, r.parse(b, longest)
}

// parse is parseRequest into a request that was used before. The packet must
// stay as it is while the request is used; what is kept of a client is copied.
func (r *request) parse(b []byte, longest int) error {
	if len(b) > longest {
		return errTooLong
	}
	if err := r.read(b); err != nil {
		return err
	}
	if r.op() != byte(dhcpv4.OpcodeBootRequest) {
		return errReply
	}
	if r.hwLen() != 6 {
		return errHardware
	}
	if err := r.unfold(); err != nil {
		return err
	}
	r.ciaddr, r.giaddr = addrOf(b[12:16]), addrOf(b[24:28])
	r.want, r.server = addrOf(r.opt(optRequestedAddr)), addrOf(r.opt(optServerID))
	t := r.opt(optMessageType)
	if len(t) != 1 {
		return errNoType
	}
	r.kind = dhcpv4.MessageType(t[0])
	r.client, r.http = clientOf(&r.packet)
	r.client.Addr = r.ciaddr
	if r.giaddr.IsValid() { // option 82 of a client itself is nobody's word
		info := r.opt(optRelayInfo)
		r.client.Relay = Relay{Agent: r.giaddr, Circuit: circuitOf(subOption(info, relayCircuitID)), Remote: remoteOf(subOption(info, relayRemoteID))}
	}
	return nil
}

// addrOf is the address in four bytes; invalid for 0.0.0.0 and for other
// lengths.
func addrOf(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || !a.Unmap().Is4() || a.Unmap().IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// clientOf reads who the client is.
func clientOf(p *packet) (c Client, http bool) {
	c = Client{
		MAC:         append(net.HardwareAddr(nil), p.chaddr()...),
		VendorClass: printable(p.opt(optVendorClass)),
		UserClass:   printable([]byte(quirkUserClass(p.opt(optUserClass)))),
		Hostname:    printable(p.opt(optHostname)),
		UUID:        uuidOf(p.opt(optUUID)),
	}
	c.PXE = strings.HasPrefix(c.VendorClass, "PXEClient")
	c.HTTP = strings.HasPrefix(c.VendorClass, "HTTPClient")
	c.Arch, c.ArchKnown = archOf(p.opt(optArch), c.VendorClass)
	if c.ArchKnown {
		c.Arch = quirkArch(c.MAC, c.Arch)
	}
	info, _ := archs(c.Arch)
	c.UEFI = c.ArchKnown && info.uefi
	// An architecture of HTTP boot under "PXEClient" is still an HTTP client
	// only if it says so in option 60: the answer's form follows option 60.
	features := p.opt(optIPXE)
	c.IPXE = strings.HasPrefix(c.UserClass, "iPXE") || len(features) > 0
	http = len(features) == 0 || hasTag(features, ipxeHTTP)
	return c, http
}

// archOf is the first architecture of option 93, which may be a list, that the
// table knows; else the one in option 60, "PXEClient:Arch:00007:UNDI:003016"
// (RFC 4578 §2.1, PXE 2.1 §2.2.3).
func archOf(b []byte, vendorClass string) (Arch, bool) {
	for ; len(b) >= 2; b = b[2:] {
		a := Arch(uint16(b[0])<<8 | uint16(b[1]))
		if _, ok := archs(a); ok {
			return a, true
		}
	}
	_, rest, ok := strings.Cut(vendorClass, ":Arch:")
	if !ok {
		return 0, false
	}
	rest, _, _ = strings.Cut(rest, ":")
	n, err := strconv.ParseUint(rest, 10, 16)
	if err != nil {
		return 0, false
	}
	_, known := archs(Arch(n))
	return Arch(n), known
}

// circuitOf is a circuit ID for people. RFC 3046 leaves its form to the relay:
// switches write a port's name, or Cisco's form, type 0 of four bytes: VLAN,
// module and port.
func circuitOf(b []byte) string {
	if len(b) == 6 && b[0] == 0 && b[1] == 4 {
		return fmt.Sprintf("vlan %d, %d/%d", uint16(b[2])<<8|uint16(b[3]), b[4], b[5])
	}
	return idText(b)
}

// remoteOf is a remote ID for people: a MAC address, bare or in Cisco's form
// (type 0 of six bytes), or the relay's name.
func remoteOf(b []byte) string {
	if len(b) == 8 && b[0] == 0 && b[1] == 6 {
		b = b[2:]
	}
	if len(b) == 6 && printable(b) != string(b) {
		return net.HardwareAddr(b).String()
	}
	return idText(b)
}

// idText is an identifier of the wire: itself where it can be read, else hex.
func idText(b []byte) string {
	if printable(b) == string(b) {
		return strings.TrimSpace(string(b))
	}
	return hex.EncodeToString(b)
}

// hasTag looks for a tag in encapsulated options (tag, length, value).
func hasTag(b []byte, tag byte) bool {
	for len(b) >= 2 && b[0] != optEnd {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		if b[0] == tag {
			return true
		}
		n := 2 + int(b[1])
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return false
}

// subOption returns an encapsulated option's value.
func subOption(b []byte, tag byte) []byte {
	for len(b) >= 2 {
		n := 2 + int(b[1])
		if n > len(b) {
			return nil
		}
		if b[0] == tag {
			return b[2:n]
		}
		b = b[n:]
	}
	return nil
}

// uuidOf is option 97 as text: a type byte 0 and a UUID in SMBIOS byte order,
// its first three fields little-endian (RFC 4578 §2.3; SMBIOS 3 §7.2.1).
// All zeros and all ones mean that the board has none.
func uuidOf(b []byte) string {
	if len(b) < 17 || b[0] != 0 {
		return ""
	}
	var u [16]byte
	copy(u[:], b[1:17])
	if u == ([16]byte{}) || bytes.Count(u[:], []byte{0xff}) == len(u) {
		return ""
	}
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// printable keeps what may stand in a log line: text from the wire is
// anybody's.
func printable(b []byte) string {
	ok := true
	for _, c := range b {
		ok = ok && c >= 0x20 && c < 0x7f
	}
	if ok {
		return string(b)
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, string(b))
}

// wants reports whether the client asked for an option (55), or asked for
// nothing in particular.
func (r *request) wants(code uint8) bool {
	l := r.opt(optRequestList)
	if len(l) == 0 {
		return true
	}
	for _, c := range l {
		if c == code {
			return true
		}
	}
	return false
}

// asks reports whether the client names an option in its list (55).
func (r *request) asks(code uint8) bool { return bytes.IndexByte(r.opt(optRequestList), code) >= 0 }

// What describe begins with.
const (
	iPXEName = "iPXE"
	httpName = "HTTP boot firmware"
	pxeName  = "PXE firmware"
	overIPv6 = " over IPv6" // what it ends with
)

// describe names a client's firmware in a sentence.
func (c Client) describe() string {
	arch := "of unknown architecture"
	if c.ArchKnown {
		arch = c.Arch.String()
	}
	over := ""
	if c.IPv6 {
		over = overIPv6
	}
	switch {
	case c.IPXE:
		return iPXEName + " (" + arch + ")" + over
	case c.HTTP:
		return httpName + " (" + arch + ")" + over
	case c.PXE, c.ArchKnown:
		return pxeName + " (" + arch + ")" + over
	case c.VendorClass != "":
		return "a client of class " + strconv.Quote(c.VendorClass) + over
	}
	return "a client that does not boot from the network" + over
}

// boots reports whether the client wants boot information at all. U-Boot may
// say its architecture and a class of its own ("U-Boot.armv8"); no operating
// system says an architecture.
func (c Client) boots() bool { return c.PXE || c.HTTP || c.IPXE || c.ArchKnown }
