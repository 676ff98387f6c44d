//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// TestEnrollNodes: machines that share a BMC are enrolled by its address, each
// with its own system, serial number, MACs and disks, under one password.
func TestEnrollNodes(t *testing.T) {
	r := newRackRig(t)
	info := func(n int) vbmc.Info {
		return vbmc.Info{Name: fmt.Sprintf("node%d", n), UUID: fmt.Sprintf("6ba7b810-9dad-11d1-80b4-00c04fd4301%d", n), Serial: fmt.Sprintf("TWIN000%d", n), Manufacturer: "Acme", Model: "Twin", CPUs: 32 * n, MemoryMiB: n * 128 << 10,
			NICs:   []vbmc.NIC{{ID: "NIC1", MAC: fmt.Sprintf("02:00:00:90:02:0%d", n), Link: true}, {ID: "NIC2", MAC: fmt.Sprintf("02:00:00:90:03:0%d", n)}},
			Drives: []vbmc.Drive{{ID: "Disk1", Serial: fmt.Sprintf("TWINDISK%d", n), Bytes: 960197124096}}}
	}
	conf := vbmc.Config{Chassis: vbmc.NewMemory(info(1)), Node: "NodeA"}
	for i, id := range []string{"NodeB", "NodeC", "NodeD"} {
		conf.Nodes = append(conf.Nodes, vbmc.Node{ID: id, Chassis: vbmc.NewMemory(info(i + 2))})
	}
	r.ns.run(t, "ip", "addr", "add", "10.91.0.15/32", "dev", "bmc0")
	r.serveVBMC("10.91.0.15", strangeCert(t), conf)
	sv := r.serve()
	defer sv.stop(t)
	r.want(0, "", "discover", "bmc", "--prefix", "10.91.0.15")
	r.write("old", rackBMCPassword+"\n")
	enroll := func(status int, args ...string) string {
		t.Helper()
		res := r.want(status, "", append([]string{"enroll", "--yes", "--firmware", "uefi", "--bmc-user", rackBMCUser, "--bmc-password-file", r.path("old")}, args...)...)
		return res.stdout + res.stderr
	}
	// Which one is meant must be said.
	for what, args := range map[string][]string{
		"one name":             {"twin-1", "10.91.0.15"},
		"two names":            {"--name", "twin-[1-2]", "10.91.0.15"},
		"a system that is not": {"--system", "NodeX", "twin-1", "10.91.0.15"},
	} {
		if said := enroll(exitInput, args...); !strings.Contains(said, "the BMC at 10.91.0.15 has 4 machines, of which the site lacks NodeA TWIN0001, NodeB TWIN0002, NodeC TWIN0003, NodeD TWIN0004") {
			t.Errorf("%s for a BMC of four: %s", what, said)
		}
	}
	check := func(name, system string, n int) {
		t.Helper()
		s, err := site.Load(r.path("site"))
		if err != nil {
			t.Fatal(err)
		}
		m, _ := s.Machine(name)
		want := info(n)
		if m.BMC.System != system || m.Serial != want.Serial || len(m.NICs) != 2 || m.NICs[0].MAC.String() != want.NICs[0].MAC || !m.NICs[0].Boot || m.CPUs != want.CPUs ||
			len(m.Disks) != 1 || m.Disks[0].Serial != want.Drives[0].Serial || m.BMC.Address.String() != "10.91.0.15" || m.BMC.Secret != "bmc-twin-2" || len(m.BMC.Fingerprint) != 64 {
			t.Errorf("machine %s = %+v; want what the BMC says of %s", name, m, system)
		}
	}
	// One, by its serial number; then the others, in the BMC's order.
	if said := enroll(0, "--system", "twin0002", "twin-2", "10.91.0.15"); strings.Count(said, "the BMC was told the new password") != 1 {
		t.Errorf("enrolling one: %s", said)
	}
	check("twin-2", "NodeB", 2)
	if said := enroll(0, "--name", "twin-1,twin-3,twin-4", "10.91.0.15"); strings.Contains(said, "the BMC was told the new password") {
		t.Errorf("enrolling the others changed the password again: %s", said)
	}
	check("twin-1", "NodeA", 1)
	check("twin-3", "NodeC", 3)
	check("twin-4", "NodeD", 4)
	if said := enroll(exitInput, "twin-5", "10.91.0.15"); !strings.Contains(said, "of which the site lacks none") {
		t.Errorf("a fifth: %s", said)
	}
	if out := r.want(0, "", "bmc", "status", "--direct", "twin-1", "twin-2", "twin-3", "twin-4").stdout; !strings.Contains(out, "TWIN0001") || !strings.Contains(out, "TWIN0004") {
		t.Errorf("fettle bmc status of the four: %s", out)
	}
	r.want(0, "", "bmc", "power", "on", "--direct", "twin-3")
	out := r.want(0, "", "bmc", "power", "status", "--direct", "twin-[1-4]").stdout
	if strings.Count(out, "off") != 3 || !strings.Contains(out, "twin-3   on") {
		t.Errorf("power after twin-3 was switched on: %s; want the others off", out)
	}
}

// TestNodesBySerial: machines that were inspected are found in their BMC by
// serial number or UUID, whatever the order.
func TestNodesBySerial(t *testing.T) {
	at := netip.MustParseAddr("10.91.0.15")
	all := []bmc.Node{{System: "A", Serial: "S1"}, {System: "B", Serial: "S2"}, {System: "C", SKU: "S3"}, {System: "D", UUID: "6ba7b810-9dad-11d1-80b4-00c04fd43014"}}
	inspected := func(name, serial, uuid string) *enrollee {
		return &enrollee{name: name, found: state.Discovery{Sort: state.SortMachine, Serial: serial, UUID: uuid, BMC: &state.DiscoveredBMC{Addr: at}}}
	}
	list := []*enrollee{inspected("n4", "?", "6BA7B810-9dad-11d1-80b4-00c04fd43014"), inspected("n3", "s3", ""), inspected("n2", "S2", ""), inspected("n9", "S9", ""), inspected("n1", "S1", "")}
	n := bmcNodes{s: &site.Site{Machines: []site.Machine{{Name: "n1", Serial: "S1", BMC: site.BMC{Address: at, System: "A"}}}}, list: list, read: map[netip.Addr][]bmc.Node{at: all}}
	for i, want := range []string{"D", "C", "B", "", ""} {
		x := list[i]
		x.adopt = &provision.Adoption{Addr: at, Protocol: site.Redfish}
		err := n.choose(t.Context(), x)
		if x.machine.BMC.System != want || x.adopt.System != want || (err == nil) != (want != "") {
			t.Errorf("choose(%s) = %q, %v; want %q", x.found.Serial, x.machine.BMC.System, err, want)
		}
		if want != "" && x.found.Serial != list[i].found.Serial {
			t.Errorf("the serial number that was inspected is forgotten")
		}
	}
	ipmi := inspected("n2", "S2", "")
	ipmi.adopt = &provision.Adoption{Addr: at, Protocol: site.IPMI}
	if err := n.choose(t.Context(), ipmi); err == nil || !strings.Contains(err.Error(), "use redfish") {
		t.Errorf("choose() over IPMI = %v; want it refused", err)
	}
}
