package bmc

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// dialOnly reaches a Redfish and an IPMI service, and refuses all else.
func dialOnly(tcp, udp netip.AddrPort) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := netip.AddrPort{}
		switch {
		case network == "udp":
			to = udp
		case strings.HasSuffix(addr, ":443"):
			to = tcp
		}
		if !to.IsValid() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return new(net.Dialer).DialContext(ctx, network, to.String())
	}
}

func TestProbe(t *testing.T) {
	ipmi := newIPMIRig(t, vbmc.Config{})
	rig := newRig(t)
	target := rig.target()
	for _, tc := range []struct {
		name     string
		tcp, udp netip.AddrPort
		want     Answer
		ok       bool
	}{
		{name: "nothing"},
		{name: "Redfish", tcp: target.Address, want: Answer{Redfish: "1.", Trusted: true}, ok: true},
		{name: "IPMI", udp: ipmi.Address, want: Answer{IPMI: true}, ok: true},
		{name: "both", tcp: target.Address, udp: ipmi.Address, want: Answer{Redfish: "1.", IPMI: true, Trusted: true}, ok: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, ok := Probe(t.Context(), target.Address.Addr(), ProbeOptions{Dial: dialOnly(tc.tcp, tc.udp), RootCAs: target.RootCAs, Timeout: 20 * time.Second})
			if ok != tc.ok || a.IPMI != tc.want.IPMI || a.Trusted != tc.want.Trusted || !strings.HasPrefix(a.Redfish, tc.want.Redfish) || (a.Redfish == "") != (tc.want.Redfish == "") {
				t.Errorf("Probe() = %+v, %v; want %+v, %v", a, ok, tc.want, tc.ok)
			}
			if a.Redfish != "" && len(a.Fingerprint) != 64 {
				t.Errorf("Probe() has the fingerprint %q; want 64 hex digits", a.Fingerprint)
			}
		})
	}
	if n := rig.posts("/redfish/v1/SessionService/Sessions"); n != 0 {
		t.Errorf("probing logged in %d times; want never", n)
	}
}

// TestProbeTrees reads the service roots of real BMCs.
func TestProbeTrees(t *testing.T) {
	for name, want := range map[string]Answer{
		"dell":         {Vendor: "Dell", Product: "Integrated Dell Remote Access Controller", Serial: "F54P1G3", MAC: "b0:7b:25:d6:51:82", Redfish: "1.13.1"},
		"lenovo":       {Vendor: "Lenovo", Redfish: "1.15.0", UUID: "6173ECEC-6EF5-11EE-834A-0A8FC3A58A71"},
		"nvidia_gb200": {Vendor: "NVIDIA", Product: "GB200 NVL", Redfish: "1.17.0", UUID: "64f913aa-8e7b-4d75-b3df-d8be0452706e"},
	} {
		b, err := os.ReadFile(filepath.Join("testdata", "roots", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var a Answer
		if err := a.read(b); err != nil || a != want {
			t.Errorf("%s: read() = %+v, %v; want %+v", name, a, err, want)
		}
	}
	a := Answer{Certificate: "idrac-F54P1G3"}
	if err := a.read([]byte(`{"RedfishVersion":"1.0","Systems":{"@odata.id":"/redfish/v1/Systems"},"Oem":{"Hpe":{"Manager":[{"ManagerFirmwareVersion":"2.72","ManagerType":"iLO 5"}]}}}`)); err != nil || a.Serial != "F54P1G3" || a.Firmware != "2.72" || a.Vendor != "HPE" {
		t.Errorf("read() = %+v, %v; want the serial of the certificate and iLO's firmware", a, err)
	}
}

// TestProbeOthers: what answers HTTP and is no BMC is none.
func TestProbeOthers(t *testing.T) {
	for name, body := range map[string]string{
		"HTML": "<html>hello</html>", "other JSON": `{"hello":1}`, "empty": "", "half": `{"RedfishVersion":"1.0"`, "list": `[1,2]`,
		"huge": `{"RedfishVersion":"` + strings.Repeat("9", 2<<20) + `"}`,
	} {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(body)) }))
		at := netip.MustParseAddrPort(srv.Listener.Addr().String())
		if a, ok := Probe(t.Context(), at.Addr(), ProbeOptions{Dial: dialOnly(at, netip.AddrPort{}), Timeout: 2 * time.Second}); ok {
			t.Errorf("%s: Probe() = %+v; want nothing", name, a)
		}
		srv.Close()
	}
}

// TestScan looks at every host address once, within its bounds.
func TestScan(t *testing.T) {
	rig := newRig(t)
	at := rig.target().Address
	var mu sync.Mutex
	asked := map[string]bool{}
	var now, most atomic.Int32
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if network == "udp" {
			return nil, syscall.ECONNREFUSED
		}
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		host, _, _ := net.SplitHostPort(addr)
		mu.Lock()
		asked[host] = true
		mu.Unlock()
		if host == "192.0.2.9" || host == "192.0.2.40" {
			return dialOnly(at, netip.AddrPort{})(ctx, network, addr)
		}
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	var found []string
	steps := 0
	err := Scan(t.Context(), []netip.Prefix{netip.MustParsePrefix("192.0.2.0/26"), netip.MustParsePrefix("198.51.100.7/32")},
		ScanOptions{ProbeOptions: ProbeOptions{Dial: dial, Timeout: 20 * time.Second}, Parallel: 4, Rate: 5000},
		func(done, total int, a *Answer) {
			if steps++; done != steps || total != 63 {
				t.Errorf("step %d of %d; want %d of 63", done, total, steps)
			}
			if a != nil {
				found = append(found, a.Addr.String())
			}
		})
	if err != nil || steps != 63 || len(asked) != 63 || asked["192.0.2.0"] || asked["192.0.2.63"] || !asked["198.51.100.7"] {
		t.Errorf("Scan() = %v after %d steps, %d addresses; want the 63 hosts", err, steps, len(asked))
	}
	if len(found) != 2 {
		t.Errorf("Scan() found %v; want 192.0.2.9 and 192.0.2.40", found)
	}
	if most.Load() > 4 {
		t.Errorf("%d addresses at once; want 4 at most", most.Load())
	}
	if err := Scan(t.Context(), []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ScanOptions{}, nil); err == nil {
		t.Error("Scan(10.0.0.0/8) = nil; want a refusal")
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = Scan(ctx, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, ScanOptions{ProbeOptions: ProbeOptions{Dial: dial}, Rate: 1000},
		func(done, _ int, _ *Answer) {
			if done == 5 {
				cancel()
			}
		})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Scan() after its context ended = %v; want context.Canceled", err)
	}
}

func FuzzServiceRoot(f *testing.F) {
	f.Add([]byte(`{"RedfishVersion":"1.0","Systems":{"@odata.id":"/x"},"Oem":{"Dell":{"ServiceTag":"A"}}}`))
	f.Add([]byte(`{"Oem":{"Hpe":{"Manager":[{}]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := Answer{Certificate: "ILOAAAAAAAAAA"}
		if err := a.read(b); err == nil && a.Redfish == "" {
			t.Errorf("read(%q) = nil without a version", b)
		}
	})
}
