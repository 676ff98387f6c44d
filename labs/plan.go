package labs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// Plan is everything that a lab will be. It is a pure function of the site and
// the options: no clock, no randomness, no look at the machine. Ports on
// loopback and the accelerator are found when the lab is opened.
type Plan struct {
	Name     string
	Options  Options    // as asked, with Name filled
	Site     *site.Site // the effective site: what the lab's machines really have
	Networks []NetworkPlan
	Machines []MachinePlan
}

// NetworkPlan is one of the site's networks on the fabric.
type NetworkPlan struct {
	Name   string
	Prefix netip.Prefix // invalid = it has IPv6 alone
	Server netip.Addr   // of the fabric's host on it; invalid = none of IPv4
	// Prefix6 and Server6 are the same of IPv6.
	Prefix6 netip.Prefix
	Server6 netip.Addr
	MTU     int
	Boot    bool
	// VLAN is the site's; 0 is the untagged network, a segment of its own.
	// Guests see untagged frames.
	VLAN    int
	HostMAC site.MAC
	Trap    []netip.Addr // that a trap answers for; empty = there is none
}

// MachinePlan is one virtual machine.
type MachinePlan struct {
	Name         string
	Domain       string // name of the libvirt domain
	DomainUUID   string // libvirt's; differs from UUID because several labs may mirror one site
	UUID         string // SMBIOS type 1, as in the site
	Serial       string
	Manufacturer string
	Product      string
	Arch         string
	Firmware     site.Firmware
	SecureBoot   bool
	MemoryMiB    int
	CPUs         int
	NICs         []NICPlan
	Disks        []DiskPlan
	GPUs         []GPUPlan
	BMC          BMCPlan
}

// NICPlan is one virtual NIC.
type NICPlan struct {
	MAC     site.MAC
	Network string // empty: no link
	VLAN    int    // of the fabric
	Boot    bool
	Only6   bool // Network has IPv6 alone
	MTU     int
}

// DiskPlan is one virtual disk.
type DiskPlan struct {
	Serial string // at most 20 bytes: virtio-blk's limit
	Model  string // as the site names it, for the virtual BMC; a virtio disk has none
	Bytes  int64
	Sector int // bytes of a logical sector; 0 = 512
}

// GPUPlan is one PCI device that stands for a GPU.
type GPUPlan struct {
	Model string // of the GPU that it stands for
	PCI   string // of the stand-in
}

// BMCPlan is where the machine's virtual BMC answers on the fabric.
type BMCPlan struct {
	Network  string // name of the network that holds Address; empty = none does
	Address  netip.Addr
	Port     int
	Protocol site.BMCProtocol
	MAC      site.MAC // the site's, or one made up
	// System is the id of the machine's computer system in its BMC, which it may
	// share with other machines (SharedBMC); "" = the BMC's own choice.
	System string
}

// SharedBMC are the machines of the plan behind a machine's BMC, it among them,
// in the plan's order: nodes of one chassis.
func (p *Plan) SharedBMC(machine string) (out []MachinePlan) {
	of, ok := p.Machine(machine)
	for _, m := range p.Machines {
		if ok && (m.Name == machine || of.BMC.System != "" && m.BMC.System != "" && m.BMC.Address == of.BMC.Address) {
			out = append(out, m)
		}
	}
	return out
}

// checkSharedBMCs refuses what one virtual BMC cannot be for several machines.
func (p *Plan) checkSharedBMCs() error {
	for _, m := range p.Site.Machines {
		nodes := p.SharedBMC(m.Name)
		if len(nodes) > 1 && m.BMC.Twin != "" {
			return fmt.Errorf("machine %s: its BMC is also that of %s, and a twin has one machine alone: leave bmc: twin: out, or select one of them with --machines", m.Name, nodes[0].Name)
		}
		for _, o := range nodes {
			if o.Name != m.Name && o.BMC.System == vbmc.NodeID(m.BMC.System) {
				return fmt.Errorf("machines %s and %s: their computer systems %q would have one name in their BMC's URIs: name them by letters, digits, dots and dashes", m.Name, o.Name, m.BMC.System)
			}
		}
	}
	return nil
}

