package pxe

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// get asks the handler as a client at an address would.
func (f *fixture) get(method, target, from string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://192.0.2.1/", nil)
	r.URL.Path, r.URL.RawQuery, _ = strings.Cut(target, "?")
	r.RemoteAddr = from + ":4000"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	return w
}

func TestHTTP(t *testing.T) {
	for _, tc := range []struct {
		name, method, target string
		header               []string
		status               int
		length, body         string
	}{
		{"file", "GET", "/boot/files/agent/vmlinuz", nil, 200, "6", "kernel"},
		{"item 18: HEAD has a Content-Length", "HEAD", "/boot/files/loaders/snponly.efi", nil, 200, "11", ""},
		{"item 18: no redirect from a double slash", "GET", "//boot//files/agent//vmlinuz", nil, 200, "6", "kernel"},
		{"range", "GET", "/boot/files/agent/vmlinuz", []string{"Range", "bytes=1-2"}, 206, "2", "er"},
		{"range past the end", "GET", "/boot/files/agent/vmlinuz", []string{"Range", "bytes=99-"}, 416, "", ""},
		{"missing", "GET", "/boot/files/agent/nope", nil, 404, "26", "no such file: agent/nope\n"},
		{"out of the root", "GET", "/boot/files/../../etc/passwd", nil, 400, "", ""},
		{"a folder", "GET", "/boot/files/agent", nil, 404, "", ""},
		{"elsewhere", "GET", "/", nil, 400, "", ""},
		{"elsewhere", "GET", "/api/machines", nil, 404, "", ""},
		{"writing", "PUT", "/boot/files/agent/vmlinuz", nil, 405, "", ""},
		{"no MAC", "GET", "/boot/script/zz", nil, 400, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			w := f.get(tc.method, tc.target, "192.0.2.10", tc.header...)
			if w.Code != tc.status {
				t.Fatalf("%s %s = %d %s; want %d", tc.method, tc.target, w.Code, w.Body, tc.status)
			}
			if got := w.Header().Get("Content-Length"); tc.length != "" && got != tc.length {
				if tc.status != 404 {
					t.Errorf("Content-Length = %q; want %q", got, tc.length)
				}
			}
			if tc.body != "" && w.Body.String() != tc.body || tc.method == "HEAD" && w.Body.Len() > 0 {
				t.Errorf("body = %q; want %q", w.Body, tc.body)
			}
			if len(f.timeline.all) != 1 {
				t.Errorf("%d exchanges recorded; want 1", len(f.timeline.all))
			}
		})
	}
}

func TestHTTPKnowsTheMachine(t *testing.T) {
	f := newFixture(t)
	f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classBIOS), optArch: arch(0), optUserClass: []byte("iPXE"), optServerID: {192, 0, 2, 1}, optRequestedAddr: {192, 0, 2, 10}})
	f.get("GET", "/boot/files/agent/vmlinuz", "192.0.2.10")
	e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "http.get" })
	if !ok || e.MAC.String() != testMAC.String() || e.Bytes != 6 || e.Network != "prov" || !strings.Contains(e.Text, "fetched agent/vmlinuz by HTTP: 6 bytes") {
		t.Errorf("recorded %+v; want 6 bytes of agent/vmlinuz by %v", e, testMAC)
	}
}

