package labs

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fettle-dev/fettle/labs/fabric"
	"github.com/fettle-dev/fettle/site"
)

// setTraps gives every boot network a gateway and a name server, the site's own
// where it has them, behind which there is nothing but the trap. Without them a
// machine that wants to call out would fail in silence. The trap speaks IPv4:
// the networks' IPv6 sides are left out, so that nothing goes past it.
func (p *Plan) setTraps() error {
	for i := range p.Site.Networks {
		n := &p.Site.Networks[i]
		if n.Purpose != site.PurposeBoot || !n.Server.IsValid() {
			continue
		}
		if !n.Gateway.IsValid() || n.Gateway == n.Server {
			a, err := p.freeAddr(*n)
			if err != nil {
				return err
			}
			n.Gateway = a
		}
		trap := []netip.Addr{n.Gateway}
		n.DNS = slices.Clone(n.DNS)
		for j, d := range n.DNS {
			if d == n.Server { // fettle answers no names there
				n.DNS[j] = n.Gateway
			} else if n.Prefix.Contains(d) {
				trap = append(trap, d)
			}
		}
		if len(n.DNS) == 0 {
			n.DNS = []netip.Addr{n.Gateway}
		}
		slices.SortFunc(trap, netip.Addr.Compare)
		trap = slices.Compact(trap)
		for k := range p.Networks {
			if p.Networks[k].Name == n.Name {
				p.Networks[k].Trap = trap
			}
		}
	}
	return nil
}

// dropIPv6 takes the IPv6 side from networks with a trap and from machines'
// ports on them.
func (p *Plan) dropIPv6() {
	for i := range p.Site.Networks {
		n := &p.Site.Networks[i]
		if np, ok := p.Network(n.Name); !ok || len(np.Trap) == 0 {
			continue
		}
		n.IPv6, n.Advertise = site.IPv6{}, ""
		for j := range p.Networks {
			if p.Networks[j].Name == n.Name {
				p.Networks[j].Prefix6, p.Networks[j].Server6 = netip.Prefix{}, netip.Addr{}
			}
		}
		for j := range p.Site.Machines {
			for k := range p.Site.Machines[j].NICs {
				if nic := &p.Site.Machines[j].NICs[k]; nic.Network == n.Name {
					nic.IPv6 = netip.Addr{}
				}
			}
		}
	}
}

// freeAddr is the greatest address of a network that nobody has.
func (p *Plan) freeAddr(n site.Network) (netip.Addr, error) {
	last := n.Prefix.Addr().As4()
	for bit := n.Prefix.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	a := netip.AddrFrom4(last).Prev() // the last one is for broadcasts
	for ; n.Prefix.Contains(a) && a != n.Prefix.Addr(); a = a.Prev() {
		pooled := slices.ContainsFunc(n.Pools, func(pool site.Pool) bool { return pool.From.Compare(a) <= 0 && a.Compare(pool.To) <= 0 })
		if !pooled && !p.known(a) && !slices.Contains(n.DNS, a) && !slices.Contains(n.NTP, a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("network %s has no address left for a gateway: give it one in the site file", n.Name)
}

// known tells whether fettle, a machine or a BMC has an address, or a trap.
func (p *Plan) known(a netip.Addr) bool {
	for _, n := range p.Networks {
		if n.Server == a || slices.Contains(n.Trap, a) {
			return true
		}
	}
	for _, n := range p.Site.Networks {
		if slices.ContainsFunc(n.Pools, func(pool site.Pool) bool { return pool.From.Compare(a) <= 0 && a.Compare(pool.To) <= 0 }) {
			return true
		}
	}
	for _, m := range p.Site.Machines {
		if m.BMC.Address == a || slices.ContainsFunc(m.NICs, func(nic site.NIC) bool { return nic.Address == a }) {
			return true
		}
	}
	return false
}

// Attempts are what machines tried to reach that is not in the lab; lost counts
// those beyond what is remembered. The lab needs Options.Trap.
func (l *Lab) Attempts() (all []fabric.Attempt, lost int) {
	for _, t := range l.traps {
		a, n := t.Attempts()
		all, lost = append(all, a...), lost+n
	}
	return all, lost
}
