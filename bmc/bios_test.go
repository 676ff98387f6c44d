package bmc

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

func TestBIOS(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "BIOS settings read, planned, set, verified")
	r := newRig(t)
	c := r.open(t)
	b, err := c.BIOS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a := b.find("PowerOnDelay"); a == nil || a.Type != "Integer" || *a.High != 600 || a.Value != json.Number("0") {
		t.Errorf("PowerOnDelay = %+v; want an integer 0 up to 600", a)
	}
	want := map[string]any{"sriov": "on", "above-4g": "on", "QuietBoot": "false", "PowerOnDelay": "30", "LogicalProc": "Enabled"}
	p, err := PlanBIOS(b, want)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, ch := range p.Changes {
		names = append(names, ch.Name)
	}
	if slices.Sort(names); strings.Join(names, " ") != "MmioAbove4Gb PowerOnDelay QuietBoot SriovGlobalEnable" || strings.Join(p.Same, " ") != "LogicalProc" || len(p.Waiting) != 0 || !p.Reboot() {
		t.Errorf("PlanBIOS() = %+v", p)
	}
	if err := c.SetBIOS(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if b, err = c.BIOS(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := b.find("SriovGlobalEnable"); a.Value != "Disabled" || a.Pending != "Enabled" {
		t.Errorf("before the boot SriovGlobalEnable = %+v; want Disabled with Enabled pending", a)
	}
	again, err := PlanBIOS(b, want)
	if err != nil || len(again.Changes) != 0 || len(again.Waiting) != 4 || !again.Reboot() {
		t.Errorf("PlanBIOS() before the boot = %+v, %v; want 4 waiting", again, err)
	}
	wantErr(t, c.SetBIOS(t.Context(), BIOSPlan{Changes: []BIOSChange{{Name: "SriovGlobalEnable", From: "Enabled", To: "Disabled"}}}), nil, "plan again")
	wantErr(t, c.VerifyBIOS(t.Context(), p.Want, 50*time.Millisecond), errNothing, "still has the old value")
	if err := c.SetPower(t.Context(), PowerOn); err != nil {
		t.Fatal(err)
	}
	if err := c.VerifyBIOS(t.Context(), p.Want, time.Second); err != nil {
		t.Error(err)
	}
	if b, err = c.BIOS(t.Context()); err != nil {
		t.Fatal(err)
	}
	done, err := PlanBIOS(b, want)
	if err != nil || done.Reboot() || len(done.Same) != 5 {
		t.Errorf("PlanBIOS() after the boot = %+v, %v; want all the same", done, err)
	}
}

// A BMC that answers 200 and keeps nothing.
func TestBIOSReadsBack(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	c.t.Timeout = time.Second
	r.mu.Lock()
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodPatch {
			return false
		}
		w.WriteHeader(http.StatusOK)
		return true
	}
	r.mu.Unlock()
	b, err := c.BIOS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := PlanBIOS(b, map[string]any{"sriov": "on"})
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, c.SetBIOS(t.Context(), p), errNothing, "SriovGlobalEnable neither changed nor waits")
}

func TestBIOSOverIPMI(t *testing.T) {
	_, err := newIPMIRig(t, vbmc.Config{}).open(t).BIOS(t.Context())
	wantErr(t, err, ErrUnsupported, "use redfish")
}

