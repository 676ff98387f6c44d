package main

import (
	"encoding/json"
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
	"images":     {"site", "blob", "agent/wire"},
	"airgap":     {"blob"},
	"pxe":        {},
	"bmc":        {},
	"bmc/vbmc":   {},
	"agent":      {"agent/wire"},
	"agent/wire": {},
	"site":       {},
	"state":      {"site"},
	"blob":       {},
}

const module = "github.com/fettle-dev/fettle/"

func TestImportTable(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Dir", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for dec.More() {
		var p struct {
			ImportPath, Dir string
			Imports         []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := mayImport[name]
		if !ok {
			// A subpackage of airgap is one format; it may import what airgap may, and airgap.
			if strings.HasPrefix(name, "airgap/") {
				allowed, ok = []string{"airgap", "blob"}, true
			}
		}
		if !ok {
			t.Errorf("package %s (%s) is not in the import table of DESIGN.md: add it there and here, or move its code", name, filepath.Base(p.Dir))
			continue
		}
		seen++
		for _, imp := range p.Imports {
			ours, found := strings.CutPrefix(imp, module)
			if !found || slices.Contains(allowed, "*") {
				continue
			}
			if !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s; DESIGN.md allows it only %v", name, ours, allowed)
			}
			if imp == "github.com/bmc-toolbox/bmclib/v2" && name != "bmc" {
				t.Errorf("%s imports bmclib; only bmc may", name)
			}
		}
	}
	if seen < 10 {
		t.Errorf("go list found %d packages; want at least 10", seen)
	}
}
