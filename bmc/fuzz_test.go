package bmc

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"
)

// FuzzResource: nothing that a BMC sends makes the reading of it panic, and
// what is JSON at its top is read.
func FuzzResource(f *testing.F) {
	f.Add([]byte(`{"@odata.id":"/redfish/v1/Systems/1","PowerState":"On","Boot":{"BootSourceOverrideTarget":"Pxe"},"Links":{"Chassis":[{"@odata.id":"/x"}]}}`))
	f.Add([]byte(`{"PowerState":7,"LocationIndicatorActive":"yes","Links":{"Chassis":{"@odata.id":"//evil"}},"MemorySummary":{"TotalSystemMemoryGiB":"512"}}`))
	f.Add([]byte(`{"Members":[null,1,{"@odata.id":5}],"Status":{"Health":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s computerSystem
		if json.Unmarshal(b, &s) == nil {
			host([]computerSystem{s})
			s.Links.Chassis.first()
			parsePower(string(s.PowerState))
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

// FuzzIPMI: nothing that ipmitool prints makes the reading of it panic.
func FuzzIPMI(f *testing.F) {
	f.Add("Boot parameter version: 1\n Boot parameter data: e004000000\n")
	f.Add(" Product Name : GX\nBoot parameter data: 80")
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = parseBootFlags(s)
		fields(s)
	})
}

// The real ipmitool against an address that never answers ends in time.
func TestRealIPMIToolIsBounded(t *testing.T) {
	if _, err := exec.LookPath("ipmitool"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI has no ipmitool")
		}
		t.Skip("no ipmitool on this machine")
	}
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	start := time.Now()
	_, err = Open(t.Context(), Target{Name: "mute", Address: netip.MustParseAddrPort(l.LocalAddr().String()), Protocol: IPMI, User: "a", Password: "b", Timeout: 500 * time.Millisecond})
	wantErr(t, err, nil, "mute: logging in", "did not answer within 500ms")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Open took %s; want about 500ms", d)
	}
}