func TestPlanBIOS(t *testing.T) {
	b := BIOS{Attributes: []Attribute{
		{Name: "Above4GDecoding_0041", Type: "Enumeration", Value: "Disabled", Allowed: []string{"Disabled", "Enabled"}},
		{Name: "BootMode", Type: "Enumeration", Value: "Bios", Allowed: []string{"Bios", "Uefi"}},
		{Name: "Count", Type: "Integer", Value: json.Number("4"), Low: float(1), High: float(8)},
		{Name: "Flag", Type: "Boolean", Value: true},
		{Name: "Ipv4Pxe", Type: "String", Value: "Disable"},
		{Name: "Key", Type: "Password"},
		{Name: "NUMA_003B", Type: "Enumeration", Value: "A", Allowed: []string{"A", "B"}},
		{Name: "ProcC1E", Type: "Enumeration", Value: "Enabled", Allowed: []string{"Enabled", "Disabled"}, ReadOnly: true},
		{Name: "SRIOVEnable", Type: "Boolean", Value: false},
	}}
	for _, tc := range []struct {
		name, value string
		attribute   string
		to          any
		err         string
	}{
		{"above-4g", "on", "Above4GDecoding_0041", "Enabled", ""},
		{"uefi", "on", "BootMode", "Uefi", ""},
		{"pxe-boot", "on", "Ipv4Pxe", "Enable", ""},
		{"sriov", "on", "SRIOVEnable", true, ""},
		{"Count", "8", "Count", int64(8), ""},
		{"Flag", "off", "Flag", false, ""},
		{"NUMA_003B", "B", "NUMA_003B", "B", ""},
		{"numa", "on", "", nil, "not known which value of NUMA_003B"},
		{"numa", "B", "NUMA_003B", "B", ""},
		{"Count", "9", "", nil, "takes 1 to 8"},
		{"Count", "x", "", nil, "a whole number"},
		{"Flag", "maybe", "", nil, "true or false"},
		{"BootMode", "EFI", "", nil, `takes Bios, Uefi, not "EFI"`},
		{"Key", "x", "", nil, "is a password"},
		{"ProcC1E", "Disabled", "", nil, "cannot be written"},
		{"acs", "on", "", nil, `no BIOS setting of this machine is known to mean "acs"`},
		{"Nonsense", "1", "", nil, "no BIOS setting"},
	} {
		p, err := PlanBIOS(b, map[string]any{tc.name: tc.value})
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) || len(p.Changes) != 0 {
				t.Errorf("PlanBIOS(%s=%s) = %+v, %v; want an error with %q", tc.name, tc.value, p, err, tc.err)
			}
			continue
		}
		if err != nil || len(p.Changes) != 1 || p.Changes[0].Name != tc.attribute || p.Changes[0].To != tc.to {
			t.Errorf("PlanBIOS(%s=%s) = %+v, %v; want %s to %v", tc.name, tc.value, p.Changes, err, tc.attribute, tc.to)
		}
	}
	// The same name has other words, or means something else, by other makers.
	gigabyte := BIOS{Attributes: []Attribute{
		{Name: "BootMode", Type: "Enumeration", Value: "Uefi", Allowed: []string{"Uefi", "LegacyBios"}},
		{Name: "FBO001", Title: "Boot mode select", Type: "Enumeration", Value: "UEFI", Allowed: []string{"LEGACY", "UEFI"}},
		{Name: "PCIS003", Title: "PCI Latency Timer", Type: "Enumeration", Value: "Disabled", Allowed: []string{"Disabled", "Enabled"}},
		{Name: "Re_SizeBARSupport_00B2", Type: "Enumeration", Value: "Disabled", Allowed: []string{"Disabled", "Enabled", "Auto"}},
		{Name: "Rome0059", Title: "SMT Control", Type: "Enumeration", Value: "Disabled", Allowed: []string{"Disabled", "Auto"}},
	}}
	for _, tc := range []struct{ name, value, want string }{
		{"uefi", "off", "BootMode LegacyBios"},
		{"above-4g", "on", `no BIOS setting of this machine is known to mean "above-4g"`},
		{"resizable-bar", "on", "Re_SizeBARSupport_00B2 Enabled"},
		{"hyperthreading", "on", "Rome0059 Auto"},
	} {
		p, err := PlanBIOS(gigabyte, map[string]any{tc.name: tc.value})
		got := ""
		if err != nil {
			got = err.Error()
		} else if len(p.Changes) == 1 {
			got = fmt.Sprint(p.Changes[0].Name, " ", p.Changes[0].To)
		}
		if !strings.HasPrefix(got, tc.want) {
			t.Errorf("PlanBIOS(%s=%s) = %s; want %s", tc.name, tc.value, got, tc.want)
		}
	}
	if _, err := PlanBIOS(b, map[string]any{"uefi": "on", "BootMode": "Bios"}); err == nil || !strings.Contains(err.Error(), "wanted as") {
		t.Errorf("two wishes for one setting: %v; want an error", err)
	}
}

