package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

// nothing answers a boot server's questions with nothing.
type nothing struct{}

func (nothing) Boot(context.Context, pxe.Client) (pxe.Decision, error) {
	return pxe.Decision{Action: pxe.Ignore}, nil
}
func (nothing) Offer(context.Context, pxe.Client, netip.Addr) (pxe.Lease, error) {
	return pxe.Lease{}, pxe.ErrNoLease
}
func (nothing) Commit(context.Context, pxe.Client, netip.Addr) (pxe.Lease, error) {
	return pxe.Lease{}, pxe.ErrNoLease
}
func (nothing) Release(context.Context, pxe.Client, netip.Addr) error { return nil }
func (nothing) Decline(context.Context, pxe.Client, netip.Addr) error { return nil }
func (nothing) Open(context.Context, string) (*pxe.File, error)       { return nil, fs.ErrNotExist }

func exampleSite(t *testing.T) *site.Site {
	t.Helper()
	s, err := site.Load("../../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBootCapture(t *testing.T) {
	s := exampleSite(t)
	dir := t.TempDir()
	sv := &services{site: func() *site.Site { return s }, apiPath: filepath.Join(dir, "api.sock"), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	capture := pxe.NewCapture()
	px, err := pxe.New(pxe.Config{Networks: pxeNetworks(sv.bootNetworksOf(s)), Booter: nothing{}, Leases: nothing{}, Files: nothing{}, Capture: capture})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g, ctx := errgroup.WithContext(ctx)
	if err := sv.serveCapture(ctx, g, capture); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Errorf("serving captures = %v; want nil after its context ended", err)
		}
	}()
	api := sv.apiPath
	if status, _, errOut := commandLine(t.Context(), "", false, "boot", "capture", "--server", api, "-w", filepath.Join(dir, "x"), "gpu-77"); status != exitFailed || !strings.Contains(errOut, "gpu-77") {
		t.Errorf("capture of an unknown machine = %d, %q; want %d and its name", status, errOut, exitFailed)
	}
	if status, _, errOut := commandLine(t.Context(), "", false, "boot", "capture", "--server", filepath.Join(dir, "none", "api.sock"), "-w", "-"); status != exitMissing || !strings.Contains(errOut, "fettle serve") {
		t.Errorf("capture without a server = %d, %q; want %d and what to start", status, errOut, exitMissing)
	}
	if status, _, errOut := commandLine(t.Context(), "", false, "boot", "capture", "--server", "https://example.org", "-w", "-"); status != exitUsage || !strings.Contains(errOut, "machine that serves") {
		t.Errorf("capture from elsewhere = %d, %q; want %d", status, errOut, exitUsage)
	}

	file := filepath.Join(dir, "boot.pcapng")
	type result struct {
		status int
		text   string
	}
	ended := make(chan result, 1)
	capCtx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		status, _, errOut := commandLine(capCtx, "", false, "boot", "capture", "--server", api, "-w", file)
		ended <- result{status, errOut}
	}()
	// The server streams once the file's header is there.
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for size := int64(0); size == 0; {
		if st, err := os.Stat(file); err == nil {
			size = st.Size()
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("no capture began in 10 s")
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/boot/files/nope", nil)
	r.RemoteAddr = sv.bootNetworksOf(s)[0].Prefix.Addr().Next().Next().String() + ":1025"
	px.Handler().ServeHTTP(httptest.NewRecorder(), r)
	stop()
	select {
	case got := <-ended:
		if got.status != exitOK || !strings.Contains(got.text, "bytes captured") {
			t.Errorf("an interrupted capture = %d, %q; want 0: that is how one ends", got.status, got.text)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the capture did not end with Ctrl-C")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	packets, err := pxe.ReadCapture(bytes.NewReader(b))
	if err != nil || len(packets) != 2 || !strings.HasPrefix(string(packets[0].Data), "GET /boot/files/nope") || !strings.HasPrefix(string(packets[1].Data), "HTTP/1.1 404") {
		t.Errorf("capture = %+v, %v; want the request and its answer", packets, err)
	}
	if status, _, errOut := commandLine(t.Context(), "", false, "boot", "capture", "--server", api, "-w", file); status != exitRefused || !strings.Contains(errOut, file) {
		t.Errorf("capture to a file that is there = %d, %q; want %d", status, errOut, exitRefused)
	}
}

func TestCaptureMACs(t *testing.T) {
	s := exampleSite(t)
	m := s.Machines[0]
	got, err := captureMACs(s, []string{m.Name, "02:00:00:00:00:09"})
	if err != nil || len(got) != len(m.NICs)+1 || got[0].String() != m.NICs[0].MAC.String() || got[len(got)-1].String() != "02:00:00:00:00:09" {
		t.Errorf("captureMACs(%s, a MAC) = %v, %v", m.Name, got, err)
	}
	if got, err := captureMACs(s, nil); got != nil || err != nil {
		t.Errorf("captureMACs() = %v, %v; want nil for everybody", got, err)
	}
}

// exampleCapture is a file with the DISCOVER and REQUEST of a machine of the
// example, the latter to a server of another site.
func exampleCapture(t *testing.T, mac net.HardwareAddr) string {
	t.Helper()
	from, to := netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67")
	var packets []pxe.Packet
	for i, mods := range [][]dhcpv4.Modifier{
		{dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover)},
		{dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 99))), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 0, 2, 50)))},
	} {
		mods = append(mods, dhcpv4.WithHwAddr(mac), dhcpv4.WithGeneric(dhcpv4.OptionClassIdentifier, []byte("PXEClient:Arch:00007:UNDI:003000")),
			dhcpv4.WithGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 7}))
		p, err := dhcpv4.New(mods...)
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, pxe.Packet{Time: time.Date(2026, 11, 21, 12, 0, i, 0, time.UTC), MAC: mac, From: from, To: to, Data: p.ToBytes()})
	}
	file := filepath.Join(t.TempDir(), "boot.pcapng")
	var b bytes.Buffer
	if err := errors.Join(pxe.WriteCapture(&b, packets), os.WriteFile(file, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestBootReplay(t *testing.T) {
	s := exampleSite(t)
	m := s.Machines[0]
	nic := m.NICs[0]
	file := exampleCapture(t, net.HardwareAddr(nic.MAC[:]))
	replay := func(args ...string) (int, string, string) {
		return commandLine(t.Context(), "", false, append([]string{"boot", "replay", "--site", s.Dir, "--store", t.TempDir() + "/none"}, args...)...)
	}
	status, out, errOut := replay(file)
	for _, want := range []string{m.Name + ": DHCP DISCOVER from PXE firmware (UEFI x64)", "address " + nic.Address.String(), "file snponly.efi", "1 255.255.255.0", "as if it took ours", "DHCP ACK"} {
		if status != exitOK || !strings.Contains(out, want) {
			t.Errorf("fettle boot replay = %d, %q; want %q in\n%s", status, errOut, want, out)
		}
	}
	if status, out, _ := replay("--as", "disk", file); status != exitOK || !strings.Contains(out, "file next-boot-device") {
		t.Errorf("fettle boot replay --as disk = %d; want the file that does not exist:\n%s", status, out)
	}
	status, out, _ = replay("--output", "json", file)
	var a pxe.Answer
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&a); status != exitOK || err != nil || a.Number != 1 || a.Machine != nic.MAC.String() || len(a.Options) == 0 {
		t.Errorf("fettle boot replay --output json = %d, %+v, %v", status, a, err)
	}
	// A machine that the site does not know is inspected, with a pool's address.
	status, out, _ = replay(exampleCapture(t, net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	if pool := s.Networks[0].Pools; status != exitOK || len(pool) > 0 && !strings.Contains(out, "address "+pool[0].From.String()) {
		t.Errorf("replay of a stranger = %d:\n%s; want an address of pool %v", status, out, pool)
	}
	for _, tc := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, exitUsage, "one capture"},
		{[]string{"--as", "other", file}, exitUsage, "--as"},
		{[]string{"--network", "other", file}, exitUsage, "other"},
		{[]string{filepath.Join(s.Dir, "site.yaml")}, exitInput, "tcpdump -w"},
		{[]string{file + ".none"}, exitInput, "no such file"},
	} {
		if status, _, errOut := replay(tc.args...); status != tc.status || !strings.Contains(errOut, tc.want) {
			t.Errorf("fettle boot replay %v = %d, %q; want %d, %q", tc.args, status, errOut, tc.status, tc.want)
		}
	}
}
