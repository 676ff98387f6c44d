package vbmc

import (
	"net"
	"net/netip"
	"slices"
)

// LAN6 is IPv6 at the BMC's own interface. The zero LAN6 has none.
type LAN6 struct {
	On      bool // IPv6 beside IPv4
	Only    bool // and no IPv4
	DHCP    bool // DHCPv6
	Auto    bool // addresses by router advertisements (RFC 4862)
	Static  []Static6
	Routers []Router6 // static default routers, two at most, numbered as well
}

// Static6 is a static address. IPMI numbers them, so that an empty one may stand
// before others.
type Static6 struct {
	Address netip.Addr // invalid: none
	Bits    int        // of its network
	Off     bool       // kept, and not in use
}

// Router6 is a static default router, as IPMI and Redfish know it together.
type Router6 struct {
	Address netip.Addr
	Bits    int        // of the prefix that it serves
	Prefix  netip.Addr // that prefix
	MAC     [6]byte    // zero: by neighbor discovery
}

// maxStatic6 is how many static addresses there are, maxRouters6 how many routers.
const (
	maxStatic6  = 4
	maxRouters6 = 2
)

func (l LAN6) clone() LAN6 {
	l.Static, l.Routers = slices.Clone(l.Static), slices.Clone(l.Routers)
	return l
}

// router is number n of the static routers.
func (l LAN6) router(n byte) Router6 {
	if int(n) < len(l.Routers) {
		return l.Routers[n]
	}
	return Router6{}
}

// linkLocal is the address that an interface gives itself (RFC 4291 appendix A).
func linkLocal(mac string) (netip.Prefix, bool) {
	m, err := net.ParseMAC(mac)
	if err != nil || len(m) != 6 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]}), 64), true
}

// usable6 tells whether an interface may have an address, or a router.
func usable6(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLoopback() && a.Zone() == ""
}

// lan6Resource adds IPv6 to an EthernetInterface.
func lan6Resource(o obj, l LAN) {
	mode := "Disabled"
	if l.IPv6.DHCP {
		mode = "Enabled"
	}
	addr := []obj{}
	if ll, ok := linkLocal(l.MAC); ok && l.IPv6.On {
		addr = append(addr, obj{"Address": ll.Addr().String(), "PrefixLength": 64, "AddressOrigin": "LinkLocal", "AddressState": "Preferred"})
	}
	for _, a := range l.IPv6.static() {
		if l.IPv6.On {
			addr = append(addr, obj{"Address": a["Address"], "PrefixLength": a["PrefixLength"], "AddressOrigin": "Static", "AddressState": "Preferred"})
		}
	}
	o["IPv6Enabled"], o["DHCPv6"], o["StatelessAddressAutoConfig"] = l.IPv6.On, obj{"OperatingMode": mode}, obj{"IPv6AutoConfigEnabled": l.IPv6.Auto}
	o["IPv6Addresses"], o["IPv6StaticAddresses"], o["MaxIPv6StaticAddresses"] = addr, l.IPv6.static(), maxStatic6
	o["IPv6StaticDefaultGateways"] = l.IPv6.routers()
	if r := l.IPv6.routers(); l.IPv6.On && len(r) > 0 {
		o["IPv6DefaultGateway"] = r[0]["Address"]
	}
}

// static are the addresses in use, as Redfish has them.
func (l LAN6) static() []obj {
	out := []obj{}
	for _, x := range l.Static {
		if x.Address.IsValid() && !x.Off {
			out = append(out, obj{"Address": x.Address.String(), "PrefixLength": x.Bits})
		}
	}
	return out
}

func (l LAN6) routers() []obj {
	out := []obj{}
	for _, r := range l.Routers {
		if r.Address.IsValid() {
			out = append(out, obj{"Address": r.Address.String(), "PrefixLength": r.Bits})
		}
	}
	return out
}

// lan6Setters write IPv6 of l; with makes a setter of what changes l.
func lan6Setters(l *LAN, with func(func(v any) error) setter) map[string]setter {
	flag := func(name string, to *bool) setter {
		return with(func(v any) (err error) { *to, err = boolOf(name, v); return err })
	}
	return map[string]setter{
		"IPv6Enabled": flag("IPv6Enabled", &l.IPv6.On),
		"StatelessAddressAutoConfig/IPv6AutoConfigEnabled": flag("StatelessAddressAutoConfig/IPv6AutoConfigEnabled", &l.IPv6.Auto),
		"DHCPv6/OperatingMode": with(func(v any) error {
			t, ok := v.(string)
			switch {
			case !ok:
				return msgPropertyType("DHCPv6/OperatingMode", v)
			case t != "Disabled" && t != "Enabled" && t != "Stateful":
				return msgNotInList("DHCPv6/OperatingMode", v)
			}
			l.IPv6.DHCP = t != "Disabled"
			return nil
		}),
		"IPv6StaticAddresses": with(func(v any) error {
			list, err := patchedObjects("IPv6StaticAddresses", l.IPv6.static(), v, maxStatic6)
			if err != nil {
				return err
			}
			static := []Static6{}
			for _, o := range list {
				p, err := parse6("IPv6StaticAddresses", o)
				if err != nil {
					return err
				}
				static = append(static, Static6{Address: p.Addr(), Bits: p.Bits()})
			}
			l.IPv6.Static = static
			return nil
		}),
		"IPv6StaticDefaultGateways": with(func(v any) error {
			list, err := patchedObjects("IPv6StaticDefaultGateways", l.IPv6.routers(), v, maxRouters6)
			if err != nil {
				return err
			}
			routers := make([]Router6, len(list))
			for i, o := range list {
				p, err := parse6("IPv6StaticDefaultGateways", o)
				if err != nil {
					return err
				}
				routers[i] = Router6{Address: p.Addr(), Bits: p.Bits()}
				for _, was := range l.IPv6.Routers { // what only IPMI knows of it
					if was.Address == p.Addr() {
						routers[i].Prefix, routers[i].MAC = was.Prefix, was.MAC
					}
				}
			}
			l.IPv6.Routers = routers
			return nil
		}),
	}
}

// parse6 reads an IPv6 address with the length of its prefix: 64 unless it says.
func parse6(full string, in obj) (netip.Prefix, error) {
	for k := range in {
		if k != "Address" && k != "PrefixLength" {
			return netip.Prefix{}, msgUnknownProperty(full + "/" + k)
		}
	}
	t, ok := in["Address"].(string)
	if !ok {
		return netip.Prefix{}, msgPropertyType(full+"/Address", in["Address"])
	}
	a, err := netip.ParseAddr(t)
	if err != nil || !usable6(a) {
		return netip.Prefix{}, msgPropertyFormat(full+"/Address", t)
	}
	bits := 64
	switch n := in["PrefixLength"].(type) {
	case nil:
	case int: // what it was
		bits = n
	case float64:
		if n != float64(int(n)) {
			return netip.Prefix{}, msgPropertyType(full+"/PrefixLength", n)
		}
		if n < 0 || n > 128 {
			return netip.Prefix{}, msgOutOfRange(full+"/PrefixLength", n)
		}
		bits = int(n)
	default:
		return netip.Prefix{}, msgPropertyType(full+"/PrefixLength", n)
	}
	return netip.PrefixFrom(a, bits), nil
}
