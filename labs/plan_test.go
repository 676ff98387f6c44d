package labs

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/site"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, []byte(got)) {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", path, got)
	}
}

func TestNewPlanScales(t *testing.T) {
	s := testSite(t)
	before := s.Revision()
	p, err := NewPlan(s, Options{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Revision() != before {
		t.Error("NewPlan changed the site that it was given")
	}
	m := p.Site.Machines[0]
	want := s.Machines[0]
	want.CPUs, want.Memory = DefaultCPUs, DefaultMemory
	want.Disks = []site.Disk{{Serial: "S6XXNE0T100001", Size: DefaultDiskSize}, {Serial: "VME-0000-0000-A00002", Size: 100 << 20}}
	want.GPUs = []site.GPU{{Model: "virtio-gpu stand-in for NVIDIA H100 SXM5 80GB, ASPEED", PCI: "1af4:1050", Count: 8}}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("effective machine = %+v; want %+v", m, want)
	}
	if got := p.Site.Profiles[0].KernelArgs; !slices.Equal(got, []string{"no_timer_check"}) {
		t.Errorf("the installed kernel's arguments = %v; want no_timer_check", got)
	}
	other, err := NewPlan(s, Options{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := p.Machines[0], other.Machines[0]; a.DomainUUID == b.DomainUUID || a.Domain == b.Domain || a.UUID != b.UUID {
		t.Errorf("two labs of one site: domains %s %s and %s %s, machine UUIDs %s and %s; want different domains, the same machine",
			a.Domain, a.DomainUUID, b.Domain, b.DomainUUID, a.UUID, b.UUID)
	}
}

func TestNewPlanGolden(t *testing.T) {
	o := Options{Machines: []string{"gpu-[01-02]"}, Dir: "/lab", URI: "qemu:///system"}
	p, err := NewPlan(testSite(t), o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := NewPlan(testSite(t), o)
	if err != nil || !reflect.DeepEqual(p, again) {
		t.Errorf("NewPlan twice: %v, equal %v; want the same plan", err, reflect.DeepEqual(p, again))
	}
	b, err := json.MarshalIndent(map[string]any{"networks": p.Networks, "machines": p.Machines}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", string(b)+"\n")
}

func TestDomainXMLGolden(t *testing.T) {
	p, err := NewPlan(testSite(t), Options{Dir: "/lab"})
	if err != nil {
		t.Fatal(err)
	}
	r := realization{dir: "/lab", accel: TCG, engines: map[string]engine{
		site.AMD64: {emulator: "/usr/bin/qemu-system-x86_64", plain: firmwares[0], secure: secureFirmwares[0]},
		site.ARM64: {emulator: "/usr/bin/qemu-system-aarch64", plain: armFirmwares[0], secure: armSecureFirmwares[0]}},
		ports: map[string][]portPair{"gpu-01": {{20480, 20481}, {20482, 20483}, {20484, 20485}}, "gpu-02": {{20486, 20487}}}}
	kvm := r
	kvm.accel, kvm.dac = KVM, "+0:+0"
	secure := p.Machines[1]
	secure.SecureBoot = true
	arm, armSecure := p.Machines[1], secure
	arm.Arch, armSecure.Arch = site.ARM64, site.ARM64
	p.Machines = append(p.Machines, secure, arm, armSecure)
	six, err := NewPlan(only6Site(t), Options{Dir: "/lab"})
	if err != nil {
		t.Fatal(err)
	}
	p.Machines = append(p.Machines, six.Machines[1], six.Machines[0])
	bridged := r
	bridged.bridge = "br0"
	for _, tt := range []struct {
		name    string
		machine int
		r       realization
		start   start
		cd      string
	}{
		{"bios-disk", 0, r, startDisk, ""},
		{"bios-network", 0, r, startNetwork, ""},
		{"uefi-disk", 1, r, startDisk, ""},
		{"uefi-network-kvm", 1, kvm, startNetwork, ""},
		{"uefi-http", 1, r, startHTTP, ""},
		{"uefi-secure-network", 2, r, startNetwork, ""},
		{"uefi-bridge", 1, bridged, startDisk, ""},
		{"arm64-network", 3, kvm, startNetwork, ""}, // emulated all the same
		{"arm64-secure-cd", 4, r, startCD, "/lab/disks/gpu-02.iso"},
		{"uefi-ipv6-network", 5, r, startNetwork, ""},
		{"uefi-ipv6-http", 5, r, startHTTP, ""},
		{"bios-ipv6-disk", 6, r, startDisk, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := domainXML(p.Name, p.Machines[tt.machine], tt.r, tt.start, tt.cd)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name+".xml", got+"\n")
			tag, _, ok := readTag(got)
			if !ok || tag.Name != "hall" || tag.Machine != p.Machines[tt.machine].Name || tag.Dir != "/lab" {
				t.Errorf("readTag(its XML) = %+v, %v; want the lab, the machine and the folder", tag, ok)
			}
		})
	}
}

// sharedSite is testSite with one BMC for both machines, which are these systems
// of it.
func sharedSite(t *testing.T, first, second, twin string) *site.Site {
	t.Helper()
	s := testSite(t)
	s.Machines[0].BMC.System, s.Machines[1].BMC.System = first, second
	s.Machines[1].BMC.Address, s.Machines[1].BMC.Twin = s.Machines[0].BMC.Address, twin
	return s
}

// TestSharedBMC: machines that share a BMC in the site share one in the lab;
// others do not, nor one that was selected without the others.
func TestSharedBMC(t *testing.T) {
	names := func(s *site.Site, o Options) (out []string) {
		p, err := NewPlan(s, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range p.SharedBMC("gpu-02") {
			out = append(out, m.Name+" "+m.BMC.System)
		}
		return out
	}
	if got := strings.Join(names(sharedSite(t, "Node A", "NodeB", ""), Options{}), ", "); got != "gpu-01 Node_A, gpu-02 NodeB" {
		t.Errorf("the machines of a shared BMC: %q", got)
	}
	if got := strings.Join(names(sharedSite(t, "Node A", "NodeB", ""), Options{Machines: []string{"gpu-02"}}), ", "); got != "gpu-02 NodeB" {
		t.Errorf("the machines of a shared BMC of which one is selected: %q", got)
	}
	if got := strings.Join(names(testSite(t), Options{}), ", "); got != "gpu-02 " {
		t.Errorf("the machines of a BMC of its own: %q", got)
	}
	p, err := NewPlan(sharedSite(t, "NodeA", "NodeB", ""), Options{})
	if err != nil || p.Machines[0].BMC.MAC != p.Machines[1].BMC.MAC {
		t.Errorf("one BMC has two MAC addresses (%v)", err)
	}
}

func TestNewPlanRefuses(t *testing.T) {
	twins := testSite(t)
	twins.Machines[0].Disks = []site.Disk{{Serial: "A-12345678901234567890"}, {Serial: "B-12345678901234567890"}}
	for _, tt := range []struct {
		name string
		site *site.Site
		o    Options
		want string
	}{
		{"name", testSite(t), Options{Name: "a/b"}, `lab name "a/b"`},
		{"accelerator", testSite(t), Options{Accel: "xen"}, `accelerator "xen"`},
		{"little memory", testSite(t), Options{Memory: 1 << 20}, "at least 256 MiB"},
		{"negative CPUs", testSite(t), Options{CPUs: -1}, "1 CPU (-1 asked)"},
		{"unknown machine", testSite(t), Options{Machines: []string{"gpu-09"}}, "gpu-09"},
		{"long folder", testSite(t), Options{Dir: "/" + strings.Repeat("d", 100)}, "shorter folder"},
		{"serials that end alike", twins, Options{}, "end alike"},
		{"a twin for two nodes", sharedSite(t, "NodeA", "NodeB", "dgx-h100"), Options{}, "a twin has one machine alone"},
		{"one name for two nodes", sharedSite(t, "Node A", "Node_A", ""), Options{}, "one name in their BMC's URIs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewPlan(tt.site, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewPlan = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestReadTagForeign(t *testing.T) {
	for _, tt := range []struct{ name, xml string }{
		{"no metadata", `<domain><name>a</name></domain>`},
		{"another's metadata", `<domain><metadata><x:lab xmlns:x="https://example.org/" name="a"/></metadata></domain>`},
		{"two tags", `<domain><metadata><x:lab xmlns:x="` + metadataNS + `" name="a"/><x:lab xmlns:x="` + metadataNS + `" name="b"/></metadata></domain>`},
		{"not XML", `<domain`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, _, ok := readTag(tt.xml); ok {
				t.Errorf("readTag = %+v, true; want false", got)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	at := testTime
	t.Run("new, again, and another lab's", func(t *testing.T) {
		f := folder(filepath.Join(t.TempDir(), "lab"))
		if err := f.claim("a", "u", at); err != nil {
			t.Fatal(err)
		}
		if err := f.claim("a", "u", at); err != nil {
			t.Errorf("claim again = %v; want nil", err)
		}
		if err := f.claim("b", "u", at); !errors.Is(err, ErrForeign) {
			t.Errorf("claim by another lab = %v; want ErrForeign", err)
		}
		if err := f.claim("a", "v", at); err == nil || !strings.Contains(err.Error(), "at u, not at v") {
			t.Errorf("claim at another URI = %v; want an error that names both", err)
		}
		if err := f.removeAll(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(string(f)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after removeAll: %v; want no folder", err)
		}
	})
	t.Run("somebody's files", func(t *testing.T) {
		f := folder(t.TempDir())
		theirs := filepath.Join(string(f), "thesis.tex")
		if err := os.WriteFile(theirs, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := f.claim("a", "u", at); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "thesis.tex") {
			t.Errorf("claim = %v; want ErrForeign that names the file", err)
		}
		if err := f.removeAll(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(theirs); err != nil {
			t.Errorf("removeAll of a folder without a marker: %v; want the file left", err)
		}
	})
	t.Run("one daemon", func(t *testing.T) {
		f := folder(filepath.Join(t.TempDir(), "lab"))
		if err := f.claim("a", "u", at); err != nil {
			t.Fatal(err)
		}
		if got := f.daemon(); got != 0 {
			t.Errorf("daemon() = %d; want 0", got)
		}
		lock, err := f.hold("a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.hold("a"); !errors.Is(err, ErrRunning) {
			t.Errorf("hold twice = %v; want ErrRunning", err)
		}
		if got := f.daemon(); got != os.Getpid() {
			t.Errorf("daemon() = %d; want %d", got, os.Getpid())
		}
		lock.Close()
		if lock, err = f.hold("a"); err != nil {
			t.Errorf("hold after the other let go = %v; want nil", err)
		} else {
			lock.Close()
		}
	})
}

// In a lab nobody else gives addresses or relays packets.
func TestPlanHasNetworksOfItsOwn(t *testing.T) {
	s := testSite(t)
	for i := range s.Networks {
		if n := &s.Networks[i]; n.Purpose == site.PurposeBoot {
			n.Proxy, n.Probe, n.Relays = true, true, []netip.Addr{n.Prefix.Addr().Next()}
		}
	}
	p, err := NewPlan(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range p.Site.Networks {
		if n.Proxy || n.Probe || len(n.Relays) > 0 {
			t.Errorf("network %s of the lab: proxy %v, probe %v, relays %v; want none", n.Name, n.Proxy, n.Probe, n.Relays)
		}
	}
	if n := s.Networks[0]; n.Purpose == site.PurposeBoot && !n.Proxy {
		t.Error("planning a lab changed the site")
	}
	// On a bridge somebody may be.
	s.Networks[0].Probe, s.Networks[0].Relays = false, nil
	if p, err = NewPlan(s, Options{BridgeNetwork: "br0"}); err != nil || !p.Site.Networks[0].Proxy {
		t.Errorf("NewPlan with a bridge = %v; want its boot network as the site has it", err)
	}
}
