package provision

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

func stranger(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 9, n} }

// asks has a client ask for an address, as the wire showed it, and waits until
// the state has it.
func (b *bench) asks(mac net.HardwareAddr, network, client, class string, relay pxe.Relay, addr netip.Addr) {
	b.t.Helper()
	kind := "dhcp.discover"
	if addr.IsValid() {
		kind = "dhcp.ack"
	}
	at := time.Now()
	b.p.Record(pxe.Exchange{Time: at, MAC: mac, Addr: addr, Network: network, Kind: kind, Client: client, Text: "asked",
		Asker: pxe.Asker{VendorClass: class, Relay: relay}})
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	for ev, err := range b.store.Watch(ctx, state.Query{}) {
		if err != nil {
			break
		}
		if strings.HasPrefix(string(ev.Kind), "discover.") && strings.Contains(string(ev.Data), net.HardwareAddr(mac).String()) && !ev.Time.Before(at.Truncate(0)) {
			return
		}
	}
	b.t.Fatalf("%s was not seen", mac)
}

// inspect boots a stranger into the agent, which sends inv, and returns the
// task that the agent is then given.
func (b *bench) inspect(mac net.HardwareAddr, inv wire.Inventory) wire.Task {
	b.t.Helper()
	c := pxe.Client{MAC: mac, Network: "prov", PXE: true}
	l, err := b.p.Offer(b.t.Context(), c, netip.Addr{})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.p.Commit(b.t.Context(), c, l.Addr); err != nil {
		b.t.Fatal(err)
	}
	d, err := b.p.Boot(b.t.Context(), c)
	if err != nil || d.Action != pxe.BootKernel {
		b.t.Fatalf("Boot(stranger) = %+v, %v; want the agent", d, err)
	}
	_, token, _ := strings.Cut(d.Cmdline, wire.ArgToken+"=")
	token, _, _ = strings.Cut(token, " ")
	b.from = l.Addr.String() + ":1"
	b.want("POST", wire.PathInventory, token, inv, 204)
	b.until(state.NameOf(site.MAC(mac)), state.Inspected)
	return b.task(token)
}

func strangeInventory() wire.Inventory {
	inv := goodInventory()
	inv.System = wire.System{Manufacturer: "Acme", Product: "GX8", Serial: "SN-77", UUID: "4c4c4544-0035-3410-8050-c6c04f314733"}
	inv.NICs = []wire.NIC{{Name: "eth0", MAC: stranger(1).String(), Link: true}, {Name: "eth1", MAC: stranger(2).String()}}
	inv.GPUs = append(inv.GPUs, wire.GPU{PCI: "1a03:2000", Model: "the BMC's screen"})
	inv.BMC = &wire.BMC{Address: "10.78.0.33", MAC: "02:00:00:00:09:63"}
	return inv
}

