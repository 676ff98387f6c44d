package bmc

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// rig is a virtual BMC behind TLS on loopback.
type rig struct {
	*httptest.Server
	mem *vbmc.Memory
	bmc *vbmc.Server

	mu       sync.Mutex
	requests []string
	before   func(w http.ResponseWriter, r *http.Request) bool // true: answered
}

func testInfo() vbmc.Info {
	return vbmc.Info{
		Name: "gpu-01", UUID: "4c4c4544-0035-3410-8050-c6c04f314733", Serial: "SN1", SKU: "SKU1", Manufacturer: "Acme", Model: "GX",
		BIOSVersion: "1.2", CPUs: 64, CPUModel: "Xeon", MemoryMiB: 2048,
		NICs:   []vbmc.NIC{{ID: "NIC1", MAC: "52:54:00:00:00:01", Link: true}, {ID: "NIC2", MAC: "52:54:00:00:00:02"}},
		Drives: []vbmc.Drive{{ID: "D1", Serial: "S1", Model: "M1", Bytes: 1 << 40, Protocol: "NVMe"}},
		GPUs:   []vbmc.GPU{{ID: "GPU1", Model: "H100", PCI: "10de:2330"}},
	}
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{mem: vbmc.NewMemory(testInfo())}
	var err error
	r.bmc, err = vbmc.New(vbmc.Config{Chassis: r.mem, Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
	if err != nil {
		t.Fatal(err)
	}
	r.serve(t, r.bmc)
	return r
}

func (r *rig) serve(t testing.TB, h http.Handler) {
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.requests = append(r.requests, q.Method+" "+q.URL.RequestURI())
		before := r.before
		r.mu.Unlock()
		if before == nil || !before(w, q) {
			h.ServeHTTP(w, q)
		}
	}))
	r.Config.ErrorLog = nil
	r.StartTLS()
	t.Cleanup(r.Close)
}

func (r *rig) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.requests)
}

func (r *rig) posts(path string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.requests {
		if q == "POST "+path {
			n++
		}
	}
	return n
}

func (r *rig) intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = f
}

func (r *rig) target() Target {
	u, _ := url.Parse(r.URL)
	pool := x509.NewCertPool()
	pool.AddCert(r.Certificate())
	return Target{Name: "gpu-01", Address: netip.MustParseAddrPort(u.Host), Protocol: Redfish, User: "root", Password: "s3cret",
		RootCAs: pool, Timeout: 5 * time.Second, PowerWait: time.Minute}
}

// inVain is how long a test waits for what does not come. What comes may take
// much longer on a machine that is busy.
const inVain = 300 * time.Millisecond

func (r *rig) open(t testing.TB) *Client {
	t.Helper()
	c, err := Open(t.Context(), r.target())
	if err != nil {
		t.Fatal(err)
	}
	c.poll = 4 * time.Millisecond
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func (r *rig) noSession(t testing.TB) {
	t.Helper()
	if n := r.bmc.Sessions(); n != 0 {
		t.Errorf("%d sessions left on the BMC; want 0", n)
	}
}

func wantErr(t *testing.T, err, is error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", texts)
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %v; want one that is %v", err, is)
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q; want it to say %q", err, s)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q has several lines", err)
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %q shows the password", err)
	}
}

func TestStatus(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "status")
	r := newRig(t)
	c := r.open(t)
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Status{Power: Off, Boot: NextBoot{Device: BootNone, UEFI: true}, Health: "OK", Vendor: "Acme", Model: "GX", Serial: "SN1", SKU: "SKU1",
		UUID: testInfo().UUID, Firmware: "fettle-vbmc-1.0", BIOS: "1.2"}
	if got != want {
		t.Errorf("Status() = %+v; want %+v", got, want)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("second Close() = %v; want nil", err)
	}
	r.noSession(t)
	if n := r.count(); n > 5 {
		t.Errorf("open, status, close took %d requests: %v; want at most 5", n, r.requests)
	}
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("Status() after Close() worked")
	}
}

