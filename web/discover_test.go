package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

func (o *operator) Discovered(_ context.Context, all bool) ([]state.Discovery, error) {
	at := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	list := []state.Discovery{
		{Name: "mac-020000000901", Sort: state.SortMachine, State: state.WasInspected, First: at, Last: at, Serial: "SN-77<b>", Memory: 64 << 30,
			Disks: []state.DiscoveredDisk{{Serial: "WD-9", Bytes: 1 << 40}}, GPUs: []state.DiscoveredGPU{{PCI: "10de:2330", Count: 8}},
			Sightings: []state.Sighting{{Sort: state.SortMachine, MAC: site.MAC{2, 0, 0, 0, 9, 1}, Network: "prov", Port: "Ethernet7", Switch: "leaf-3", First: at, Last: at}}},
		{Name: "bmc-192-0-2-9", Sort: state.SortBMC, State: state.Seen, First: at, Last: at, Vendor: "Dell",
			Sightings: []state.Sighting{{Sort: state.SortBMC, First: at, Last: at}},
			BMC:       &state.DiscoveredBMC{Addr: netip.MustParseAddr("192.0.2.9"), BMCFacts: state.BMCFacts{Redfish: "1.13.1", IPMI: true}}},
	}
	if all {
		list = append(list, state.Discovery{Name: "gpu-01", Sort: state.SortMachine, State: state.EnrolledInSite})
	}
	return list, o.err
}

func (o *operator) Forget(_ context.Context, actor, name string) error {
	o.ask("forget", actor, name)
	return o.err
}

func (o *operator) Scan(_ context.Context, actor string, sc state.Scan, step func(state.ScanStep)) error {
	o.ask("scan", actor)
	if len(sc.Prefixes) == 0 {
		return errors.New("name a prefix")
	}
	for i := range 3 {
		st := state.ScanStep{Done: i + 1, Total: 3}
		if i == 1 {
			st.Found = &state.Discovery{Name: "bmc-192-0-2-9", Sort: state.SortBMC}
		}
		step(st)
	}
	return o.err
}

func TestDiscover(t *testing.T) {
	b := newBench(t)
	c, ctx := b.client(RoleOperator), t.Context()
	if list, err := c.Discovered(ctx, false); err != nil || len(list) != 2 || list[0].Disks[0].Serial != "WD-9" || list[1].BMC.Addr.String() != "192.0.2.9" {
		t.Errorf("Discovered() = %+v, %v; want a machine and a BMC", list, err)
	}
	if list, err := c.Discovered(ctx, true); err != nil || len(list) != 3 {
		t.Errorf("Discovered(all) = %d, %v; want 3", len(list), err)
	}
	if err := c.Forget(ctx, "02:00:00:00:09:01"); err != nil || b.op.asked[0] != "forget user:a-operator mac-020000000901" {
		t.Errorf("Forget(by MAC) = %v, asked %q; want it by its name", err, b.op.asked)
	}
	var steps []state.ScanStep
	sc := state.Scan{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")}}
	if err := c.Scan(ctx, sc, func(s state.ScanStep) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	if n := len(steps); n < 2 || steps[n-1].Done != 3 || steps[n-2].Found == nil || steps[n-2].Found.Name != "bmc-192-0-2-9" {
		t.Errorf("Scan() told %+v; want what was found, and the end", steps)
	}
	if err := c.Scan(ctx, state.Scan{}, nil); err == nil || !strings.Contains(err.Error(), "name a prefix") {
		t.Errorf("Scan(nothing) = %v; want the server's sentence", err)
	}
	b.op.err = errors.New("the network is down")
	if err := c.Scan(ctx, sc, func(state.ScanStep) {}); err == nil || !strings.Contains(err.Error(), "the network is down") {
		t.Errorf("Scan() that fails on its way = %v; want why", err)
	}
	b.op.err = nil
	b.phase(t, "mac-020000000902", state.Inspected, "")
	r, err := c.Reload(ctx)
	if err != nil || r.Machines != 3 {
		t.Errorf("Reload() = %+v, %v; want 3 machines", r, err)
	}
	if events, err := b.store.Events(ctx, state.Query{Machine: "gpu-03"}); err != nil || len(events) != 1 || events[0].Actor != "user:a-operator" || !strings.HasSuffix(events[0].Text, "on the timeline of mac-020000000902") {
		t.Errorf("events of the new machine = %+v, %v; want that it was added, and by whom", events, err)
	}
	b.op.err = errors.New("machines/r1.yaml:3:1: wrong")
	if _, err := c.Reload(ctx); err == nil || !strings.Contains(err.Error(), "machines/r1.yaml:3:1") {
		t.Errorf("Reload() of a broken site = %v; want where", err)
	}
	b.op.err = nil
	req, err := http.NewRequestWithContext(ctx, "GET", b.http.URL+"/discovered", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(&http.Cookie{Name: cookieName, Value: b.secret[RoleViewer]})
	resp, err := b.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"SN-77&lt;b&gt;", "Ethernet7 of leaf-3", "WD-9", "8 × 10de:2330", "192.0.2.9", "Redfish 1.13.1 IPMI", "fettle enroll"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("page /discovered lacks %q\n%s", want, page)
		}
	}
}
