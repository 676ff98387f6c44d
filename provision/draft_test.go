package provision

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

func discovery() state.Discovery {
	d := state.Discovery{Name: "mac-020000000901", Sort: state.SortMachine, State: state.WasInspected, UUID: "4C4C4544-0035-3410-8050-c6c04f314733"}
	describe(&d, strangeInventory())
	d.Sightings = []state.Sighting{{Sort: state.SortMachine, MAC: site.MAC(stranger(1)), Network: "prov"}}
	d.Disks = []state.DiscoveredDisk{{Serial: "BIG", Bytes: 7681501126656}, {Serial: "USB", Bytes: 32e9, Removable: true}, {Serial: "SYS", Bytes: 960197124096}, {Bytes: 1e12}}
	d.Memory, d.CPUs = 541165879296, 128 // 504 GiB of 512, as a kernel sees it
	finish(&d, testSite(), nil)
	return d
}

func TestDraft(t *testing.T) {
	s := testSite()
	m, err := Draft(s, discovery(), DraftOptions{Name: "gpu-02", Profile: "train", Rack: "r1", Unit: 9})
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "gpu-02" || m.Serial != "SN-77" || m.Firmware != site.UEFI || m.CPUs != 128 || m.Memory.String() != "512GiB" || m.Profile != "train" || m.Unit != 9 {
		t.Errorf("Draft() = %+v; want what was found", m)
	}
	if len(m.Disks) != 2 || m.Disks[0] != (site.Disk{Serial: "SYS", Size: 960e9}) || m.Disks[1] != (site.Disk{Serial: "BIG", Size: 768e10}) {
		t.Errorf("disks = %+v; want the small one first, and none without a serial or that can be pulled out", m.Disks)
	}
	if len(m.GPUs) != 1 || m.GPUs[0].Count != 2 {
		t.Errorf("GPUs = %+v; want 2 of one kind", m.GPUs)
	}
	if n := m.NICs; len(n) != 2 || !n[0].Boot || n[0].Network != "prov" || n[0].Address.String() != "10.77.0.12" || n[1].Boot || n[1].Network != "" {
		t.Errorf("ports = %+v; want the first to boot from prov at the address behind its sibling's", n)
	}
	for _, tc := range []struct {
		name   string
		change func(*site.Site, *state.Discovery, *DraftOptions)
		addr   string
		want   string
	}{
		{"from the pool", func(_ *site.Site, _ *state.Discovery, o *DraftOptions) { o.Pool = true }, "invalid IP", ""},
		{"no sibling with an address", func(s *site.Site, _ *state.Discovery, _ *DraftOptions) { s.Machines = nil }, "invalid IP", ""},
		{"no pool", func(s *site.Site, _ *state.Discovery, _ *DraftOptions) { s.Machines, s.Networks[0].Pools = nil, nil }, "10.77.0.2", ""},
		{"given", func(_ *site.Site, _ *state.Discovery, o *DraftOptions) { o.Address = netip.MustParseAddr("10.77.0.44") }, "10.77.0.44", ""},
		{"not inspected", func(_ *site.Site, d *state.Discovery, _ *DraftOptions) { d.Serial, d.State = "", state.Seen }, "", "not inspected"},
		{"no serial", func(_ *site.Site, d *state.Discovery, _ *DraftOptions) { d.Serial = "" }, "", "no serial number"},
		{"another port", func(_ *site.Site, d *state.Discovery, o *DraftOptions) { o.BootMAC = site.MAC{9} }, "", "say --boot-mac, one of 02:00:00:00:09:01"},
		{"no firmware", func(_ *site.Site, d *state.Discovery, o *DraftOptions) { d.Firmware = "" }, "", "say --firmware"},
	} {
		s, d, o := testSite(), discovery(), DraftOptions{Name: "gpu-02"}
		tc.change(s, &d, &o)
		m, err := Draft(s, d, o)
		switch {
		case tc.want != "" && (!errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: Draft() = %v; want %q", tc.name, err, tc.want)
		case tc.want == "" && (err != nil || m.NICs[0].Address.String() != tc.addr):
			t.Errorf("%s: Draft() = %+v, %v; want the address %s", tc.name, m.NICs, err, tc.addr)
		}
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{8 << 30: "8GiB", 960197124096: "960GB", 1920383410176: "1.92TB", 7681501126656: "7.68TB", 0: "0", 500: "500B", 20e9 + 5: "20GB"} {
		if got := DiskSize(n).String(); got != want {
			t.Errorf("DiskSize(%d) = %s; want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{2 << 30: "2GiB", 541165879296: "512GiB", 2<<40 - 30<<30: "2TiB", 2063<<20 - 100<<20: "2GiB", 192 << 30: "192GiB"} {
		if got := MemorySize(n).String(); got != want {
			t.Errorf("MemorySize(%d) = %s; want %s", n, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	all := []state.Discovery{discovery(), {Name: "bmc-10-78-0-9", Sort: state.SortBMC, BMC: &state.DiscoveredBMC{Addr: netip.MustParseAddr("10.78.0.9")}}}
	for what, want := range map[string]string{
		"sn-77": "mac-020000000901", "02:00:00:00:09:02": "mac-020000000901", "02-00-00-00-09-63": "mac-020000000901", "10.78.0.33": "mac-020000000901",
		"10.78.0.9": "bmc-10-78-0-9", "mac-020000000901": "mac-020000000901", "nobody": "", "": "",
	} {
		if d, ok := Find(all, what); d.Name != want || ok != (want != "") {
			t.Errorf("Find(%q) = %q, %v; want %q", what, d.Name, ok, want)
		}
	}
}

// TestAdopt takes a BMC over with the factory's password: pinned, changed,
// stored; and again, which changes nothing.
func TestAdopt(t *testing.T) {
	b := newTinyBMC(t, "calvin")
	b.root = `{"RedfishVersion":"1.15.0","Vendor":"Dell","Oem":{"Dell":{"ServiceTag":"SN-77"}},"Systems":{"@odata.id":"/redfish/v1/Systems"},"AccountService":{"@odata.id":"/redfish/v1/AccountService"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/SessionService/Sessions"}}}`
	sec, _ := rotateSecrets(t)
	adopt := func() *Adoption {
		return &Adoption{Machine: "gpu-05", Addr: netip.MustParseAddr("192.0.2.5"), Keys: sec, Secret: "bmc-gpu-05", Timeout: 2 * time.Second,
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if network != "tcp" || !strings.HasPrefix(addr, "192.0.2.5:443") {
					return nil, errors.New("no route")
				}
				return new(net.Dialer).DialContext(ctx, "tcp", b.Listener.Addr().String())
			}}
	}
	a := adopt()
	got, facts, err := a.Look(t.Context())
	sum := sha256.Sum256(b.Certificate().Raw)
	if err != nil || got.Fingerprint != hex.EncodeToString(sum[:]) || got.Protocol != site.Redfish || facts.Vendor != "Dell" || facts.Serial != "SN-77" {
		t.Fatalf("Look() = %+v, %+v, %v; want the Dell with its certificate pinned", got, facts, err)
	}
	if from, err := a.Known(); err != nil || from != "the factory's" {
		t.Errorf("Known() = %q, %v; want the factory's", from, err)
	}
	if err := a.TakeOver(t.Context(), "SN-99"); !errors.Is(err, ErrAnotherMachine) || b.now() != "calvin" {
		t.Errorf("TakeOver() of another machine's BMC = %v; want ErrAnotherMachine, and the password as it was", err)
	}
	if err := a.TakeOver(t.Context(), "SN-77"); err != nil {
		t.Fatal(err)
	}
	v, err := sec.Get("bmc-gpu-05")
	if err != nil || v.Reveal() != "root:"+b.now() || b.now() == "calvin" {
		t.Errorf("the secret is not the BMC's new password: %v", err)
	}
	was := b.now()
	a = adopt()
	if _, _, err := a.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.TakeOver(t.Context(), "SN-77"); err != nil || b.now() != was {
		t.Errorf("TakeOver() again = %v; want nothing changed", err)
	}
	if b.worst > 0 {
		t.Errorf("%d wrong passwords; want none", b.worst)
	}

	// Another certificate than the one that was looked at: no password is sent.
	other := httptest.NewUnstartedServer(b.Config.Handler)
	other.TLS = selfSigned(t)
	other.StartTLS()
	t.Cleanup(other.Close)
	a.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", other.Listener.Addr().String())
	}
	if err := a.TakeOver(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "another than the pinned one") {
		t.Errorf("TakeOver() of who answers with another certificate = %v; want a refusal", err)
	}

	// Who has no password for all is not guessed.
	b.root = strings.Replace(b.root, `"Vendor":"Dell","Oem":{"Dell":{"ServiceTag":"SN-77"}}`, `"Vendor":"Supermicro"`, 1)
	a = adopt()
	a.Secret = "bmc-gpu-06"
	if _, _, err := a.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Known(); !errors.Is(err, ErrNoLogin) {
		t.Errorf("Known() of a Supermicro = %v; want ErrNoLogin", err)
	}
	a.User, a.Password, a.Keep = "root", bmc.Password(was), true
	if err := a.TakeOver(t.Context(), ""); err != nil || b.now() != was {
		t.Errorf("TakeOver() with a given password that is kept = %v; want it stored as it is", err)
	}
	if v, err := sec.Get("bmc-gpu-06"); err != nil || v.Reveal() != "root:"+was {
		t.Errorf("the kept password is not stored: %v", err)
	}
	a.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
	if _, _, err := a.Look(t.Context()); !errors.Is(err, ErrNoBMC) {
		t.Errorf("Look() at nothing = %v; want ErrNoBMC", err)
	}
}

// selfSigned is a certificate of its own.
func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