func TestSetPower(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "power on, off, soft, cycle, reset")
	for _, tc := range []struct {
		name  string
		start Power
		fault vbmc.Fault
		a     Action
		want  Power
		boots int
		err   string
		is    error
	}{
		{name: "on", start: Off, a: PowerOn, want: On, boots: 1},
		{name: "on when on", start: On, a: PowerOn, want: On},
		{name: "off", start: On, a: PowerOff, want: Off},
		{name: "off when off", start: Off, a: PowerOff, want: Off},
		{name: "soft", start: On, a: Shutdown, want: Off},
		{name: "soft by the power button", start: On, fault: vbmc.Fault{PowerDelay: 20 * time.Millisecond}, a: Shutdown, want: Off},
		{name: "cycle", start: On, a: PowerCycle, want: On, boots: 1},
		{name: "cycle when off", start: Off, a: PowerCycle, want: On, boots: 1},
		{name: "reset", start: On, a: Reset, want: On, boots: 1},
		{name: "reset when off", start: Off, a: Reset, want: Off, err: "the machine is off: power it on instead"},
		{name: "slow machine", start: Off, fault: vbmc.Fault{PowerDelay: 50 * time.Millisecond}, a: PowerOn, want: On, boots: 1},
		{name: "slow cycle", start: On, fault: vbmc.Fault{PowerDelay: 50 * time.Millisecond}, a: PowerCycle, want: On, boots: 1},
		{name: "lie on", start: Off, fault: vbmc.Fault{Lie: true}, a: PowerOn, want: Off, err: "accepted it and changed nothing"},
		{name: "lie cycle", start: On, fault: vbmc.Fault{Lie: true}, a: PowerCycle, want: On, err: "accepted it and changed nothing"},
		{name: "lie reset", start: On, fault: vbmc.Fault{Lie: true}, a: Reset, want: On, err: "accepted it and changed nothing"},
		{name: "hung OS", start: On, fault: vbmc.Fault{IgnoreShutdown: true}, a: Shutdown, want: On, err: "power off is the hard way"},
		{name: "refused", start: Off, fault: vbmc.Fault{RefuseReset: []vbmc.ResetType{vbmc.ResetOn}}, a: PowerOn, want: Off, is: ErrUnsupported, err: "it answered 400"},
		{name: "unknown", start: Off, a: "explode", want: Off, err: `no power action "explode"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			if tc.start == On {
				if err := r.mem.Reset(t.Context(), vbmc.ResetOn); err != nil {
					t.Fatal(err)
				}
			}
			booted := len(r.mem.Booted())
			r.mem.SetFault(tc.fault)
			c := r.open(t)
			if tc.err != "" {
				c.t.PowerWait = inVain
			}
			err := c.SetPower(t.Context(), tc.a)
			if tc.err != "" {
				wantErr(t, err, tc.is, tc.err, "gpu-01")
			} else if err != nil {
				t.Fatalf("SetPower(%s) = %v", tc.a, err)
			}
			if got, err := c.Power(t.Context()); err != nil || got != tc.want {
				t.Errorf("Power() = %s, %v; want %s", got, err, tc.want)
			}
			if n := len(r.mem.Booted()) - booted; n != tc.boots {
				t.Errorf("machine booted %d times; want %d", n, tc.boots)
			}
		})
	}
}

// plain hides that a Memory knows its last reset, as most BMCs do not tell it.
type plain struct{ vbmc.Chassis }

func TestCycleWithoutLastReset(t *testing.T) {
	for _, lie := range []bool{false, true} {
		mem := vbmc.NewMemory(testInfo())
		srv, err := vbmc.New(vbmc.Config{Chassis: plain{mem}, Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{mem: mem, bmc: srv}
		r.serve(t, srv)
		if err := mem.Reset(t.Context(), vbmc.ResetOn); err != nil {
			t.Fatal(err)
		}
		mem.SetFault(vbmc.Fault{Lie: lie})
		c := r.open(t)
		if lie {
			c.t.PowerWait = inVain
		}
		err = c.SetPower(t.Context(), PowerCycle)
		if lie {
			wantErr(t, err, nil, "accepted it and changed nothing", "still reads on")
			continue
		}
		if err != nil || len(mem.Booted()) != 2 {
			t.Errorf("SetPower(cycle) = %v, booted %d times; want nil, 2", err, len(mem.Booted()))
		}
	}
}

func TestSetNextBoot(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "next boot, once and permanent, UEFI and legacy")
	for _, tc := range []struct {
		name  string
		nb    NextBoot
		fault vbmc.Fault
		want  vbmc.Boot
		is    error
		err   string
	}{
		{name: "pxe once uefi", nb: NextBoot{Device: BootPXE, UEFI: true}, want: vbmc.Boot{Target: vbmc.BootPxe, Enabled: "Once", Mode: "UEFI"}},
		{name: "pxe once legacy", nb: NextBoot{Device: BootPXE}, want: vbmc.Boot{Target: vbmc.BootPxe, Enabled: "Once", Mode: "Legacy"}},
		{name: "disk for good", nb: NextBoot{Device: BootDisk, Permanent: true, UEFI: true}, want: vbmc.Boot{Target: vbmc.BootHdd, Enabled: "Continuous", Mode: "UEFI"}},
		{name: "http", nb: NextBoot{Device: BootHTTP, UEFI: true}, want: vbmc.Boot{Target: vbmc.BootUefiHTTP, Enabled: "Once", Mode: "UEFI"}},
		{name: "cd", nb: NextBoot{Device: BootCD, UEFI: true}, want: vbmc.Boot{Target: vbmc.BootCd, Enabled: "Once", Mode: "UEFI"}},
		{name: "setup", nb: NextBoot{Device: BootSetup, UEFI: true}, want: vbmc.Boot{Target: vbmc.BootBiosSetup, Enabled: "Once", Mode: "UEFI"}},
		{name: "none", nb: NextBoot{Device: BootNone}, want: vbmc.Boot{Target: vbmc.BootNone, Enabled: "Disabled", Mode: "UEFI"}},
		{name: "http legacy", nb: NextBoot{Device: BootHTTP}, want: vbmc.Boot{Target: vbmc.BootNone, Enabled: "Disabled", Mode: "UEFI"}, err: "would conflict"},
		{name: "lie", nb: NextBoot{Device: BootPXE, UEFI: true}, fault: vbmc.Fault{Lie: true}, want: vbmc.Boot{Target: vbmc.BootNone, Enabled: "Disabled", Mode: "UEFI"}, err: "changed nothing: the next boot still reads none"},
		{name: "refused", nb: NextBoot{Device: BootPXE, UEFI: true}, fault: vbmc.Fault{RefuseBoot: true}, want: vbmc.Boot{Target: vbmc.BootNone, Enabled: "Disabled", Mode: "UEFI"}, is: ErrUnsupported, err: "it answered 400"},
		{name: "unknown", nb: NextBoot{Device: "tape"}, want: vbmc.Boot{Target: vbmc.BootNone, Enabled: "Disabled", Mode: "UEFI"}, err: `no boot device "tape"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.mem.SetFault(tc.fault)
			c := r.open(t)
			if tc.fault.Lie {
				c.t.Timeout = 2 * time.Second // half of it is for reading back
			}
			err := c.SetNextBoot(t.Context(), tc.nb)
			if tc.err != "" {
				wantErr(t, err, tc.is, tc.err, "gpu-01")
			} else if err != nil {
				t.Fatalf("SetNextBoot(%s) = %v", tc.nb, err)
			}
			if got, _ := r.mem.Boot(t.Context()); got != tc.want {
				t.Errorf("chassis boot = %+v; want %+v", got, tc.want)
			}
		})
	}
}

