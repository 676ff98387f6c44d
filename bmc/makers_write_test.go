package bmc

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// merged is a maker's resource after a PATCH of Boot.
func bootOf(b map[string]any, allowed string) string {
	o, _ := b["Boot"].(map[string]any)
	s := func(k string) string { v, _ := o[k].(string); return v }
	mode := s("BootSourceOverrideMode")
	if mode == "" {
		mode = "UEFI"
	}
	return fmt.Sprintf(`"Boot":{"BootSourceOverrideEnabled":%q,"BootSourceOverrideTarget":%q,"BootSourceOverrideMode":%q,"BootSourceOverrideTarget@Redfish.AllowableValues":[%s]}`,
		s("BootSourceOverrideEnabled"), s("BootSourceOverrideTarget"), mode, allowed)
}

const noBoot = `"Boot":{"BootSourceOverrideEnabled":"Disabled","BootSourceOverrideTarget":"None","BootSourceOverrideMode":"UEFI","BootSourceOverrideTarget@Redfish.AllowableValues":[%s]}`

// TestMakersBoot: the override is sent the way that each maker takes it, and
// read where each shows it.
func TestMakersBoot(t *testing.T) {
	sys := v1 + "/Systems/1"
	for _, tc := range []struct {
		name    string
		allowed string
		later   bool // has a settings resource
		ifMatch bool
		patch   func(m *maker) func(path string, body map[string]any) int
		set     NextBoot
		last    string // of what was sent
		err     string
	}{
		{"settings resource, the system refuses (DGX)", `"None","Pxe","Hdd"`, true, true, func(m *maker) func(string, map[string]any) int {
			return func(p string, b map[string]any) int {
				if p != sys+"/SD" {
					return http.StatusMethodNotAllowed
				}
				m.put(p, `{"@odata.id":"`+p+`","@odata.etag":"W/\"1\"",`+bootOf(b, "")+`}`)
				return http.StatusNoContent
			}
		}, NextBoot{Device: BootPXE, UEFI: true}, sys + "/SD", ""},
		{"settings resource, the system takes it and does nothing (AMI)", `"None","Pxe","Hdd"`, true, true, func(m *maker) func(string, map[string]any) int {
			return func(p string, b map[string]any) int {
				if p == sys+"/SD" {
					m.put(p, `{"@odata.id":"`+p+`",`+bootOf(b, "")+`}`)
				}
				return http.StatusNoContent
			}
		}, NextBoot{Device: BootDisk, Permanent: true, UEFI: true}, sys + "/SD", ""},
		{"the mode cannot be written (iLO)", `"None","Pxe","Cd"`, false, false, func(m *maker) func(string, map[string]any) int {
			return func(p string, b map[string]any) int {
				if o := b["Boot"].(map[string]any); o["BootSourceOverrideMode"] != nil {
					return http.StatusBadRequest
				}
				m.put(p, with(bootOf(b, `"None","Pxe","Cd"`)))
				return http.StatusOK
			}
		}, NextBoot{Device: BootPXE, UEFI: true}, `{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`, ""},
		{"the virtual CD is a USB device (Supermicro)", `"None","Pxe","UsbCd"`, false, false, func(m *maker) func(string, map[string]any) int {
			return func(p string, b map[string]any) int {
				m.put(p, with(bootOf(b, `"None","Pxe","UsbCd"`)))
				return http.StatusOK
			}
		}, NextBoot{Device: BootCD, UEFI: true}, `"UsbCd"`, ""},
		{"UEFI in the name, no mode (X10)", `"None","Pxe","Hdd","CD/DVD","UsbCd","UefiCd","UefiHdd","UefiUsbCd"`, false, false, func(m *maker) func(string, map[string]any) int {
			return func(p string, b map[string]any) int {
				m.put(p, with(strings.Replace(bootOf(b, ""), `"BootSourceOverrideMode":"UEFI",`, "", 1)))
				return http.StatusOK
			}
		}, NextBoot{Device: BootDisk, UEFI: true}, `"UefiHdd"`, ""},
		{"no device of that kind", `"None","Pxe"`, false, false, nil, NextBoot{Device: BootHTTP, UEFI: true}, "", "not UefiHttp"},
		{"legacy where the mode cannot be written", `"None","Pxe"`, false, false, func(*maker) func(string, map[string]any) int {
			return func(string, map[string]any) int { return http.StatusBadRequest }
		}, NextBoot{Device: BootPXE}, `"Legacy"`, "400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			boot := fmt.Sprintf(noBoot, tc.allowed)
			m := &maker{ifMatch: tc.ifMatch, res: simple(nil)}
			if tc.later {
				m.res[sys+"/SD"] = `{"@odata.id":"` + sys + `/SD"}`
				boot += `,"@Redfish.Settings":{"SettingsObject":{"@odata.id":"` + sys + `/SD"}}`
			}
			if strings.Contains(tc.name, "no mode") {
				boot = strings.Replace(boot, `"BootSourceOverrideMode":"UEFI",`, "", 1)
			}
			m.res[sys] = with(boot)
			if tc.patch != nil {
				m.patch = tc.patch(m)
			}
			c := m.open(t, func(t *Target) { t.Timeout = 10 * time.Second })
			err := c.SetNextBoot(t.Context(), tc.set)
			if tc.err != "" {
				wantErr(t, err, nil, tc.err)
			} else if err != nil {
				t.Fatal(err)
			}
			if sent := m.did(); tc.last != "" && (len(sent) == 0 || !strings.Contains(sent[len(sent)-1], tc.last)) {
				t.Errorf("sent %q; want the last to have %s", sent, tc.last)
			}
			if strings.Contains(tc.name, "no mode") {
				tc.set.UEFI = false // it is not told
			}
			if st, err := c.Status(t.Context()); tc.err == "" && (err != nil || st.Boot != tc.set) {
				t.Errorf("Status().Boot = %v, %v; want %v", st.Boot, err, tc.set)
			}
		})
	}
}

