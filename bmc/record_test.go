package bmc

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// TestRecord: a recording of a crawled BMC holds every resource that the BMC
// shows and nothing that identifies it; a virtual BMC wears it, and its
// inventory is that of the first, but for the names.
func TestRecord(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "recording, and the twin that wears it")
	for _, name := range []string{"dell", "lenovo", "nvidia_gb200"} {
		t.Run(name, func(t *testing.T) {
			r, _ := treeRig(t, name)
			c := r.open(t)
			before, err := c.Inventory(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var file bytes.Buffer
			calls := 0
			rec, err := c.Record(t.Context(), &file, []byte("key"), func(read, known int) {
				if calls++; read > known {
					t.Errorf("progress %d of %d", read, known)
				}
			})
			if err != nil || rec.Resources < 700 || calls == 0 || rec.Redacted < 20 {
				t.Fatalf("Record = %d resources, %d redacted, %d calls of progress, %v; want 700, 20, 1 at least", rec.Resources, rec.Redacted, calls, err)
			}
			tree, err := vbmc.ReadTree(bytes.NewReader(file.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			twin := &rig{}
			srv, err := vbmc.New(vbmc.Config{Chassis: vbmc.NewMemory(vbmc.Info{}), Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}, Tree: tree})
			if err != nil {
				t.Fatal(err)
			}
			twin.serve(t, srv)
			after, err := twin.open(t).Inventory(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(after.GPUs) != len(before.GPUs) || len(after.NICs) != len(before.NICs) || len(after.Drives) != len(before.Drives) || len(after.CPUs) != len(before.CPUs) ||
				after.MemoryMiB != before.MemoryMiB || after.Status.Model != before.Status.Model {
				t.Errorf("the twin has %d GPUs, %d NICs, %d drives, %d processors, %d MiB, %q; want %d, %d, %d, %d, %d, %q", len(after.GPUs), len(after.NICs), len(after.Drives),
					len(after.CPUs), after.MemoryMiB, after.Status.Model, len(before.GPUs), len(before.NICs), len(before.Drives), len(before.CPUs), before.MemoryMiB, before.Status.Model)
			}
			text, err := json.Marshal(after)
			if err != nil {
				t.Fatal(err)
			}
			secrets := []string{before.Status.Serial, before.Status.UUID}
			for _, n := range before.NICs {
				secrets = append(secrets, n.MAC)
			}
			for _, d := range before.Drives {
				secrets = append(secrets, d.Serial)
			}
			for _, s := range secrets {
				if len(s) > 5 && bytes.Contains(bytes.ToLower(text), []byte(strings.ToLower(s))) {
					t.Errorf("the twin shows %q of the real machine", s)
				}
			}
		})
	}
}

func TestRedact(t *testing.T) {
	r := newRedaction([]byte("key"))
	in := map[string]any{
		"SerialNumber": "ABC1234567", "MACAddress": "3C:EC:EF:01:02:03", "UUID": "4c4c4544-0035-3410-8050-c6c04f314733", "Name": "Server ABC1234567",
		"Links": []any{map[string]any{"@odata.id": "/redfish/v1/Chassis/ABC1234567"}}, "Address": "10.1.2.3", "SubnetMask": "255.255.255.0",
		"FirmwareVersion": "1.2.3.4", "Model": "PowerEdge", "SKU": "N/A", "CertificateString": "-----BEGIN CERTIFICATE-----\n", "IPv6": "fe80::1",
	}
	r.collect("", in)
	out := r.apply("", in).(map[string]any)
	text, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"ABC1234567", "3C:EC:EF:01:02:03", "4c4c4544-0035", "10.1.2.3", "BEGIN", "fe80::1"} {
		if strings.Contains(string(text), s) {
			t.Errorf("%q is left in %s", s, text)
		}
	}
	for k, want := range map[string]string{"SubnetMask": "255.255.255.0", "FirmwareVersion": "1.2.3.4", "Model": "PowerEdge", "SKU": "N/A"} {
		if out[k] != want {
			t.Errorf("%s = %v; want %s", k, out[k], want)
		}
	}
	serial := out["SerialNumber"].(string)
	if out["Name"] != "Server "+serial || len(serial) != 10 || !uuidText.MatchString(out["UUID"].(string)) || !strings.HasPrefix(out["MACAddress"].(string), "02:") {
		t.Errorf("redacted to %s; want the same form, and the same serial number everywhere", text)
	}
}