func TestNextBootIsConsumed(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	if err := c.SetNextBoot(t.Context(), NextBoot{Device: BootPXE, UEFI: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.SetPower(t.Context(), PowerCycle); err != nil {
			t.Fatal(err)
		}
	}
	b := r.mem.Booted()
	if len(b) != 2 || b[0].Target != vbmc.BootPxe || b[1].Target != vbmc.BootNone {
		t.Errorf("booted %+v; want Pxe, then None", b)
	}
	if st, err := c.Status(t.Context()); err != nil || st.Boot.Device != BootNone {
		t.Errorf("Status() = %+v, %v; want no override", st, err)
	}
}

func TestIdentify(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "light")
	r := newRig(t)
	c := r.open(t)
	for _, on := range []bool{true, false} {
		if err := c.Identify(t.Context(), on); err != nil {
			t.Fatal(err)
		}
		if got, _ := r.mem.Identify(t.Context()); got != on {
			t.Errorf("light = %v; want %v", got, on)
		}
	}
	r.mem.SetFault(vbmc.Fault{Lie: true})
	wantErr(t, c.Identify(t.Context(), true), nil, "changed nothing: the light still reads off")
}

func TestInventory(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "inventory")
	r := newRig(t)
	inv, err := r.open(t).Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.CPUs) != 1 || inv.CPUs[0].Threads != 64 || inv.MemoryMiB != 2048 || len(inv.Firmware) != 2 || len(inv.Missing) != 0 {
		t.Errorf("Inventory() = %+v", inv)
	}
	if want := []NIC{{ID: "NIC1", MAC: "52:54:00:00:00:01", Link: true}, {ID: "NIC2", MAC: "52:54:00:00:00:02"}}; len(inv.NICs) != 2 || inv.NICs[0] != want[0] || inv.NICs[1] != want[1] {
		t.Errorf("NICs = %+v; want %+v", inv.NICs, want)
	}
	if want := (Drive{ID: "D1", Serial: "S1", Model: "M1", Bytes: 1 << 40, Protocol: "NVMe", Health: "OK"}); len(inv.Drives) != 1 || inv.Drives[0] != want {
		t.Errorf("Drives = %+v; want %+v", inv.Drives, want)
	}
	if want := (GPU{ID: "GPU1", Vendor: "Acme", Model: "H100", PCI: "10de:2330", Health: "OK"}); len(inv.GPUs) != 1 || inv.GPUs[0].PCI != want.PCI || inv.GPUs[0].Model != want.Model {
		t.Errorf("GPUs = %+v; want %+v", inv.GPUs, want)
	}
}

