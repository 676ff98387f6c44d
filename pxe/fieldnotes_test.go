package pxe

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Tests of items of FIELD-NOTES, "DHCP and network boot", that no other file
// holds. BOOTING.md has the table of all.

// TestOwnAddressOfEachNetwork is FIELD-NOTES item 2: "Answer from the interface
// that the request came in on, with that subnet's server address."
func TestOwnAddressOfEachNetwork(t *testing.T) {
	a, b := testNetwork(), testNetwork()
	b.Name, b.Prefix, b.Server, b.Gateway = "other", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("198.51.100.1"), netip.Addr{}
	f := newFixture(t, a, b)
	for _, on := range f.order {
		m := decode(t, f.answer(t.Context(), on, ask(dhcpv4.MessageTypeDiscover, uefiOpts), nil))
		if addrOf(m.Options[optServerID]) != on.Server || addrOf(m.ServerIPAddr) != on.Server || m.ServerHostName != on.Server.String() {
			t.Errorf("on %s: 54 %v, siaddr %v, sname %q; want %v", on.Name, m.ServerIdentifier(), m.ServerIPAddr, m.ServerHostName, on.Server)
		}
		six := ask(dhcpv4.MessageTypeDiscover, ipxeOpts)
		if m := decode(t, f.answer(t.Context(), on, six, nil)); !strings.HasPrefix(m.BootFileName, "http://"+on.Server.String()+"/") {
			t.Errorf("on %s: script at %s; want it at %v", on.Name, m.BootFileName, on.Server)
		}
	}
}

// TestOneMachineManyIdentifiers is FIELD-NOTES item 5: "Firmware, iPXE and the
// OS send different option 61 for the same NIC: key on the MAC."
func TestOneMachineManyIdentifiers(t *testing.T) {
	f := newFixture(t)
	for name, opts := range map[string]map[byte][]byte{
		"firmware without one":  uefiOpts,
		"iPXE's MAC":            {optUserClass: []byte("iPXE"), optVendorClass: []byte(classBIOS), optClientID: append([]byte{1}, testMAC...)},
		"an OS with its DUID":   {optClientID: {0xff, 1, 2, 3, 4, 0, 1, 0, 1, 0x2a, 0x2b, 0x2c, 0x2d, 9, 9, 9, 9, 9, 9}},
		"a name":                {optClientID: []byte("\x00node-1")},
		"another machine's MAC": {optClientID: {1, 2, 0, 0, 0, 0, 9}},
	} {
		m := decode(t, f.ask(dhcpv4.MessageTypeDiscover, opts))
		if addrOf(m.YourIPAddr) != testAddr || !bytes.Equal(m.Options[optClientID], opts[optClientID]) {
			t.Errorf("%s: %v, option 61 %x; want %v and its own identifier", name, m.YourIPAddr, m.Options[optClientID], testAddr)
		}
	}
}

// TestReplyDelay is FIELD-NOTES item 16: "Clients retry at 4, 8, 16, 32 s. Some
// ROMs fail on instant replies: a per-network reply delay helps."
func TestReplyDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testNetwork()
		n.ReplyDelay = 300 * time.Millisecond
		f := newFixture(t, n)
		f.now = time.Now
		c := newFakeConn("0.0.0.0:67")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.ServeDHCP(ctx, "prov", c) }()
		for _, wait := range []time.Duration{4, 8, 16, 32} {
			asked := time.Now()
			c.in <- datagram{b: ask(dhcpv4.MessageTypeDiscover, uefiOpts), addr: c.local}
			<-c.out
			if took := time.Since(asked); took != n.ReplyDelay {
				t.Errorf("answered after %v; want %v", took, n.ReplyDelay)
			}
			time.Sleep(wait * time.Second)
		}
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "boot.stalled" }); !ok || !strings.Contains(e.Text, "asked 4 times and took no offer") {
			t.Errorf("timeline says %q after four tries; want that no offer was taken\n%s", e.Text, f.timeline.text())
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeDHCP = %v; want nil", err)
		}
	})
}

// TestBMCsAsk is FIELD-NOTES item 21: "BMCs ask for leases too: vendor classes
// `iDRAC`, `CPQRIB3`, `NVIDIA/BF/BMC` and others tell them apart." They get an
// address and nothing to boot, and nobody is asked what they boot.
func TestBMCsAsk(t *testing.T) {
	for _, class := range []string{"iDRAC", "CPQRIB3", "NVIDIA/BF/BMC", "udhcp 1.30.1"} {
		f := newFixture(t)
		m := decode(t, f.ask(dhcpv4.MessageTypeDiscover, map[byte][]byte{optVendorClass: []byte(class)}))
		if addrOf(m.YourIPAddr) != testAddr || m.BootFileName != "" || m.Options[optVendorClass] != nil || len(f.asked) > 0 {
			t.Errorf("%s: address %v, file %q, class %q, Booter asked %d times; want an address alone", class, m.YourIPAddr, m.BootFileName, m.Options[optVendorClass], len(f.asked))
		}
		if e, _ := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.discover" }); e.Client != "a client of class "+strconv.Quote(class) {
			t.Errorf("timeline names %q; want its class %q", e.Client, class)
		}
		if c, ok := f.clients.of(net.HardwareAddr(testMAC)); !ok || c.VendorClass != class {
			t.Errorf("client %+v; want class %q", c, class)
		}
	}
}

// TestFieldNotesTable keeps BOOTING.md's table true: every item of FIELD-NOTES
// has tests that exist.
func TestFieldNotesTable(t *testing.T) {
	text, err := os.ReadFile("BOOTING.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, dir := range []string{".", "../provision", "../site"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file.Name(), "_test.go") {
				continue
			}
			b, err := os.ReadFile(dir + "/" + file.Name())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(b, -1) {
				tests[string(m[1])] = true
			}
		}
	}
	row := regexp.MustCompile("^\\| (\\d+) \\|.*\\| ([^|]*) \\|$")
	seen := map[int]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		m := row.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		item, _ := strconv.Atoi(m[1])
		names := regexp.MustCompile(`Test\w+`).FindAllString(m[2], -1)
		seen[item] = len(names) > 0
		for _, name := range names {
			if !tests[name] {
				t.Errorf("BOOTING.md: item %d names %s, which is no test", item, name)
			}
		}
	}
	var missing []string
	for item := 1; item <= 22; item++ {
		if !seen[item] {
			missing = append(missing, fmt.Sprint(item))
		}
	}
	if len(missing) > 0 {
		t.Errorf("BOOTING.md has no test for items %s of FIELD-NOTES", strings.Join(missing, ", "))
	}
}
