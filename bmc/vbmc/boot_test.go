package vbmc

import "testing"

func TestBootByPatch(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		want       Boot
	}{
		{"once", `{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe","BootSourceOverrideMode":"Legacy"}`, Boot{BootPxe, "Once", "Legacy"}},
		{"continuous", `{"BootSourceOverrideEnabled":"Continuous","BootSourceOverrideTarget":"Hdd"}`, Boot{BootHdd, "Continuous", "UEFI"}},
		{"target alone means once", `{"BootSourceOverrideTarget":"Cd"}`, Boot{BootCd, "Once", "UEFI"}},
		{"disabled forgets the target", `{"BootSourceOverrideEnabled":"Disabled","BootSourceOverrideTarget":"Pxe"}`, Boot{BootNone, "Disabled", "UEFI"}},
		{"unknown beside known", `{"BootSourceOverrideTarget":"UefiHttp","Nope":["x"]}`, Boot{BootUefiHTTP, "Once", "UEFI"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newService(t, nil)
			tag := s.do("GET", systemPath, admin, "").Header.Get("ETag")
			r := s.do("PATCH", systemPath+"/", admin, `{"Boot":`+tc.body+`}`, "If-Match", tag)
			if got, _ := s.mem.Boot(t.Context()); r.StatusCode != 200 || got != tc.want {
				t.Errorf("PATCH = %d %s, boot %+v; want %+v", r.StatusCode, r.text, got, tc.want)
			}
			if changed := tc.want != (Boot{BootNone, "Disabled", "UEFI"}); (r.Header.Get("ETag") != tag) != changed {
				t.Errorf("ETag %s before, %s after; changed is %v", tag, r.Header.Get("ETag"), changed)
			}
		})
	}
}

func TestMixedPatch(t *testing.T) {
	s := newService(t, nil)
	r := s.do("PATCH", systemPath, admin, `{"LocationIndicatorActive":true,"SerialNumber":"x","Nope":1}`)
	notes, _ := r.body["@Message.ExtendedInfo"].([]any)
	if on, _ := s.mem.Identify(t.Context()); r.StatusCode != 200 || !on || len(notes) != 2 {
		t.Errorf("PATCH of good and bad = %d, light %v, notes %v; want 200, true, 2 notes", r.StatusCode, on, notes)
	}
	if got := s.do("GET", chassisPath, admin, "").body; got["IndicatorLED"] != "Blinking" || got["LocationIndicatorActive"] != true {
		t.Errorf("chassis light = %v %v", got["IndicatorLED"], got["LocationIndicatorActive"])
	}
}

func TestOnceIsConsumed(t *testing.T) {
	for _, boot := range []ResetType{ResetOn, ResetForceRestart, ResetPowerCycle, ResetGracefulRestart, ResetPushPowerButton} {
		t.Run(string(boot), func(t *testing.T) {
			m := NewMemory(testInfo())
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(m.SetBoot(t.Context(), Boot{BootPxe, "Once", "UEFI"}))
			must(m.Reset(t.Context(), ResetForceOff)) // no power-on: not consumed
			if b, _ := m.Boot(t.Context()); b.Target != BootPxe {
				t.Errorf("override after power off = %+v; want Pxe", b)
			}
			must(m.Reset(t.Context(), boot))
			if b, _ := m.Boot(t.Context()); b.Enabled != "Disabled" || len(m.Booted()) != 1 || m.Booted()[0].Target != BootPxe {
				t.Errorf("after %s: override %+v, booted %+v; want Disabled, Pxe", boot, b, m.Booted())
			}
			must(m.SetBoot(t.Context(), Boot{BootHdd, "Continuous", "UEFI"}))
			must(m.Reset(t.Context(), ResetForceRestart))
			if b, _ := m.Boot(t.Context()); b.Target != BootHdd {
				t.Errorf("continuous override after a restart = %+v", b)
			}
		})
	}
}
