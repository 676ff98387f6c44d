package site

import "fmt"

// relayed checks a network behind DHCP relay agents: fettle has no interface
// there, and its server address is the one of a network where it has.
func (v *validator) relayed(n *Network, who, path string) {
	if n.Purpose == PurposeData {
		v.add(path+".relays", "remove relays, or make it a boot network", "%s has relays but is for neither booting nor BMCs", who)
	}
	if !n.Server.IsValid() {
		return // said already
	}
	for i := range v.s.Networks {
		o := &v.s.Networks[i]
		if o != n && len(o.Relays) == 0 && o.Purpose == PurposeBoot && o.Server == n.Server {
			return
		}
	}
	v.add(path+".server", "write the server address of the boot network that the relays send to", "%s is behind relays, and its server %s is that of no boot network without relays", who, n.Server)
}

// dhcp checks what a network tells machines by DHCP.
func (v *validator) dhcp(n *Network, who, path string) {
	if n.Proxy {
		for _, c := range []struct {
			set       bool
			key, what string
		}{{len(n.Pools) > 0, "pools", "pools"}, {n.Probe, "probe", "a probe"}, {len(n.Options) > 0, "options", "options"}, {len(n.Routes) > 0, "routes", "routes"}} {
			if c.set {
				v.add(path+"."+c.key, "remove one of them", "%s has %s and proxy: addresses and their options are then the other DHCP server's", who, c.what)
			}
		}
	}
	if n.Purpose == PurposeBMC {
		for _, c := range []struct {
			set       bool
			key, what string
		}{{n.Proxy, "proxy", "proxy"}, {len(n.BootWays) > 0, "boot-ways", "ways of booting"}, {n.AfterInspection != "", "after-inspection", "an inspection"}} {
			if c.set {
				v.add(path+"."+c.key, "remove it", "%s has %s but is not for booting", who, c.what)
			}
		}
	}
	for i, r := range n.Routes {
		v.usable(who, "router of a route", r.Via, n, fmt.Sprintf("%s.routes[%d].via", path, i))
		for _, o := range n.Routes[:i] {
			if o.To == r.To && r.To.IsValid() {
				v.add(fmt.Sprintf("%s.routes[%d].to", path, i), "remove one of them", "%s has two routes to %s", who, r.To)
			}
		}
	}
	for i, o := range n.Options {
		at := fmt.Sprintf("%s.options[%d]", path, i)
		if why := reservedOption(o.Number); why != "" {
			v.add(at+".number", why, "%s sets DHCP option %d, which fettle sets itself", who, o.Number)
		} else if o.Type != "" && o.Value != "" {
			if _, err := o.Bytes(); err != nil {
				v.add(at+".value", "", "%s: option %d: %v", who, o.Number, err)
			}
		}
		for _, p := range n.Options[:i] {
			if p.Number == o.Number && o.Number != 0 {
				v.add(at+".number", "remove one of them", "%s sets DHCP option %d twice", who, o.Number)
			}
		}
	}
}
