package vbmc

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// nodeInfo is another machine than testInfo's, in everything that tells one
// from the other.
func nodeInfo() Info {
	in := testInfo()
	in.Name, in.UUID, in.Serial, in.SKU = "gpu-02", "4c4c4544-0035-3410-8050-c6c04f314734", "SN2", "SKU2"
	in.NICs = []NIC{{ID: "NIC1", MAC: "52:54:00:00:00:02", Link: true}}
	in.Drives = []Drive{{ID: "Disk.Bay 0/1", Serial: "S2", Model: "M1", Bytes: 1 << 40, Protocol: "NVMe"}}
	return in
}

// newNodes is a service of two machines behind one BMC, by these ids.
func newNodes(t testing.TB, first, second string, mod func(*Config)) (service, *Memory) {
	t.Helper()
	other := NewMemory(nodeInfo())
	return newService(t, func(c *Config) {
		c.Node, c.Nodes = first, []Node{{ID: second, Chassis: other}}
		if mod != nil {
			mod(c)
		}
	}), other
}

// TestNodes: two machines behind one BMC have a system and a chassis each, with
// what is their own in it, under one service root with one set of accounts.
func TestNodes(t *testing.T) {
	s, other := newNodes(t, "NodeA", "NodeB", nil)
	members := func(path string) (out []string) {
		for _, m := range s.do("GET", path, admin, "").body["Members"].([]any) {
			out = append(out, m.(obj)["@odata.id"].(string))
		}
		return out
	}
	for _, kind := range []string{"/Systems", "/Chassis"} {
		if got, want := members(root+kind), []string{root + kind + "/NodeA", root + kind + "/NodeB"}; !slices.Equal(got, want) {
			t.Errorf("%s has %v; want %v", kind, got, want)
		}
		for _, gone := range []string{"/1", "/NodeC", "/NodeA/NodeB"} {
			if r := s.do("GET", root+kind+gone, admin, ""); r.StatusCode != 404 {
				t.Errorf("GET %s%s = %d; want 404", kind, gone, r.StatusCode)
			}
		}
	}
	if got := members(root + "/Managers"); len(got) != 1 {
		t.Errorf("%d managers; want one", len(got))
	}
	ln := s.do("GET", managerPath, admin, "").body["Links"].(obj)
	if b, _ := json.Marshal(ln["ManagerForServers"]); string(b) != `[{"@odata.id":"/redfish/v1/Systems/NodeA"},{"@odata.id":"/redfish/v1/Systems/NodeB"}]` {
		t.Errorf("ManagerForServers = %s; want both", b)
	}
	for _, n := range []struct {
		id, serial, mac, disk string
	}{{"NodeA", "SN1", "52:54:00:00:00:01", "S1"}, {"NodeB", "SN2", "52:54:00:00:00:02", "S2"}} {
		sys := root + "/Systems/" + n.id
		r := s.do("GET", sys, admin, "")
		if r.body["Id"] != n.id || r.body["@odata.id"] != sys || r.body["SerialNumber"] != n.serial {
			t.Errorf("GET %s = %s", sys, r.text)
		}
		if r := s.do("GET", sys+"/EthernetInterfaces/NIC1", admin, ""); r.body["MACAddress"] != n.mac {
			t.Errorf("the NIC of %s: %s; want %s", n.id, r.text, n.mac)
		}
		if r := s.do("GET", sys+"?$expand=*($levels=3)", admin, ""); !strings.Contains(r.text, `"SerialNumber":"`+n.disk+`"`) || strings.Contains(r.text, "/Systems/1") {
			t.Errorf("the disks of %s, expanded: %s; want %s", n.id, r.text, n.disk)
		}
	}
	fw := s.do("GET", firmwarePath+"/BIOS-NodeB", admin, "")
	if fw.StatusCode != 200 || fw.body["Id"] != "BIOS-NodeB" || !strings.Contains(fw.text, `"RelatedItem":[{"@odata.id":"/redfish/v1/Systems/NodeB/Bios"}]`) || len(members(firmwarePath)) != 3 {
		t.Errorf("the firmware of node B: %d %s", fw.StatusCode, fw.text)
	}
	// Nothing that a client can reach has a node by the name it has inside.
	s.walk(func(path string, r response) {
		if r.StatusCode != 200 || strings.Contains(r.text, "/Systems/1") || strings.Contains(r.text, "/Chassis/1") {
			t.Errorf("GET %s = %d %.300s", path, r.StatusCode, r.text)
		}
	})
	// What is done to one is not done to the other.
	do := func(method, path, body string, status int) response {
		t.Helper()
		r := s.do(method, path, admin, body)
		if r.StatusCode != status {
			t.Fatalf("%s %s = %d %s; want %d", method, path, r.StatusCode, r.text, status)
		}
		return r
	}
	power := func() string {
		a, _ := s.mem.Power(t.Context())
		b, _ := other.Power(t.Context())
		return string(a) + " " + string(b)
	}
	do("POST", root+"/Systems/NodeB/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`, 204)
	if got := power(); got != "Off On" {
		t.Errorf("power after node B was switched on: %s", got)
	}
	do("PATCH", root+"/Systems/NodeB", `{"Boot":{"BootSourceOverrideTarget":"Pxe","BootSourceOverrideEnabled":"Once"}}`, 200)
	if a, _ := s.mem.Boot(t.Context()); a.Target == BootPxe {
		t.Error("node A's boot override changed with node B's")
	}
	if b, _ := other.Boot(t.Context()); b.Target != BootPxe {
		t.Error("node B's boot override did not change")
	}
	r := do("POST", root+"/Systems/NodeB/Storage/1/Volumes", `{"RAIDType":"RAID0","Links":{"Drives":[{"@odata.id":"/redfish/v1/Systems/NodeB/Storage/1/Drives/Disk.Bay_0_1"}]}}`, 201)
	if at := r.Header.Get("Location"); !strings.HasPrefix(at, root+"/Systems/NodeB/Storage/1/Volumes/") || s.do("GET", at, admin, "").StatusCode != 200 {
		t.Errorf("the new volume is at %s; want it below node B's", at)
	}
	if got := members(root + "/Systems/NodeA/Storage/1/Volumes"); len(got) != 0 {
		t.Errorf("node A has the volumes %v", got)
	}
	if r := s.do("POST", root+"/Systems/NodeA/Storage/1/Volumes", admin, `{"RAIDType":"RAID0","Links":{"Drives":[{"@odata.id":"/redfish/v1/Systems/NodeB/Storage/1/Drives/Disk.Bay_0_1"}]}}`); r.StatusCode < 400 {
		t.Errorf("a volume of node A on a drive of node B = %d", r.StatusCode)
	}
	// Each has its own event log; the accounts are the BMC's.
	for id, want := range map[string]int{"NodeA": 0, "NodeB": 1} {
		text := s.do("GET", root+"/Systems/"+id+"/LogServices/SEL/Entries", admin, "").text
		if strings.Count(text, "Reset On by root") != 2*want { // Message and its argument
			t.Errorf("the log of %s: %s", id, text)
		}
	}
	do("PATCH", accountsPath+"/1", `{"Password":"other-Pass"}`, 200)
	if r := s.do("GET", root+"/Systems/NodeB", "root:s3cret", ""); r.StatusCode != 401 {
		t.Errorf("node B with the old password = %d; want 401", r.StatusCode)
	}
}

// TestNodesEvents: what happens to a node is an event of its own system, which a
// subscription can choose.
func TestNodesEvents(t *testing.T) {
	s, _ := newNodes(t, "NodeA", "NodeB", nil)
	got := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.DeliverEvents(ctx, func(_ context.Context, _ Subscription, b []byte) error { got <- string(b); return nil })
	}()
	defer func() { cancel(); <-done }()
	waitFor(t, "deliveries to run", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.delivering > 0 })
	sub := `{"Destination":"http://listener.example.org/","Protocol":"Redfish","OriginResources":[{"@odata.id":"/redfish/v1/Systems/NodeB"}]}`
	if r := s.do("POST", subscriptionsPath, admin, sub); r.StatusCode != 201 {
		t.Fatalf("subscribe = %d %s", r.StatusCode, r.text)
	}
	for _, id := range []string{"NodeA", "NodeB"} {
		s.do("POST", root+"/Systems/"+id+"/Actions/ComputerSystem.Reset", admin, `{"ResetType":"On"}`)
	}
	if b := <-got; !strings.Contains(b, "/redfish/v1/Systems/NodeB") {
		t.Errorf("the event = %s; want node B's", b)
	}
	select {
	case b := <-got:
		t.Errorf("another event came: %s", b)
	default:
	}
}