// TestDiscovered: two ports of one machine and its BMC become one entry, with
// serial, disks, GPUs, the switch port, and when it was seen.
func TestDiscovered(t *testing.T) {
	b := newBench(t, nil)
	b.site.Networks = append(b.site.Networks, site.Network{Name: "bmc", Purpose: site.PurposeBMC, Prefix: netip.MustParsePrefix("10.78.0.0/24"), Server: netip.MustParseAddr("10.78.0.1")})
	relay := pxe.Relay{Agent: netip.MustParseAddr("10.77.0.3"), Circuit: "Ethernet7", Remote: "leaf-3"}
	b.asks(stranger(2), "prov", "a client that does not boot from the network", "", pxe.Relay{}, netip.Addr{})
	b.asks(stranger(1), "prov", "PXE firmware (UEFI x64)", "PXEClient:Arch:00007", relay, netip.Addr{})
	b.asks(net.HardwareAddr{2, 0, 0, 0, 9, 0x63}, "bmc", `a client of class "iDRAC"`, "iDRAC", pxe.Relay{}, netip.MustParseAddr("10.78.0.33"))
	b.asks(net.HardwareAddr{2, 0, 0, 0, 9, 0x64}, "prov", `a client of class "NVIDIA/BF/BMC"`, "NVIDIA/BF/BMC", pxe.Relay{}, netip.Addr{})
	if task := b.inspect(stranger(1), strangeInventory()); task.Kind != wire.TaskHalt {
		t.Errorf("task of an inspected stranger = %s; want halt: the site does not say otherwise", task.Kind)
	}

	all, err := b.p.Discovered(t.Context(), false)
	if err != nil || len(all) != 3 {
		t.Fatalf("Discovered() = %+v, %v; want a machine and two BMCs", all, err)
	}
	m := all[0]
	if m.Sort != state.SortMachine || m.State != state.WasInspected || m.Serial != "SN-77" || m.Vendor != "Acme" || m.Model != "GX8" || m.CPUs != 2 || m.Memory != 2<<30 ||
		len(m.Disks) != 2 || m.Disks[0].Serial != "DISK1" || len(m.GPUs) != 1 || m.GPUs[0].Count != 2 || len(m.Sightings) != 2 || m.First.IsZero() || m.Last.Before(m.First) {
		t.Errorf("the machine = %+v; want what the agent found, and its two ports", m)
	}
	if n := m.NICs; len(n) != 2 || !n[0].Boot || n[0].Port != "Ethernet7" || n[0].Network != "prov" || n[1].Network != "prov" || n[1].Boot {
		t.Errorf("its ports = %+v; want the first on Ethernet7, which booted", n)
	}
	if m.BMC == nil || m.BMC.Vendor != "Dell" || m.BMC.Addr.String() != "10.78.0.33" || m.BMC.Network != "bmc" {
		t.Errorf("its BMC = %+v; want the iDRAC at 10.78.0.33", m.BMC)
	}
	for i, want := range []string{"Dell", "NVIDIA BlueField"} {
		if d := all[i+1]; d.Sort != state.SortBMC || d.Vendor != want {
			t.Errorf("Discovered()[%d] = %+v; want a BMC of %s", i+1, d, want)
		}
	}

	// Another server knows it too, and what the site has meanwhile is left out.
	b.stop()
	b.start(b.p.c)
	again, err := b.p.Discovered(t.Context(), false)
	if err != nil || len(again) != 3 || again[0].Serial != "SN-77" {
		t.Errorf("Discovered() after a restart = %+v, %v; want the same", again, err)
	}
	b.site.Machines = append(b.site.Machines, site.Machine{Name: "gpu-09", BMC: site.BMC{Address: netip.MustParseAddr("10.78.0.33")}, NICs: []site.NIC{{MAC: site.MAC(stranger(1)), Network: "prov", Boot: true}}})
	if rest, err := b.p.Discovered(t.Context(), false); err != nil || len(rest) != 1 || rest[0].Vendor != "NVIDIA BlueField" {
		t.Errorf("Discovered() after enrolment = %+v, %v; want the BlueField alone", rest, err)
	}
	if rest, err := b.p.Discovered(t.Context(), true); err != nil || len(rest) != 3 || rest[0].State != state.EnrolledInSite || rest[0].Name != "gpu-09" {
		t.Errorf("Discovered(all) after enrolment = %+v, %v; want gpu-09 as enrolled", rest, err)
	}
}

