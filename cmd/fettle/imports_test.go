package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayImport is the import table of DESIGN.md: which of our packages a package
// may import. Imports point down only.
var mayImport = map[string][]string{
	"cmd/fettle":       {"*"},
	"cmd/fettle-agent": {"agent"},
	"web":              {"site", "state"},
	"provision":        {"site", "state", "images", "pxe", "bmc", "agent/wire"},
	"labs":             {"site", "images", "labs/fabric", "bmc/vbmc"},
	"labs/fabric":      {},
	// images writes the disk index that the agent reads: one type, in
	// agent/wire (images/IMAGES.md, 2026-11-21).
	"images":   {"site", "blob", "agent/wire"},
	"airgap":   {"blob"},
	"pxe":      {},
	"pxe/load": {}, // knows the wire alone: it measures other servers too
	// Both ends of RMCP+ have its packets in common (bmc/BMC.md, 2026-11-22).
	"bmc":         {"bmc/lanplus"},
	"bmc/vbmc":    {"bmc/lanplus"},
	"bmc/lanplus": {},
	"agent":       {"agent/wire"},
	"agent/wire":  {},
	"site":        {},
	"state":       {"site"},
	"blob":        {},

	// Only tests import it: those of bmc and bmc/vbmc note their results there.
	"bmc/vbmc/conformance": {},
}

// testsMayImport is what a package's tests may import beyond that. The fake
// that ships as a product serves the tests of its neighbour.
var testsMayImport = map[string][]string{
	"bmc":       {"bmc/vbmc", "bmc/vbmc/conformance"},
	"bmc/vbmc":  {"bmc/vbmc/conformance"},
	"pxe":       {"pxe/load"},
	"provision": {"blob"},
}

// onlyIn are modules of others that belong to some packages alone, so that a
// change of theirs reaches no further. Tests of testsOnlyIn may use them too.
var (
	onlyIn = map[string][]string{
		"github.com/bmc-toolbox/bmclib": {"bmc"},
		"github.com/stmcginnis/gofish":  {"bmc"},
		"github.com/bougou/go-ipmi":     {"bmc", "bmc/vbmc", "bmc/lanplus"},
		"libvirt.org/go":                {"labs"},
		"gvisor.dev/gvisor":             {"labs/fabric"},
		"go.etcd.io":                    {"state"},
	}
	// The virtual BMC is tested by the clients that it serves.
	testsOnlyIn = map[string][]string{
		"github.com/bmc-toolbox/bmclib": {"bmc/vbmc"},
		"github.com/stmcginnis/gofish":  {"bmc/vbmc"},
	}
)

const module = "github.com/fettle-dev/fettle/"

// listed is what go list tells of a package.
type listed struct {
	ImportPath, Dir                    string
	Imports, TestImports, XTestImports []string
}

func TestImportTable(t *testing.T) {
	out, err := exec.Command("go", "list", "-tags", "libvirt_dlopen", "-json=ImportPath,Dir,Imports,TestImports,XTestImports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for dec.More() {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		for _, e := range badImports(p) {
			t.Error(e)
		}
		seen++
	}
	if seen < 10 {
		t.Errorf("go list found %d packages; want at least 10", seen)
	}
}

// badImports are the sentences about a package's imports that the tables do
// not allow.
func badImports(p listed) []string {
	name := strings.TrimPrefix(p.ImportPath, module)
	allowed, ok := mayImport[name]
	if !ok && strings.HasPrefix(name, "airgap/") {
		// A subpackage of airgap is one format; it may import what airgap may, airgap,
		// and the OpenPGP keys that formats share.
		allowed, ok = []string{"airgap", "airgap/pgp", "blob"}, true
	}
	if !ok {
		return []string{fmt.Sprintf("package %s (%s) is not in the import table of DESIGN.md: add it there and here, or move its code", name, filepath.Base(p.Dir))}
	}
	var bad []string
	check := func(what string, imports, allowed []string, own map[string][]string) {
		for _, imp := range imports {
			if ours, found := strings.CutPrefix(imp, module); found {
				if ours != name && !slices.Contains(allowed, ours) && !slices.Contains(allowed, "*") {
					bad = append(bad, fmt.Sprintf("%s imports %s; DESIGN.md allows it only %v", what, ours, allowed))
				}
				continue
			}
			for mod, owners := range onlyIn {
				if (imp == mod || strings.HasPrefix(imp, mod+"/")) && !slices.Contains(owners, name) && !slices.Contains(own[mod], name) {
					bad = append(bad, fmt.Sprintf("%s imports %s; only %v may", what, imp, owners))
				}
			}
		}
	}
	check(name, p.Imports, allowed, nil)
	inTests := slices.Concat(allowed, testsMayImport[name])
	if strings.HasPrefix(name, "airgap/") {
		inTests = append(inTests, "airgap/airgaptest")
	}
	check("a test of "+name, slices.Concat(p.TestImports, p.XTestImports), inTests, testsOnlyIn)
	return bad
}

func TestBadImportsAreSeen(t *testing.T) {
	pkg := func(name string, imports, tests []string) listed {
		return listed{ImportPath: module + name, Imports: imports, XTestImports: tests}
	}
	for _, tt := range []struct {
		name string
		p    listed
		want string // part of the only sentence; "" = none
	}{
		{"allowed", pkg("provision", []string{"fmt", module + "bmc"}, []string{module + "provision", module + "blob"}), ""},
		{"upwards", pkg("site", []string{module + "state"}, nil), "site imports state"},
		{"only in tests", pkg("provision", []string{module + "blob"}, nil), "provision imports blob"},
		{"upwards in a test", pkg("site", nil, []string{module + "labs"}), "a test of site imports labs"},
		{"bmclib", pkg("provision", []string{"github.com/bmc-toolbox/bmclib/v2"}, nil), "only [bmc] may"},
		{"bmclib's parts", pkg("web", []string{"github.com/bmc-toolbox/bmclib/v2/providers"}, nil), "only [bmc] may"},
		{"bmclib in cmd", pkg("cmd/fettle", []string{"github.com/bmc-toolbox/bmclib/v2"}, nil), "only [bmc] may"},
		{"gofish in vbmc", pkg("bmc/vbmc", []string{"github.com/stmcginnis/gofish"}, nil), "only [bmc] may"},
		{"gofish in vbmc's tests", pkg("bmc/vbmc", nil, []string{"github.com/stmcginnis/gofish/redfish"}), ""},
		{"libvirt", pkg("cmd/fettle", []string{"libvirt.org/go/libvirt"}, nil), "only [labs] may"},
		{"libvirt in a test", pkg("cmd/fettle", nil, []string{"libvirt.org/go/libvirt"}), "only [labs] may"},
		{"unknown", pkg("util", nil, nil), "not in the import table"},
		{"tests' support in a format's tests", pkg("airgap/npm", nil, []string{module + "airgap/airgaptest"}), ""},
		{"tests' support in a format", pkg("airgap/npm", []string{module + "airgap/airgaptest"}, nil), "airgap/npm imports airgap/airgaptest"},
		{"a format", pkg("airgap/apt", []string{module + "airgap", module + "blob"}, nil), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(badImports(tt.p), "\n")
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) || strings.Contains(got, "\n") {
				t.Errorf("badImports(%+v) = %q; want %q", tt.p, got, tt.want)
			}
		})
	}
}
