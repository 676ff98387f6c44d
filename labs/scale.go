package labs

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// standIn is the PCI device that stands for a GPU: QEMU's virtio-gpu-pci.
const (
	standInPCI    = "1af4:1050"
	standInDevice = "virtio-gpu-pci"
	maxGPUs       = 8
	maxSerial     = 20 // VIRTIO_BLK_ID_BYTES (virtio 1.2 §5.2.6)
	maxDisks      = 16
	maxNICs       = 8
)

// planMachine makes the virtual machine for m, and m as its inventory will
// find it.
func (p *Plan) planMachine(m site.Machine) (MachinePlan, site.Machine, error) {
	o := p.Options
	mp := MachinePlan{
		Name: m.Name, Domain: DomainName(p.Name, m.Name), DomainUUID: domainUUID(p.Name, m.Name),
		UUID: m.UUID, Serial: m.Serial, Manufacturer: manufacturer, Product: product,
		Arch: cmp.Or(m.Arch, site.AMD64), Firmware: m.Firmware, SecureBoot: m.SecureBoot, CPUs: o.CPUs,
	}
	if mp.Firmware == "" {
		mp.Firmware = site.UEFI
	}
	if len(m.NICs) > maxNICs || len(m.Disks) > maxDisks {
		return mp, m, fmt.Errorf("it has %d NICs and %d disks; a lab's machine can have %d and %d: leave it out with --machines",
			len(m.NICs), len(m.Disks), maxNICs, maxDisks)
	}
	m.HTTPSBoot = false // a lab's firmware has no site's CA
	memory := o.Memory
	if m.Memory > 0 && m.Memory < memory {
		memory = m.Memory
	}
	mp.MemoryMiB = int(memory >> 20)
	if m.CPUs > 0 && m.CPUs < mp.CPUs {
		mp.CPUs = m.CPUs
	}
	m.Memory = site.Bytes(mp.MemoryMiB) << 20
	m.CPUs = mp.CPUs
	if err := p.planNICs(&mp, m.NICs); err != nil {
		return mp, m, err
	}
	p.planDisks(&mp, m.Disks)
	planGPUs(&mp, &m)
	mp.BMC = p.planBMC(m.Name, m.BMC)
	return mp, m, nil
}

func (p *Plan) planNICs(mp *MachinePlan, nics []site.NIC) error {
	for _, n := range nics {
		np := NICPlan{MAC: n.MAC, Network: n.Network, Boot: n.Boot}
		if n.Network != "" {
			net, ok := p.Network(n.Network)
			if !ok {
				return fmt.Errorf("NIC %s is on network %s, which the site does not have", n.MAC, n.Network)
			}
			np.VLAN, np.MTU, np.Only6 = net.VLAN, net.MTU, !net.Prefix.IsValid()
			if np.Only6 && p.Options.Trap {
				return fmt.Errorf("network %s has IPv6 alone, and a trap (fettle airgap rehearse) watches IPv4 alone: add an IPv4 prefix and server to it, or take another machine", n.Network)
			}
		}
		mp.NICs = append(mp.NICs, np)
	}
	return nil
}

// planDisks scales disks in place. A disk whose size the site does not say
// gets the largest size.
func (p *Plan) planDisks(mp *MachinePlan, disks []site.Disk) {
	for i := range disks {
		d := &disks[i]
		dp := DiskPlan{Serial: shortSerial(d.Serial), Model: d.Model, Bytes: int64(p.Options.DiskSize), Sector: d.SectorSize}
		if d.Size > 0 && d.Size < p.Options.DiskSize {
			dp.Bytes = int64(d.Size)
		}
		dp.Bytes &^= 1<<20 - 1 // whole MiB, as partition tables like it
		// A virtio disk tells no model.
		d.Serial, d.Model, d.Size = dp.Serial, "", site.Bytes(dp.Bytes)
		mp.Disks = append(mp.Disks, dp)
	}
}

// shortSerial is the end of a serial number that virtio-blk can carry: the end
// is what tells disks of one maker apart.
func shortSerial(s string) string {
	if len(s) > maxSerial {
		return s[len(s)-maxSerial:]
	}
	return s
}

// renameDisks makes layouts that name a disk by serial follow shortSerial, and
// refuses two disks that became the same.
func renameDisks(s *site.Site) error {
	for i := range s.Profiles {
		if d := &s.Profiles[i].Layout.Disk; *d != "first" && *d != "smallest" {
			*d = shortSerial(*d)
		}
	}
	for _, m := range s.Machines {
		seen := map[string]bool{}
		for _, d := range m.Disks {
			if d.Serial != "" && seen[d.Serial] {
				return fmt.Errorf("machine %s: two disks have serial numbers that end alike (%s), and virtual disks carry only %d bytes of them",
					m.Name, d.Serial, maxSerial)
			}
			seen[d.Serial] = true
		}
	}
	return nil
}

// planGPUs replaces the machine's GPUs by stand-ins that it really has. They
// are alike, so the effective site expects them as one group.
func planGPUs(mp *MachinePlan, m *site.Machine) {
	var models []string
	for _, g := range m.GPUs {
		for range g.Count {
			if len(mp.GPUs) == maxGPUs {
				break
			}
			mp.GPUs = append(mp.GPUs, GPUPlan{Model: g.Model, PCI: standInPCI})
		}
		if name := g.Model; name != "" && !slices.Contains(models, name) {
			models = append(models, name)
		}
	}
	m.GPUs = nil
	if len(mp.GPUs) > 0 {
		m.GPUs = []site.GPU{{
			Model: strings.TrimSuffix("virtio-gpu stand-in for "+strings.Join(models, ", "), " for "),
			PCI:   standInPCI, Count: len(mp.GPUs),
		}}
	}
}

func (p *Plan) planBMC(machine string, b site.BMC) BMCPlan {
	bp := BMCPlan{Address: b.Address, Port: b.Port, Protocol: b.Protocol, MAC: b.MAC}
	if bp.MAC.IsZero() {
		bp.MAC = bmcMAC(p.Name, machine)
		if i := slices.IndexFunc(p.Machines, func(o MachinePlan) bool { return b.System != "" && o.BMC.Address == b.Address }); i >= 0 {
			bp.MAC = p.Machines[i].BMC.MAC
		}
	}
	if bp.Port == 0 {
		bp.Port = 443
		if b.Protocol == site.IPMI {
			bp.Port = 623
		}
	}
	if n, ok := p.networkOf(b.Address); ok {
		bp.Network = n.Name
	}
	if b.System != "" {
		bp.System = b.System
		if b.Twin == "" { // a twin has its own
			bp.System = vbmc.NodeID(b.System)
		}
	}
	return bp
}

// networkOf finds the network whose prefix holds a.
func (p *Plan) networkOf(a netip.Addr) (NetworkPlan, bool) {
	for _, n := range p.Networks {
		if n.Prefix.Contains(a) || n.Prefix6.Contains(a) {
			return n, true
		}
	}
	return NetworkPlan{}, false
}

// skipTimerCheck gives installed kernels what they give themselves under KVM:
// no test of the PC's timer, which fails ("IO-APIC + timer doesn't work", a
// panic) where an emulated machine gets no turn for the length of it.
func skipTimerCheck(s *site.Site) {
	const arg = "no_timer_check"
	for i := range s.Profiles {
		p := &s.Profiles[i]
		img, _ := s.Image(p.Image)
		if cmp.Or(img.Arch, site.AMD64) == site.AMD64 && !slices.Contains(p.KernelArgs, arg) {
			p.KernelArgs = append(slices.Clone(p.KernelArgs), arg)
		}
	}
}
