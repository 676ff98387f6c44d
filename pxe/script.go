package pxe

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strings"
)

// scriptTries is how often a script tries to load a kernel before it gives up.
const scriptTries = 4

// checkCmdline refuses what iPXE would not hand to the kernel as it is: a line
// end would begin another command, "${" is expanded, and a word of && || or ;
// ends the command.
func checkCmdline(line string) error {
	for _, r := range line {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("kernel arguments hold the control character %q: an iPXE script cannot carry it", r)
		}
	}
	if strings.Contains(line, "${") {
		return fmt.Errorf(`kernel arguments hold "${": iPXE would expand it`)
	}
	for _, w := range strings.Fields(line) {
		if w == "&&" || w == "||" || w == ";" {
			return fmt.Errorf("kernel arguments hold the word %q: it would end the iPXE command", w)
		}
	}
	return nil
}

// echo is a text for iPXE's echo, on one line and without expansion.
func echo(s string) string {
	s = printable([]byte(s))
	s = strings.ReplaceAll(s, "${", "$ {")
	var w []string
	for _, f := range strings.Fields(s) {
		if f == "&&" || f == "||" || f == ";" {
			f = "-"
		}
		w = append(w, f)
	}
	return strings.Join(w, " ")
}

// scriptWay is how a script brings a machine to its kernel.
type scriptWay int

const (
	byKernel scriptWay = iota // iPXE loads and starts it
	bySigned                  // iPXE starts the signed loader, which loads it
	byNobody                  // nothing that iPXE can start would be let start
)

// scriptWay finds the way. refused says that this iPXE was not let start its
// kernel just now.
func (s *Server) scriptWay(n *Network, c Client, d Decision, refused bool) scriptWay {
	refused = refused || c.UEFI && s.clients.refuses(c.MAC)
	can := signedFor(c) != "" && n.has4()
	switch {
	case d.Action != BootKernel, d.Loader != LoaderSigned && !refused, !can && !refused: // the last: it may do
		return byKernel
	case can:
		return bySigned
	}
	return byNobody
}

// script is a machine's iPXE script for a decision.
func (n *Network) script(c Client, d Decision, way scriptWay) string {
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	fmt.Fprintf(&b, "echo\necho fettle: %s on network %s\n", c.MAC, echo(n.Name))
	if d.Reason != "" {
		fmt.Fprintf(&b, "echo fettle: %s\n", echo(d.Reason))
	}
	switch {
	case d.Action == BootKernel && way == bySigned:
		n.signedScript(&b, c)
	case d.Action == BootKernel && way == byNobody:
		b.WriteString("echo fettle: " + unsignable(c) + "\n" + giveUp)
	case d.Action == BootKernel:
		n.kernelScript(&b, c, d)
	case d.Action == BootDisk:
		b.WriteString(diskScript)
	default:
		b.WriteString("echo fettle: nothing to boot for this machine, going on to the firmware's next device\nexit 1\n")
	}
	return b.String()
}

// diskScript leaves the network. On UEFI the exit status makes the firmware
// try its next boot entry; a BIOS has no good way back, so its first disk is
// started from here.
const diskScript = `echo fettle: booting from disk
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x80 || echo fettle: the first disk does not boot
exit 1
`

// giveUp ends a script whose files did not load or start.
const giveUp = "echo fettle: giving up; the messages above and the machine's timeline say why\nsleep 5\nexit 1\n"

// kernelScript loads a kernel and its ramdisks. Every file gets a name of its
// own (r0, r1, ...): a kernel started by UEFI asks for its ramdisks by the
// names in initrd=, whereas in a BIOS iPXE hands over all of them. A UEFI that
// does not let the kernel start most likely has Secure Boot on: iPXE then asks
// for another script, and says so.
func (n *Network) kernelScript(b *strings.Builder, c Client, d Decision) {
	base := n.baseURLFor(c.IPv6) + "/files/"
	var names []string
	for i := range d.Initrds {
		names = append(names, fmt.Sprintf("initrd=r%d", i))
	}
	b.WriteString("set ramdisks\n")
	if len(names) > 0 {
		fmt.Fprintf(b, "iseq ${platform} efi && set ramdisks %s ||\n", strings.Join(names, " "))
	}
	for try := 1; try <= scriptTries; try++ {
		fmt.Fprintf(b, ":try%d\nimgfree\n", try)
		fmt.Fprintf(b, "echo fettle: loading %s (try %d of %d)\n", echo(path.Base(d.Kernel)), try, scriptTries)
		next := "goto giveup"
		if try < scriptTries {
			next = fmt.Sprintf("goto wait%d", try)
		}
		fmt.Fprintf(b, "set unfit %s\niseq ${platform} efi && set unfit refused ||\n", strings.TrimPrefix(next, "goto "))
		fmt.Fprintf(b, "imgfetch --name vmlinuz %s ${ramdisks} %s || %s\n", base+urlPath(d.Kernel), d.Cmdline, next)
		b.WriteString("imgselect vmlinuz || goto ${unfit}\n")
		for i, name := range d.Initrds {
			fmt.Fprintf(b, "initrd --name r%d %s || %s\n", i, base+urlPath(name), next)
		}
		fmt.Fprintf(b, "echo fettle: starting %s\nboot || goto ${unfit}\n", echo(path.Base(d.Kernel)))
		waitScript(b, try)
	}
	fmt.Fprintf(b, ":refused\necho fettle: the firmware does not start %s: Secure Boot is on, it seems\n", echo(path.Base(d.Kernel)))
	fmt.Fprintf(b, "chain --replace %s?refused=1&platform=${platform}&arch=${buildarch} || goto giveup\n", n.scriptURL(c))
	b.WriteString(":giveup\n" + giveUp)
}

