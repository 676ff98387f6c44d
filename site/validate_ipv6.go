package site

import (
	"fmt"
	"net/netip"
	"slices"
)

// ipv6 checks a network's IPv6 side.
func (v *validator) ipv6(n *Network, who, path string) {
	six, at := &n.IPv6, path+".ipv6"
	if !six.Prefix.IsValid() {
		switch n.Advertise {
		case AdvertiseManaged, AdvertiseOther, AdvertiseSLAAC:
			if !v.bad[at+".prefix"] && !v.bad[at] {
				v.add(path+".advertise", "add ipv6: with its prefix, or write none or off", "%s advertises (%s) and has no IPv6", who, n.Advertise)
			}
		}
		return
	}
	for i := range v.s.Networks {
		other := &v.s.Networks[i]
		if other == n {
			break
		}
		if p := other.IPv6.Prefix; p.IsValid() && p.Overlaps(six.Prefix) {
			v.add(at+".prefix", "give each network its own addresses", "%s: %s overlaps %s of network %s", who, six.Prefix, p, other.Name)
		}
	}
	switch {
	case n.Purpose == PurposeBoot && !six.Server.IsValid() && !v.bad[at+".server"]:
		v.add(at+".server", "add server: with the IPv6 address that fettle shall have there", "%s is for booting but has no IPv6 server address", who)
	case len(six.Relays) > 0:
		v.relayed6(n, who, path)
	case v.usable6(who, "IPv6 server", six.Server, n, at+".server"):
		unique(v, v.addrs, six.Server, "address", who+"'s server", at+".server", "give each its own address")
	}
	if g := six.Gateway; g.IsValid() && !g.IsLinkLocalUnicast() && v.usable6(who, "IPv6 gateway", g, n, at+".gateway") && g != six.Server {
		unique(v, v.addrs, g, "address", who+"'s gateway", at+".gateway", "give each its own address")
	}
	if len(six.Relays) == 0 && len(n.Relays) > 0 && n.Purpose == PurposeBoot {
		v.add(at, "add relays: with those of DHCPv6", "%s is behind relays, and none for IPv6 is listed", who)
	}
	if (n.Advertise == AdvertiseOther || n.Advertise == AdvertiseSLAAC) && six.Prefix.Bits() != 64 {
		v.add(path+".advertise", "use a /64, or managed", "%s: machines make their own addresses in a /64 only (RFC 4862), not in %s", who, six.Prefix)
	}
	v.pools6(n, who, at)
}

// only6 checks a network without an IPv4 prefix: one for booting may have IPv6
// alone, and then nothing of IPv4.
func (v *validator) only6(n *Network, who, path string) {
	at := path + ".prefix"
	if v.bad[at] || v.bad[path] {
		return // it was meant to have one
	}
	if !n.IPv6.Prefix.IsValid() {
		if !v.bad[path+".ipv6"] && !v.bad[path+".ipv6.prefix"] {
			v.add(at, `add "prefix": the subnet, such as 10.0.0.0/24, or ipv6: for a boot network with IPv6 alone`, `%s has no "prefix"`, who)
		}
		return
	}
	if n.Purpose != PurposeBoot {
		v.add(at, `add "prefix": only a boot network can have IPv6 alone`, "%s has no IPv4 prefix and is not for booting", who)
		return
	}
	for _, c := range []struct {
		set bool
		key string
	}{
		{n.Server.IsValid(), "server"}, {n.Gateway.IsValid(), "gateway"}, {len(n.DNS) > 0, "dns"}, {len(n.NTP) > 0, "ntp"}, {len(n.Pools) > 0, "pools"},
		{len(n.Routes) > 0, "routes"}, {len(n.Options) > 0, "options"}, {n.Proxy, "proxy"}, {len(n.Relays) > 0, "relays"}, {n.Probe, "probe"}, {n.ReplyDelay > 0, "reply-delay"},
	} {
		if c.set {
			v.add(path+"."+c.key, "add prefix: with its IPv4 subnet, or remove the key", "%s has no IPv4 prefix, and %s is of IPv4", who, c.key)
		}
	}
	if n.Advertise == AdvertiseNone {
		v.add(path+".advertise", "leave it away, or write off where a router advertises", "%s has IPv6 alone, and machines are told (none) that there is no IPv6", who)
	}
}

