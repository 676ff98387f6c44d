package provision

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// servedRotation is a server's BMCs of the site in dir, whose machines share a
// secret; gpu-05's BMC is at addr.
func servedRotation(t *testing.T, dir, addr string) (*BMCs, *site.Secrets) {
	t.Helper()
	sec, err := site.OpenSecrets(dir, filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Pointer[site.Site]
	reread := func() (*site.Site, error) {
		s, err := site.Load(dir)
		if err == nil {
			now.Store(s)
		}
		return s, err
	}
	if _, err := reread(); err != nil {
		t.Fatal(err)
	}
	b, err := NewBMCs(BMCsConfig{
		Site: now.Load, Turns: NewTurns(nil), Dir: t.TempDir(), Passwords: &SitePasswords{Secrets: sec, Site: now.Load, Reread: reread},
		Append: func(context.Context, ...state.Event) (int64, error) { return 0, nil },
		Target: func(m site.Machine) (bmc.Target, error) {
			v, err := sec.Get(m.BMC.Secret)
			if err != nil {
				return bmc.Target{}, err
			}
			user, pw, err := splitCredential(v)
			return bmc.Target{Name: m.Name, Address: netip.MustParseAddrPort(addr), User: user, Password: pw, Insecure: true, Timeout: 2 * time.Second}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b, sec
}

// TestServedRotateKilled kills a server at each step of a rotation, without any
// mercy: a password that is stored opens the BMC, and the same command to the
// next server ends it.
func TestServedRotateKilled(t *testing.T) {
	req := state.BMCRequest{Machines: []string{"gpu-05"}, Yes: true}
	if dir := os.Getenv("FETTLE_TEST_ROTATE_DIR"); dir != "" {
		b, _ := servedRotation(t, dir, os.Getenv("FETTLE_TEST_ROTATE_BMC"))
		err := b.Operate(t.Context(), "user:alice", OpRotate.Name, req, func(s state.BMCStep) {
			t.Log(s.Text, s.Error) // shown when it was not killed
			if s.Text == os.Getenv("FETTLE_TEST_ROTATE_STEP") {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		})
		t.Fatalf("Operate() = %v; want to be killed", err)
	}
	for _, step := range rotateSteps {
		t.Run(string(step), func(t *testing.T) {
			tiny := newTinyBMC(t, "calvin")
			sec, dir := rotateSecrets(t)
			if err := sec.Set("shared", site.NewSecret("root:calvin")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(`name: s
domain: example.org
networks:
  - {name: prov, purpose: boot, prefix: 198.51.100.0/24, server: 198.51.100.1, pools: [{from: 198.51.100.10, to: 198.51.100.20}]}
  - {name: oob, purpose: bmc, vlan: 7, prefix: 192.0.2.0/24}
secrets:
  - name: shared
machines:
  - {name: gpu-05, serial: S5, firmware: uefi, nics: [{mac: 52:54:00:00:00:05, network: prov, boot: true}], bmc: {address: 192.0.2.15, secret: shared}}
  - {name: gpu-06, serial: S6, firmware: uefi, nics: [{mac: 52:54:00:00:00:06, network: prov, boot: true}], bmc: {address: 192.0.2.16, secret: shared}}
`), 0o644); err != nil {
				t.Fatal(err)
			}
			addr := tiny.Listener.Addr().String()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServedRotateKilled$")
			cmd.Env = append(os.Environ(), "FETTLE_TEST_ROTATE_DIR="+dir, "FETTLE_TEST_ROTATE_BMC="+addr, "FETTLE_TEST_ROTATE_STEP="+string(step))
			out, err := cmd.CombinedOutput()
			var ee *exec.ExitError
			if !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the server = %v; want it killed\n%s", err, out)
			}
			someKnownWorks(t, tiny, sec)
			b, sec := servedRotation(t, dir, addr)
			var last state.BMCStep
			if err := b.Operate(t.Context(), "user:alice", OpRotate.Name, req, func(s state.BMCStep) { last = s }); err != nil || last.Error != "" || !last.Done {
				t.Fatalf("Operate() of the next server = %v, last step %+v", err, last)
			}
			v, err := sec.Get("bmc-gpu-05")
			if err != nil || v.Reveal() != "root:"+tiny.now() || tiny.now() == "calvin" {
				t.Errorf("the secret is not the BMC's password (%v), or that is the old one", err)
			}
			if v, err := sec.Get("shared"); err != nil || v.Reveal() != "root:calvin" {
				t.Errorf("the secret that the other machine names changed: %v", err)
			}
			if names, err := sec.ListPending(); err != nil || len(names) != 0 {
				t.Errorf("pending after the end: %v, %v; want nothing", names, err)
			}
			if tiny.worst > 2 {
				t.Errorf("%d wrong passwords in a row; want 2 at most", tiny.worst)
			}
		})
	}
}
