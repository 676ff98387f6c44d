package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBMCBIOS goes through plan, apply, the boot and a second plan.
func TestBMCBIOS(t *testing.T) {
	r := newBMCRig(t)
	dir := t.TempDir()
	text := strings.Replace(rotateSite, "machines:", "images: [{name: deb, os: debian, suite: bookworm}]\nprofiles: [{name: train, image: deb, bios: {sriov: true, PowerOnDelay: 30}}]\nmachines:", 1)
	text = strings.Replace(text, "serial: S1,", "serial: S1, profile: train, disks: [{serial: D1}],", 1)
	if err := os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   string
		status int
		want   string // in what is printed
		not    string
	}{
		{"bios show --name c-st gpu-01", exitOK, "Enabled, Disabled, Autonomous", "BootMode"},
		{"bios meanings", exitOK, "Lenovo: DevicesandIOPorts_SRIOV", ""},
		{"bios plan --site " + dir + " gpu-02", exitUsage, "--set NAME=VALUE", ""},
		{"bios plan --site " + dir + " gpu-01", exitOK, "SriovGlobalEnable  Disabled  Enabled  to change, at a boot", "gpu-02"},
		{"bios plan --site " + dir + " gpu-01", exitOK, "PowerOnDelay       0         30       to change", "gpu-02"},
		{"bios plan --set sriov gpu-01", exitUsage, "give NAME=VALUE", ""},
		{"bios plan --set sriov=on --set uefi=on gpu-01 gpu-02", exitOK, "SriovGlobalEnable  Disabled  Enabled  to change, at a boot", ""},
		{"bios plan --set sriov=on --set uefi=on gpu-01", exitOK, "BootMode           Uefi      Uefi     as wanted", "gpu-02"},
		{"bios plan --set Nonsense=1 gpu-01", exitFailed, `gpu-01: there is no BIOS setting "Nonsense"`, ""},
		{"bios apply --set sriov=on gpu-01", exitRefused, "change BIOS settings of gpu-01: say --yes", "at the next boot"},
		{"bios plan --set sriov=on gpu-01", exitOK, "to change", "waits"},
		{"bios apply --yes --set sriov=on gpu-01 gpu-03", exitFailed, "refused the user name or password", "changes at the next boot"},
		{"bios plan --set sriov=on gpu-01", exitOK, "to change", "waits"},
		{"bios apply --yes --set sriov=on gpu-01", exitOK, "changes at the next boot", "verified"},
		{"bios plan --set sriov=on gpu-01", exitOK, "waits for the next boot", "to change"},
		{"bios apply --yes --set sriov=on gpu-01", exitOK, "waits for the next boot", "changes at"},
		{"bios apply --yes --restart --wait 2s --set sriov=on gpu-01", exitOK, "changed and verified", ""},
		{"bios plan --set sriov=on gpu-01", exitOK, "as wanted", "to change"},
		{"power status gpu-01", exitOK, "on", ""},
		{"bios apply --yes --restart --wait 2s --set above-4g=on --set PowerOnDelay=30 gpu-01 gpu-02", exitOK, "gpu-02   changed and verified", ""},
	} {
		got := r.run(t, "", nil, strings.Fields(tc.args)...)
		said := got.stdout + got.stderr
		if got.err != nil {
			said += got.err.Error()
		}
		if got.status != tc.status || !strings.Contains(said, tc.want) || tc.not != "" && strings.Contains(said, tc.not) {
			t.Errorf("bmc %s = %d, %s; want %d with %q and without %q", tc.args, got.status, said, tc.status, tc.want, tc.not)
		}
	}
	for name, s := range r.srv {
		if n := s.Sessions(); n != 0 {
			t.Errorf("%d sessions left on %s", n, name)
		}
	}
}