// relayed6 checks that a network behind relays is served from another.
func (v *validator) relayed6(n *Network, who, path string) {
	if len(n.Relays) == 0 {
		v.add(path+".ipv6.relays", "add relays: to the network, for IPv4 too", "%s is behind relays for IPv6 alone", who)
	}
	for i := range v.s.Networks {
		o := &v.s.Networks[i]
		if o != n && len(o.Relays) == 0 && o.Purpose == PurposeBoot && o.IPv6.Server.IsValid() && o.IPv6.Server == n.IPv6.Server {
			return
		}
	}
	v.add(path+".ipv6.server", "write the IPv6 server address of the boot network that the relays send to", "%s is behind relays, and its IPv6 server %s is that of no boot network without relays", who, n.IPv6.Server)
}

// usable6 reports an address that a host of a network cannot have.
func (v *validator) usable6(who, what string, a netip.Addr, n *Network, path string) bool {
	if !a.IsValid() || n == nil || !n.IPv6.Prefix.IsValid() {
		return false
	}
	p := n.IPv6.Prefix
	switch {
	case !p.Contains(a):
		v.add(path, fmt.Sprintf("use an address of %s, such as %s", p, p.Addr().Next()), "%s: %s %s is outside network %s (%s)", who, what, a, n.Name, p)
	case a == p.Addr(): // RFC 4291 section 2.6.1
		v.add(path, fmt.Sprintf("the first host is %s", a.Next()), "%s: %s %s is every router's (subnet-router anycast)", who, what, a)
	default:
		return true
	}
	return false
}

func (v *validator) pools6(n *Network, who, path string) {
	for i, p := range n.IPv6.Pools {
		at := fmt.Sprintf("%s.pools[%d]", path, i)
		okFrom := v.usable6(who, "pool start", p.From, n, at+".from")
		okTo := v.usable6(who, "pool end", p.To, n, at+".to")
		if !okFrom || !okTo {
			continue
		}
		if p.To.Less(p.From) {
			v.add(at+".to", "swap from and to", "%s: a pool from %s to %s is backwards", who, p.From, p.To)
			continue
		}
		for _, q := range n.IPv6.Pools[:i] {
			if q.From.IsValid() && q.To.IsValid() && !p.To.Less(q.From) && !q.To.Less(p.From) {
				v.add(at, "join them or move one", "%s: pool %s-%s overlaps pool %s-%s", who, p.From, p.To, q.From, q.To)
			}
		}
	}
}

// nic6 checks the IPv6 address of a port.
func (v *validator) nic6(m string, nic NIC, n *Network, at string) {
	switch {
	case !nic.IPv6.IsValid():
	case n == nil:
		if nic.Network == "" {
			v.add(at+".ipv6", "add network: with the name of its network", "%s: a port with address %s is on no network", m, nic.IPv6)
		}
	case !n.IPv6.Prefix.IsValid():
		i := slices.IndexFunc(v.s.Networks, func(o Network) bool { return o.Name == n.Name })
		if path := fmt.Sprintf("networks[%d].ipv6", i); !v.bad[path] && !v.bad[path+".prefix"] {
			v.add(at+".ipv6", "add ipv6: to the network, or remove the address", "%s: network %s of address %s has no IPv6", m, n.Name, nic.IPv6)
		}
	case v.usable6(m, "address", nic.IPv6, n, at+".ipv6"):
		unique(v, v.addrs, nic.IPv6, "address", m, at+".ipv6", "give each its own address")
	}
}
