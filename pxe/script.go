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

// script is a machine's iPXE script for a decision.
func (n *Network) script(c Client, d Decision) string {
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	fmt.Fprintf(&b, "echo\necho fettle: %s on network %s\n", c.MAC, echo(n.Name))
	if d.Reason != "" {
		fmt.Fprintf(&b, "echo fettle: %s\n", echo(d.Reason))
	}
	switch d.Action {
	case BootKernel:
		n.kernelScript(&b, c, d)
	case BootDisk:
		b.WriteString(diskScript)
	case Ignore:
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

// kernelScript loads a kernel and its ramdisks. Every file gets a name of its
// own (r0, r1, ...): a kernel started by UEFI asks for its ramdisks by the
// names in initrd=, whereas in a BIOS iPXE hands over all of them.
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
		fmt.Fprintf(b, "kernel --name vmlinuz %s ${ramdisks} %s || %s\n", base+urlPath(d.Kernel), d.Cmdline, next)
		for i, name := range d.Initrds {
			fmt.Fprintf(b, "initrd --name r%d %s || %s\n", i, base+urlPath(name), next)
		}
		fmt.Fprintf(b, "echo fettle: starting %s\nboot || %s\n", echo(path.Base(d.Kernel)), next)
		if try < scriptTries {
			fmt.Fprintf(b, ":wait%d\necho fettle: that failed, trying again in %d s\nsleep %d\n", try, 2*try, 2*try)
		}
	}
	b.WriteString(":giveup\necho fettle: giving up; the messages above and the machine's timeline say why\nsleep 5\nexit 1\n")
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
chain --replace %s/script/${netX/mac}?platform=${platform}&uuid=${uuid} || goto failed
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