// portOf is the port of a protocol: the site's own for the one that the site
// names, the usual one for the other.
func (b BMCPlan) portOf(p site.BMCProtocol) int {
	switch {
	case p == b.Protocol:
		return b.Port
	case p == site.IPMI:
		return 623
	}
	return 443
}

// Manufacturer and product of the virtual machines, in SMBIOS and in the BMC.
const (
	manufacturer = "fettle"
	product      = "Virtual Server"
)

// unixPathMax is the longest path of a Unix socket on Linux (unix(7)).
const unixPathMax = 107

// NewPlan says what a lab of s would be.
func NewPlan(s *site.Site, o Options) (*Plan, error) {
	if o.Name == "" {
		o.Name = s.Name
	}
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	switch o.Accel {
	case AccelAuto, KVM, TCG:
	default:
		return nil, fmt.Errorf("accelerator %q: want kvm, tcg or nothing", o.Accel)
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.CPUs == 0 {
		o.CPUs = DefaultCPUs
	}
	if o.DiskSize == 0 {
		o.DiskSize = DefaultDiskSize
	}
	if o.Memory < 256<<20 || o.CPUs < 1 || o.DiskSize < 64<<20 {
		return nil, fmt.Errorf("lab %s: a machine needs at least 256 MiB of memory (%s asked), 1 CPU (%d asked) and 64 MiB of disk (%s asked)",
			o.Name, o.Memory, o.CPUs, o.DiskSize)
	}
	selected := s.Machines
	if len(o.Machines) > 0 {
		var err error
		if selected, err = s.Select(o.Machines...); err != nil {
			return nil, fmt.Errorf("lab %s: %w", o.Name, err)
		}
	}
	if len(selected) == 0 {
		return nil, fmt.Errorf("lab %s: site %s has no machine to make: add one to its machines, or select others with --machines", o.Name, s.Name)
	}
	p := &Plan{Name: o.Name, Options: o, Site: s.Clone()}
	if err := ownNetworks(p.Site.Networks, o.BridgeNetwork != ""); err != nil {
		return nil, fmt.Errorf("lab %s: %w", o.Name, err)
	}
	p.Networks = planNetworks(o.Name, p.Site.Networks)
	if o.Trap {
		if o.BridgeNetwork != "" {
			return nil, fmt.Errorf("lab %s: a network that is a bridge of this machine leads out of the lab, so it cannot have a trap", o.Name)
		}
		if err := p.setTraps(); err != nil {
			return nil, fmt.Errorf("lab %s: %w", o.Name, err)
		}
	}
	p.Site.Machines = p.Site.Machines[:0]
	for _, m := range s.Clone().Machines {
		if !slices.ContainsFunc(selected, func(x site.Machine) bool { return x.Name == m.Name }) {
			continue
		}
		mp, scaled, err := p.planMachine(m)
		if err != nil {
			return nil, fmt.Errorf("lab %s: machine %s: %w", o.Name, m.Name, err)
		}
		p.Machines = append(p.Machines, mp)
		p.Site.Machines = append(p.Site.Machines, scaled)
	}
	if err := p.checkSharedBMCs(); err != nil {
		return nil, fmt.Errorf("lab %s: %w", o.Name, err)
	}
	p.dropIPv6()
	if o.SSHKey != "" {
		addSSHKey(p.Site, o.SSHKey)
	}
	skipTimerCheck(p.Site)
	if err := renameDisks(p.Site); err != nil {
		return nil, fmt.Errorf("lab %s: %w", o.Name, err)
	}
	if err := p.Site.Validate(); err != nil {
		return nil, fmt.Errorf("lab %s: the site as scaled for the lab: %w", o.Name, err)
	}
	if o.Dir != "" { // else Open checks the default
		if err := p.checkPaths(o.Dir); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// ownNetworks makes networks those of a lab, where nobody else is: no other
// DHCP server gives their addresses, no router advertises, no relay agent
// stands between, and nobody has to be asked whether an address is free. A boot
// network that is a bridge of this machine is left as the site has it.
func ownNetworks(networks []site.Network, bridge bool) error {
	for i := range networks {
		n := &networks[i]
		if bridge && n.Purpose == site.PurposeBoot {
			continue
		}
		var err error
		if n.Server, err = inRelaysPlace(n.Name, n.Prefix, n.Server, n.Relays); err != nil {
			return err
		}
		if n.IPv6.Server, err = inRelaysPlace(n.Name, n.IPv6.Prefix, n.IPv6.Server, n.IPv6.Relays); err != nil {
			return err
		}
		n.Proxy, n.Relays, n.IPv6.Relays, n.Probe = false, nil, nil, false
		if n.Advertise == site.AdvertiseOff {
			n.Advertise = "" // the router that did so is not here
		}
	}
	return nil
}

// inRelaysPlace is fettle's address on a network: where relay agents stand
// between in production, the first of theirs there.
func inRelaysPlace(network string, p netip.Prefix, server netip.Addr, relays []netip.Addr) (netip.Addr, error) {
	if len(relays) == 0 || p.Contains(server) {
		return server, nil
	}
	i := slices.IndexFunc(relays, p.Contains)
	if i < 0 {
		return server, fmt.Errorf("network %s is behind relays, none of which has an address in %s: a lab's fettle takes the place of one, so add such a one to its relays", network, p)
	}
	return relays[i], nil
}

// checkPaths refuses a folder in which sockets would have too long names.
func (p *Plan) checkPaths(dir string) error {
	for _, m := range p.Machines {
		if s := folder(dir).consoleUser(m.Name); len(s) > unixPathMax {
			return fmt.Errorf("lab %s: the console socket %s has a name of %d bytes and the kernel allows %d: choose a shorter folder with --labs",
				p.Name, s, len(s), unixPathMax)
		}
	}
	return nil
}

// boots6 tells whether the machine's boot network has IPv6 alone.
func (m MachinePlan) boots6() bool {
	return slices.ContainsFunc(m.NICs, func(n NICPlan) bool { return n.Boot && n.Only6 })
}

// Machine finds a machine of the plan by name.
func (p *Plan) Machine(name string) (MachinePlan, bool) {
	i := slices.IndexFunc(p.Machines, func(m MachinePlan) bool { return m.Name == name })
	if i < 0 {
		return MachinePlan{}, false
	}
	return p.Machines[i], true
}

// Network finds a network of the plan by name.
func (p *Plan) Network(name string) (NetworkPlan, bool) {
	i := slices.IndexFunc(p.Networks, func(n NetworkPlan) bool { return n.Name == name })
	if i < 0 {
		return NetworkPlan{}, false
	}
	return p.Networks[i], true
}

func planNetworks(lab string, networks []site.Network) []NetworkPlan {
	var out []NetworkPlan
	for _, n := range networks {
		np := NetworkPlan{Name: n.Name, Prefix: n.Prefix, Server: n.Server, Prefix6: n.IPv6.Prefix, Server6: n.IPv6.Server, MTU: n.MTU, VLAN: n.VLAN,
			Boot: n.Purpose == site.PurposeBoot, HostMAC: hostMAC(lab, n.Name)}
		if np.MTU == 0 {
			np.MTU = 1500
		}
		out = append(out, np)
	}
	return out
}

// hostMAC is a locally administered address (IEEE 802 clause 8.2) for the
// fabric's host on a network.
func hostMAC(lab, network string) site.MAC {
	sum := sha256.Sum256([]byte("host\x00" + lab + "\x00" + network))
	return site.MAC{0x02, 0xfe, sum[0], sum[1], sum[2], sum[3]}
}

// bmcMAC is such an address for a machine's BMC, for which the site gives none.
func bmcMAC(lab, machine string) site.MAC {
	sum := sha256.Sum256([]byte("bmc\x00" + lab + "\x00" + machine))
	return site.MAC{0x02, 0xfb, sum[0], sum[1], sum[2], sum[3]}
}

// domainUUID is a name-based UUID (RFC 9562 §5.8, version 8: SHA-256) of the
// lab's folder and machine, so that labs of one site can live side by side.
func domainUUID(lab, machine string) string {
	sum := sha256.Sum256([]byte("domain\x00" + lab + "\x00" + machine))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
