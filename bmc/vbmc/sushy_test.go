package vbmc

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sushyScript is what OpenStack Ironic does with a BMC, by its own client.
const sushyScript = `
import sys, time, sushy
from sushy import auth
# Debian's package leaves the DMTF's registries out, for their licence.
sushy.main.Sushy._get_standard_message_registry_collection = lambda self: []
url, ca = sys.argv[1], sys.argv[2]
for a in (auth.BasicAuth('root', 's3cret'), auth.SessionAuth('root', 's3cret'), auth.SessionOrBasicAuth('root', 's3cret')):
    s = sushy.Sushy(url, auth=a, verify=ca)
    system = s.get_system_collection().get_members()[0]
    print('auth', type(a).__name__, system.uuid, system.power_state)
    a.close()
s = sushy.Sushy(url, auth=auth.BasicAuth('root', 's3cret'), verify=ca)
system = s.get_system(s.get_system_collection().members_identities[0])
print('managed by', [m.identity for m in system.managers], 'chassis', [c.identity for c in system.chassis])
print('resets', sorted(str(v) for v in system.get_allowed_reset_system_values()).__len__())
system.reset_system(sushy.RESET_ON); system.refresh(); print('power', system.power_state)
for enabled in (sushy.BOOT_SOURCE_ENABLED_ONCE, sushy.BOOT_SOURCE_ENABLED_CONTINUOUS):
    for target in (sushy.BOOT_SOURCE_TARGET_PXE, sushy.BOOT_SOURCE_TARGET_CD, sushy.BOOT_SOURCE_TARGET_HDD):
        system.set_system_boot_options(target, enabled=enabled, mode=sushy.BOOT_SOURCE_MODE_UEFI); system.refresh()
        print('boot', system.boot.target, system.boot.enabled, system.boot.mode)
system.set_indicator_led(sushy.INDICATOR_LED_BLINKING); system.refresh(); print('led', system.indicator_led)
print('cpus', system.processors.summary, 'memory', system.memory_summary.size_gib)
print('nics', sorted((e.mac_address, str(e.status.health)) for e in system.ethernet_interfaces.get_members()))
b = system.bios
print('bios', b.attributes['BootMode'], 'registry', b.get_attribute_registry().registry_entries.attributes[0].name)
b.set_attribute('MmioAbove4Gb', 'Enabled', apply_time=None); b.refresh(); print('pending', b.pending_attributes)
sb = system.secure_boot
sb.set_enabled(True); sb.refresh(); print('secure boot', sb.enabled, sb.mode, sorted(str(v) for v in sb.get_allowed_reset_keys_values()).__len__())
sb.reset_keys(sushy.SECURE_BOOT_RESET_KEYS_TO_DEFAULT)
print('databases', len(sb.databases.get_members()))
for owner in (system.managers[0],):
    vm = owner.virtual_media.get_members()[0]
    print('media', vm.media_types, vm.inserted)
    vm.insert_media('http://files.example.org/a.iso', write_protected=True); vm.refresh(); print('inserted', vm.image, vm.inserted)
    vm.eject_media(); vm.refresh(); print('ejected', vm.inserted)
st = system.storage.get_members()[0]
print('drives', [d.serial_number for d in st.drives])
v = st.volumes
print('apply times', v.operation_apply_time_support.supported_values if v.operation_apply_time_support else None)
new = v.create({'RAIDType': 'RAID0', 'Links': {'Drives': [{'@odata.id': st.drives[0].path}]}}, apply_time=sushy.APPLY_TIME_IMMEDIATE)
print('volume', new.raid_type, new.capacity_bytes)
new.delete(); v.refresh(force=True)
print('volumes', len(st.volumes.get_members()))
m = system.managers[0]
print('manager', m.firmware_version, m.manager_type)
print('chassis', system.chassis[0].chassis_type, [f.name for f in system.chassis[0].thermal.fans][:1], [p.name for p in system.chassis[0].power.power_supplies][:1])
u = s.get_update_service()
mon = u.simple_update('http://files.example.org/bios')
mon.wait(20)
print('task', mon.is_processing, mon.response.status_code)
system.refresh(force=True); print('bios version', system.bios_version)
c = s.get_chassis(system.chassis[0].path); print('chassis', c.serial_number)
m.reset_manager(sushy.RESET_MANAGER_GRACEFUL_RESTART)
e = s.get_event_service() if hasattr(s, 'get_event_service') else None
t = s.get_task_service() if hasattr(s, 'get_task_service') else None
print('done')
`

// TestSushy drives the service with OpenStack's client (Debian: python3-sushy).
func TestSushy(t *testing.T) {
	if out, err := exec.Command("/usr/bin/python3", "-c", "import sushy").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI has no sushy: %s", out)
		}
		t.Skip("no sushy: apt-get install python3-sushy")
	}
	s := newService(t, func(c *Config) { c.UpdateTime, c.FetchImage = time.Second, fetchFixed(FirmwareImage("BIOS", "9.9")) })
	srv := httptest.NewTLSServer(s.Server)
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", "-c", sushyScript, srv.URL+root, ca)
	cmd.Env = []string{"PATH=/usr/bin:/bin"} // REQUESTS_CA_BUNDLE would win over verify
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sushy: %v\n%s", err, out)
	}
	for _, tc := range []struct{ operation, want string }{
		{"basic authentication", "auth BasicAuth 4c4c4544-0035-3410-8050-c6c04f314733"},
		{"session authentication", "auth SessionAuth 4c4c4544-0035-3410-8050-c6c04f314733"},
		{"session or basic authentication", "auth SessionOrBasicAuth 4c4c4544-0035-3410-8050-c6c04f314733"},
		{"power on", "power PowerState.ON"},
		{"boot from CD once", "boot BootSource.CD BootSourceOverrideEnabled.ONCE BootSourceOverrideMode.UEFI"},
		{"boot from disk for good", "boot BootSource.HDD BootSourceOverrideEnabled.CONTINUOUS"},
		{"light", "led IndicatorLED.BLINKING"},
		{"network interfaces", "52:54:00:00:00:01"},
		{"BIOS attribute registry", "registry BootMode"},
		{"BIOS setting", "pending {'MmioAbove4Gb': 'Enabled'}"},
		{"Secure Boot on", "secure boot True"},
		{"Secure Boot databases", "databases 4"},
		{"virtual media in", "inserted http://files.example.org/a.iso True"},
		{"virtual media out", "ejected False"},
		{"volume apply times", "apply times ['Immediate']"},
		{"volume made", "volume RAIDType.RAID0 1099511627776"},
		{"volume removed", "volumes 0"},
		{"firmware update task", "task False"},
		{"firmware version after it", "bios version 9.9"},
		{"chassis", "chassis SN1"},
		{"manager reset", "done"},
	} {
		ok := strings.Contains(string(out), tc.want)
		matrix.Note("sushy", tc.operation, "", ok)
		if !ok {
			t.Errorf("sushy did not print %q (%s)", tc.want, tc.operation)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
	if n := s.Sessions(); n != 0 {
		t.Errorf("%d sessions are open; want 0", n)
	}
}