func TestScript(t *testing.T) {
	for _, tc := range []struct {
		name     string
		decision Decision
		want     []string
		never    []string
	}{
		{"kernel", Decision{Action: BootKernel, Kernel: "agent/sha256-ab/vmlinuz", Initrds: []string{"agent/a b$", "agent/c"}, Cmdline: "console=ttyS0 quiet --- x", Reason: "to be ${inspected} || not"},
			[]string{
				"#!ipxe\n",
				"iseq ${platform} efi && set ramdisks initrd=r0 initrd=r1 ||\n",
				"imgfetch --name vmlinuz http://192.0.2.1/boot/files/agent/sha256-ab/vmlinuz ${ramdisks} console=ttyS0 quiet --- x || goto wait1\n",
				"set unfit wait1\niseq ${platform} efi && set unfit refused ||\n", "imgselect vmlinuz || goto ${unfit}\n", "set unfit giveup\n",
				"chain --replace http://192.0.2.1/boot/script/52:54:00:01:02:03?refused=1&platform=${platform}&arch=${buildarch} || goto giveup\n",
				"initrd --name r0 http://192.0.2.1/boot/files/agent/a%20b%24 || goto wait1\n",
				"initrd --name r1 http://192.0.2.1/boot/files/agent/c || goto giveup\n",
				"boot || goto ${unfit}\n", ":giveup\n", "\nexit 1\n", "echo fettle: to be $ {inspected} - not\n",
			}, []string{"try5", "${inspected}"}},
		{"disk", Decision{Action: BootDisk, Reason: "ready"},
			[]string{"iseq ${platform} efi && exit 1 ||\n", "sanboot --no-describe --drive 0x80 ||", "exit 1\n"}, []string{"kernel"}},
		{"ignore", Decision{Action: Ignore}, []string{"nothing to boot", "exit 1\n"}, []string{"kernel", "sanboot"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.decision = tc.decision
			w := f.get("GET", "/boot/script/52:54:00:01:02:03", "192.0.2.10")
			got := w.Body.String()
			for _, s := range tc.want {
				if !strings.Contains(got, s) {
					t.Errorf("script lacks %q:\n%s", s, got)
				}
			}
			for _, s := range tc.never {
				if strings.Contains(got, s) {
					t.Errorf("script has %q:\n%s", s, got)
				}
			}
			if !strings.HasSuffix(got, "exit 1\n") {
				t.Errorf("script does not end with exit 1, so firmware would stay in its menu (item 19):\n%s", got)
			}
			checkLabels(t, got)
			c := f.asked[0]
			if c.MAC.String() != testMAC.String() || !c.IPXE || c.Addr != testAddr {
				t.Errorf("Booter was asked for %+v; want iPXE at %v", c, testAddr)
			}
		})
	}
}

// checkLabels finds a goto without its label: iPXE would stop there.
func checkLabels(t *testing.T, script string) {
	t.Helper()
	for _, line := range strings.Split(script, "\n") {
		if _, label, ok := strings.Cut(line, "goto "); ok {
			label, _, _ = strings.Cut(label, " ")
			if label == "${unfit}" {
				continue // every "set unfit" is looked at below
			}
			if !strings.Contains(script, "\n:"+label+"\n") {
				t.Errorf("no label %q for %q", label, line)
			}
		}
		if _, label, ok := strings.Cut(line, "set unfit "); ok {
			if label, _, _ = strings.Cut(label, " "); !strings.Contains(script, "\n:"+label+"\n") {
				t.Errorf("no label %q for %q", label, line)
			}
		}
	}
}