// TestMakersMedia: an image is inserted with what each maker's action wants.
func TestMakersMedia(t *testing.T) {
	at := v1 + "/Managers/1/VirtualMedia/CD1"
	drive := func(image string) string {
		return fmt.Sprintf(`{"@odata.id":%q,"Id":"CD1","MediaTypes":["CD","DVD"],"Image":%s,"Inserted":%v,"Actions":{"#VirtualMedia.InsertMedia":{"target":"%s/In"},"#VirtualMedia.EjectMedia":{"target":"%s/Out"}}}`,
			at, image, image != "null", at, at)
	}
	const uri = "http://192.0.2.1/x.iso"
	for _, tc := range []struct {
		name    string
		ifMatch bool
		takes   func(b map[string]any) bool
	}{
		{"the image alone", false, func(b map[string]any) bool { return len(b) == 1 }},
		{"with its protocol (AMI)", true, func(b map[string]any) bool { return b["TransferProtocolType"] == "HTTP" }},
		{"all (Dell)", false, func(b map[string]any) bool { return b["Inserted"] == true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &maker{ifMatch: tc.ifMatch, res: simple(map[string]string{
				v1 + "/Managers/1":              `{"@odata.id":"/redfish/v1/Managers/1","Id":"1","VirtualMedia":{"@odata.id":"/redfish/v1/Managers/1/VirtualMedia"}}`,
				v1 + "/Managers/1/VirtualMedia": coll(at), at: drive("null")})}
			m.post = func(p string, b map[string]any) int {
				switch {
				case p == at+"/Out":
					m.put(at, drive("null"))
				case p != at+"/In":
					return http.StatusNotFound
				case b["Image"] != uri || !tc.takes(b):
					return http.StatusBadRequest
				default:
					m.put(at, drive(`"`+uri+`"`))
				}
				return http.StatusNoContent
			}
			c := m.open(t)
			if err := c.InsertMedia(t.Context(), uri); err != nil {
				t.Fatal(err)
			}
			if err := c.EjectMedia(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestMakersBIOS: settings, their registry and where changes are written.
func TestMakersBIOS(t *testing.T) {
	bios := v1 + "/Systems/1/Bios"
	reg := `{"Id":"R","RegistryEntries":{"Attributes":[{"AttributeName":"IntelVTforDirectedI/O(VT-d)_00EC","DisplayName":"VT-d","Type":"Enumeration","Value":[{"ValueName":"Enable"},{"ValueName":"Disable"}]},
		{"AttributeName":"IntelProcVtd","Type":"Enumeration","Value":[{"ValueName":"Enabled"},{"ValueName":"Disabled"}]}]}}`
	for _, tc := range []struct {
		name     string
		bios     string
		more     map[string]string
		settings string
		want     BIOSChange
	}{
		{"iLO: a registry with its file in an object, in several languages", `{"AttributeRegistry":"BiosAttributeRegistryU99.v1_0_0","Attributes":{"IntelProcVtd":"Disabled"},"@Redfish.Settings":{"SettingsObject":{"@odata.id":"` + bios + `/settings/"}}}`,
			map[string]string{v1 + "/Registries": coll(v1+"/Registries/Base.1.0.0", v1+"/Registries/BiosAttributeRegistryU99.v1_0_0"),
				v1 + "/Registries/BiosAttributeRegistryU99.v1_0_0": `{"Location":[{"Language":"ja","Uri":{"extref":"/redfish/v1/ja"}},{"Language":"en","Uri":{"extref":"/redfish/v1/en"}}]}`,
				v1 + "/ja": `{"RegistryEntries":{"Attributes":[{"AttributeName":"IntelProcVtd","Type":"String"}]}}`, v1 + "/en": reg}, bios + "/settings", BIOSChange{"IntelProcVtd", "Disabled", "Enabled", nil}},
		{"Supermicro: names with signs and digits, another version of the registry, pending settings that are not shown", `{"AttributeRegistry":"BiosAttributeRegistry.v1_0_0","Attributes":{"IntelVTforDirectedI/O(VT-d)_00EC":"Disable"},"@Redfish.Settings":{"SettingsObject":{"@odata.id":"` + bios + `/SD"}}}`,
			map[string]string{v1 + "/Registries": coll(v1 + "/Registries/BiosAttributeRegistry.1.0.0"), v1 + "/Registries/BiosAttributeRegistry.1.0.0": `{"Location":[{"Uri":"/redfish/v1/en"}]}`, v1 + "/en": reg},
			bios + "/SD", BIOSChange{"IntelVTforDirectedI/O(VT-d)_00EC", "Disable", "Enable", nil}},
		{"no settings resource, no registry", `{"Attributes":{"IntelProcVtd":"Disabled"}}`, nil, bios, BIOSChange{"IntelProcVtd", "Disabled", "Enabled", nil}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &maker{res: simple(tc.more)}
			m.res[v1] = strings.Replace(m.res[v1], "{", `{"Registries":{"@odata.id":"/redfish/v1/Registries"},`, 1)
			m.res[v1+"/Systems/1"] = with(`"Bios":{"@odata.id":"` + bios + `"}`)
			m.res[bios] = tc.bios
			m.patch = func(p string, b map[string]any) int {
				if p != tc.settings {
					return http.StatusMethodNotAllowed
				}
				a := b["Attributes"].(map[string]any)
				body := fmt.Sprintf(`{"Attributes":{%q:%q}}`, tc.want.Name, a[tc.want.Name])
				m.put(p, body)
				return http.StatusOK
			}
			if tc.settings != bios {
				m.res[tc.settings] = `{"Attributes":{}}`
			}
			c := m.open(t)
			now, err := c.BIOS(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p, err := PlanBIOS(now, map[string]any{"iommu": "on"})
			if err != nil || !slices.Equal(p.Changes, []BIOSChange{tc.want}) {
				t.Fatalf("PlanBIOS(iommu) = %+v, %v; want %+v", p.Changes, err, tc.want)
			}
			if err := c.SetBIOS(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
	}
	c := (&maker{res: simple(map[string]string{v1 + "/Systems/1": with(`"Bios":{"@odata.id":"/redfish/v1/b"}`), v1 + "/b": `{"Id":"bios","Actions":{}}`})}).open(t)
	_, err := c.BIOS(t.Context())
	wantErr(t, err, ErrUnsupported, "has no attributes") // OpenBMC
}

// TestMeaningsApart: what one maker calls so is something else at another's.
func TestMeaningsApart(t *testing.T) {
	machine := func(names ...string) (b BIOS) {
		for _, n := range names {
			b.Attributes = append(b.Attributes, Attribute{Name: n, Type: "Enumeration", Value: "Disabled", Allowed: []string{"Disabled", "Enabled"}})
		}
		slices.SortFunc(b.Attributes, func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) })
		return b
	}
	for _, tc := range []struct {
		name, meaning, want string
		b                   BIOS
	}{
		{"iLO: VT-d, not VT-x", "iommu", "IntelProcVtd", machine("ProcVirtualization", "IntelProcVtd")},
		{"iLO on AMD", "iommu", "ProcAmdIoVt", machine("ProcVirtualization", "ProcAmdIoVt")},
		{"iDRAC: one setting for both", "iommu", "ProcVirtualization", machine("ProcVirtualization")},
		{"Supermicro: VT-d, not VT-x", "iommu", "IntelVTforDirectedI/O(VT-d)_0047", machine("IntelVirtualizationTechnology_0046", "IntelVTforDirectedI/O(VT-d)_0047")},
		{"Supermicro's VT-x alone", "iommu", "", machine("IntelVirtualizationTechnology_0046")},
		{"signs in the name", "sriov", "SR-IOVSupport#002E", machine("SR-IOVSupport#002E")},
	} {
		p, err := PlanBIOS(tc.b, map[string]any{tc.meaning: "on"})
		got := ""
		if len(p.Changes) == 1 {
			got = p.Changes[0].Name
		}
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: %s is %q, %v; want %q", tc.name, tc.meaning, got, err, tc.want)
		}
	}
}

// TestMakersIfMatch: firmware that wants If-Match with everything is given it,
// by actions too.
func TestMakersIfMatch(t *testing.T) {
	m := &maker{ifMatch: true, res: simple(map[string]string{
		v1 + "/Managers/1": `{"@odata.id":"/redfish/v1/Managers/1","Id":"1","DateTime":"2024-02-03T04:05:06","Actions":{"#Manager.Reset":{"target":"/redfish/v1/Managers/1/Reset","ResetType@Redfish.AllowableValues":["ForceRestart"]}}}`,
		v1 + "/Systems/1":  with(`"IndicatorLED":"Off"`)})}
	m.post = func(p string, b map[string]any) int {
		if b["ResetType"] != "ForceRestart" {
			return http.StatusBadRequest
		}
		return http.StatusNoContent
	}
	m.patch = func(p string, b map[string]any) int {
		if b["IndicatorLED"] == "Blinking" { // iLO knows no other light than Lit
			return http.StatusBadRequest
		}
		m.put(p, with(fmt.Sprintf(`"IndicatorLED":%q`, b["IndicatorLED"])))
		return http.StatusOK
	}
	c := m.open(t)
	if err := c.ResetBMC(t.Context()); err != nil {
		t.Error(err)
	}
	for _, on := range []bool{true, false} {
		if err := c.Identify(t.Context(), on); err != nil {
			t.Error(err)
		}
		if st, err := c.Status(t.Context()); err != nil || st.Identify != on {
			t.Errorf("identify reads %v, %v; want %v", st.Identify, err, on)
		}
	}
	if at, err := c.Clock(t.Context()); err != nil || at.Year() != 2024 {
		t.Errorf("Clock() = %v, %v; want 2024 from a time without a zone", at, err)
	}
}
