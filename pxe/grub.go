package pxe

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// GRUB, which shim loads where Secure Boot is on, fetches a configuration by
// TFTP: the same decision as the iPXE script's, in GRUB's words.

const (
	grubConfig = "grub.cfg"
	// grubRetry is the folder of the configurations that a machine asks for
	// again when the server could not decide: grub-retry/TRY/grub.cfg.
	grubRetry   = "grub-retry"
	grubRetries = 10
)

// grubConfigName tells whether a file name is one under which GRUB asks for
// its configuration, and which try that is. Debian's signed GRUB asks for
// $prefix/x86_64-efi/grub.cfg first (grub-core's build-efi-images); others
// for grub.cfg-01-MAC, grub.cfg-ADDRESS and grub.cfg in the folder that they
// came from. One answer is enough: the last of them.
func grubConfigName(name string) (try int, ok bool) {
	if path.Base(name) != grubConfig || strings.HasSuffix(path.Dir(name), "-efi") {
		return 0, false
	}
	try = 1
	if rest, found := strings.CutPrefix(name, grubRetry+"/"); found {
		n, err := strconv.Atoi(path.Dir(rest))
		if err != nil || n < 1 || n > grubRetries {
			return 0, false
		}
		try = n
	}
	return try, true
}

// grubFor is the configuration of the machine that was given an address: who
// asks from elsewhere is nobody's machine. What a machine boots may carry its
// secrets. name is what the timeline calls it.
func (s *Server) grubFor(ctx context.Context, n *Network, at netip.Addr, try int) (text, name string) {
	c, known := s.clients.at(at)
	if !known {
		return grubHead(n) + grubEcho("this server does not know who has "+at.String()+": it gave that address to nobody since it was started") + grubRestart, grubConfig
	}
	d, err := s.decide(ctx, c)
	if err == nil {
		err = checkGRUB(d.Cmdline)
	}
	if err != nil {
		s.record(s.now(), n, c, "boot.undecided", "got no GRUB configuration yet: "+err.Error(), err)
		return grubHead(n) + n.grubTrouble(at, try, err.Error()), grubConfig
	}
	st, name := stageScript, grubConfig
	if d.Action != BootKernel {
		st, name = stageDisk, scriptDisk
	}
	s.noteStage(c, st, grubConfig)
	return n.grub(c, d), name
}

// checkGRUB refuses kernel arguments that GRUB changes: it puts a backslash
// before quotes and backslashes (grub_create_loader_cmdline).
func checkGRUB(line string) error {
	if i := strings.IndexAny(line, `'"\`); i >= 0 {
		return fmt.Errorf("kernel arguments hold %q, which GRUB would change: a machine with Secure Boot cannot be given them", line[i])
	}
	return nil
}

// grubQuote makes one word of a text, whatever is in it: nothing is special
// between single quotes but the quote itself (GRUB manual, "Quoting").
func grubQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func grubEcho(s string) string { return "echo " + grubQuote("fettle: "+printable([]byte(s))) + "\n" }

// grubHead begins every configuration: no menu, no pager.
func grubHead(n *Network) string {
	return "set pager=0\necho\n" + grubEcho("this is GRUB, on network "+n.Name)
}

// grubRestart ends a configuration that cannot go on. A restart makes the
// firmware walk through its boot order again and ask this server anew. GRUB's
// exit will not do: whatever its argument, it tells the firmware of success,
// and OVMF 2022.11 was seen to stop at its menu then.
const grubRestart = `echo 'fettle: giving up; the messages above and the timeline of the machine say why; restarting in 30 s'
sleep 30
reboot
`

// grubDisk starts what is installed: a signed loader of the disk, found by the
// names that Debian, Ubuntu and removable media give it. The device is made root: GRUB
// 2.06 tells the loader that it came from there, and shim then finds its second
// stage.
const grubDisk = `for f in /EFI/debian/shimx64.efi /EFI/debian/shimaa64.efi /EFI/ubuntu/shimx64.efi /EFI/ubuntu/shimaa64.efi /EFI/BOOT/BOOTX64.EFI /EFI/BOOT/BOOTAA64.EFI; do
	unset disk
	if search --no-floppy --file --set=disk $f; then
		echo "fettle: starting ($disk)$f"
		set root=$disk
		if chainloader $f; then boot; fi
	fi
done
echo 'fettle: no disk has a boot loader that starts'
`

// grub is a machine's GRUB configuration for a decision.
func (n *Network) grub(c Client, d Decision) string {
	var b strings.Builder
	b.WriteString(grubHead(n))
	b.WriteString(grubEcho("machine " + c.MAC.String()))
	if d.Reason != "" {
		b.WriteString(grubEcho(d.Reason))
	}
	switch d.Action {
	case BootKernel:
		n.grubKernel(&b, c.Addr, d)
	case BootDisk:
		b.WriteString(grubEcho("booting from disk"))
	case Ignore:
		b.WriteString(grubEcho("nothing to boot for this machine, going on to its disk"))
	}
	b.WriteString(grubDisk + grubRestart)
	return b.String()
}

// grubKernel loads a kernel and its ramdisks by TFTP: Debian's signed GRUB 2.06
// has no other way (it asked for http.mod, and Secure Boot takes no modules).
func (n *Network) grubKernel(b *strings.Builder, at netip.Addr, d Decision) {
	file := func(name string) string {
		return grubQuote(n.grubServer(at) + strings.TrimLeft(name, "/"))
	}
	kernel := path.Base(d.Kernel)
	for try := 1; try <= scriptTries; try++ {
		b.WriteString(grubEcho(fmt.Sprintf("loading %s (try %d of %d)", kernel, try, scriptTries)))
		fmt.Fprintf(b, "if linux %s", file(d.Kernel))
		for _, w := range strings.Fields(d.Cmdline) {
			b.WriteString(" " + grubQuote(w))
		}
		b.WriteString("; then\n")
		if len(d.Initrds) > 0 {
			b.WriteString("if initrd")
			for _, name := range d.Initrds {
				b.WriteString(" " + file(name))
			}
			b.WriteString("; then\n")
		}
		b.WriteString(grubEcho("starting "+kernel) + "boot\n")
		if len(d.Initrds) > 0 {
			b.WriteString("fi\n")
		}
		b.WriteString("fi\n")
		if try < scriptTries {
			b.WriteString(grubEcho(fmt.Sprintf("that failed, trying again in %d s", 2*try)))
			fmt.Fprintf(b, "sleep %d\n", 2*try)
		}
	}
	b.WriteString(grubEcho("the kernel did not start; going on to the disk"))
}

// grubServer is where GRUB finds our files.
func (n *Network) grubServer(at netip.Addr) string {
	host := n.serverFor(at).String()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "(tftp," + host + ")/"
}

// grubTrouble tells a machine that the server could not decide, and makes it
// ask again, a bounded number of times.
func (n *Network) grubTrouble(at netip.Addr, try int, why string) string {
	if try >= grubRetries {
		return grubEcho(why) + grubEcho(fmt.Sprintf("asked %d times", try)) + grubRestart
	}
	return grubEcho(why) + grubEcho(fmt.Sprintf("asking again in 5 s (try %d of %d)", try, grubRetries)) +
		fmt.Sprintf("sleep 5\nconfigfile '%s%s/%d/%s'\n", n.grubServer(at), grubRetry, try+1, grubConfig) + grubRestart
}