// TestSignedScript: iPXE whose firmware starts nothing but what is signed is sent
// to the signed loader: because the Booter says so, or because it was not let
// start its kernel, of which it tells.
func TestSignedScript(t *testing.T) {
	const path, refused = "/boot/script/52:54:00:01:02:03", "?refused=1&platform=efi&arch=x86_64"
	shim := []string{
		"set netX/next-server 192.0.2.1\nset netX/filename shimx64.efi\n",
		"chain tftp://192.0.2.1/shimx64.efi || goto wait1\nexit 1\n", "chain tftp://192.0.2.1/shimx64.efi || goto giveup\nexit 1\n", ":giveup\n",
	}
	for _, tc := range []struct {
		name   string
		loader Loader
		ask    map[byte][]byte // by DHCP; nil: the server was started since
		urls   []string        // the last one's script is looked at
		want   []string
		never  string
		says   bool // that the kernel was refused
	}{
		{"the site says signed", LoaderSigned, ipxeUEFI, []string{""}, shim, "imgfetch", false},
		{"nobody says", LoaderDefault, ipxeUEFI, []string{""}, []string{"imgfetch"}, "shim", false},
		{"the kernel was refused", LoaderDefault, ipxeUEFI, []string{refused}, shim, "imgfetch", true},
		{"and from then on", LoaderDefault, ipxeUEFI, []string{refused, ""}, shim, "imgfetch", true},
		{"the site says iPXE, and the kernel was refused", LoaderSNP, ipxeUEFI, []string{refused}, shim, "imgfetch", true},
		{"refused, after a restart of the server", LoaderDefault, nil, []string{refused}, shim, "imgfetch", true},
		{"refused, and there is no signed loader", LoaderDefault, nil, []string{"?refused=1&platform=efi&arch=i386"}, []string{"there is none for", "exit 1\n"}, "imgfetch", true},
		{"a BIOS", LoaderDefault, ipxeOpts, []string{"?refused=1&platform=pcbios"}, []string{"imgfetch"}, "shim", false},
		{"a BIOS of a machine that boots by signed loaders", LoaderSigned, ipxeOpts, []string{""}, []string{"imgfetch"}, "shim", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.decision.Loader = tc.loader
			if tc.ask != nil {
				take(f, tc.ask)
			}
			got := ""
			for _, url := range tc.urls {
				got = f.get("GET", path+url, "192.0.2.10").Body.String()
			}
			for _, s := range tc.want {
				if !strings.Contains(got, s) {
					t.Errorf("script lacks %q:\n%s", s, got)
				}
			}
			if strings.Contains(got, tc.never) || !strings.HasSuffix(got, "exit 1\n") {
				t.Errorf("script has %q, or does not end with exit 1:\n%s", tc.never, got)
			}
			checkLabels(t, got)
			if _, ok := f.timeline.find(func(e Exchange) bool {
				return e.Kind == "boot.refused" && strings.Contains(e.Text, "its firmware refuses unsigned kernels (Secure Boot on)")
			}); ok != tc.says {
				t.Errorf("the timeline tells of a refused kernel: %v; want %v:\n%s", ok, tc.says, f.timeline.text())
			}
			if tc.says && tc.ask != nil {
				// Firmware of its own is then given it too, although iPXE runs there.
				f.ask(dhcpv4.MessageTypeDiscover, tc.ask)
				f.decision.Loader = LoaderDefault
				if got := decode(t, f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)).BootFileNameOption(); got != loaderShim {
					t.Errorf("the firmware's PXE is offered %q; want %q", got, loaderShim)
				}
			}
		})
	}
	// Its firmware may be a BIOS the next time.
	bios := newFixture(t)
	take(bios, ipxeUEFI)
	bios.get("GET", path+refused, "192.0.2.10")
	take(bios, ipxeOpts)
	if got := bios.get("GET", path, "192.0.2.10").Body.String(); !strings.Contains(got, "imgfetch") {
		t.Errorf("script of a BIOS whose UEFI had refused a kernel:\n%s", got)
	}
	// A machine that is to boot its disk by now is not asked whether it may.
	f := newFixture(t)
	f.decision = Decision{Action: BootDisk}
	if got := f.get("GET", path+refused, "192.0.2.10").Body.String(); !strings.Contains(got, "booting from disk") {
		t.Errorf("script of a machine that boots its disk:\n%s", got)
	}
}

// TestSignedScriptIPv6: iPXE tells shim nothing of IPv6. Where it may have an
// IPv4 address too it looks; else it tries its kernel, and leaves when that is
// refused.
func TestSignedScriptIPv6(t *testing.T) {
	both := testNetwork()
	both.IPv6 = testNetwork6().IPv6
	for _, tc := range []struct {
		name    string
		network Network
		query   string
		want    []string
		never   string
	}{
		{"IPv4 too", both, "", []string{"isset ${netX/ip} || goto no4\n", "chain tftp://192.0.2.1/shimx64.efi", ":no4\n"}, "imgfetch"},
		{"IPv6 alone", testNetworkOnly6(), "", []string{"imgfetch"}, "shimx64"},
		{"IPv6 alone, and the kernel was refused", testNetworkOnly6(), "&refused=1", []string{"iPXE tells shimx64.efi nothing of IPv6; put the firmware's own PXE over IPv6 before iPXE in its boot order"}, "chain"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, tc.network)
			f.decision.Loader = LoaderSigned
			got := f.get("GET", "/boot/script/52:54:00:01:02:03?platform=efi&arch=x86_64"+tc.query, "[2001:db8::10]").Body.String()
			for _, s := range append(tc.want, "\nexit 1\n") {
				if !strings.Contains(got, s) {
					t.Errorf("script lacks %q:\n%s", s, got)
				}
			}
			if strings.Contains(got, tc.never) {
				t.Errorf("script has %q:\n%s", tc.never, got)
			}
			checkLabels(t, got)
		})
	}
}

func TestScriptIsForItsMachine(t *testing.T) {
	f := newFixture(t)
	f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classBIOS), optUserClass: []byte("iPXE"), optServerID: {192, 0, 2, 1}, optRequestedAddr: {192, 0, 2, 10}})
	if w := f.get("GET", "/boot/script/52:54:00:01:02:03", "192.0.2.11"); w.Code != http.StatusForbidden {
		t.Errorf("script from another address = %d; want 403: kernel arguments may carry a token", w.Code)
	}
	if w := f.get("GET", "/boot/script/52-54-00-01-02-03", "192.0.2.10"); w.Code != http.StatusOK {
		t.Errorf("script from the machine's address = %d; want 200", w.Code)
	}
}