// TestAfterInspection: the network says what an inspected stranger does, and
// whether there is an inspection at all; no task of a stranger writes.
func TestAfterInspection(t *testing.T) {
	b := newBench(t, nil)
	for i, tc := range []struct {
		after site.AfterInspection
		want  wire.TaskKind
	}{{"", wire.TaskHalt}, {site.AfterWait, wire.TaskHalt}, {site.AfterPowerOff, wire.TaskPowerOff}} {
		b.site.Networks[0].AfterInspection = tc.after
		if task := b.inspect(stranger(byte(10+i)), goodInventory()); task.Kind != tc.want || task.Deploy != nil {
			t.Errorf("after-inspection %q: task = %+v; want %s", tc.after, task, tc.want)
		}
	}
	b.site.Policy.AfterInspection, b.site.Networks[0].AfterInspection = site.AfterRestart, ""
	if err := b.p.Forget(t.Context(), "user:test", "nobody"); err == nil {
		t.Error("Forget(nobody) = nil; want an error")
	}
	b.asks(stranger(10), "prov", "PXE firmware (BIOS)", "PXEClient", pxe.Relay{}, netip.Addr{})
	if err := b.p.Forget(t.Context(), "user:test", state.NameOf(site.MAC(stranger(10)))); err != nil {
		t.Fatal(err)
	}
	if task := b.inspect(stranger(10), goodInventory()); task.Kind != wire.TaskReboot {
		t.Errorf("task of a stranger that was forgotten = %s; want the policy's restart", task.Kind)
	}
	b.site.Networks[0].UnknownMachines = site.Ignore
	c := pxe.Client{MAC: stranger(20), Network: "prov", PXE: true}
	if d, err := b.p.Boot(t.Context(), c); err != nil || d.Action != pxe.Ignore {
		t.Errorf("Boot() on a network that ignores strangers = %+v, %v; want Ignore", d, err)
	}
	b.site.Networks[0].Purpose = site.PurposeBMC
	b.site.Networks[0].UnknownMachines = site.Inspect
	if d, err := b.p.Boot(t.Context(), c); err != nil || d.Action != pxe.Ignore {
		t.Errorf("Boot() on a network of BMCs = %+v, %v; want Ignore", d, err)
	}
}

// TestBMCAddresses: a BMC has the address that the site reserves for it, also
// on a network that ignores strangers.
func TestBMCAddresses(t *testing.T) {
	b := newBench(t, nil)
	mac := site.MAC{2, 0, 0, 0, 9, 0x70}
	b.site.Networks = append(b.site.Networks, site.Network{Name: "bmc", Purpose: site.PurposeBMC, Prefix: netip.MustParsePrefix("10.78.0.0/24"),
		Server: netip.MustParseAddr("10.78.0.1"), UnknownMachines: site.Ignore, Pools: []site.Pool{{From: netip.MustParseAddr("10.78.0.100"), To: netip.MustParseAddr("10.78.0.110")}}})
	b.site.Machines[0].BMC = site.BMC{Address: netip.MustParseAddr("10.78.0.11"), MAC: mac, Network: "bmc"}
	c := pxe.Client{MAC: mac.HardwareAddr(), Network: "bmc", VendorClass: "iDRAC"}
	if l, err := b.p.Offer(t.Context(), c, netip.Addr{}); err != nil || l.Addr.String() != "10.78.0.11" {
		t.Errorf("Offer(BMC of gpu-01) = %+v, %v; want 10.78.0.11", l, err)
	}
	c.MAC = stranger(1)
	if l, err := b.p.Offer(t.Context(), c, netip.Addr{}); err == nil {
		t.Errorf("Offer(unknown BMC, ignored) = %+v; want none", l)
	}
	b.site.Networks[1].UnknownMachines = ""
	if l, err := b.p.Offer(t.Context(), c, netip.Addr{}); err != nil || l.Addr.String() != "10.78.0.100" {
		t.Errorf("Offer(unknown BMC) = %+v, %v; want one of the pool", l, err)
	}
	// What it does on the wire is no part of its machine's boot.
	b.p.Record(pxe.Exchange{Time: time.Now(), MAC: mac.HardwareAddr(), Network: "bmc", Kind: "dhcp.ack", Text: "has 10.78.0.11"})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ev, err := range b.store.Watch(ctx, state.Query{Machine: "gpu-01"}) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Kind != "bmc.dhcp.ack" || ev.Text != "its BMC has 10.78.0.11" {
			t.Errorf("event = %s %q; want bmc.dhcp.ack of its BMC", ev.Kind, ev.Text)
		}
		return
	}
}

