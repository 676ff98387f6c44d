package provision

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Names of the releases that every machine needs.
const (
	loadersRelease = images.NameLoaders
)

var _ pxe.Booter = (*Provisioner)(nil)

// Boot decides what a client boots: the agent while a run wants it, else the
// machine's own disk. The firmware's boot order is never trusted: a ready
// machine that asks the network is sent to its disk.
func (p *Provisioner) Boot(ctx context.Context, c pxe.Client) (pxe.Decision, error) {
	mac, err := macOf(c.MAC)
	if err != nil {
		return pxe.Decision{}, err
	}
	if err := p.wait(ctx); err != nil {
		return pxe.Decision{}, err
	}
	x := p.index()
	s := x.site
	m, _, known := x.machine(mac)
	if n, ok := s.Network(c.Network); ok && n.Purpose == site.PurposeBMC {
		return pxe.Decision{Action: pxe.Ignore, Reason: "network " + n.Name + " is for BMCs: nothing boots from it"}, nil
	}
	if !known {
		return p.bootUnknown(ctx, s, c, mac)
	}
	d, err := p.bootKnown(ctx, s, c, *m)
	d.Loader, d.HTTPS = loaderOf(*m), m.HTTPSBoot
	return d, err
}

func (p *Provisioner) bootKnown(ctx context.Context, s *site.Site, c pxe.Client, m site.Machine) (pxe.Decision, error) {
	r, ok := p.latest(m.Name)
	if !ok {
		return pxe.Decision{Action: pxe.BootDisk, Reason: fmt.Sprintf("%s has never been deployed: fettle machine deploy %s", m.Name, m.Name)}, nil
	}
	d := r.doc()
	switch {
	case d.Ended():
		return pxe.Decision{Action: pxe.BootDisk, Reason: fmt.Sprintf("%s is %s: it boots its disk", m.Name, d.Phase)}, nil
	case d.Phase == state.Inspected && d.Action == ActionInspect:
		return pxe.Decision{Action: pxe.BootDisk, Reason: "it is inspected: it boots its disk"}, nil
	case d.Phase == state.Restarting, d.Phase == state.FirstBoot:
		return pxe.Decision{Action: pxe.BootDisk, Reason: "its image is written: it boots its disk"}, nil
	}
	return p.agentDecision(ctx, s, c, d, fmt.Sprintf("run %s (%s) boots the agent", d.ID, d.Action))
}

// loaderOf is the boot loader that the site chooses for a machine.
func loaderOf(m site.Machine) pxe.Loader {
	switch {
	case m.SecureBoot:
		return pxe.LoaderSigned
	case m.Loader == site.LoaderSNP:
		return pxe.LoaderSNP
	case m.Loader == site.LoaderIPXE:
		return pxe.LoaderNative
	case m.Loader == site.LoaderUKI, m.HTTPSBoot:
		// With HTTPS to its end: iPXE would go on in clear text.
		return pxe.LoaderUnified
	}
	return pxe.LoaderDefault
}

// agentDecision boots the agent with the run's token.
func (p *Provisioner) agentDecision(ctx context.Context, s *site.Site, c pxe.Client, d Run, why string) (pxe.Decision, error) {
	n, ok := s.Network(c.Network)
	if !ok {
		return pxe.Decision{}, fmt.Errorf("network %s is not in the site file", c.Network)
	}
	arch, consoles := clientArch(c)
	rel, ok, err := p.c.Releases.Latest(ctx, images.AgentName(arch))
	if err != nil {
		return pxe.Decision{}, fmt.Errorf("finding the agent's release: %w", err)
	}
	if !ok {
		return pxe.Decision{Action: pxe.Ignore, Reason: "there is no agent to boot: fettle image build " + images.AgentName(arch)}, nil
	}
	base := releasePath(rel)
	return pxe.Decision{
		Action:  pxe.BootKernel,
		Kernel:  base + "/vmlinuz",
		Initrds: []string{base + "/initrd", caPath},
		Cmdline: strings.Join(append(consoles, "panic=30",
			wire.ArgServer+"="+p.agentURL(n),
			wire.ArgToken+"="+d.Token,
			wire.ArgMAC+"="+c.MAC.String(),
		), " "),
		Reason: why,
	}, nil
}

// clientArch is the architecture of a client, and the kernel's arguments for its
// consoles. UEFI firmware of arm64 says in its SPCR table which serial port is
// the console, with its speed (a PL011 here, a 16550 there): the kernel takes
// that, as long as nothing else is named.
func clientArch(c pxe.Client) (arch string, consoles []string) {
	if c.ArchKnown {
		switch c.Arch {
		case pxe.ArchARM64, pxe.ArchARM64HTTP:
			return site.ARM64, nil
		case pxe.ArchARM64UBoot, pxe.ArchARM64UBootHT, pxe.ArchRaspberryPi41:
			return site.ARM64, []string{"console=tty0", "console=ttyAMA0,115200"}
		}
	}
	return site.AMD64, []string{"console=tty0", "console=ttyS0,115200"}
}

// agentURL is the base URL of the agent's endpoint on a network.
func (p *Provisioner) agentURL(n site.Network) string {
	return "https://" + netip.AddrPortFrom(n.Here(), p.c.AgentPort).String()
}

// fileURL is the URL of a boot file on a network; image data goes there too:
// it is verified by digest, not by who sent it.
func (p *Provisioner) fileURL(n site.Network, name string) string {
	host := n.Here().String()
	if n.Only6() {
		host = "[" + host + "]"
	}
	if p.c.HTTPPort != 80 {
		host = netip.AddrPortFrom(n.Here(), p.c.HTTPPort).String()
	}
	return "http://" + host + "/boot/files/" + name
}

// releasePath is where Open finds a release's files: its inputs name it.
func releasePath(r images.Release) string {
	return "release/" + r.Name + "/" + r.Inputs.Hex()
}

// bootUnknown boots a machine that the site does not know into inspection,
// when the site says so for its network. The agent only reads what it is: its
// run is an inspection, which no task that writes can come of.
func (p *Provisioner) bootUnknown(ctx context.Context, s *site.Site, c pxe.Client, mac site.MAC) (pxe.Decision, error) {
	n, ok := s.Network(c.Network)
	if !ok {
		return pxe.Decision{}, fmt.Errorf("network %s is not in the site file", c.Network)
	}
	do, after := s.Unknown(n)
	if do != site.Inspect {
		return pxe.Decision{Action: pxe.Ignore, Reason: "the site does not know " + mac.String() + " and ignores unknown machines on network " + n.Name}, nil
	}
	name := state.NameOf(mac)
	r, ok := p.latest(name)
	if ok && r.doc().Ended() {
		return pxe.Decision{Action: pxe.BootDisk, Reason: "unknown machine " + mac.String() + " has been inspected"}, nil
	}
	if !ok {
		var err error
		if r, err = p.discover(ctx, s, name, after); err != nil {
			return pxe.Decision{}, err
		}
	}
	return p.agentDecision(ctx, s, c, r.doc(), "unknown machine "+mac.String()+" boots the agent to be inspected")
}

// macOf is a client's MAC as the site writes it.
func macOf(hw []byte) (site.MAC, error) {
	var mac site.MAC
	if len(hw) != len(mac) {
		return mac, fmt.Errorf("client hardware address %x has %d bytes; only Ethernet's 6 are served", hw, len(hw))
	}
	copy(mac[:], hw)
	return mac, nil
}
