package provision

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// DraftOptions are what a person says of a machine that is taken into the
// site; the rest is what was found, and what its siblings have.
type DraftOptions struct {
	Name     string
	Profile  string
	Rack     string
	Unit     int
	Height   int
	Owner    string
	Purpose  string
	Firmware site.Firmware // where nobody found it out
	// Address is that of the port that boots; invalid: the next free one when
	// the siblings have reserved ones, or when the network has no pool.
	Address netip.Addr
	Pool    bool     // leave the address to the pool
	BootMAC site.MAC // of the port that boots, when it is not the one that was seen
}

// ErrIncomplete means that too little is known of a machine to write it down.
var ErrIncomplete = errors.New("too little is known of it")

// Draft makes of what was discovered the machine that a person would write
// down in s. Its BMC is left to the caller.
func Draft(s *site.Site, d state.Discovery, o DraftOptions) (site.Machine, error) {
	lacks := func(what, do string) (site.Machine, error) {
		return site.Machine{}, fmt.Errorf("%s: %w: %s; %s", d.Name, ErrIncomplete, what, do)
	}
	if d.Serial == "" {
		if d.State == state.Seen || d.State == state.IgnoredBySite {
			return lacks("it was seen and not inspected", "let it boot from the network on a network with unknown-machines: inspect, then try again")
		}
		return lacks("its firmware has no serial number", "set it in the firmware, or write the machine into the site by hand")
	}
	m := site.Machine{
		Name: o.Name, Rack: o.Rack, Unit: o.Unit, Height: o.Height, Serial: d.Serial, Firmware: cmp.Or(site.Firmware(d.Firmware), o.Firmware),
		CPUs: d.CPUs, Memory: MemorySize(d.Memory), Profile: o.Profile, Owner: o.Owner, Purpose: o.Purpose,
	}
	if d.Arch != site.AMD64 { // which goes without saying
		m.Arch = d.Arch
	}
	if d.Sort == state.SortBMC {
		m.Firmware = cmp.Or(o.Firmware, site.UEFI) // its Firmware is the BMC's
	}
	if m.Firmware != site.BIOS && m.Firmware != site.UEFI {
		return lacks("whether it boots by BIOS or UEFI", "say --firmware")
	}
	sibling, hasSibling := s.Sibling(o.Name, o.Rack)
	if o.Height == 0 && hasSibling && sibling.Height > 1 && o.Unit > 0 {
		m.Height = sibling.Height
	}
	if hasSibling && sibling.UUID != site.SerialUUID(sibling.Serial) {
		m.UUID = strings.ToLower(d.UUID) // the siblings' are written down
	}
	for _, k := range d.Disks {
		if k.Serial != "" && !k.Removable && k.Bytes > 0 {
			disk := site.Disk{Serial: k.Serial, Size: DiskSize(k.Bytes)}
			if k.SectorSize == 4096 { // the usual needs no saying
				disk.SectorSize = k.SectorSize
			}
			m.Disks = append(m.Disks, disk)
		}
	}
	// The system's disk comes first, which is the smallest in practice.
	slices.SortStableFunc(m.Disks, func(a, b site.Disk) int { return cmp.Compare(a.Size, b.Size) })
	for _, g := range d.GPUs {
		m.GPUs = append(m.GPUs, site.GPU{Model: g.Model, PCI: g.PCI, Count: g.Count})
	}
	boot := -1
	for i, n := range d.NICs {
		if o.BootMAC.IsZero() && n.Boot || n.MAC == o.BootMAC {
			boot = i
			break
		}
	}
	if boot < 0 {
		return lacks("which of its ports boots", "say --boot-mac, one of "+portList(d.NICs))
	}
	nets := bootNetworks(s)
	on, ok := s.Network(d.NICs[boot].Network)
	if !ok || on.Purpose != site.PurposeBoot {
		if len(nets) != 1 {
			return lacks("which network it boots from", "let it boot from the network once, so that it is seen there")
		}
		on = nets[0]
	}
	nic := site.NIC{MAC: d.NICs[boot].MAC, Network: on.Name, Boot: true, Address: o.Address}
	if !nic.Address.IsValid() && !o.Pool {
		near := netip.Addr{}
		if b, has := sibling.BootNIC(); hasSibling && has && b.Network == on.Name {
			near = b.Address
		}
		if near.IsValid() || len(on.Pools) == 0 && !on.Proxy {
			if nic.Address, ok = nextFree(s, on, near); !ok {
				return lacks("network "+on.Name+" has no free address", "say --address")
			}
		}
	}
	m.NICs = append(m.NICs, nic)
	for i, n := range d.NICs {
		if i == boot {
			continue
		}
		port := site.NIC{MAC: n.MAC}
		if other, ok := s.Network(n.Network); ok && other.Purpose != site.PurposeBMC {
			port.Network = n.Network
		}
		m.NICs = append(m.NICs, port)
	}
	return m, nil
}

func portList(nics []state.DiscoveredNIC) string {
	var out []string
	for _, n := range nics {
		out = append(out, n.MAC.String())
	}
	return cmp.Or(strings.Join(out, ", "), "none are known")
}

func bootNetworks(s *site.Site) []site.Network {
	var out []site.Network
	for _, n := range s.Networks {
		if n.Purpose == site.PurposeBoot {
			out = append(out, n)
		}
	}
	return out
}

