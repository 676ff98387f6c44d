package main

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

func TestBMCOperate(t *testing.T) {
	image := filepath.Join(t.TempDir(), "bios.bin")
	if err := os.WriteFile(image, vbmc.FirmwareImage("BIOS", "2.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	cert := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: strangeCert(t).Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		args   string
		status int
		out    []string
		errs   []string
	}{
		{name: "media", args: "media insert --image http://files.example.org/a.iso gpu-01 gpu-02", out: []string{"gpu-02   http://files.example.org/a.iso"}},
		{name: "empty drive", args: "media show gpu-01", out: []string{"Cd     CD, DVD  -"}},
		{name: "eject", args: "media eject gpu-01", out: []string{"gpu-01   -"}},
		{name: "no URI", args: "media insert --image a.iso gpu-01", status: exitFailed, errs: []string{"give one such as http://"}},
		{name: "secure boot on", args: "secure-boot on gpu-01", out: []string{"off, on from the next boot", "UserMode"}},
		{name: "secure boot off needs a yes", args: "secure-boot off gpu-01", status: exitRefused, errs: []string{"switch Secure Boot off on gpu-01: say --yes"}},
		{name: "keys", args: "secure-boot reset-keys --yes --to none gpu-01", out: []string{"SetupMode"}},
		{name: "no such keys", args: "secure-boot reset-keys --yes --to all gpu-01", status: exitUsage, errs: []string{"default, none or no-pk"}},
		{name: "show keys", args: "secure-boot keys show gpu-01", out: []string{"db        1   fettle virtual firmware UEFI CA", "dbx       1   2277"}},
		{name: "add a key", args: "secure-boot keys add --yes --db db --file " + cert + " gpu-01", out: []string{"gpu-01   db"}},
		{name: "add a digest", args: "secure-boot keys add --yes --db dbx --digest " + strings.Repeat("ab", 32) + " gpu-01", out: []string{"gpu-01   dbx"}},
		{name: "a key needs a yes", args: "secure-boot keys add --db db --file " + cert + " gpu-01", status: exitRefused, errs: []string{"add to the Secure Boot database db of gpu-01: say --yes"}},
		{name: "no key", args: "secure-boot keys add --yes --db db gpu-01", status: exitUsage, errs: []string{"--file with a certificate, or --digest"}},
		{name: "no certificate", args: "secure-boot keys add --yes --db db --file " + image + " gpu-01", status: exitInput, errs: []string{"BEGIN CERTIFICATE"}},
		{name: "delete a key", args: "secure-boot keys delete --yes --db PK --id 1 gpu-01", out: []string{"gpu-01   PK"}},
		{name: "delete no key", args: "secure-boot keys delete --yes --db db --id 9 gpu-01", status: exitFailed, errs: []string{"gpu-01: deleting 9 of the Secure Boot database db: the database has no entry 9"}},
		{name: "limit", args: "limit set --watts 3000 gpu-01", out: []string{"3000 W"}},
		{name: "limit off", args: "limit off gpu-01", out: []string{"none"}},
		{name: "no limit", args: "limit set --watts 0 gpu-01", status: exitUsage, errs: []string{"limit off"}},
		{name: "telemetry", args: "telemetry --name psu gpu-01", out: []string{"PSU1Input", "PlatformEnvironmentMetrics"}},
		{name: "network", args: "network show gpu-01", out: []string{"static"}},
		{name: "network set", args: "network set --yes --interface 1 --address 192.0.2.9/24 --gateway 192.0.2.1 gpu-01", out: []string{"192.0.2.9/24"}},
		{name: "network of two", args: "network set --yes --dhcp gpu-01 gpu-02", status: exitUsage, errs: []string{"one machine's BMC at a time"}},
		{name: "network to what", args: "network set --yes gpu-01", status: exitUsage, errs: []string{"--address PREFIX or --dhcp"}},
		{name: "clock", args: "clock set gpu-01", out: []string{"0s"}},
		{name: "reset", args: "reset --yes gpu-01", out: []string{"restarts"}},
		{name: "reset needs a yes", args: "reset gpu-01", status: exitRefused, errs: []string{"restart the BMC of gpu-01"}},
		{name: "nmi needs a yes", args: "power nmi gpu-01", status: exitRefused, errs: []string{"may crash the system"}},
		{name: "firmware", args: "firmware show gpu-01", out: []string{"BIOS", "fettle-vbmc-1.0"}},
		{name: "firmware update", args: "firmware update --yes --file " + image + " gpu-01", out: []string{"BIOS 1.0 → 2.0"}, errs: []string{"Completed 100%"}},
		{name: "no such file", args: "firmware update --yes --file nope gpu-01", status: exitInput, errs: []string{"--file"}},
		{name: "nothing to install", args: "firmware update --yes gpu-01", status: exitUsage, errs: []string{"--file or --uri"}},
		{name: "users", args: "users show gpu-01", out: []string{"root  Administrator  enabled"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := newBMCRig(t).run(t, "", nil, strings.Fields(tc.args)...)
			said := res.stderr
			if res.err != nil {
				said += res.err.Error()
			}
			if res.status != tc.status {
				t.Errorf("fettle bmc %s = %d %v; want %d\n%s", tc.args, res.status, res.err, tc.status, res.stdout)
			}
			for _, want := range tc.out {
				if !strings.Contains(res.stdout, want) {
					t.Errorf("fettle bmc %s printed\n%s; want %q", tc.args, res.stdout, want)
				}
			}
			for _, want := range tc.errs {
				if !strings.Contains(said, want) {
					t.Errorf("fettle bmc %s said\n%s; want %q", tc.args, said, want)
				}
			}
		})
	}
}

const rotateSite = `name: s
domain: example.org
networks:
  - {name: prov, purpose: boot, prefix: 198.51.100.0/24, server: 198.51.100.1, pools: [{from: 198.51.100.10, to: 198.51.100.20}]}
  - {name: oob, purpose: bmc, vlan: 7, prefix: 192.0.2.0/24}
secrets:
  - name: shared
machines:
  - {name: gpu-01, serial: S1, firmware: uefi, nics: [{mac: 52:54:00:00:00:01, network: prov, boot: true}], bmc: {address: 192.0.2.11, secret: shared}}
  - {name: gpu-02, serial: S2, firmware: uefi, nics: [{mac: 52:54:00:00:00:02, network: prov, boot: true}], bmc: {address: 192.0.2.12, secret: shared}}
  - {name: gpu-03, serial: S3, firmware: uefi, nics: [{mac: 52:54:00:00:00:03, network: prov, boot: true}], bmc: {address: 192.0.2.13, secret: shared}}
`

// TestBMCRotate: every BMC has a new password of its own, which the secrets
// hold and which is the only one that works.
func TestBMCRotate(t *testing.T) {
	r := newBMCRig(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(rotateSite), 0o644); err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(t.TempDir(), "identity.txt")
	secrets, _, err := site.InitSecrets(dir, identity)
	if err != nil {
		t.Fatal(err)
	}
	if err := secrets.Set("shared", site.NewSecret("root:s3cret")); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) runResult {
		return r.run(t, "", nil, append([]string{"users", "rotate", "--site", dir, "--identity", identity}, args...)...)
	}
	if res := run("gpu-01"); res.status != exitRefused || !strings.Contains(res.err.Error(), "change the BMC password of gpu-01") {
		t.Fatalf("rotate without a yes = %d %v", res.status, res.err)
	}
	// The canary fails: nobody else is touched.
	res := run("--yes", "--canary", "gpu-03", "gpu-01", "gpu-02", "gpu-03")
	if res.status != exitFailed || !strings.Contains(res.stderr, "gpu-03: logging in: the BMC refused") || strings.Count(res.stderr, "not begun") != 2 {
		t.Fatalf("rotate with a canary that fails = %d %v\n%s%s", res.status, res.err, res.stdout, res.stderr)
	}
	if res := r.run(t, "", nil, "power", "status", "gpu-01", "gpu-02"); res.err != nil {
		t.Errorf("the old password after the canary failed: %v", res.err)
	}
	res = run("--yes", "gpu-01", "gpu-02")
	if res.err != nil || strings.Count(res.stdout, "changed") != 2 || strings.Contains(res.stdout+res.stderr, "s3cret") {
		t.Fatalf("rotate: %v\n%s%s", res.err, res.stdout, res.stderr)
	}
	s, err := site.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{"root:s3cret": true}
	for i, name := range []string{"gpu-01", "gpu-02"} {
		m, _ := s.Machine(name)
		v, err := secrets.Get(m.BMC.Secret)
		if err != nil || m.BMC.Secret != "bmc-"+name || seen[v.Reveal()] {
			t.Fatalf("the secret of %s is %s, %v; want one of its own, and new", name, m.BMC.Secret, err)
		}
		seen[v.Reveal()] = true
		if res := r.run(t, "", nil, "power", "status", name); res.err == nil {
			t.Errorf("%s: the old password works still", name)
		}
		user, pw, err := credentials(m.BMC.Secret, v.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		r.targets[i].User, r.targets[i].Password = user, pw
		if res := r.run(t, "", nil, "power", "status", name); res.err != nil {
			t.Errorf("%s: the new password: %v", name, res.err)
		}
	}
	// Again, from their own secrets.
	if res := run("--yes", "gpu-01", "gpu-02"); res.err != nil || strings.Count(res.stdout, "changed") != 2 {
		t.Errorf("rotate again: %v\n%s%s", res.err, res.stdout, res.stderr)
	}
	if res := r.run(t, "", nil, "users", "rotate", "--yes", "--lab", "x", "gpu-01"); res.status != exitUsage {
		t.Errorf("rotate in a lab = %d %v; want %d", res.status, res.err, exitUsage)
	}
}