// Every line of the table names its source.
func TestMeanings(t *testing.T) {
	all, err := Meanings()
	if err != nil || len(all) < 10 {
		t.Fatalf("Meanings() = %d, %v", len(all), err)
	}
	seen := map[string]bool{}
	for _, m := range all {
		if m.Name == "" || m.Says == "" || len(m.Attributes) == 0 || seen[m.Name] {
			t.Errorf("meaning %+v is incomplete, or there twice", m)
		}
		seen[m.Name] = true
		for _, a := range m.Attributes {
			if a.Maker == "" || a.Name == "" || a.Source == "" || (a.On == "") != (a.Off == "") {
				t.Errorf("%s: %+v is incomplete", m.Name, a)
			}
		}
	}
}

func TestBIOSOfTrees(t *testing.T) {
	for _, tc := range []struct {
		name, registry string
		n              int
		want           map[string]any
		changes, same  string
		err            string
	}{
		{"dell", "BiosAttributeRegistry.v1_0_3", 455, map[string]any{"sriov": "off", "above-4g": "on", "uefi": "on", "pxe-boot": "on"}, "PxeDev1EnDis SriovGlobalEnable", "BootMode MmioAbove4Gb", ""},
		{"dell", "BiosAttributeRegistry.v1_0_3", 455, map[string]any{"c-states": "on"}, "", "", "ProcCStates is Disabled and cannot be written"},
		{"dell", "BiosAttributeRegistry.v1_0_3", 455, map[string]any{"http-nic": "NIC.Embedded.1-1-1", "sub-numa": "off"}, "HttpDev1Interface", "SubNumaCluster", ""},
		{"dell", "BiosAttributeRegistry.v1_0_3", 455, map[string]any{"pxe-nic": "eth0"}, "", "", `not "eth0"`},
		{"lenovo", "BiosAttributeRegistry.1.0.0", 348, map[string]any{"sriov": "on", "acs": "off", "c-states": "off", "http-boot": "on"}, "Processors_CStates Processors_PCIeACSCTL", "DevicesandIOPorts_SRIOV NetworkStackSettings_IPv4HTTPSupport", ""},
		{"nvidia_gb200", "", 403, map[string]any{"EGM": "true", "ActiveCores": "144"}, "EGM", "ActiveCores", ""},
	} {
		t.Run(tc.name+" "+tc.changes, func(t *testing.T) {
			rig, _ := treeRig(t, tc.name)
			b, err := rig.open(t).BIOS(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if b.Registry != tc.registry || len(b.Attributes) != tc.n {
				t.Errorf("BIOS() = %d attributes of registry %q; want %d of %q", len(b.Attributes), b.Registry, tc.n, tc.registry)
			}
			for _, a := range b.Attributes {
				if a.Pending != nil {
					t.Errorf("%s: %v waits beside %v; want nothing", a.Name, a.Pending, a.Value)
				}
			}
			p, err := PlanBIOS(b, tc.want)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("PlanBIOS() = %v; want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, ch := range p.Changes {
				names = append(names, ch.Name)
			}
			slices.Sort(names)
			slices.Sort(p.Same)
			if strings.Join(names, " ") != tc.changes || strings.Join(p.Same, " ") != tc.same {
				t.Errorf("PlanBIOS() changes %v and keeps %v; want %q and %q", names, p.Same, tc.changes, tc.same)
			}
		})
	}
}