func TestWrongPasswordIsTriedOnce(t *testing.T) {
	r := newRig(t)
	tg := r.target()
	tg.Password = "wrong"
	_, err := Open(t.Context(), tg)
	wantErr(t, err, ErrPassword, "gpu-01", "it answered 401")
	if n := r.posts("/redfish/v1/SessionService/Sessions"); n != 1 {
		t.Errorf("%d logins; want 1: %v", n, r.requests)
	}
	if n := r.count(); n != 2 { // the service root says that there are sessions: the password was wrong
		t.Errorf("%d requests; want 2: %v", n, r.requests)
	}
	r.noSession(t)
}

func TestCertificates(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "TLS: verified, pinned, refused")
	r := newRig(t)
	other := httptest.NewUnstartedServer(http.NotFoundHandler())
	other.StartTLS()
	defer other.Close()
	sum := sha256.Sum256(r.Certificate().Raw)
	pin := hex.EncodeToString(sum[:])
	var colons []string
	for i := 0; i < len(pin); i += 2 {
		colons = append(colons, strings.ToUpper(pin[i:i+2]))
	}
	for _, tc := range []struct {
		name string
		mod  func(*Target)
		errs []string
	}{
		{"right authority", func(*Target) {}, nil},
		{"wrong authority", func(t *Target) { t.RootCAs = x509.NewCertPool() }, []string{"not trusted", "trust the authority", "pin its certificate in the site file, fingerprint: " + pin}},
		{"system roots", func(t *Target) { t.RootCAs = nil }, []string{"not trusted"}},
		{"pinned", func(t *Target) { t.RootCAs, t.Fingerprint = nil, pin }, nil},
		{"pinned with colons", func(t *Target) { t.RootCAs, t.Fingerprint = nil, strings.Join(colons, ":") }, nil},
		{"another pin", func(t *Target) { t.Fingerprint = strings.Repeat("ab", 32) }, []string{"expected sha256 " + strings.Repeat("ab", 32) + ", got sha256 " + pin, "somebody else answers"}},
		{"bad pin", func(t *Target) { t.Fingerprint = "xyz" }, []string{"64 hex digits"}},
		{"insecure", func(t *Target) { t.RootCAs, t.Insecure = nil, true }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tg := r.target()
			tc.mod(&tg)
			before := r.count()
			c, err := Open(t.Context(), tg)
			if tc.errs != nil {
				wantErr(t, err, nil, append(tc.errs, "gpu-01")...)
				if n := r.count() - before; n != 0 {
					t.Errorf("%d requests reached an untrusted BMC; want 0", n)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	r.noSession(t)
}

func TestDialIsUsed(t *testing.T) {
	r := newRig(t)
	tg := r.target()
	real := tg.Address.String()
	tg.Address = netip.MustParseAddrPort("127.0.0.1:1") // nothing is there
	dials := 0
	tg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++
		if addr != "127.0.0.1:1" {
			t.Errorf("Dial(%s); want 127.0.0.1:1", addr)
		}
		return (&net.Dialer{}).DialContext(ctx, network, real)
	}
	c, err := Open(t.Context(), tg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if dials == 0 || dials > 2 {
		t.Errorf("%d connections; want 1 or 2: they are kept open", dials)
	}
}
