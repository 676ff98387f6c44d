package bmc

import (
	"encoding/json"
	"testing"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// FuzzResource: nothing that a BMC sends makes the reading of it panic, and
// what is JSON at its top is read.
func FuzzResource(f *testing.F) {
	f.Add([]byte(`{"@odata.id":"/redfish/v1/Systems/1","PowerState":"On","Boot":{"BootSourceOverrideTarget":"Pxe"},"Links":{"Chassis":[{"@odata.id":"/x"}]}}`))
	f.Add([]byte(`{"PowerState":7,"LocationIndicatorActive":"yes","Links":{"Chassis":{"@odata.id":"//evil"}},"MemorySummary":{"TotalSystemMemoryGiB":"512"}}`))
	f.Add([]byte(`{"Members":[null,1,{"@odata.id":5}],"Status":{"Health":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s computerSystem
		if unmarshal(b, &s) == nil {
			_, _ = host([]computerSystem{s}, "")
			s.Links.Chassis.first()
			_ = parsePower(string(s.PowerState))
			if s.Boot != nil {
				s.Boot.nextBoot()
			}
		}
		var r refs
		_ = json.Unmarshal(b, &r)
		for _, x := range r {
			if p := x.path(); p != "" && p[0] != '/' {
				t.Errorf("path %q of %s does not begin with a slash", p, b)
			}
			x.bare()
		}
	})
}

// FuzzIPMI: nothing that a BMC sends makes the reading of it panic.
func FuzzIPMI(f *testing.F) {
	f.Add(lanplus.Packet(lanplus.Open+1, 0, 0, make([]byte, 36)))
	f.Add(lanplus.Packet(lanplus.IPMI|lanplus.Encrypted|lanplus.Authentic, 1, 1, make([]byte, 48)))
	f.Add([]byte{1, 2, 25, 0xc3, 'A', 'B', 'C', 0x83, 0x29, 0xdc, 0xa6, 0xc1, 0, 0, 0, 0x42})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &rmcp{Keys: lanplus.Keys{Own: 1, Integrity: suites[0].Integrity, K1: make([]byte, 32), K2: make([]byte, 32)}, active: true}
		if _, _, ok := r.Open(b); ok {
			t.Errorf("%x was taken for an answer of the session", b)
		}
		_, _ = parseProduct(b)
		for kind := range byte(4) {
			fruText(kind, b)
		}
		if len(b) >= 3 {
			parseChassisStatus(b)
			parseBootFlags(b[0], b[1])
		}
	})
}
