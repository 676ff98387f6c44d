package pxe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// bootInfo is what a DHCP reply says about booting.
type bootInfo struct {
	decision Decision
	file     string // file name or absolute URL; "" for none
	note     string // a sentence's end, if there is more to say
	asks     string // what a client without a boot file asks the TFTP server for
}

// sentence continues "was offered 192.0.2.7".
func (b bootInfo) sentence() string {
	s := ""
	if b.file != "" {
		s = " and boot file " + b.file
	}
	return s + b.note
}

// boot asks the Booter and turns its decision into a boot file. On an error
// the client gets no answer: it asks again in a few seconds, whereas a
// firmware that is told nothing goes on to its disk.
func (x *exchange) boot(ctx context.Context) (bootInfo, error) {
	return x.s.boot(ctx, asking{start: x.start, n: x.n, on: x.on, client: x.r.client, http: x.r.http, first: x.r.kind == dhcpv4.MessageTypeDiscover})
}

// asking is a client that wants to know what it boots, by DHCP of either
// family.
type asking struct {
	start  time.Time
	n      *Network // the client's
	on     *Network // where it asked
	client Client
	http   bool // if it is iPXE, it can fetch by HTTP
	first  bool // it looks for a server, and takes no offer yet
}

func (s *Server) boot(ctx context.Context, a asking) (bootInfo, error) {
	c, on := a.client, a.on
	if !c.boots() {
		return bootInfo{}, nil
	}
	if why := a.n.bars(c); why != "" {
		if a.first {
			s.record(a.start, a.n, c, "boot.barred", why, nil)
		}
		return bootInfo{note: " and no boot file, because " + why}, nil
	}
	d, err := s.decide(ctx, c)
	if err != nil {
		s.record(a.start, a.n, c, "boot.undecided", "got no answer, because nobody could say what it boots: "+err.Error(), err)
		return bootInfo{}, err
	}
	if d.Loader == LoaderDefault && s.clients.distrusts(c.MAC) {
		d.Loader = LoaderSigned
	}
	b := bootInfo{decision: d}
	base := on.baseURLFor(c.IPv6)
	if d.HTTPS && on.HTTPSPort != 0 {
		base = on.secureURL(c.IPv6)
	}
	switch {
	case d.Action == Ignore:
		b.note = " and nothing to boot" + because(d)
	case d.Action == BootDisk && !(c.IPXE && a.http):
		b.file = on.fileFor(c, quirkNextDevice)
		if c.HTTP {
			b.file = base + "/files/" + quirkNextDevice
		}
		b.note = ", which does not exist, so that its firmware goes on to its next device" + because(d)
	case c.IPXE && a.http:
		b.file = on.scriptURL(c)
	default:
		b.file, b.note = on.loaderFor(c, d.Loader, base)
		if info, _ := archs(c.Arch); c.ArchKnown && b.file == "" && !c.IPv6 {
			b.asks = info.asks
		}
	}
	return b, nil
}

// stage is how far a client is that was given this and has an address.
func (b bootInfo) stage(c Client) stage {
	switch {
	case b.decision.Action == BootDisk:
		return stageDisk
	case c.IPXE:
		return stageIPXE
	case b.file == "", strings.HasSuffix(b.file, "/"+quirkNotByHTTP): // it is not meant to get anything
		return stageNone
	}
	return stageAddress
}

func because(d Decision) string {
	if d.Reason == "" {
		return ""
	}
	return " (" + d.Reason + ")"
}

// decide asks the Booter and checks its answer.
func (s *Server) decide(ctx context.Context, c Client) (Decision, error) {
	d, err := s.booter.Boot(ctx, c)
	if err != nil {
		return d, fmt.Errorf("deciding what %v boots: %w", c.MAC, err)
	}
	switch d.Action {
	case Ignore, BootDisk:
		return d, nil
	case BootKernel:
		if d.Kernel == "" {
			return d, errors.New("the decision is to boot a kernel, and it names none")
		}
		return d, checkCmdline(d.Cmdline)
	}
	return d, fmt.Errorf("the decision has an unknown action %d", d.Action)
}

// loaderFor is the boot loader for a client: a TFTP name for PXE, an absolute
// URL below base for HTTP boot (FIELD-NOTES items 8 and 10).
func (n *Network) loaderFor(c Client, want Loader, base string) (file, note string) {
	info, known := archs(c.Arch)
	if !c.ArchKnown || !known {
		// RFC 4578 §2.1 makes option 93 mandatory; BIOS ROMs older than it
		// leave it away.
		if c.HTTP {
			return "", " and no boot file, because it does not say its architecture"
		}
		info, _ = archs(ArchBIOS)
	}
	name := info.loader
	switch {
	case info.native != "" && (want == LoaderNative || want == LoaderDefault && n.NativeDrivers):
		name = info.native
	case info.signed != "" && want == LoaderSigned:
		name = info.signed
	}
	// Firmware for which HTTP boot ends at GRUB's prompt loads the kernel itself,
	// unless Secure Boot is said to be on.
	if info.stub != "" && (want == LoaderUnified || c.HTTP && name == info.signed && want != LoaderSigned) {
		if c.HTTP {
			return base + "/" + ukiName(c.MAC), ""
		}
		return n.fileFor(c, ukiName(c.MAC)), ""
	}
	if c.HTTP && name != "" && name == info.signed {
		return base + "/files/" + quirkNotByHTTP, fmt.Sprintf(
			", which does not exist, so that its firmware goes on to its next device: %s and the signed GRUB boot by PXE, not by HTTP; put PXE over IPv4 into its boot order", name)
	}
	if info.asks != "" && !c.IPv6 {
		return "", " and this TFTP server, which it asks for " + info.asks
	}
	if name == "" {
		return "", fmt.Sprintf(" and no boot file, because there is no boot loader for %s", info.name)
	}
	if c.HTTP {
		return base + "/files/loaders/" + name, ""
	}
	return n.fileFor(c, name), ""
}

// fileFor names a file of TFTP: DHCPv6 knows URLs alone (RFC 5970 §3.1).
func (n *Network) fileFor(c Client, name string) string {
	if c.IPv6 {
		return "tftp://[" + n.IPv6.Server.String() + "]/" + name
	}
	return name
}

// bars says why a client may not boot the way that it asks for; "" when it may.
func (n *Network) bars(c Client) string {
	way, sent := WayPXE, "PXEClient"
	if c.HTTP {
		way, sent = WayHTTP, "HTTPClient"
	}
	if len(n.Ways) == 0 || c.IPXE || !c.boots() || slices.Contains(n.Ways, way) {
		return ""
	}
	arch := ""
	if c.ArchKnown {
		arch = " (" + strings.TrimSuffix(c.Arch.String(), " HTTP") + ")"
	}
	allowed := "PXE"
	if n.Ways[0] == WayHTTP {
		allowed = "HTTP boot"
	}
	return fmt.Sprintf("its firmware%s sent %s and the network allows %s only", arch, sent, allowed)
}

// scriptURL is where iPXE finds a machine's script.
func (n *Network) scriptURL(c Client) string {
	return n.baseURLFor(c.IPv6) + "/script/" + c.MAC.String()
}
