package site

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSetBMCSecret(t *testing.T) {
	const text = `name: s
domain: example.org
networks:
  - {name: prov, purpose: boot, prefix: 198.51.100.0/24, server: 198.51.100.1, pools: [{from: 198.51.100.10, to: 198.51.100.20}]}
  - {name: oob, purpose: bmc, vlan: 7, prefix: 192.0.2.0/24}
secrets:
  - name: shared # of all
machines:
  # the first
  - name: gpu-01
    serial: S1
    firmware: uefi
    nics: [{mac: 52:54:00:00:00:01, network: prov, boot: true}]
    bmc:
      address: 192.0.2.11
      secret: shared   # for now
  - {name: gpu-02, serial: S2, firmware: uefi, nics: [{mac: 52:54:00:00:00:02, network: prov, boot: true}], bmc: {address: 192.0.2.12, secret: "shared"}}
`
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err != nil {
		t.Fatalf("the fixture: %v", err)
	}
	e, err := OpenEdit(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, m := range []string{"gpu-01", "gpu-02"} {
		if err := e.AddSecret(SecretName{Name: "bmc-" + m}); err != nil {
			t.Fatal(err)
		}
		if err := e.SetBMCSecret(m, "bmc-"+m); err != nil {
			t.Fatal(err)
		}
	}
	for name, err := range map[string]error{"no machine": e.SetBMCSecret("gpu-09", "x"), "bad name": e.SetBMCSecret("gpu-01", "a b")} {
		if err == nil {
			t.Errorf("SetBMCSecret(%s) gave no error", name)
		}
	}
	if err := e.Commit(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"      secret: bmc-gpu-01   # for now\n", `secret: "bmc-gpu-02"}}`, "  - name: shared # of all\n", "  # the first\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in\n%s", want, b)
		}
	}
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := s.Machine("gpu-02"); m.BMC.Secret != "bmc-gpu-02" {
		t.Errorf("the secret of gpu-02 = %s; want bmc-gpu-02", m.BMC.Secret)
	}
}
