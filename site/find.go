package site

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
)

func byName[T any](items []T, name func(*T) string, want string) (T, bool) {
	for i := range items {
		if name(&items[i]) == want {
			return items[i], true
		}
	}
	var zero T
	return zero, false
}

// Machine finds a machine by name.
func (s *Site) Machine(name string) (Machine, bool) {
	return byName(s.Machines, func(m *Machine) string { return m.Name }, name)
}

// Network finds a network by name.
func (s *Site) Network(name string) (Network, bool) {
	return byName(s.Networks, func(n *Network) string { return n.Name }, name)
}

// Profile finds a profile by name.
func (s *Site) Profile(name string) (Profile, bool) {
	return byName(s.Profiles, func(p *Profile) string { return p.Name }, name)
}

// Image finds an image by name.
func (s *Site) Image(name string) (Image, bool) {
	return byName(s.Images, func(i *Image) string { return i.Name }, name)
}

// Archs are the architectures of machines and images, each once, in order of
// name: AMD64 where there are neither.
func Archs(machines []Machine, images []Image) []string {
	var out []string
	for _, m := range machines {
		out = append(out, cmp.Or(m.Arch, AMD64))
	}
	for _, i := range images {
		out = append(out, cmp.Or(i.Arch, AMD64))
	}
	if len(out) == 0 {
		out = []string{AMD64}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Rack finds a rack by name.
func (s *Site) Rack(name string) (Rack, bool) {
	return byName(s.Racks, func(r *Rack) string { return r.Name }, name)
}

// MachineByMAC finds the machine that has a NIC with this address. A BMC's
// port is not a NIC of the machine: see MachineByBMC.
func (s *Site) MachineByMAC(mac MAC) (Machine, NIC, bool) {
	for _, m := range s.Machines {
		for _, n := range m.NICs {
			if n.MAC == mac {
				return m, n, true
			}
		}
	}
	return Machine{}, NIC{}, false
}

// MachineByBMC finds the machine whose BMC has this address.
func (s *Site) MachineByBMC(mac MAC) (Machine, bool) {
	for _, m := range s.Machines {
		if m.BMC.MAC == mac && !mac.IsZero() {
			return m, true
		}
	}
	return Machine{}, false
}

// Unknown says what happens on a network to a MAC address that the site does
// not know, and what becomes of an inspected one.
func (s *Site) Unknown(n Network) (UnknownMachines, AfterInspection) {
	return cmp.Or(n.UnknownMachines, s.Policy.UnknownMachines, Inspect), cmp.Or(n.AfterInspection, s.Policy.AfterInspection, AfterWait)
}

// BootNIC is the port that network-boots.
func (m Machine) BootNIC() (NIC, bool) {
	i := slices.IndexFunc(m.NICs, func(n NIC) bool { return n.Boot })
	if i < 0 {
		return NIC{}, false
	}
	return m.NICs[i], true
}

// Reserved says who has which address of a network: "fettle", "gateway", "dns",
// "ntp", a machine's name, or "NAME's BMC". A server must never lend one of them from a
// pool, also where it lies inside one.
func (s *Site) Reserved(network string) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	n, ok := s.Network(network)
	if !ok {
		return out
	}
	put := func(a netip.Addr, who string) {
		if _, taken := out[a]; a.IsValid() && (n.Prefix.Contains(a) || n.IPv6.Prefix.IsValid() && n.IPv6.Prefix.Contains(a)) && !taken {
			out[a] = who
		}
	}
	put(n.Server, "fettle")
	put(n.Gateway, "gateway")
	put(n.IPv6.Server, "fettle")
	put(n.IPv6.Gateway, "gateway")
	for _, a := range append(slices.Clone(n.DNS), n.IPv6.DNS...) {
		put(a, "dns")
	}
	for _, a := range n.NTP {
		put(a, "ntp")
	}
	for _, m := range s.Machines {
		if m.BMC.Network == network {
			put(m.BMC.Address, m.Name+"'s BMC")
		}
		for _, nic := range m.NICs {
			if nic.Network == network {
				put(nic.Address, m.Name)
				put(nic.IPv6, m.Name)
			}
		}
	}
	return out
}

// uuidNamespace is fettle's own (RFC 4122 appendix C: a version 4 UUID, made
// once by chance and never changed, since machines' identities follow from it).
const uuidNamespace = "6f1f9d5e43c94b1c9e0a5c2d8b7e3f14"

// SerialUUID is the UUID of a machine whose site file says only its serial: RFC
// 4122 section 4.3, version 5, in fettle's namespace.
func SerialUUID(serial string) string {
	ns, err := hex.DecodeString(uuidNamespace)
	if err != nil {
		panic(err) // a constant
	}
	sum := sha1.Sum(append(ns, serial...))
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// derive fills what follows from other values.
func (s *Site) derive() {
	for i := range s.Networks {
		if n := &s.Networks[i]; n.Domain == "" {
			n.Domain = s.Domain
		}
	}
	for i := range s.Machines {
		m := &s.Machines[i]
		if m.UUID == "" && m.Serial != "" {
			m.UUID = SerialUUID(m.Serial)
		}
		if m.BMC.Network == "" && m.BMC.Address.IsValid() {
			for _, n := range s.Networks {
				if n.Purpose == PurposeBMC && n.Prefix.IsValid() && n.Prefix.Contains(m.BMC.Address) {
					m.BMC.Network = n.Name
				}
			}
		}
	}
}

// Targets are the disks that a layout writes to: one, or with RAID two, the
// second of which mirrors the first. There are fewer where the machine lists
// too few.
func (m Machine) Targets(l Layout) []Disk {
	disks := slices.Clone(m.Disks)
	switch l.Disk {
	case "", "first":
	case "smallest":
		slices.SortStableFunc(disks, func(a, b Disk) int { return cmp.Compare(a.Size, b.Size) })
	default:
		i := slices.IndexFunc(disks, func(d Disk) bool { return d.Serial == l.Disk })
		if i < 0 {
			return nil
		}
		named := disks[i]
		disks = slices.DeleteFunc(slices.Delete(disks, i, i+1), func(d Disk) bool { return d.Size != named.Size })
		disks = slices.Insert(disks, 0, named)
	}
	return disks[:min(1+l.RAID, len(disks))]
}