// TestNodesInside: the machine's own interface is its own, and its accounts are
// the BMC's.
func TestNodesInside(t *testing.T) {
	s, other := newNodes(t, "NodeA", "NodeB", nil)
	b := s.Node("NodeB")
	if b == nil || s.Node("NodeA") != s.Server || s.Node("1") != nil {
		t.Fatal("Node() gives another Server than the node's")
	}
	if b.chassis != Chassis(other) || b.accounts[0] != s.accounts[0] {
		t.Error("node B has another chassis, or accounts of its own")
	}
	s.Node("NodeB").SetTrouble(Trouble{Refuse: true}, "")
	if r := s.do("GET", root+"/Systems/NodeA", admin, ""); r.StatusCode != 401 {
		t.Errorf("a BMC that refuses every password for one node's sake answers %d; want 401", r.StatusCode)
	}
}

// TestNodesRefused: nodes that could not be told apart.
func TestNodesRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		c    Config
		want string
	}{
		"one id twice":   {Config{Node: "a", Nodes: []Node{{ID: "a", Chassis: NewMemory(nodeInfo())}}}, "two nodes"},
		"no id":          {Config{Nodes: []Node{{ID: "a", Chassis: NewMemory(nodeInfo())}}}, "stand in a URI"},
		"a slash":        {Config{Node: "a", Nodes: []Node{{ID: "b/c", Chassis: NewMemory(nodeInfo())}}}, "stand in a URI"},
		"no chassis":     {Config{Node: "a", Nodes: []Node{{ID: "b"}}}, "no chassis"},
		"a tree for all": {Config{Node: "a", Tree: personality(t, "dgx-h100")}, "tree"},
	} {
		tc.c.Chassis, tc.c.Accounts = NewMemory(testInfo()), []Account{{User: "root", Password: "s3cret"}}
		if _, err := New(tc.c); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: New() = %v; want %q", name, err, tc.want)
		}
	}
}

// TestNodesValidators: the DMTF's validators find no failure in such a service.
func TestNodesValidators(t *testing.T) {
	t.Run("service", func(t *testing.T) {
		s, _ := newNodes(t, "1", "2", func(c *Config) { c.Identity = testIdentity(t) })
		s.furnish(t)
		validated(t, newValidator(loadCSDL(t), s), "two nodes behind one BMC")
	})
	t.Run("protocol", func(t *testing.T) {
		newProtocolJudge(t, func(c *Config) { c.Node, c.Nodes = "1", []Node{{ID: "2", Chassis: NewMemory(nodeInfo())}} }).judge(t, func(assertion, bool) {})
		matrix.Note(protocolClient, "all of them, of two nodes behind one BMC", "", !t.Failed())
	})
}
