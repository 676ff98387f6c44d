package pxe

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Network6 is the IPv6 side of a [Network]. The zero value has none. A Network
// that has it needs no IPv4: its Prefix and Server are then the zero values.
type Network6 struct {
	Prefix  netip.Prefix
	Server  netip.Addr // our address there
	Gateway netip.Addr // told by router advertisements, and only if it is Server
	DNS     []netip.Addr
	// Relays are relay agents as Network.Relays are: the link-address that
	// they write, or the address that they send from.
	Relays []netip.Addr
}

// Advertise is what the server tells machines that look for a router
// (RFC 4861 §6.2).
type Advertise int

// Ways of advertising.
const (
	// AdvertiseOff leaves router solicitations to somebody else.
	AdvertiseOff Advertise = iota
	// AdvertiseNothing answers that there is no router, no prefix and no
	// DHCPv6, unless another router is heard: a machine need not wait.
	AdvertiseNothing
	// AdvertiseManaged says that addresses come by DHCPv6 (flags M and O).
	AdvertiseManaged
	// AdvertiseOther says that machines make their own addresses, and get the
	// rest by DHCPv6 (flag O).
	AdvertiseOther
	// AdvertiseSLAAC says that machines make their own addresses; name servers
	// are in the advertisement (RFC 8106).
	AdvertiseSLAAC
)

// has6 reports whether the network has IPv6.
func (n *Network) has6() bool { return n.IPv6.Prefix.IsValid() }

// has4 reports whether the network has IPv4.
func (n *Network) has4() bool { return n.Prefix.IsValid() || n.Server.IsValid() || !n.has6() }

func errNo4(n *Network) error {
	return fmt.Errorf("pxe: network %q has no IPv4: serve DHCPv6 there", n.Name)
}

// checkOnly6 checks that a network without IPv4 asks for nothing of it.
func (n Network) checkOnly6() error {
	for _, c := range []struct {
		set  bool
		what string
	}{
		{n.Gateway.IsValid(), "a gateway"}, {len(n.DNS) > 0, "name servers"}, {len(n.NTP) > 0, "time servers"}, {len(n.Routes) > 0, "routes"},
		{len(n.Options) > 0, "DHCP options"}, {n.Proxy, "ProxyDHCP"}, {n.Probe, "a probe"}, {len(n.Relays) > 0, "relays"},
	} {
		if c.set {
			return fmt.Errorf("pxe: network %q has %s of IPv4, and no IPv4 prefix", n.Name, c.what)
		}
	}
	return nil
}

// check6 checks the IPv6 side.
func (n Network) check6() error {
	v := n.IPv6
	if !v.Prefix.IsValid() {
		if n.Advertise > AdvertiseNothing {
			return fmt.Errorf("pxe: network %q: there is no IPv6 prefix to advertise", n.Name)
		}
		return nil
	}
	switch {
	case !v.Prefix.Addr().Is6() || v.Prefix.Addr().Is4In6():
		return fmt.Errorf("pxe: network %q: prefix %v is not an IPv6 prefix", n.Name, v.Prefix)
	case !v.Server.Is6() || v.Server.Is4In6() || v.Server.Zone() != "":
		return fmt.Errorf("pxe: network %q: server address %v is not an IPv6 address", n.Name, v.Server)
	case len(v.Relays) == 0 && !v.Prefix.Contains(v.Server):
		return fmt.Errorf("pxe: network %q: server address %v is outside %v: only a network behind a relay (Relays) may be served from elsewhere", n.Name, v.Server, v.Prefix)
	case v.Gateway.IsValid() && !v.Prefix.Contains(v.Gateway) && !v.Gateway.IsLinkLocalUnicast():
		return fmt.Errorf("pxe: network %q: gateway %v is outside %v", n.Name, v.Gateway, v.Prefix)
	case (n.Advertise == AdvertiseOther || n.Advertise == AdvertiseSLAAC) && v.Prefix.Bits() != 64:
		return fmt.Errorf("pxe: network %q: machines make their own addresses in a /64 only (RFC 4862 §5.5.3), and the prefix is %v", n.Name, v.Prefix)
	}
	return nil
}

// holds reports whether an address is on the network.
func (n *Network) holds(a netip.Addr) bool {
	return n.Prefix.Contains(a) || n.has6() && n.IPv6.Prefix.Contains(a)
}

// serverFor is our address as a client at an address sees it.
func (n *Network) serverFor(a netip.Addr) netip.Addr {
	return n.serverIn(a.Is6())
}

// serverIn is our address in a client's family.
func (n *Network) serverIn(v6 bool) netip.Addr {
	if n.has6() && (v6 || !n.has4()) {
		return n.IPv6.Server
	}
	return n.Server
}

// tftpMTU is the MTU with room for what IPv6's header is longer by.
func (n *Network) tftpMTU(peer netip.Addr) int {
	mtu := n.MTU
	if mtu <= 0 {
		mtu = 1500
	}
	if peer.Is6() {
		mtu -= ip6Header - ipHeader
	}
	return mtu
}

// baseURLFor is [Network.BaseURL] in the address family of a client:
// "http://[2001:db8::1]/boot".
func (n *Network) baseURLFor(v6 bool) string {
	if !n.has6() || !v6 && n.has4() {
		return n.BaseURL()
	}
	host := "[" + n.IPv6.Server.String() + "]"
	if n.HTTPPort != 0 && n.HTTPPort != 80 {
		host = netip.AddrPortFrom(n.IPv6.Server, uint16(n.HTTPPort)).String()
	}
	return "http://" + host + "/boot"
}

// secureURL is baseURLFor with TLS.
func (n *Network) secureURL(v6 bool) string {
	host := netip.AddrPortFrom(n.serverIn(v6), uint16(n.HTTPSPort)).String()
	return "https://" + strings.TrimSuffix(host, ":443") + "/boot"
}

// serverDUID is a DUID-UUID (RFC 6355) made from our address on the network:
// the same after every restart and with other hardware, another one for
// another server.
func (n *Network) serverDUID() []byte {
	sum := sha256.Sum256([]byte("fettle DHCPv6 server " + n.IPv6.Server.String()))
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8, RFC 9562 §5.8
	return append([]byte{0, duidUUID}, u...)
}

// eui64MAC is the hardware address in an interface identifier that was made
// from it (RFC 4291 appendix A); nil for others.
func eui64MAC(a netip.Addr) net.HardwareAddr {
	if !a.Is6() || a.Is4In6() {
		return nil
	}
	b := a.As16()
	if b[11] != 0xff || b[12] != 0xfe || b[8]&1 != 0 {
		return nil
	}
	return net.HardwareAddr{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}
}

// isEUI64 reports whether an address was made from a hardware address.
func isEUI64(a netip.Addr, mac net.HardwareAddr) bool {
	m := eui64MAC(a)
	return m != nil && bytes.Equal(m, mac)
}