// TestScanRemembers: what a search finds is listed, named, and told in events.
func TestScanRemembers(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"RedfishVersion":"1.13.1","Vendor":"Dell Inc.","Product":"iDRAC","Systems":{"@odata.id":"/s"},"Oem":{"Dell":{"ServiceTag":"F54P1G3"}}}`)
	}))
	t.Cleanup(srv.Close)
	b := newBench(t, func(c *Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if network == "tcp" && strings.HasPrefix(addr, "10.78.0.9:443") {
				return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
			}
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
	})
	b.site.Networks = append(b.site.Networks, site.Network{Name: "bmc", Purpose: site.PurposeBMC, Prefix: netip.MustParsePrefix("10.78.0.0/28")})
	var steps []state.ScanStep
	if err := b.p.Scan(t.Context(), "user:test", state.Scan{Rate: 2000, Timeout: 2000}, func(s state.ScanStep) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 14 || steps[13].Done != 14 || steps[13].Total != 14 {
		t.Fatalf("%d steps; want 14, the hosts of the site's BMC network", len(steps))
	}
	all, err := b.p.Discovered(t.Context(), false)
	if err != nil || len(all) != 1 || all[0].Vendor != "Dell" || all[0].Serial != "F54P1G3" || all[0].BMC.Addr.String() != "10.78.0.9" || len(all[0].BMC.Fingerprint) != 64 || all[0].Name != "bmc-10-78-0-9" {
		t.Errorf("Discovered() = %+v, %v; want the iDRAC", all, err)
	}
	events, err := b.store.Events(t.Context(), state.Query{Machine: "bmc-10-78-0-9"})
	if err != nil || len(events) != 1 || events[0].Kind != state.KindSeen || !strings.Contains(events[0].Text, "a BMC Dell iDRAC on network bmc, at 10.78.0.9") {
		t.Errorf("events = %+v, %v; want that it was seen", events, err)
	}
}

// groupConn sends what is for the multicast group to somebody else.
type groupConn struct {
	net.PacketConn
	to net.Addr
}

func (c groupConn) WriteTo(b []byte, at net.Addr) (int, error) {
	if at.String() != "239.255.255.250:1900" {
		return 0, fmt.Errorf("a search went to %s", at)
	}
	return c.PacketConn.WriteTo(b, c.to)
}

// TestScanSSDP: only those that answer on a network of BMCs are looked at.
func TestScanSSDP(t *testing.T) {
	service, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go func() {
		b := make([]byte, 2048)
		for {
			_, from, err := service.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = service.WriteTo([]byte("HTTP/1.1 200 OK\r\nST: urn:dmtf-org:service:redfish-rest:1:0\r\nUSN: uuid:x\r\nAL: https://10.78.0.9/redfish/v1/\r\n\r\n"), from)
		}
	}()
	var dialed atomic.Int32
	b := newBench(t, func(c *Config) {
		c.Dial = func(_ context.Context, network, addr string) (net.Conn, error) {
			if !strings.HasPrefix(addr, "127.0.0.1:") {
				t.Errorf("asked %s, which answered nothing", addr)
			}
			dialed.Add(1)
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		c.ListenBMC = func(context.Context, site.Network) (net.PacketConn, error) {
			conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
			return groupConn{conn, service.LocalAddr()}, err
		}
	})
	search := func(sc state.Scan) (last state.ScanStep, err error) {
		sc.SSDP, sc.Rate, sc.Timeout = true, 2000, 2000
		err = b.p.Scan(t.Context(), "user:test", sc, func(s state.ScanStep) { last = s })
		return last, err
	}
	b.site.Networks = append(b.site.Networks, site.Network{Name: "bmc", Purpose: site.PurposeBMC, Prefix: netip.MustParsePrefix("127.0.0.0/28")})
	if _, err := search(state.Scan{}); err == nil || !strings.Contains(err.Error(), "server: ADDRESS") {
		t.Errorf("Scan() without an address on the network = %v; want what to write", err)
	}
	b.site.Networks[len(b.site.Networks)-1].Server = netip.MustParseAddr("127.0.0.2")
	if last, err := search(state.Scan{}); err != nil || last.Total != 1 || dialed.Load() == 0 {
		t.Errorf("Scan() = %v, %+v, %d connections; want the one address that answered looked at", err, last, dialed.Load())
	}
	b.site.Networks[len(b.site.Networks)-1].Prefix = netip.MustParsePrefix("10.78.0.0/28")
	if last, err := search(state.Scan{}); err != nil || last.Total != 0 {
		t.Errorf("Scan() of who answers from elsewhere = %v, %+v; want nobody looked at", err, last)
	}
	if _, err := search(state.Scan{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")}}); err == nil {
		t.Error("Scan() of prefixes by SSDP = nil; want an error")
	}
}

// TestSightingsAreBounded: anybody on a network can make up MAC addresses.
func TestSightingsAreBounded(t *testing.T) {
	b := newBench(t, nil)
	at := time.Now()
	for i := range maxStrangers + forgetTogether {
		b.p.sight(t.Context(), pxe.Exchange{Time: at.Add(time.Duration(i) * time.Millisecond), MAC: net.HardwareAddr{2, 0, 0, 1, byte(i >> 8), byte(i)}, Network: "prov", Kind: "dhcp.discover"})
	}
	docs, err := b.store.List(t.Context(), seenPrefix)
	if err != nil || len(docs) != maxStrangers || len(b.p.seen) != maxStrangers || len(b.p.stored) != maxStrangers {
		t.Errorf("%d sightings in the state, %d remembered (%v); want %d", len(docs), len(b.p.seen), err, maxStrangers)
	}
	if _, ok := docs[seenPrefix+"02:00:00:01:00:00"]; ok {
		t.Error("the one that was not seen for longest is still there")
	}
	// The same again, soon: no write, no event.
	e := pxe.Exchange{Time: at.Add(2 * time.Second), MAC: net.HardwareAddr{2, 0, 0, 1, 2, 9}, Network: "prov", Kind: "dhcp.discover"}
	if ev, news := b.p.sight(t.Context(), e); news {
		t.Errorf("a sighting that says nothing new gave the event %+v", ev)
	}
	count := 0
	for _, a := range []string{"10.77.0.101", "2001:db8::5", "10.77.0.101", "2001:db8::5"} { // it speaks both, again and again
		e.Kind, e.Addr = "dhcp.ack", netip.MustParseAddr(a)
		if _, news := b.p.sight(t.Context(), e); news {
			count++
		}
	}
	if count != 1 {
		t.Errorf("a machine with an IPv4 and an IPv6 address was news %d times; want once", count)
	}
	// On another network it is news.
	e.Network = "elsewhere"
	if ev, news := b.p.sight(t.Context(), e); !news || ev.Kind != state.KindChanged {
		t.Errorf("a sighting on another network gave %+v, %v; want discover.changed", ev, news)
	}
}

// TestVendorTable: every entry has sources, no password is in it twice by
// another name, and no vendor class begins another.
func TestVendorTable(t *testing.T) {
	all, err := vendors()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Vendor == "" || len(v.Sources) == 0 {
			t.Errorf("%+v has no name or no source", v)
		}
		for o := range strings.FieldsSeq(v.OUIs) {
			if _, err := site.ParseMAC(o + ":00:00:01"); err != nil || o != strings.ToLower(o) {
				t.Errorf("%s: %q is no MAC prefix", v.Vendor, o)
			}
		}
		if v.Factory != nil && (v.Factory.User == "" || v.Factory.Password == "") {
			t.Errorf("%s has half a factory login", v.Vendor)
		}
	}
	for _, tc := range []struct {
		class, mac, vendor string
		sure               bool
	}{
		{"iDRAC", "02:00:00:00:00:01", "Dell", true},
		{"CPQRIB3", "02:00:00:00:00:01", "HPE", true},
		{"NVIDIA/BF/BMC", "02:00:00:00:00:01", "NVIDIA BlueField", true},
		{"NVIDIA/BF/PXE", "02:00:00:00:00:01", "", false},
		{"", "3c:ec:ef:00:00:01", "Supermicro", false},
		{"PXEClient", "3c:ec:ef:00:00:01", "Supermicro", false},
		{"", "02:00:00:00:00:01", "", false},
	} {
		mac, err := site.ParseMAC(tc.mac)
		if err != nil {
			t.Fatal(err)
		}
		if v, sure := bmcVendor(tc.class, mac); v != tc.vendor || sure != tc.sure {
			t.Errorf("bmcVendor(%q, %s) = %q, %v; want %q, %v", tc.class, mac, v, sure, tc.vendor, tc.sure)
		}
	}
	if u, pw, ok := FactoryLogin("Dell Inc."); !ok || u != "root" || string(pw) != "calvin" {
		t.Errorf("FactoryLogin(Dell Inc.) = %s, %v; want root", u, ok)
	}
	for _, name := range []string{"Supermicro", "HPE", "", "Nobody"} {
		if u, _, ok := FactoryLogin(name); ok {
			t.Errorf("FactoryLogin(%q) = %s; want none: an attempt would be wasted", name, u)
		}
	}
	if b, err := json.Marshal(all); err != nil || len(b) == 0 {
		t.Error(err)
	}
}

// sight is what the recording goroutine does with one exchange.
func (p *Provisioner) sight(ctx context.Context, e pxe.Exchange) (state.Event, bool) {
	next, ok := p.strangerIn(e)
	if !ok {
		return state.Event{}, false
	}
	return p.saw(ctx, next)
}

// TestSightingsTogether joins what several exchanges of one batch tell of a
// machine, forgets the oldest for the newest, and keeps what it knows when
// nothing can be written.
func TestSightingsTogether(t *testing.T) {
	b := newBench(t, nil)
	at := b.p.now()
	one := func(i int, name string, after time.Duration) state.Sighting {
		return state.Sighting{Sort: state.SortMachine, MAC: site.MAC{2, 0, 0, 3, byte(i >> 8), byte(i)}, Network: "prov", Hostname: name, First: at.Add(after), Last: at.Add(after)}
	}
	news := b.p.sawAll(t.Context(), []state.Sighting{one(0, "", 0), one(1, "", 0), one(0, "", time.Millisecond), one(0, "gpu", 2*time.Millisecond)})
	var kinds []state.Kind
	for _, e := range news {
		kinds = append(kinds, e.Kind)
	}
	if want := []state.Kind{state.KindSeen, state.KindSeen, state.KindChanged}; !slices.Equal(kinds, want) {
		t.Errorf("sawAll = %v; want %v", kinds, want)
	}
	stored := func() map[string][]byte {
		docs, err := b.store.List(t.Context(), seenPrefix)
		if err != nil {
			t.Fatal(err)
		}
		return docs
	}
	if docs := stored(); len(docs) != 2 || !strings.Contains(string(docs[seenPrefix+one(0, "", 0).MAC.String()]), `"gpu"`) {
		t.Errorf("stored are %d sightings: %s; want 2, the first with its host name", len(docs), docs)
	}
	// The one at place 0 is seen once more, and what is to be removed waits for
	// others.
	for i := 2; i < maxStrangers+forgetTogether+20; i += 20 {
		var more []state.Sighting
		if i > maxStrangers && i <= maxStrangers+20 {
			if docs := stored(); len(docs) <= maxStrangers || len(b.p.seen) != maxStrangers {
				t.Errorf("%d sightings are stored, %d remembered; want some to be removed later, and %d", len(docs), len(b.p.seen), maxStrangers)
			}
			more = append(more, one(0, "gpu", time.Hour))
		}
		for j := i; j < min(i+20, maxStrangers+forgetTogether+20); j++ {
			more = append(more, one(j, "", time.Duration(j)*time.Second))
		}
		b.p.sawAll(t.Context(), more)
	}
	if docs := stored(); len(docs) >= maxStrangers+forgetTogether || len(b.p.seen) != maxStrangers || docs[seenPrefix+one(1, "", 0).MAC.String()] != nil || docs[seenPrefix+one(0, "", 0).MAC.String()] == nil {
		t.Errorf("%d sightings are stored, %d remembered; want some %d, the oldest forgotten and the one that came back not", len(docs), len(b.p.seen), maxStrangers)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lost := one(9000, "", time.Hour)
	if news := b.p.sawAll(ctx, []state.Sighting{lost}); len(news) > 0 {
		t.Errorf("sawAll that cannot write = %v; want nothing", news)
	}
	if news := b.p.sawAll(t.Context(), []state.Sighting{lost}); len(news) != 1 {
		t.Errorf("sawAll of what could not be written before = %v; want it to be new", news)
	}
}
