package pxe

import (
	"fmt"
	"strings"
	"time"
)

// Why says in one sentence without its subject how far a machine's boot came
// and what most likely stops it: "asked 4 times and took no offer: ...".
// exchanges are the machine's own since it was powered on, oldest first; now
// is when somebody asks. It is a guess of a person's kind: it names what was
// seen, and what that means most of the time.
func Why(exchanges []Exchange, now time.Time) string {
	if len(exchanges) == 0 {
		return "sent nothing: no DHCP packet came from its MAC addresses; it may be off, its cable or VLAN wrong, or network boot not in its boot order"
	}
	var p progress
	for _, e := range exchanges {
		p.take(e)
	}
	return p.why(now)
}

// progress is how far the latest try of a boot came.
type progress struct {
	client  string // what asked last, in words
	asked   int    // DISCOVERs since an offer was taken
	told    string // the boot file named last
	offered bool   // an offer is out
	mute    string // why it got no offer
	barred  string // why it may not boot that way
	naks    int
	nak     string
	other   string // it took another server's offer
	address bool   // it has an address
	ipxe    bool   // what asks is iPXE
	loader  string // fetched
	script  bool
	grub    bool   // of GRUB
	signed  bool   // of iPXE, to start the signed loader
	leaves  string // what was said of iPXE's script that leaves: nothing would be let start
	kernel  string // fetched last, below /boot/files
	system  bool   // and what it loaded asked for an address
	disk    bool
	// an operating system has its address, and nothing was fetched before
	installed bool
	failed    string // the fetch that failed last
	starts    int    // how often the firmware began
	at        time.Time
}

func (p *progress) take(e Exchange) {
	p.at = e.Time
	boots := e.Client == "" || isBooting(e.Client)
	if !boots && p.kernel != "" {
		p.system = true // what was booted asks for its address
		return
	}
	switch e.Kind {
	case "dhcp.discover":
		other := p.client != "" && strings.HasSuffix(e.Client, overIPv6) != strings.HasSuffix(p.client, overIPv6)
		if !strings.HasPrefix(e.Client, iPXEName) && (p.address || p.asked == 0 || other) {
			*p = progress{starts: p.starts + 1, naks: p.naks, nak: p.nak, at: e.Time}
		}
		p.ipxe = strings.HasPrefix(e.Client, iPXEName)
		p.client = e.Client
		p.asked++
	case "dhcp.offer":
		p.offered, p.told, p.mute = true, e.Name, ""
	case "dhcp.silent", "dhcp.drop", "boot.undecided":
		p.mute = e.Text
	case "boot.barred":
		p.barred = e.Text
	case "dhcp.refused":
		p.other, p.asked = e.Text, 0
	case "dhcp.nak":
		p.naks, p.nak = p.naks+1, e.Text
	case "dhcp.ack", "dhcp.binl", "dhcp.address":
		p.installed = !boots
		p.address, p.asked, p.offered, p.other, p.naks = true, 0, false, "", 0
		if e.Name != "" {
			p.told = e.Name
		}
		p.disk = strings.HasSuffix(p.told, quirkNextDevice)
	case "tftp.read", "tftp.error", "http.get":
		switch {
		case e.Err != nil:
			p.failed = e.Text
		case e.Bytes == 0:
		case strings.HasPrefix(e.Name, "loaders/"):
			p.loader, p.failed = e.Name, ""
		default:
			p.kernel, p.failed = e.Name, ""
		}
	case "boot.refused":
		p.kernel = "" // it did not start
	case "script":
		p.script, p.failed = e.Err == nil, ""
		p.grub, p.leaves = e.Name == grubConfig, ""
		if e.Name == scriptNobody {
			p.leaves = e.Text
		}
		if p.signed = e.Name == scriptSigned; p.signed {
			p.loader = "" // what iPXE itself came by
		}
		p.disk = p.disk || e.Name == scriptDisk
	}
}

