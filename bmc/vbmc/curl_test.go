package vbmc

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/redfish"
)

// needs finds a program, or skips; in CI its absence fails.
func needs(t testing.TB, program string) string {
	t.Helper()
	p, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI has no %s", program)
		}
		t.Skipf("no %s on this machine", program)
	}
	return p
}

// TestCurl drives the service by curl over TLS, its certificate verified.
func TestCurl(t *testing.T) {
	curl := needs(t, "curl")
	s := newService(t, nil)
	ts := httptest.NewTLSServer(s)
	defer ts.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		args = append([]string{"-sS", "--max-time", "10", "--cacert", ca, "-i"}, args...)
		out, err := exec.CommandContext(t.Context(), curl, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl %v: %v %s", args, err, out)
		}
		return string(out)
	}
	header := func(resp, name string) string {
		for l := range strings.Lines(resp) {
			if k, v, ok := strings.Cut(strings.TrimSpace(l), ": "); ok && strings.EqualFold(k, name) {
				return v
			}
		}
		t.Fatalf("no header %s in %s", name, resp)
		return ""
	}
	has := func(operation, resp string, want ...string) {
		t.Helper()
		for _, w := range want {
			ok := strings.Contains(resp, w)
			matrix.Note("curl", operation, "", ok)
			if !ok {
				t.Errorf("curl got %s; want %q in it", resp, w)
			}
		}
	}
	json := []string{"-H", "Content-Type: application/json"}
	has("service root without login", run(ts.URL+"/redfish/v1/"), " 200", `"RedfishVersion"`)
	has("a system without login is refused", run(ts.URL+systemPath), " 401", "NoValidSession")
	login := run(append(json, "-d", `{"UserName":"root","Password":"s3cret"}`, ts.URL+sessionsPath)...)
	has("session login", login, " 201")
	tok := "X-Auth-Token: " + header(login, "X-Auth-Token")
	sys := run("-H", tok, ts.URL+systemPath+"/")
	has("system under a trailing slash", sys, " 200", `"PowerState":"Off"`)
	has("boot override under If-Match", run(append(json, "-H", tok, "-H", "If-Match: "+header(sys, "ETag"), "-X", "PATCH", "-d",
		`{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`, ts.URL+systemPath+"/")...), " 200", `"BootSourceOverrideTarget":"Pxe"`)
	has("power on", run(append(json, "-H", tok, "-d", `{"ResetType":"On"}`, ts.URL+systemPath+"/Actions/ComputerSystem.Reset")...), " 204")
	has("basic authentication", run("-u", "root:s3cret", ts.URL+systemPath), `"PowerState":"On"`, `"BootSourceOverrideEnabled":"Disabled"`)
	has("logout", run("-H", tok, "-X", "DELETE", ts.URL+header(login, "Location")), " 204")
	has("the session's end", run("-H", tok, ts.URL+systemPath), " 401")
	if b := s.mem.Booted(); len(b) != 1 || b[0].Target != BootPxe {
		t.Errorf("booted %+v; want Pxe", b)
	}
}

// TestGofish drives the service by gofish's own types.
func TestGofish(t *testing.T) {
	matrix.Test(t, "gofish", "login, boot override, power, processors, interfaces, drives, thermal, network protocol, accounts, logout")
	s := newService(t, nil)
	ts := httptest.NewTLSServer(s)
	defer ts.Close()
	api, err := gofish.ConnectContext(t.Context(), gofish.ClientConfig{Endpoint: ts.URL, Username: "root", Password: "s3cret", HTTPClient: ts.Client()})
	if err != nil {
		t.Fatal(err)
	}
	systems, err := api.Service.Systems()
	if err != nil || len(systems) != 1 {
		t.Fatalf("Systems() = %v, %v", systems, err)
	}
	sys := systems[0]
	if err := sys.SetBoot(redfish.Boot{BootSourceOverrideEnabled: redfish.OnceBootSourceOverrideEnabled, BootSourceOverrideTarget: redfish.PxeBootSourceOverrideTarget}); err != nil {
		t.Error(err)
	}
	if err := sys.Reset(redfish.OnResetType); err != nil {
		t.Error(err)
	}
	if cpus, err := sys.Processors(); err != nil || len(cpus) != 3 {
		t.Errorf("Processors() = %d, %v; want 3", len(cpus), err)
	}
	if nics, err := sys.EthernetInterfaces(); err != nil || len(nics) != 1 || nics[0].MACAddress != "52:54:00:00:00:01" {
		t.Errorf("EthernetInterfaces() = %v, %v", nics, err)
	}
	st, err := sys.Storage()
	if err != nil || len(st) != 1 {
		t.Fatalf("Storage() = %v, %v", st, err)
	}
	if ds, err := st[0].Drives(); err != nil || len(ds) != 1 || ds[0].SerialNumber != "S1" {
		t.Errorf("Drives() = %v, %v", ds, err)
	}
	if ch, err := api.Service.Chassis(); err != nil || len(ch) != 1 {
		t.Errorf("Chassis() = %v, %v", ch, err)
	} else if _, err := ch[0].Thermal(); err != nil {
		t.Errorf("Thermal() = %v", err)
	}
	if ms, err := api.Service.Managers(); err != nil || len(ms) != 1 {
		t.Errorf("Managers() = %v, %v", ms, err)
	} else if _, err := ms[0].NetworkProtocol(); err != nil {
		t.Errorf("NetworkProtocol() = %v", err)
	}
	acc, err := api.Service.AccountService()
	if err != nil {
		t.Fatal(err)
	}
	if as, err := acc.Accounts(); err != nil || len(as) != accountSlots {
		t.Errorf("Accounts() = %d, %v", len(as), err)
	}
	api.Logout()
	if n := s.Sessions(); n != 0 {
		t.Errorf("%d sessions after Logout(); want 0", n)
	}
}
