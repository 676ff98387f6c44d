package bmc

import (
	"errors"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// TestNodesOfOneBMC: of a BMC with several machines the one that is named is read and
// changed, and nothing of another one is taken for its own.
func TestNodesOfOneBMC(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "several nodes behind one BMC")
	first, second := testInfo(), testInfo()
	second.Name, second.Serial, second.UUID, second.BIOSVersion = "node-2", "SN-2", "11111111-2222-4333-8444-555555555555", "9.9"
	second.NICs, second.GPUs = []vbmc.NIC{{ID: "NIC1", MAC: "52:54:00:00:00:99", Link: true}}, nil
	mems := []*vbmc.Memory{vbmc.NewMemory(first), vbmc.NewMemory(second)}
	r := &rig{mem: mems[0]}
	var err error
	r.bmc, err = vbmc.New(vbmc.Config{Chassis: mems[0], Node: "left", Nodes: []vbmc.Node{{ID: "right", Chassis: mems[1]}}, Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
	if err != nil {
		t.Fatal(err)
	}
	r.serve(t, r.bmc)
	open := func(system string) *Client {
		t.Helper()
		tg := r.target()
		tg.System = system
		c, err := Open(t.Context(), tg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(t.Context()) })
		return c
	}
	nodes, err := open("").Nodes(t.Context())
	if err != nil || len(nodes) != 2 || nodes[0].System != "left" || nodes[1].System != "right" || nodes[1].Serial != "SN-2" || nodes[1].UUID != second.UUID {
		t.Errorf("Nodes() = %+v, %v; want left and right", nodes, err)
	}
	if _, err := open("").Status(t.Context()); !errors.Is(err, errWhichSystem) || !strings.Contains(err.Error(), "left, right") {
		t.Errorf("Status() of nobody in particular = %v; want that both are named", err)
	}
	for _, system := range []string{"right", "sn-2", "node-2", second.UUID} {
		inv, err := open(system).Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		bios := ""
		for _, f := range inv.Firmware {
			if strings.HasPrefix(f.ID, "BIOS") {
				bios += f.Version + " "
			}
		}
		if inv.Status.Serial != "SN-2" || len(inv.NICs) != 1 || inv.NICs[0].MAC != "52:54:00:00:00:99" || len(inv.GPUs) != 0 || bios != "9.9 " || len(inv.Missing) > 0 {
			t.Errorf("Inventory() of %s = %+v; want what is of node-2", system, inv)
		}
	}
	c := open("right")
	fs, err := c.Firmware(t.Context())
	if err != nil || len(fs) != 2 {
		t.Errorf("Firmware() = %v, %v; want its BIOS and the BMC", fs, err)
	}
	if err := c.SetPower(t.Context(), PowerOn); err != nil {
		t.Fatal(err)
	}
	for i, want := range []vbmc.PowerState{vbmc.Off, vbmc.On} {
		if p, err := mems[i].Power(t.Context()); err != nil || p != want {
			t.Errorf("node %d is %s, %v; want %s", i+1, p, err, want)
		}
	}
	if nodes, err := newRig(t).open(t).Nodes(t.Context()); err != nil || len(nodes) != 1 || nodes[0].System != "1" {
		t.Errorf("Nodes() of a BMC of one machine = %v, %v", nodes, err)
	}
}

// TestNodesOfTrees: a baseboard of GPUs beside its host is no machine.
func TestNodesOfTrees(t *testing.T) {
	for name, want := range map[string]string{"dell": "System.Embedded.1", "lenovo": "1", "nvidia_gb200": "System_0"} {
		r, _ := treeRig(t, name)
		nodes, err := r.open(t).Nodes(t.Context())
		if err != nil || len(nodes) != 1 || nodes[0].System != want {
			t.Errorf("Nodes() of %s = %+v, %v; want %s", name, nodes, err, want)
		}
	}
	tree, err := vbmc.Personality("dgx-h100")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := vbmc.New(vbmc.Config{Chassis: vbmc.NewMemory(testInfo()), Tree: tree, Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{bmc: srv}
	r.serve(t, srv)
	if nodes, err := r.open(t).Nodes(t.Context()); err != nil || len(nodes) != 1 {
		t.Errorf("Nodes() of a DGX = %+v, %v; want its host alone", nodes, err)
	}
}
