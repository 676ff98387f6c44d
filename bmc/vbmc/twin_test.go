package vbmc

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// crawledTree reads a crawled BMC that lies beside this checkout.
func crawledTree(t *testing.T, name string) *Tree {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "bmc-trees", name+".tar.zst"))
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI has no crawled BMC: %v", err)
		}
		t.Skip("no crawled BMCs beside this checkout")
	}
	tree, err := ReadTree(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("ReadTree(%s): %v", name, err)
	}
	return tree
}

// TestTwin: a Server that wears a tree shows the tree's server, and does to its
// own chassis what is done to it.
func TestTwin(t *testing.T) {
	for _, tc := range []struct {
		name      string
		tree      func(t *testing.T) *Tree
		system    string
		bios      string // a setting
		from, to  string
		resources int
	}{
		{"Dell", func(t *testing.T) *Tree { return crawledTree(t, "dell") }, "/redfish/v1/Systems/System.Embedded.1", "SriovGlobalEnable", "", "", 1900},
		{"Lenovo", func(t *testing.T) *Tree { return crawledTree(t, "lenovo") }, "/redfish/v1/Systems/1", "DevicesandIOPorts_SRIOV", "", "", 1100},
		{"GB200", func(t *testing.T) *Tree { return crawledTree(t, "nvidia_gb200") }, "/redfish/v1/Systems/System_0", "", "", "", 1000},
		{"DGX H100", func(t *testing.T) *Tree { return personality(t, "dgx-h100") }, "/redfish/v1/Systems/DGX", "SRIOVEnable", "SRIOVEnableEnabled", "SRIOVEnableDisabled", 250},
		{"HGX H100", func(t *testing.T) *Tree { return personality(t, "hgx-h100") }, "/redfish/v1/Systems/HGX_Baseboard_0", "", "", "", 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tree := tc.tree(t)
			if tree.system != tc.system || tree.Len() < tc.resources {
				t.Errorf("system %s, %d resources; want %s, %d at least", tree.system, tree.Len(), tc.system, tc.resources)
			}
			s := newService(t, func(c *Config) { c.Tree = tree })
			r := s.do("GET", tc.system, admin, "")
			if r.body["PowerState"] != "Off" || r.body["SerialNumber"] != "SN1" {
				t.Errorf("the system is %v, %v; want the chassis' Off, SN1", r.body["PowerState"], r.body["SerialNumber"])
			}
			s.run(t, []step{
				{"login by nobody", "GET", root + "/Systems/", "", 200, nil},
				{"boot", "PATCH", tc.system, `{"Boot":{"BootSourceOverrideTarget":"Pxe","BootSourceOverrideEnabled":"Once"}}`, 200, map[string]any{"Boot/BootSourceOverrideTarget": "Pxe"}},
				{"power", "POST", tree.reset, `{"ResetType":"On"}`, 204, nil},
				{"on", "GET", tc.system, "", 200, map[string]any{"PowerState": "On", "Boot/BootSourceOverrideTarget": "None"}},
				{"nothing else is written", "PATCH", root + "/Managers", `{"Name":"x"}`, 405, nil},
			})
			if b := s.mem.Booted(); len(b) != 1 || b[0].Target != BootPxe {
				t.Errorf("booted %+v; want once from the network", b)
			}
			if tc.bios == "" {
				return
			}
			attrs, _ := s.do("GET", tree.bios, admin, "").body["Attributes"].(obj)
			now, ok := attrs[tc.bios].(string)
			if !ok {
				t.Fatalf("the BIOS has no %s", tc.bios)
			}
			i := slices.IndexFunc(s.bios.attributes, func(a BIOSAttribute) bool { return a.Name == tc.bios })
			to := tc.to
			for _, v := range s.bios.attributes[i].Allowed {
				if to == "" && v != now {
					to = v
				}
			}
			if to == "" {
				to = map[string]string{"Enabled": "Disabled", "Disabled": "Enabled", "Enable": "Disable", "Disable": "Enable"}[now]
			}
			s.run(t, []step{
				{"no such setting", "PATCH", tree.settings, `{"Attributes":{"Nope":1}}`, 400, nil},
				{"setting", "PATCH", tree.settings, fmt.Sprintf(`{"Attributes":{%q:%q}}`, tc.bios, to), 200, map[string]any{"Attributes/" + tc.bios: to}},
				{"waits", "GET", tree.bios, "", 200, map[string]any{"Attributes/" + tc.bios: now}},
				{"restart", "POST", tree.reset, `{"ResetType":"ForceRestart"}`, 204, nil},
				{"holds", "GET", tree.bios, "", 200, map[string]any{"Attributes/" + tc.bios: to}},
			})
		})
	}
}

