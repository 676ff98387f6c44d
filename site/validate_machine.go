package site

import (
	"cmp"
	"fmt"
	"slices"
)

// machine checks one machine against everything else.
func (v *validator) machine(m *Machine, path string) {
	who := "machine " + m.Name
	v.refers(who, "rack", m.Rack, path+".rack")
	v.refers(who, "profile", m.Profile, path+".profile")
	unique(v, v.serials, m.Serial, "serial", who, path+".serial", "read it again from the chassis label")
	uuidPath := path + ".uuid"
	if m.UUID != SerialUUID(m.Serial) {
		unique(v, v.uuids, m.UUID, "UUID", who, uuidPath, "read it again with dmidecode, or leave it out")
	}
	switch {
	case m.SecureBoot && m.Firmware == BIOS:
		v.add(path+".secure-boot", "write firmware: uefi, or leave secure-boot out", "%s: a BIOS has no Secure Boot", who)
	case m.Loader != "" && m.Firmware == BIOS:
		v.add(path+".loader", "leave it out: a BIOS is given undionly.kpxe", "%s: loader %s is for UEFI firmware", who, m.Loader)
	case m.HTTPSBoot && m.Firmware == BIOS:
		v.add(path+".https-boot", "write firmware: uefi, or leave https-boot out", "%s: a BIOS does not boot by HTTPS", who)
	case m.HTTPSBoot && m.SecureBoot:
		v.add(path+".https-boot", "leave one of the two out", "%s: with Secure Boot on it boots by PXE: no signed loader goes on by HTTPS", who)
	case m.Loader != "" && m.SecureBoot:
		v.add(path+".loader", "leave one of the two out", "%s: with Secure Boot on its firmware refuses loader %s, which nobody signed", who, m.Loader)
	}
	v.arch(m, who, path)
	if m.BMC != (BMC{}) {
		v.bmc(m, who, path+".bmc")
	}
	v.nics(m, who, path)
	for i, d := range m.Disks {
		at := fmt.Sprintf("%s.disks[%d]", path, i)
		unique(v, v.disks, d.Serial, "disk serial", who, at+".serial", "read it again from the disk")
		if d.Serial == "" && d.Model == "" && d.Size == 0 {
			v.add(at, "say its serial, model or size", "%s: disk %d says nothing", who, i+1)
		}
		if d.SectorSize > 512 && m.Firmware == BIOS && v.boots(m, i) {
			v.add(at+".sector-size", "write firmware: uefi, or let the profile's layout choose another disk", "%s: its system disk %s has sectors of %d bytes, which a BIOS cannot boot from", who, d.Serial, d.SectorSize)
		}
	}
	v.target(m, who, path)
}

// arch checks that what a machine boots and becomes is made for its processors.
func (v *validator) arch(m *Machine, who, path string) {
	arch := cmp.Or(m.Arch, AMD64)
	if arch == ARM64 {
		switch {
		case m.Firmware == BIOS:
			v.add(path+".firmware", "write firmware: uefi", "%s: an arm64 machine has no BIOS", who)
		case m.Loader == LoaderSNP || m.Loader == LoaderIPXE:
			v.add(path+".loader", "leave it out: its firmware is given shim and GRUB; or write loader: uki", "%s: there is no iPXE for arm64", who)
		}
	}
	p, ok := v.s.Profile(m.Profile)
	img, known := v.s.Image(p.Image)
	if of := cmp.Or(img.Arch, AMD64); ok && known && of != arch {
		v.add(path+".profile", "name a profile with an image of arch: "+arch+", or write arch: "+of+" if that is what the machine is",
			"%s is %s, and image %s of its profile %s is for %s", who, arch, img.Name, p.Name, of)
	}
}

func (v *validator) bmc(m *Machine, who, path string) {
	b := m.BMC
	v.refers(who+"'s BMC", "secret", b.Secret, path+".secret")
	v.refers(who+"'s BMC", "network", b.Network, path+".network")
	if b.System != "" && b.Protocol == IPMI {
		v.add(path+".system", "set protocol: redfish, or leave system: out", "%s: over IPMI nobody can say which of a BMC's computer systems is meant", who)
	}
	shared := v.shares(b) // with another node of the same chassis
	if !shared {
		unique(v, v.macs, b.MAC, "MAC address", who+"'s BMC", path+".mac", "read it again from the label")
	}
	n := v.networks[b.Network]
	switch {
	case shared:
		unique(v, v.nodes, node{b.Address, b.System}, "computer system", who, path+".system", "give each node its own")
	case b.Network == "" && b.Address.IsValid():
		v.add(path+".address", "correct the address, or add a network of purpose bmc that holds it", "%s: BMC address %s is on no network of purpose bmc", who, b.Address)
	case n != nil && n.Purpose != PurposeBMC:
		v.add(path+".network", "name a network of purpose bmc", "%s: network %s is for %s, not for BMCs", who, n.Name, n.Purpose)
	case v.usable(who, "BMC address", b.Address, n, path+".address"):
		unique(v, v.addrs, b.Address, "address", who+"'s BMC", path+".address", "give each its own address, or say system: where they are nodes that share one BMC")
		if b.System != "" {
			v.nodes[node{b.Address, b.System}] = owner{who, path + ".system"}
		}
	}
}