func (p *progress) why(now time.Time) string {
	ago := now.Sub(p.at).Round(time.Second)
	again := ""
	if p.starts > 1 {
		again = fmt.Sprintf("; it began %d times", p.starts)
	}
	who := p.client
	if who == "" {
		who = "it"
	}
	switch {
	case strings.HasSuffix(p.told, quirkNotByHTTP):
		return fmt.Sprintf("asked by HTTP boot %v ago, and there is no signed loader that boots its machine that way: put PXE over IPv4 into its boot order, before HTTP%s", ago, again)
	case p.disk:
		return fmt.Sprintf("was sent to its own disk %v ago, and has not been heard of since", ago)
	case p.asked > 0 && p.barred != "":
		return fmt.Sprintf("asked %s and took no offer: %s%s", times(p.asked), p.barred, again)
	case p.asked > 0 && p.offered && p.told == "":
		return fmt.Sprintf("asked %s and took no offer: %s was offered an address without a boot file, and firmware may want both%s", times(p.asked), who, again)
	case p.asked > 0 && p.offered:
		return fmt.Sprintf("asked %s and took no offer: %s was offered %s; see whether the replies arrive at its switch port (filters such as DHCP snooping drop them), and whether its firmware may boot that way%s", times(p.asked), who, p.told, again)
	case p.asked > 0 && p.mute != "":
		return fmt.Sprintf("asked %s and got no answer: it %s%s", times(p.asked), p.mute, again)
	case p.asked > 0:
		return fmt.Sprintf("asked %s and got no answer yet%s", times(p.asked), again)
	case p.other != "":
		return p.other
	case p.naks > 0 && !p.address:
		return fmt.Sprintf("insists on an address that is not its own (%s): %s", times(p.naks), p.nak)
	case p.failed != "":
		return p.failed + again
	case p.system:
		return fmt.Sprintf("runs what it fetched (%s), which asked for an address %v ago and has not reported: HTTPS from it to this server may be filtered, or its clock be far off%s", p.kernel, ago, again)
	case p.kernel != "":
		return fmt.Sprintf("fetched %s %v ago, and its kernel has not reported: look at its console for a panic, too little memory, or a NIC without a driver%s", p.kernel, ago, again)
	case p.leaves != "":
		return p.leaves + again
	case p.script && p.signed && p.loader == "":
		return fmt.Sprintf("was told by its script %v ago to start the signed loader, and never asked for it: TFTP from it to this server may be filtered%s", ago, again)
	case p.script && p.grub:
		return fmt.Sprintf("fetched its GRUB configuration %v ago and no kernel: TFTP from it to this server may be filtered, or GRUB ran out of memory; its console says%s", ago, again)
	case p.script && !p.signed:
		return fmt.Sprintf("fetched its script %v ago and no kernel: HTTP from it to this server may be filtered, or iPXE lacks what the script asks%s", ago, again)
	case p.address && p.ipxe && !p.signed:
		return fmt.Sprintf("runs iPXE and was told to fetch %s %v ago, and never asked for it: HTTP from it to this server may be filtered%s", p.told, ago, again)
	case signedLoader(p.loader):
		return fmt.Sprintf("fetched %s %v ago and then nothing came: the firmware or shim refused it (the console says why: not signed by a key of the machine's, or revoked), or it saw no link%s", p.loader, ago, again)
	case p.loader != "":
		return fmt.Sprintf("fetched %s %v ago and then nothing came: the loader did not start (is Secure Boot on?) or saw no link%s", p.loader, ago, again)
	case p.address && p.told != "":
		how := "TFTP (UDP port 69 and those above 1023)"
		switch {
		case strings.HasPrefix(p.told, "https://"):
			return fmt.Sprintf("was told to fetch %s %v ago, and never asked for it: its firmware does not trust this server's certificate (enrol the site's CA in its TLS settings) or has the wrong time, or HTTPS from it to this server is filtered%s", p.told, ago, again)
		case strings.HasPrefix(p.told, "http://"):
			how = "HTTP"
		}
		return fmt.Sprintf("was told to fetch %s %v ago, and never asked for it: %s from it to this server may be filtered%s", p.told, ago, how, again)
	case p.installed:
		return fmt.Sprintf("asked as %s, not as firmware that boots: it started from its disk; put network boot first in its boot order", who)
	case p.address:
		return fmt.Sprintf("has an address and was told of nothing to boot%s", again)
	}
	return ""
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// isBooting tells the words for firmware and boot loaders from those for
// operating systems.
func isBooting(client string) bool {
	for _, name := range []string{pxeName, httpName, iPXEName} {
		if strings.HasPrefix(client, name) {
			return true
		}
	}
	return false
}
