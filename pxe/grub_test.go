package pxe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// grubConfigOf is what a machine at an address gets by TFTP.
func (f *fixture) grubConfigOf(t testing.TB, name, from string) string {
	t.Helper()
	file, _, err := f.openTFTP(t.Context(), f.order[0], netip.MustParseAddr(from), name)
	if err != nil {
		t.Fatalf("%s from %s: %v", name, from, err)
	}
	b, err := io.ReadAll(file)
	if err != nil || int64(len(b)) != file.Size {
		t.Fatalf("%s has %d bytes, Size %d: %v", name, len(b), file.Size, err)
	}
	return string(b)
}

// takeAddress makes testAddr the machine's, as firmware.
func (f *fixture) takeAddress() {
	f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(7), optServerID: {192, 0, 2, 1}, optRequestedAddr: {192, 0, 2, 10}})
}

// checkGRUBSyntax asks GRUB's own parser.
func checkGRUBSyntax(t *testing.T, config string) {
	t.Helper()
	needTool(t, "grub-script-check")
	cmd := exec.CommandContext(t.Context(), "grub-script-check")
	cmd.Stdin = strings.NewReader(config)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("grub-script-check: %v: %s\n%s", err, out, config)
	}
}

func TestGRUB(t *testing.T) {
	for _, tc := range []struct {
		name     string
		decision Decision
		want     []string
		never    []string
	}{
		{"kernel", Decision{Action: BootKernel, Kernel: "agent/sha256-ab/vmlinuz", Initrds: []string{"agent/a b$", "agent/c"}, Cmdline: "console=ttyS0 quiet x=$y --- z;reboot", Reason: "it's to be $inspected; halt"},
			[]string{
				"if linux '(tftp,192.0.2.1)/agent/sha256-ab/vmlinuz' 'console=ttyS0' 'quiet' 'x=$y' '---' 'z;reboot'; then\n",
				"if initrd '(tftp,192.0.2.1)/agent/a b$' '(tftp,192.0.2.1)/agent/c'; then\n",
				"echo 'fettle: machine 52:54:00:01:02:03'\n", `echo 'fettle: it'\''s to be $inspected; halt'` + "\n", "(try 4 of 4)", "sleep 6\n",
			}, []string{"try 5"}},
		{"no ramdisk", Decision{Action: BootKernel, Kernel: "k"}, []string{"if linux '(tftp,192.0.2.1)/k'; then\n"}, []string{"initrd"}},
		{"disk", Decision{Action: BootDisk, Reason: "ready"}, []string{"booting from disk", "chainloader $f"}, []string{"linux"}},
		{"ignore", Decision{Action: Ignore}, []string{"nothing to boot", "chainloader $f"}, []string{"linux"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.takeAddress()
			f.decision = tc.decision
			got := f.grubConfigOf(t, "grub/grub.cfg", "192.0.2.10")
			for _, s := range tc.want {
				if !strings.Contains(got, s) {
					t.Errorf("configuration lacks %q:\n%s", s, got)
				}
			}
			for _, s := range tc.never {
				if strings.Contains(got, s) {
					t.Errorf("configuration has %q:\n%s", s, got)
				}
			}
			if !strings.HasSuffix(got, "\nreboot\n") {
				t.Errorf("configuration does not end with a restart, so GRUB would wait at its prompt:\n%s", got)
			}
			checkGRUBSyntax(t, got)
		})
	}
}

// TestGRUBInjection has texts of others (the Booter's reason, an error, the
// network's name) that try to be commands.
func TestGRUBInjection(t *testing.T) {
	for _, evil := range []string{"x'; halt; echo '", "x\nhalt", "x\r\nhalt\n", `x\'; halt #`, "$(halt)", "`halt`", "${halt}", "'", "\x00halt", "é'\nhalt"} {
		n := testNetwork()
		n.Name = evil
		f := newFixture(t, n)
		f.takeAddress()
		f.decision.Reason = evil
		texts := []string{f.grubConfigOf(t, "grub.cfg", "192.0.2.10"), f.grubConfigOf(t, "grub.cfg", "192.0.2.99")}
		f.bootErr = errors.New(evil)
		texts = append(texts, f.grubConfigOf(t, "grub.cfg", "192.0.2.10"))
		for _, text := range texts {
			checkGRUBSyntax(t, text)
			for _, w := range commandsOf(text) {
				if w == "halt" {
					t.Errorf("with %q the configuration has the command halt:\n%s", evil, text)
				}
			}
		}
	}
}

// commandsOf lists the words of a configuration that stand outside of quotes.
func commandsOf(text string) []string {
	var out strings.Builder
	single, double, escaped := false, false, false
	for _, r := range text {
		switch {
		case escaped:
			escaped = false
		case r == '\\' && !single:
			escaped = true
		case r == '\'' && !double:
			single = !single
		case r == '"' && !single:
			double = !double
		case !single && !double:
			out.WriteRune(r)
		}
	}
	return strings.FieldsFunc(out.String(), func(r rune) bool { return strings.ContainsRune(" \t\n;", r) })
}

func FuzzGRUBQuote(f *testing.F) {
	for _, s := range []string{"", "a", "'", "a'b''c", `\'`, "$x", "\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := grubQuote(s)
		if got := strings.ReplaceAll(q[1:len(q)-1], `'\''`, "'"); got != s {
			t.Errorf("grubQuote(%q) = %s; reads as %q", s, q, got)
		}
		if w := commandsOf(q); len(w) != 0 {
			t.Errorf("grubQuote(%q) = %s; %q stands outside of its quotes", s, q, w)
		}
	})
}