// waitScript ends a try that failed, unless it was the last.
func waitScript(b *strings.Builder, try int) {
	if try < scriptTries {
		fmt.Fprintf(b, ":wait%d\necho fettle: that failed, trying again in %d s\nsleep %d\n", try, 2*try, 2*try)
	}
}

// signedScript starts the signed boot loader. It finds its second stage beside
// the boot file of the DHCP answer that iPXE shows it, which was this script:
// what the server says to firmware is said again here.
func (n *Network) signedScript(b *strings.Builder, c Client) {
	loader := signedFor(c)
	if c.IPv6 {
		b.WriteString("isset ${netX/ip} || goto no4\n")
	}
	fmt.Fprintf(b, "set netX/next-server %s\nset netX/filename %s\n", n.Server, loader)
	fmt.Fprintf(b, "isset ${proxydhcp/filename} && set proxydhcp/filename %s ||\n", loader)
	for try := 1; try <= scriptTries; try++ {
		next := "goto giveup"
		if try < scriptTries {
			next = fmt.Sprintf("goto wait%d", try)
		}
		fmt.Fprintf(b, ":try%d\nimgfree\n", try)
		fmt.Fprintf(b, "echo fettle: starting the signed boot loader %s (try %d of %d)\n", loader, try, scriptTries)
		fmt.Fprintf(b, "chain tftp://%s/%s || %s\n", n.Server, loader, next)
		b.WriteString("exit 1\n")
		waitScript(b, try)
	}
	b.WriteString(":giveup\n" + giveUp)
	if c.IPv6 {
		b.WriteString(":no4\necho fettle: " + unsignable(c) + "\n" + giveUp)
	}
}

// unsignable says why a machine gets nothing from iPXE that its firmware would
// let start.
func unsignable(c Client) string {
	if loader := signedFor(c); loader != "" {
		return "its firmware starts signed loaders alone, and iPXE tells " + loader + " nothing of IPv6; put the firmware's own PXE over IPv6 before iPXE in its boot order"
	}
	arch := "its architecture"
	if c.ArchKnown {
		arch = c.Arch.String()
	}
	return "its firmware starts signed loaders alone, and there is none for " + arch
}

// urlPath escapes a file name for a URL, and for iPXE's word splitting.
func urlPath(name string) string {
	parts := strings.Split(strings.TrimLeft(name, "/"), "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.PathEscape(p), "$", "%24")
	}
	return strings.Join(parts, "/")
}

// troubleScript tells a machine that the server could not decide, and makes it
// ask again, a bounded number of times.
func (n *Network) troubleScript(c Client, try int, why string) string {
	const tries = 10
	if try >= tries {
		return fmt.Sprintf("#!ipxe\necho fettle: %s\necho fettle: giving up after %d tries\nsleep 5\nexit 1\n", echo(why), try)
	}
	return fmt.Sprintf("#!ipxe\necho fettle: %s\necho fettle: asking again in 5 s (try %d of %d)\nsleep 5\nchain --replace %s?try=%d || exit 1\n",
		echo(why), try, tries, n.scriptURL(c), try+1)
}

// autoexec is what an iPXE that did not hear of a script runs: iPXE 2.0 asks
// its loader's own directory for autoexec.ipxe (FIELD-NOTES item 19). netX is
// the interface opened last.
func (n *Network) autoexec(v6 bool) string {
	return fmt.Sprintf(`#!ipxe
isset ${netX/ip} || isset ${netX/ip6} || dhcp || goto failed
chain --replace %s/script/${netX/mac}?platform=${platform}&arch=${buildarch}&uuid=${uuid} || goto failed
:failed
echo fettle: this machine got no script from %s
sleep 5
exit 1
`, n.baseURLFor(v6), n.serverIn(v6))
}

// networkFor finds the network of a remote address, by its prefix, else the
// one that the client there asked on, else the first.
func (s *Server) networkFor(a netip.Addr) *Network {
	if n := s.networkOf(a); n != nil {
		return n
	}
	if c, ok := s.clients.at(a); ok {
		if n := s.networks[c.Network]; n != nil {
			return n
		}
	}
	return s.order[0]
}