func personality(t *testing.T, name string) *Tree {
	t.Helper()
	tree, err := Personality(name)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestPersonalities: every link in what was written by hand leads somewhere.
// That it is what the schemas say: TestServiceValidator.
func TestPersonalities(t *testing.T) {
	for _, name := range Personalities() {
		s := newService(t, func(c *Config) { c.Tree = personality(t, name) })
		n := s.walk(func(p string, r response) {
			if r.StatusCode != 200 {
				t.Errorf("%s: GET %s = %d", name, p, r.StatusCode)
			}
		})
		if n < 200 {
			t.Errorf("%s: walked %d resources; want 200 at least", name, n)
		}
	}
	if _, err := Personality("cray-1"); err == nil || !strings.Contains(err.Error(), "dgx-h100") {
		t.Errorf("Personality(cray-1): %v; want an error that names those there are", err)
	}
}

// TestReadTreeLayouts: mock-ups come in folders of any name, packed by gzip too,
// and in a short form whose resources alone say where they are.
func TestReadTreeLayouts(t *testing.T) {
	res := map[string]string{
		"":           `{"@odata.id":"/redfish/v1/","Systems":{"@odata.id":"/redfish/v1/Systems"}}`,
		"/Systems":   `{"@odata.id":"/redfish/v1/Systems","Members":[{"@odata.id":"/redfish/v1/Systems/A"}]}`,
		"/Systems/A": `{"@odata.id":"/redfish/v1/Systems/A","Id":"A","Name":"A"}`,
	}
	for _, tc := range []struct {
		name, prefix string
		packed       bool
	}{
		{"as recorded", "redfish/v1", false},
		{"below a folder that is called redfish too", "my-redfish-mockups/acme/redfish/v1", true},
		{"short form", "public-rackmount1", true},
		{"from here", "./public-rackmount1", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var file bytes.Buffer
			var w io.WriteCloser = struct {
				io.Writer
				io.Closer
			}{&file, io.NopCloser(nil)}
			if tc.packed {
				w = gzip.NewWriter(&file)
			}
			tw := tar.NewWriter(w)
			for p, b := range res {
				if err := tw.WriteHeader(&tar.Header{Name: tc.prefix + p + "/index.json", Mode: 0o644, Size: int64(len(b))}); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(tw, b); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(tw.Close(), w.Close()); err != nil {
				t.Fatal(err)
			}
			tree, err := ReadTree(&file)
			if err != nil || tree.Len() != 3 || tree.system != "/redfish/v1/Systems/A" {
				t.Errorf("ReadTree() = %+v, %v; want 3 resources with the system A", tree, err)
			}
		})
	}
}

func TestReadTreeRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		r    io.Reader
	}{
		{"nothing", strings.NewReader("")},
		{"no archive", strings.NewReader(strings.Repeat("x", 4096))},
		{"broken zstd", strings.NewReader("\x28\xb5\x2f\xfdxxxxxxxxxxxxxxx")},
	} {
		if _, err := ReadTree(tc.r); err == nil {
			t.Errorf("ReadTree(%s) gave no error", tc.name)
		}
	}
}