// TestGRUBIsForItsMachine: the address that DHCP gave to a MAC decides whose
// configuration it is; nobody else hears kernel arguments.
func TestGRUBIsForItsMachine(t *testing.T) {
	f := newFixture(t)
	f.decision.Cmdline = "token=secret"
	if got := f.grubConfigOf(t, "grub.cfg", "192.0.2.10"); strings.Contains(got, "secret") || !strings.Contains(got, "does not know who has 192.0.2.10") {
		t.Errorf("before DHCP gave the address: %s", got)
	}
	f.takeAddress()
	for _, name := range []string{"grub.cfg", "/grub/grub.cfg", `\EFI\debian\grub.cfg`} {
		if got := f.grubConfigOf(t, name, "192.0.2.10"); !strings.Contains(got, "'token=secret'") {
			t.Errorf("%s for its own machine lacks the arguments:\n%s", name, got)
		}
	}
	if got := f.grubConfigOf(t, "grub.cfg", "192.0.2.11"); strings.Contains(got, "secret") {
		t.Errorf("another address was told the arguments:\n%s", got)
	}
	// GRUB asks for these before; one answer is enough.
	for _, name := range []string{"grub/x86_64-efi/grub.cfg", "grub/arm64-efi/grub.cfg", "grub.cfg-01-52-54-00-01-02-03", "grub-retry/0/grub.cfg", "grub-retry/11/grub.cfg", "grub-retry/x/grub.cfg"} {
		if _, _, err := f.openTFTP(t.Context(), f.order[0], testAddr, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("openTFTP(%s) = %v; want that there is no such file", name, err)
		}
	}
}

func TestGRUBTrouble(t *testing.T) {
	f := newFixture(t)
	f.takeAddress()
	for name, spoil := range map[string]func(){
		"Booter's error": func() { f.bootErr = errors.New("the store is down") },
		"two lines":      func() { f.bootErr, f.decision.Cmdline = nil, "a\nexit" },
		"a quote":        func() { f.bootErr, f.decision.Cmdline = nil, `a="b c"` },
		"no kernel":      func() { f.bootErr, f.decision = nil, Decision{Action: BootKernel} },
	} {
		spoil()
		got := f.grubConfigOf(t, "grub-retry/3/grub.cfg", "192.0.2.10")
		if !strings.Contains(got, "sleep 5\nconfigfile '(tftp,192.0.2.1)/grub-retry/4/grub.cfg'\n") || !strings.HasSuffix(got, "reboot\n") {
			t.Errorf("%s: want a configuration that asks again, got:\n%s", name, got)
		}
		checkGRUBSyntax(t, got)
		if got := f.grubConfigOf(t, "grub-retry/10/grub.cfg", "192.0.2.10"); strings.Contains(got, "configfile") || !strings.HasSuffix(got, "reboot\n") {
			t.Errorf("%s: the tenth is\n%s\nwant one that gives up", name, got)
		}
		if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "boot.undecided" }); !ok {
			t.Errorf("%s: the timeline does not tell", name)
		}
	}
}

// TestCaptureKeepsTokens: a captured transfer of a configuration has none of
// its text.
func TestCaptureKeepsTokens(t *testing.T) {
	f := newFixture(t)
	f.capture = NewCapture()
	conn := &tapConn{PacketConn: newFakeConn("192.0.2.1:1000"), s: f.Server, secret: true, mac: testMAC, local: netip.MustParseAddrPort("192.0.2.1:1000")}
	var got bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.capture.Stream(ctx, &got) }()
	for !f.capture.listens() { // bounded by the test's own time
		runtime.Gosched()
	}
	if _, err := conn.WriteTo([]byte("\x00\x03\x00\x01token=secret"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.10:2000"))); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	if b := got.Bytes(); bytes.Contains(b, []byte("secret")) || !bytes.Contains(b, []byte("\x00\x03\x00\x01")) {
		t.Errorf("the capture holds %q; want the packet without the configuration's text", b)
	}
}

// TestDistrust: UEFI firmware that fetched a loader which nobody signed and
// started again is given the signed one, until iPXE runs on it; what the
// Booter asks for by name it gets.
func TestDistrust(t *testing.T) {
	f := newFixture(t)
	offered := func(opts map[byte][]byte) string {
		return decode(t, f.ask(dhcpv4.MessageTypeDiscover, opts)).BootFileNameOption()
	}
	fetch := func(name string) {
		f.takeAddress()
		f.noteFetch(testAddr, stageLoader, "loaders/"+name)
	}
	for i, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "snponly.efi"},
		{func() {}, "snponly.efi"}, // asked again: nothing was fetched
		{func() { fetch("snponly.efi") }, "shimx64.efi"},
		{func() { fetch("shimx64.efi") }, "shimx64.efi"},
		{func() { f.decision.Loader = LoaderSNP }, "snponly.efi"},
		{func() { f.decision.Loader = LoaderNative }, "ipxe.efi"},
		{func() { f.decision.Loader = LoaderDefault }, "shimx64.efi"},
		{func() { offered(ipxeOpts) }, "snponly.efi"},
	} {
		step.do()
		if got := offered(uefiOpts); got != step.want {
			t.Errorf("step %d: offered %q; want %q\n%s", i, got, step.want, f.timeline.text())
		}
	}
	if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "boot.restarted" }); !ok || !strings.Contains(e.Text, "is given the signed loader from now on") {
		t.Errorf("the timeline says %+v; want why the loader changes", e)
	}
}
