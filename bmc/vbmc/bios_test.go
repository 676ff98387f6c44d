package vbmc

import (
	"strings"
	"testing"
)

// TestBIOS: settings are checked by the registry, wait, and are applied at the
// next boot, not before.
func TestBIOS(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"enumeration", `{"Attributes":{"SriovGlobalEnable":"Enabled"}}`, 200, ""},
		{"with a time", `{"Attributes":{"QuietBoot":false},"@Redfish.SettingsApplyTime":{"ApplyTime":"OnReset"}}`, 200, ""},
		{"another time", `{"Attributes":{"QuietBoot":false},"@Redfish.SettingsApplyTime":{"ApplyTime":"Immediate"}}`, 400, "PropertyValueNotInList"},
		{"not allowed", `{"Attributes":{"SriovGlobalEnable":"Perhaps"}}`, 400, "PropertyValueNotInList"},
		{"wrong type", `{"Attributes":{"QuietBoot":"false"}}`, 400, "PropertyValueTypeError"},
		{"fraction", `{"Attributes":{"PowerOnDelay":1.5}}`, 400, "PropertyValueTypeError"},
		{"out of bounds", `{"Attributes":{"PowerOnDelay":601}}`, 400, "PropertyValueNotInList"},
		{"unknown", `{"Attributes":{"Nonsense":1}}`, 400, "PropertyUnknown"},
		{"read-only", `{"Attributes":{"SystemBiosVersion":"2"}}`, 0, "PropertyNotWritable"},
		{"one of two", `{"Attributes":{"SriovGlobalEnable":"Enabled","Nonsense":1}}`, 400, "PropertyUnknown"},
		{"no object", `{"Attributes":[]}`, 400, "PropertyValueTypeError"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newService(t, nil)
			r := s.do("PATCH", biosSettings, admin, tc.body)
			if tc.status != 0 && r.StatusCode != tc.status || tc.status == 0 && r.StatusCode < 400 || !strings.Contains(r.text, tc.says) {
				t.Errorf("PATCH %s = %d %s; want %d with %q", tc.body, r.StatusCode, r.text, tc.status, tc.says)
			}
			waiting := len(s.do("GET", biosSettings, admin, "").body["Attributes"].(obj))
			if (waiting == 0) != (tc.status != 200) {
				t.Errorf("%d settings wait after %d", waiting, tc.status)
			}
		})
	}
	s := newService(t, nil)
	now := func() any { return at(s.do("GET", biosPath, admin, "").body, "Attributes/MmioAbove4Gb") }
	set := func(body string) {
		t.Helper()
		if r := s.do("PATCH", biosSettings, admin, body); r.StatusCode != 200 {
			t.Fatalf("PATCH %s = %d %s", body, r.StatusCode, r.text)
		}
	}
	boot := func(kind ResetType) {
		t.Helper()
		if r := s.do("POST", systemPath+"/Actions/ComputerSystem.Reset", admin, `{"ResetType":"`+string(kind)+`"}`); r.StatusCode != 204 {
			t.Fatalf("reset %s = %d %s", kind, r.StatusCode, r.text)
		}
	}
	set(`{"Attributes":{"MmioAbove4Gb":"Enabled"}}`)
	if v := now(); v != "Disabled" {
		t.Errorf("before the boot: %v; want Disabled", v)
	}
	boot(ResetOn)
	if v := now(); v != "Enabled" {
		t.Errorf("after the boot: %v; want Enabled", v)
	}
	set(`{"Attributes":{"MmioAbove4Gb":"Disabled"}}`)
	boot(ResetForceOff)
	if v := now(); v != "Enabled" {
		t.Errorf("after power-off: %v; want Enabled still", v)
	}
	set(`{"Attributes":{"MmioAbove4Gb":"Enabled"}}`) // taken back
	if n := len(s.do("GET", biosSettings, admin, "").body["Attributes"].(obj)); n != 0 {
		t.Errorf("%d settings wait after the change was taken back; want 0", n)
	}
	if r := s.do("POST", biosPath+"/Actions/Bios.ResetBios", admin, `{}`); r.StatusCode != 204 {
		t.Errorf("ResetBios = %d %s", r.StatusCode, r.text)
	}
	boot(ResetOn)
	if v := now(); v != "Disabled" {
		t.Errorf("after ResetBios and a boot: %v; want Disabled", v)
	}
	if r := s.do("PATCH", biosSettings, "ro:ro", `{"Attributes":{"MmioAbove4Gb":"Enabled"}}`); r.StatusCode != 403 {
		t.Errorf("a reader sets the BIOS: %d; want 403", r.StatusCode)
	}
	if _, err := New(Config{Chassis: NewMemory(testInfo()), Accounts: []Account{{User: "root", Password: "x"}}, BIOS: []BIOSAttribute{{Name: "A"}, {Name: "A"}}}); err == nil {
		t.Error("two BIOS attributes of one name were taken")
	}
}
