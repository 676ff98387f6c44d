package labs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

func TestSecureBoot(t *testing.T) {
	m, hv := chassisUnderTest(t, 1)
	m.lab.r.engines = map[string]engine{m.plan.Arch: {plain: firmwares[0]}}
	m.lab.machines = map[string]*machine{m.plan.Name: m}
	u, ok := m.lab.Chassis(m.plan.Name).(vbmc.SecureBooter)
	if !ok {
		t.Fatal("the BMC of a machine with UEFI has no Secure Boot")
	}
	if err := u.SetSecureBoot(t.Context(), true); !errors.Is(err, vbmc.ErrUnsupported) {
		t.Errorf("without such a firmware on this machine, switching it on = %v; want ErrUnsupported", err)
	}
	m.lab.r.engines[m.plan.Arch] = engine{plain: firmwares[0], secure: secureFirmwares[0]}
	want := func(when string, w vbmc.SecureBoot) {
		t.Helper()
		if got, err := u.SecureBoot(t.Context()); got != w || err != nil {
			t.Errorf("%s it is %+v, %v; want %+v", when, got, err, w)
		}
	}
	on := func() {
		t.Helper()
		if err := m.Reset(t.Context(), vbmc.ResetForceRestart); err != nil {
			t.Fatal(err)
		}
	}
	want("as the site has it,", vbmc.SecureBoot{})
	if err := u.SetSecureBoot(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	want("before its next start", vbmc.SecureBoot{Enabled: true})
	on()
	want("after it", vbmc.SecureBoot{Enabled: true, Current: true})
	if !strings.Contains(hv.xml, `secure="yes"`) || !strings.Contains(hv.xml, "-secure-vars.fd") {
		t.Errorf("it was started with\n%s\nwant the firmware with Secure Boot, and its variables", hv.xml)
	}

	vars := m.lab.r.dir.nvram(m.plan.Name, true)
	if err := errors.Join(os.MkdirAll(filepath.Dir(vars), 0o700), os.WriteFile(vars, []byte("changed"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := u.ResetKeys(t.Context(), "DeletePK"); !errors.Is(err, vbmc.ErrUnsupported) {
		t.Errorf("deleting the platform key = %v; want ErrUnsupported", err)
	}
	if err := u.ResetKeys(t.Context(), "ResetAllKeysToDefault"); err != nil {
		t.Fatal(err)
	}
	on()
	if _, err := os.Stat(vars); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the keys were reset the variables are still there: %v", err)
	}
	if err := os.WriteFile(vars, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	on()
	if _, err := os.Stat(vars); err != nil {
		t.Errorf("the keys were reset twice: %v", err)
	}

	if err := u.SetSecureBoot(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	again, err := newMachine(m.lab, m.plan) // a BMC that restarts remembers
	if err != nil {
		t.Fatal(err)
	}
	m = again
	m.lab.machines[m.plan.Name] = m
	u = m.lab.Chassis(m.plan.Name).(vbmc.SecureBooter)
	want("switched off, with a BMC that was restarted,", vbmc.SecureBoot{Current: true})
	on()
	want("after the next start", vbmc.SecureBoot{})
	if strings.Contains(hv.xml, `secure="yes"`) {
		t.Errorf("it was started with\n%s\nwant the plain firmware", hv.xml)
	}

	bios, _ := chassisUnderTest(t, 0)
	bios.lab.machines = map[string]*machine{bios.plan.Name: bios}
	if _, ok := bios.lab.Chassis(bios.plan.Name).(vbmc.SecureBooter); ok {
		t.Error("the BMC of a machine with a BIOS has Secure Boot")
	}
}
