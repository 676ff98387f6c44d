package labs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// uefiMachine is a machine whose firmware has Secure Boot. It starts with one of
// two firmwares of QEMU, and variables of its own for each: with Secure Boot on
// and Microsoft's keys enrolled, or without it.
type uefiMachine struct{ *machine }

var _ vbmc.SecureBooter = uefiMachine{}

// secureBoot tells whether the next start is with Secure Boot: what the BMC was
// told, else what the site says. m.mu is held.
func (m *machine) secureBoot() bool {
	if m.kept.SecureBoot != nil {
		return *m.kept.SecureBoot
	}
	return m.plan.SecureBoot
}

// SecureBoot implements vbmc.SecureBooter.
func (u uefiMachine) SecureBoot(context.Context) (vbmc.SecureBoot, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return vbmc.SecureBoot{Enabled: u.secureBoot(), Current: u.kept.SecureBooted}, nil
}

// SetSecureBoot implements vbmc.SecureBooter.
func (u uefiMachine) SetSecureBoot(_ context.Context, on bool) error {
	if e := u.lab.r.engines[u.plan.Arch]; on && e.secure.code == "" || !on && e.plain.code == "" {
		return fmt.Errorf("no such firmware for QEMU is installed on this machine (apt-get install %s): %w", u.plan.board().firmwarePkg, vbmc.ErrUnsupported)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	f := u.kept
	f.SecureBoot = &on
	return u.keep(f)
}

// ResetKeys implements vbmc.SecureBooter. The keys that the firmware came with
// are in the template of its variables, of which the next start makes new ones.
func (u uefiMachine) ResetKeys(_ context.Context, how string) error {
	if how != "ResetAllKeysToDefault" {
		return fmt.Errorf("a lab's firmware is never without keys: %w", vbmc.ErrUnsupported)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	f := u.kept
	f.NewKeys = true
	return u.keep(f)
}

// planNow is the plan of the machine's next start; m.mu is held.
func (m *machine) planNow() (MachinePlan, error) {
	p := m.plan
	if p.Firmware != site.UEFI {
		return p, nil
	}
	p.SecureBoot = m.secureBoot()
	if m.kept.NewKeys {
		if err := os.Remove(m.lab.r.dir.nvram(p.Name, true)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p, fmt.Errorf("machine %s: the firmware's variables: %w", p.Name, err)
		}
	}
	return p, nil
}