// nextFree is the first address of a network behind near, or from its start,
// that nobody has and no pool gives.
func nextFree(s *site.Site, n site.Network, near netip.Addr) (netip.Addr, bool) {
	taken := s.Reserved(n.Name)
	first := n.Prefix.Addr().Next()
	if !near.IsValid() {
		near = n.Prefix.Addr()
	}
	pooled := func(a netip.Addr) bool {
		return slices.ContainsFunc(n.Pools, func(p site.Pool) bool { return p.From.Compare(a) <= 0 && a.Compare(p.To) <= 0 })
	}
	for _, from := range []netip.Addr{near.Next(), first} {
		for a := from; n.Prefix.Contains(a) && n.Prefix.Contains(a.Next()); a = a.Next() {
			if taken[a] == "" && !pooled(a) {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// DiskSize rounds a disk's bytes down to what its label says: "960GB",
// "1.92TB"; what is a whole number of GiB, as virtual disks are, stays so.
func DiskSize(n int64) site.Bytes {
	unit := int64(1e9)
	if n >= 1e12 {
		unit = 1e10 // hundredths of a TB
	}
	if n < unit || n%(1<<30) == 0 {
		return site.Bytes(max(n, 0))
	}
	return site.Bytes(n / unit * unit)
}

// MemorySize rounds memory to what is on the modules: firmware and kernel keep
// a part of it to themselves. It stays within the slack of Compare.
func MemorySize(n int64) site.Bytes {
	for _, step := range []int64{64 << 30, 16 << 30, 8 << 30, 4 << 30, 2 << 30, 1 << 30, 512 << 20, 256 << 20} {
		if up := (n + step - 1) / step * step; up-n <= n/16 {
			return site.Bytes(up)
		}
	}
	return site.Bytes(max(n, 0))
}

// FromBMC fills in what a BMC's inventory tells of a machine that was not
// inspected.
func FromBMC(d *state.Discovery, inv bmc.Inventory) {
	st := inv.Status
	// Dell's service tag, which SMBIOS has as the serial number, is the SKU.
	if v, ok := vendorOf(cmp.Or(st.Vendor, d.Vendor)); ok && v.Vendor == "Dell" && st.SKU != "" {
		d.Serial = st.SKU
	}
	d.Serial = cmp.Or(d.Serial, known(st.Serial))
	d.Vendor, d.Model = cmp.Or(known(st.Vendor), d.Vendor), cmp.Or(known(st.Model), d.Model)
	d.UUID = cmp.Or(known(st.UUID), d.UUID)
	d.Memory = int64(inv.MemoryMiB) << 20
	d.CPUs = 0
	for _, c := range inv.CPUs {
		d.CPUs += c.Threads
		d.CPUModel, d.Arch = c.Model, cmp.Or(c.Arch, d.Arch)
	}
	d.NICs = nil
	for _, n := range inv.NICs {
		if mac, err := site.ParseMAC(n.MAC); err == nil && !mac.IsZero() {
			d.NICs = append(d.NICs, state.DiscoveredNIC{MAC: mac, Link: n.Link, Mbps: n.Mbps})
		}
	}
	// One port with a link, or one port at all, is the one that boots.
	linked := slices.IndexFunc(d.NICs, func(n state.DiscoveredNIC) bool { return n.Link })
	switch {
	case linked >= 0 && !slices.ContainsFunc(d.NICs[linked+1:], func(n state.DiscoveredNIC) bool { return n.Link }):
		d.NICs[linked].Boot = true
	case len(d.NICs) == 1:
		d.NICs[0].Boot = true
	}
	d.Disks = nil
	for _, k := range inv.Drives {
		d.Disks = append(d.Disks, state.DiscoveredDisk{Serial: k.Serial, Model: k.Model, Bytes: k.Bytes, Transport: k.Protocol})
	}
	d.GPUs = nil
	for _, g := range inv.GPUs {
		if g.PCI == "" {
			continue // cannot be told from others
		}
		i := slices.IndexFunc(d.GPUs, func(o state.DiscoveredGPU) bool { return o.PCI == g.PCI })
		if i < 0 {
			d.GPUs = append(d.GPUs, state.DiscoveredGPU{PCI: g.PCI, Model: g.Model})
			i = len(d.GPUs) - 1
		}
		d.GPUs[i].Count++
	}
}

// Find finds what a person names: by the name in the list, a MAC address, a
// serial number, or the address of a BMC.
func Find(all []state.Discovery, what string) (state.Discovery, bool) {
	mac, merr := site.ParseMAC(what)
	addr, aerr := netip.ParseAddr(what)
	for _, d := range all { // machines come before BMCs
		hit := d.Name == what || d.Serial != "" && strings.EqualFold(d.Serial, what)
		if merr == nil {
			hit = hit || slices.ContainsFunc(d.NICs, func(n state.DiscoveredNIC) bool { return n.MAC == mac }) ||
				slices.ContainsFunc(d.Sightings, func(s state.Sighting) bool { return s.MAC == mac }) || d.BMC != nil && d.BMC.MAC == mac
		}
		if aerr == nil {
			hit = hit || d.BMC != nil && d.BMC.Addr == addr || slices.ContainsFunc(d.Sightings, func(s state.Sighting) bool { return s.Addr == addr })
		}
		if hit {
			return d, true
		}
	}
	return state.Discovery{}, false
}