// shares tells that a BMC is that of a machine before, and both say which of its
// computer systems they are.
func (v *validator) shares(b BMC) bool {
	for n := range v.nodes {
		if b.System != "" && n.bmc == b.Address {
			return true
		}
	}
	return false
}

func (v *validator) nics(m *Machine, who, path string) {
	boots := 0
	for i, nic := range m.NICs {
		at := fmt.Sprintf("%s.nics[%d]", path, i)
		unique(v, v.macs, nic.MAC, "MAC address", who, at+".mac", "read it again from the label")
		v.refers(who, "network", nic.Network, at+".network")
		n := v.networks[nic.Network]
		switch {
		case nic.Address.IsValid() && nic.Network == "":
			v.add(at+".address", "add network: with the name of its network", "%s: a port with address %s is on no network", who, nic.Address)
		case nic.Address.IsValid() && n != nil && n.Only6():
			v.add(at+".address", "write it as ipv6:, or add prefix: to the network", "%s: network %s of address %s has no IPv4", who, n.Name, nic.Address)
		case v.usable(who, "address", nic.Address, n, at+".address"):
			unique(v, v.addrs, nic.Address, "address", who, at+".address", "give each its own address")
		}
		v.nic6(who, nic, n, at)
		if !nic.Boot {
			continue
		}
		boots++
		switch {
		case boots > 1:
			v.add(at+".boot", "leave boot: true on one port", "%s boots from more than one port", who)
		case nic.Network == "" && !v.bad[at+".network"]:
			v.add(at+".boot", "add network: with the name of a network of purpose boot", "%s boots from a port that is on no network", who)
		case n != nil && n.Purpose != PurposeBoot:
			v.add(at+".network", "name a network of purpose boot", "%s boots from network %s, which is for %s", who, n.Name, n.Purpose)
		case n != nil && n.Only6():
			if !nic.IPv6.IsValid() && len(n.IPv6.Pools) == 0 && n.Advertise != AdvertiseOther && n.Advertise != AdvertiseSLAAC && !v.bad[at+".ipv6"] {
				v.add(at+".ipv6", "add ipv6: to the port or a pool to the network's ipv6", "%s has no address on network %s, which has no pool", who, n.Name)
			}
		case n != nil && !nic.Address.IsValid() && len(n.Pools) == 0 && !n.Proxy && !v.bad[at+".address"]:
			v.add(at+".address", "add address: to the port or a pool to the network", "%s has no address on network %s, which has no pool", who, n.Name)
		}
	}
	if boots == 0 && len(m.NICs) > 0 {
		v.add(path+".nics", "add boot: true to the port that network-boots", "%s has no port that boots", who)
	}
}

// boots tells whether disk i of a machine is one that its profile's layout
// chooses.
func (v *validator) boots(m *Machine, i int) bool {
	p, ok := v.s.Profile(m.Profile)
	return ok && slices.Contains(m.Targets(p.Layout), m.Disks[i])
}

// target checks that the profile's layout names a disk of the machine: what
// is wiped must be known by serial before anything is.
func (v *validator) target(m *Machine, who, path string) {
	p, ok := v.s.Profile(m.Profile)
	if !ok || p.Layout.Disk == "" {
		return
	}
	switch p.Layout.Disk {
	case "first", "smallest":
		if len(m.Disks) == 0 {
			v.add(path+".disks", "list its disks with their serials, the system's first", "%s lists no disk, so profile %s cannot tell where to write", who, p.Name)
		} else if p.Layout.Disk == "first" && m.Disks[0].Serial == "" {
			v.add(path+".disks[0].serial", "add its serial", "%s: profile %s writes to the first disk, whose serial is not said", who, p.Name)
		}
	default:
		known := make([]string, 0, len(m.Disks))
		for _, d := range m.Disks {
			known = append(known, d.Serial)
		}
		if !slices.Contains(known, p.Layout.Disk) {
			v.add(path+".profile", meant(p.Layout.Disk, known, "list its disks with their serials"), "%s has no disk %q, which profile %s writes to", who, p.Layout.Disk, p.Name)
		}
	}
	if p.Layout.RAID != 1 || len(m.Disks) == 0 {
		return
	}
	switch disks := m.Targets(p.Layout); {
	case len(disks) < 2:
		v.add(path+".disks", "list both disks with their serials", "%s has no second disk for the mirror that profile %s wants", who, p.Name)
	case disks[1].Serial == "":
		v.add(path+".disks", "add its serial", "%s: profile %s mirrors the system onto a disk whose serial is not said", who, p.Name)
	case disks[0].SectorSize != 0 && disks[1].SectorSize != 0 && disks[0].SectorSize != disks[1].SectorSize:
		v.add(path+".disks", "format one like the other", "%s: disks %s and %s have sectors of different sizes and cannot mirror each other", who, disks[0].Serial, disks[1].Serial)
	}
}
