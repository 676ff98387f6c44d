package bmc

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

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
			sameAnswers(t, c, twin.open(t))
			all := untar(t, file.Bytes())
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
			whole := new(bytes.Buffer) // not only what our own inventory shows of it
			for uri := range all {
				whole.WriteString(uri)
				whole.Write(all[uri])
			}
			low := bytes.ToLower(whole.Bytes())
			for _, s := range secrets {
				plain := strings.NewReplacer(":", "", "-", "").Replace(strings.ToLower(s))
				if len(s) > 5 && (bytes.Contains(low, []byte(strings.ToLower(s))) || len(plain) >= 12 && bytes.Contains(low, []byte(plain))) {
					t.Errorf("the recording holds %q of the real machine", s)
				}
				if len(s) > 5 && bytes.Contains(bytes.ToLower(text), []byte(strings.ToLower(s))) {
					t.Errorf("the twin shows %q of the real machine", s)
				}
			}
		})
	}
}

// untar is what a recording holds.
func untar(t *testing.T, file []byte) map[string][]byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			return out
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// sameAnswers compares what two BMCs answer to every operation that reads, but
// for what a recording replaces and for what a virtual BMC has of its own.
func sameAnswers(t *testing.T, a, b *Client) {
	t.Helper()
	ctx := t.Context()
	compare := func(what string, read func(c *Client) (any, error)) {
		t.Helper()
		x, errX := read(a)
		y, errY := read(b)
		if (errX == nil) != (errY == nil) {
			t.Errorf("%s: the BMC says %v, its twin %v", what, errX, errY)
			return
		}
		jx, _ := json.Marshal(x)
		jy, _ := json.Marshal(y)
		if string(jx) != string(jy) {
			i := 0
			for i < min(len(jx), len(jy)) && jx[i] == jy[i] {
				i++
			}
			t.Errorf("%s: the BMC answers\n...%.200s\nits twin\n...%.200s", what, jx[max(0, i-60):], jy[max(0, i-60):])
		}
	}
	compare("sensors", func(c *Client) (any, error) { return c.Sensors(ctx) })
	compare("firmware", func(c *Client) (any, error) {
		fs, err := c.Firmware(ctx)
		for i := range fs {
			fs[i].Name = "" // may name a MAC
		}
		return fs, err
	})
	compare("media", func(c *Client) (any, error) {
		ms, err := c.Media(ctx)
		for i := range ms {
			ms[i].Image = ""
		}
		return ms, err
	})
	compare("Secure Boot", func(c *Client) (any, error) { return c.SecureBoot(ctx) })
	compare("power limit", func(c *Client) (any, error) { return c.PowerLimit(ctx) })
	compare("network", func(c *Client) (any, error) {
		ns, err := c.Networks(ctx)
		var ids []string
		for _, n := range ns {
			ids = append(ids, n.ID)
		}
		return ids, err
	})
	compare("event log", func(c *Client) (any, error) {
		es, err := c.Log(ctx)
		for i := range es {
			es[i].Message = "" // may name addresses
		}
		return es, err
	})
	compare("BIOS", func(c *Client) (any, error) {
		set, err := c.BIOS(ctx)
		for i := range set.Attributes {
			if a := &set.Attributes[i]; a.Type == "String" || a.Type == "Password" || secretNames.MatchString(a.Name) {
				a.Value, a.Pending = nil, nil
			}
			set.Attributes[i].Name = macInName.ReplaceAllString(set.Attributes[i].Name, "MAC")
		}
		slices.SortStableFunc(set.Attributes, func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) })
		return set, err
	})
	compare("telemetry", func(c *Client) (any, error) {
		vs, err := c.Telemetry(ctx)
		return len(vs), err
	})
}

var macInName = regexp.MustCompile(`[0-9A-F]{12}`)

func TestRedact(t *testing.T) {
	r := newRedaction([]byte("key"))
	in := map[string]any{
		"SerialNumber": "ABC1234567", "MACAddress": "3C:EC:EF:01:02:03", "UUID": "4c4c4544-0035-3410-8050-c6c04f314733", "Name": "Server ABC1234567",
		"Links": []any{map[string]any{"@odata.id": "/redfish/v1/Chassis/ABC1234567"}}, "Address": "10.1.2.3", "SubnetMask": "255.255.255.0",
		"UefiDevicePath": "PciRoot(0x0)/Pci(0x1,0x0)/MAC(3CECEF010203,0x1)", "AssociatedNodeGUIDs": []any{"0x3cecef0300010203"},
		"NIC.1.DNSRacName": "idrac-ABC123", "Users.2.Password": "calvin", "SNMP.1.AgentCommunity": "public", "LicenseString": "AAAA-BBBB", "UserName": "Administrator", "RoleId": "Administrator",
		"Message": "login of dave from 10.9.8.7", "MessageArgs": []any{"dave", "10.9.8.7"}, "Accounts": map[string]any{"UserName": "dave"},
		"Image": "https://dave:hunter2@10.9.8.6/x.iso", "HostName": "1", "Id": "1", "ExpressServiceCode": json.Number("12345678901"), "Address2": map[string]any{"Address": "0000:3b:00.0"},
		"AssetTag": "Enabled", "State": "Enabled", "UUIDs": "4C4C454400353410805\u0030C6C04F314733",
		"FirmwareVersion": "1.2.3.4", "Model": "PowerEdge", "SKU": "N/A", "CertificateString": "-----BEGIN CERTIFICATE-----\n", "IPv6": "fe80::1",
	}
	r.collect("", in)
	out := r.apply("", in).(map[string]any)
	text, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"ABC1234567", "3C:EC:EF:01:02:03", "4c4c4544-0035", "10.1.2.3", "BEGIN", "fe80::1", "3CECEF010203", "3cecef03", "ABC123", "calvin", "public", "AAAA", "10.9.8", "hunter2", "12345678901", "4C4C4544"} {
		if strings.Contains(string(text), s) {
			t.Errorf("%q is left in %s", s, text)
		}
	}
	for k, want := range map[string]string{"SubnetMask": "255.255.255.0", "FirmwareVersion": "1.2.3.4", "Model": "PowerEdge", "SKU": "N/A", "RoleId": "Administrator", "UserName": "Administrator",
		"Id": "1", "State": "Enabled"} {
		if out[k] != want {
			t.Errorf("%s = %v; want %s", k, out[k], want)
		}
	}
	if args := out["MessageArgs"].([]any); args[0] == "dave" || out["Address2"].(map[string]any)["Address"] != "0000:3b:00.0" {
		t.Errorf("redacted to %s; want no dave among the arguments, and the PCI address", text)
	}
	serial := out["SerialNumber"].(string)
	if out["Name"] != "Server "+serial || len(serial) != 10 || !uuidText.MatchString(out["UUID"].(string)) || !strings.HasPrefix(out["MACAddress"].(string), "02:") {
		t.Errorf("redacted to %s; want the same form, and the same serial number everywhere", text)
	}
}
