package provision

import (
	"net/netip"

	"github.com/fettle-dev/fettle/site"
)

// siteIndex finds machines of one reading of the site: every packet asks, and
// a site has thousands.
type siteIndex struct {
	site  *site.Site
	byMAC map[site.MAC]place
	byBMC map[site.MAC]int      // number in Site.Machines
	taken map[netip.Addr]string // addresses of NICs and BMCs: whose
	byNIC map[netip.Addr]string // of NICs alone

	networks map[string]*site.Network
}

// place is a NIC: numbers in Site.Machines and Machine.NICs.
type place struct{ machine, nic int }

// index is the index of the site as it is now.
func (p *Provisioner) index() *siteIndex {
	s := p.c.Site()
	if x := p.indexed.Load(); x != nil && x.site == s {
		return x
	}
	x := &siteIndex{site: s, byMAC: map[site.MAC]place{}, byBMC: map[site.MAC]int{}, taken: map[netip.Addr]string{}, byNIC: map[netip.Addr]string{}, networks: map[string]*site.Network{}}
	for i := range s.Networks {
		x.networks[s.Networks[i].Name] = &s.Networks[i]
	}
	for i, m := range s.Machines {
		if m.BMC.Address.IsValid() {
			x.taken[m.BMC.Address] = m.Name
		}
		if !m.BMC.MAC.IsZero() {
			x.byBMC[m.BMC.MAC] = i
		}
		for j, nic := range m.NICs {
			if _, ok := x.byMAC[nic.MAC]; !ok {
				x.byMAC[nic.MAC] = place{i, j}
			}
			if nic.Address.IsValid() {
				x.taken[nic.Address], x.byNIC[nic.Address] = m.Name, m.Name
			}
			if nic.IPv6.IsValid() {
				x.taken[nic.IPv6], x.byNIC[nic.IPv6] = m.Name, m.Name
			}
		}
	}
	p.indexed.Store(x)
	return x
}

// machine finds the machine that has a NIC, as Site.MachineByMAC does.
func (x *siteIndex) machine(mac site.MAC) (m *site.Machine, nic *site.NIC, ok bool) {
	at, ok := x.byMAC[mac]
	if !ok {
		return &site.Machine{}, &site.NIC{}, false
	}
	m = &x.site.Machines[at.machine]
	return m, &m.NICs[at.nic], true
}

// ofBMC finds the machine whose BMC has a MAC address.
func (x *siteIndex) ofBMC(mac site.MAC) (*site.Machine, bool) {
	i, ok := x.byBMC[mac]
	if !ok {
		return nil, false
	}
	return &x.site.Machines[i], true
}