func TestTroubleScript(t *testing.T) {
	f := newFixture(t)
	for name, spoil := range map[string]func(){
		"Booter's error":   func() { f.decision.Action, f.bootErr = BootKernel, errors.New("the store is down") },
		"unusable cmdline": func() { f.bootErr, f.decision.Cmdline = nil, "a ${uuid}" },
		"two lines":        func() { f.bootErr, f.decision.Cmdline = nil, "a\nexit" },
		"word of iPXE":     func() { f.bootErr, f.decision.Cmdline = nil, "a || b" },
		"no kernel":        func() { f.bootErr, f.decision = nil, Decision{Action: BootKernel} },
	} {
		spoil()
		w := f.get("GET", "/boot/script/52:54:00:01:02:03?try=3", "192.0.2.10")
		if w.Code != 200 || !strings.Contains(w.Body.String(), "chain --replace http://192.0.2.1/boot/script/52:54:00:01:02:03?try=4 || exit 1\n") {
			t.Errorf("%s: %d %s; want a script that asks again", name, w.Code, w.Body)
		}
		w = f.get("GET", "/boot/script/52:54:00:01:02:03?try=10", "192.0.2.10")
		if strings.Contains(w.Body.String(), "chain") || !strings.HasSuffix(w.Body.String(), "exit 1\n") {
			t.Errorf("%s: the tenth script is %s; want one that gives up", name, w.Body)
		}
	}
}

func TestAutoexec(t *testing.T) {
	// Item 19: iPXE 2.0 fetches it from its loader's own directory.
	f := newFixture(t)
	for _, target := range []string{"/boot/autoexec.ipxe", "/boot/files/loaders/autoexec.ipxe"} {
		w := f.get("GET", target, "192.0.2.10")
		if !strings.Contains(w.Body.String(), "chain --replace http://192.0.2.1/boot/script/${netX/mac}?") {
			t.Errorf("%s = %d %s; want a chain to the script", target, w.Code, w.Body)
		}
		checkLabels(t, w.Body.String())
	}
	file, name, err := f.openTFTP(t.Context(), f.order[0], testAddr, "/autoexec.ipxe")
	if err != nil || name != autoexecName || file.Size == 0 {
		t.Errorf("openTFTP(/autoexec.ipxe) = %q, %v; want the script", name, err)
	}
}

// TestHTTPBroken cuts a connection in the middle of a file.
func TestHTTPBroken(t *testing.T) {
	f := newFixture(t)
	f.files = mapFiles{"agent/big": pattern(32 << 20)}
	f.timeline.notify = make(chan struct{}, 1)
	srv := httptest.NewServer(f.Handler())
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /boot/files/agent/big HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, 100000)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-f.timeline.notify
	e, _ := f.timeline.find(func(Exchange) bool { return true })
	if e.Err == nil || !strings.Contains(e.Text, "connection ended after") || e.Bytes >= 32<<20 {
		t.Errorf("recorded %+v; want a transfer that ended early", e)
	}
}

// readerFrom is a connection's side of sendfile.
type readerFrom struct {
	*httptest.ResponseRecorder
	got string
}

func (r *readerFrom) ReadFrom(src io.Reader) (int64, error) {
	if l, ok := src.(*io.LimitedReader); ok {
		src = l.R
	}
	r.got = fmt.Sprintf("%T", src)
	return io.Copy(r.ResponseRecorder, src)
}

// TestSendfile: the *os.File itself reaches the connection's ReadFrom.
func TestSendfile(t *testing.T) {
	f := newFixture(t)
	f.files = mapFiles{"a": "@http_test.go"}
	w := &readerFrom{ResponseRecorder: httptest.NewRecorder()}
	f.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/boot/files/a", nil))
	if w.got != "*os.File" || w.Body.Len() == 0 || f.timeline.all[0].Bytes != int64(w.Body.Len()) {
		t.Errorf("the connection was given a %s, %d bytes, recorded %d; want the *os.File", w.got, w.Body.Len(), f.timeline.all[0].Bytes)
	}
}
