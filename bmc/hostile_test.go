package bmc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// offline is a Redfish service without a network: resources by path.
type offline map[string]any

func (o offline) RoundTrip(q *http.Request) (*http.Response, error) {
	status, body := http.StatusNotFound, []byte(`{}`)
	if v, ok := o[strings.TrimRight(q.URL.Path, "/")]; ok {
		status = http.StatusOK
		if body, _ = v.([]byte); body == nil {
			body, _ = json.Marshal(v)
		}
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: q, ContentLength: -1}, nil
}

// readAll does everything that only reads, and marshals what comes of it, as a
// command does.
func readAll(t *testing.T, rt http.RoundTripper) {
	t.Helper()
	target := Target{Name: "m", Address: netip.MustParseAddrPort("192.0.2.1:443"), Timeout: 5 * time.Second, Logger: slog.New(slog.DiscardHandler)}
	d := &redfishDriver{t: target, hc: &http.Client{Transport: rt}, log: target.Logger}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d.refused.Store(true)
	if err := d.ready(ctx); err != nil {
		return
	}
	begun := time.Now()
	for _, v := range []func() (any, error){
		func() (any, error) { return d.power(ctx) }, func() (any, error) { return d.status(ctx) }, func() (any, error) { return d.inventory(ctx) },
		func() (any, error) { return d.sensors(ctx) }, func() (any, error) { return d.eventLog(ctx) }, func() (any, error) { return d.bios(ctx) },
		func() (any, error) { return d.media(ctx) }, func() (any, error) { return d.networks(ctx) }, func() (any, error) { return d.accounts(ctx) },
		func() (any, error) { return d.powerLimit(ctx) }, func() (any, error) { return d.telemetry(ctx) }, func() (any, error) { _, r, err := d.secureBoot(ctx); return r.state(), err },
		func() (any, error) { return d.clock(ctx) }, func() (any, error) { return d.firmware(ctx) },
	} {
		got, err := v()
		if err != nil {
			if err = target.own(ctx, "reading", err); strings.Count(err.Error(), "\n") > 0 || len(err.Error()) > 4000 {
				t.Errorf("the error has %d characters and several lines: %.300s", len(err.Error()), err)
			}
			continue
		}
		if _, err := json.Marshal(got); err != nil {
			t.Errorf("what was read cannot be shown: %v", err)
		}
	}
	c := &Client{t: target, drv: d}
	if _, err := c.Record(ctx, io.Discard, []byte("k"), nil); err != nil && strings.Contains(err.Error(), "unsupported") {
		t.Error(err)
	}
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("reading took %s", took)
	}
}

// mutate changes a tree: leaves out, retypes, nulls, links in circles.
func mutate(r *rand.Rand, v any, paths []string) any {
	if r.IntN(24) == 0 {
		return []any{nil, "", "x", -1.5, 1e300, true, []any{}, map[string]any{}, []any{nil, 1, "a"}, "NaN", map[string]any{"@odata.id": paths[r.IntN(len(paths))]},
			map[string]any{"@odata.id": "//evil/x"}, map[string]any{"@odata.id": paths[r.IntN(len(paths))] + "#/Members/0"}, "/redfish/v1"}[r.IntN(14)]
	}
	switch x := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(x)) {
			if r.IntN(20) > 0 {
				out[k] = mutate(r, x[k], paths)
			}
		}
		if r.IntN(20) == 0 {
			out["Members@odata.nextLink"] = paths[r.IntN(len(paths))]
		}
		return out
	case []any:
		var out []any
		for _, y := range x {
			out = append(out, mutate(r, y, paths))
		}
		return out
	}
	return v
}

// wide is a tree with every resource that a reading asks for.
func wide() map[string]string {
	l := func(name, at string) string { return fmt.Sprintf(`%q:{"@odata.id":"/redfish/v1/%s"}`, name, at) }
	return simple(map[string]string{
		v1: `{` + strings.Join([]string{l("Systems", "Systems"), l("Chassis", "Chassis"), l("Managers", "Managers"), l("UpdateService", "US"), l("AccountService", "AS"), l("TelemetryService", "TS"), l("Registries", "Registries")}, ",") + `}`,
		v1 + "/Systems/1": with(strings.Join([]string{`"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"},"MemorySummary":{"TotalSystemMemoryGiB":64},"Actions":{"#ComputerSystem.Reset":{"target":"/x"}}`,
			l("Processors", "coll"), l("Memory", "coll"), l("EthernetInterfaces", "coll"), l("Storage", "st"), l("SimpleStorage", "coll"), l("NetworkInterfaces", "ni"), l("LogServices", "lg"), l("Bios", "bios"), l("SecureBoot", "sb"), l("VirtualMedia", "coll"),
			`"PCIeDevices":[{"@odata.id":"/redfish/v1/pd"}],"Oem":{"Hpe":{"Links":{` + l("SmartStorage", "ss") + "," + l("NetworkAdapters", "coll") + `}}}`}, ",")),
		v1 + "/Chassis/1":  inChassis(strings.Join([]string{l("Sensors", "coll"), l("Thermal", "th"), l("Power", "pw"), l("ThermalSubsystem", "th"), l("PowerSubsystem", "pw"), l("NetworkAdapters", "coll"), l("EnvironmentMetrics", "pw"), l("PCIeDevices", "coll")}, ",")),
		v1 + "/Managers/1": `{"@odata.id":"/redfish/v1/Managers/1","Id":"1","DateTime":"2024-01-01T00:00:00Z",` + l("EthernetInterfaces", "coll") + "," + l("LogServices", "lg") + "," + l("VirtualMedia", "coll") + `}`,
		v1 + "/coll":       coll(v1+"/thing", v1+"/gpu", v1+"/cpu"),
		v1 + "/thing":      `{"@odata.id":"/redfish/v1/thing","Id":"T","Name":"T","MACAddress":"02:00:00:00:00:01","Reading":1.5,"ReadingUnits":"Cel","CapacityMiB":1024,"UserName":"u","MediaTypes":["CD"],"Ports":{"@odata.id":"/redfish/v1/coll"},"Drives":{"@odata.id":"/redfish/v1/coll"},"Version":"1","IPv4Addresses":[{"Address":"192.0.2.3","SubnetMask":"255.255.255.0"}],"MetricValues":[{"MetricId":"a","MetricValue":"1"}]}`,
		v1 + "/gpu":        `{"@odata.id":"/redfish/v1/gpu","Id":"GPU0","ProcessorType":"GPU","Links":{"PCIeDevice":{"@odata.id":"/redfish/v1/pd"},"PCIeFunctions":[{"@odata.id":"/redfish/v1/pd"}]}}`,
		v1 + "/cpu":        `{"@odata.id":"/redfish/v1/cpu","Id":"CPU0","ProcessorType":"CPU","Model":"X","TotalCores":4}`,
		v1 + "/st":         coll(v1 + "/ctl"), v1 + "/ctl": `{"Id":"c","Drives":[{"@odata.id":"/redfish/v1/dr"},{"@odata.id":"/redfish/v1/th#/Fans/0"}]}`,
		v1 + "/dr": `{"Id":"d","SerialNumber":"S","CapacityBytes":1000}`, v1 + "/ni": coll(v1 + "/nif"), v1 + "/nif": `{"Id":"n","Links":{"NetworkAdapter":{"@odata.id":"/redfish/v1/thing"}}}`,
		v1 + "/lg": coll(v1 + "/sel"), v1 + "/sel": `{"Id":"SEL","Entries":{"@odata.id":"/redfish/v1/en"}}`, v1 + "/en": `{"Members":[{"Id":"1","Created":"2024-01-01T00:00:00Z","Message":"m"}]}`,
		v1 + "/bios": `{"AttributeRegistry":"R","Attributes":{"a":"b","n":1},"@Redfish.Settings":{"SettingsObject":{"@odata.id":"/redfish/v1/bios"}}}`, v1 + "/sb": `{"SecureBootEnable":true}`,
		v1 + "/pd": `{"Id":"pd","Name":"H100","Manufacturer":"NVIDIA","VendorId":"10de","DeviceId":"2330","ClassCode":"0302","Links":{"PCIeFunctions":[{"@odata.id":"/redfish/v1/pd"}]}}`,
		v1 + "/ss": `{"Links":{"ArrayControllers":{"@odata.id":"/redfish/v1/ac"}}}`, v1 + "/ac": coll(v1 + "/acl"), v1 + "/acl": `{"Links":{"PhysicalDrives":{"@odata.id":"/redfish/v1/st"}}}`,
		v1 + "/th": `{"Temperatures":[{"Name":"t","ReadingCelsius":3}],"Fans":[{"Name":"f","Reading":3}]}`, v1 + "/pw": `{"PowerControl":[{"PowerConsumedWatts":3,"PowerLimit":{"LimitInWatts":5}}],"PowerSupplies":[{"Name":"p"}],"PowerLimitWatts":{"SetPoint":3}}`,
		v1 + "/US": `{"FirmwareInventory":{"@odata.id":"/redfish/v1/coll"}}`, v1 + "/AS": `{"Accounts":{"@odata.id":"/redfish/v1/coll"}}`, v1 + "/TS": `{"MetricReports":{"@odata.id":"/redfish/v1/coll"}}`,
		v1 + "/Registries": coll(v1 + "/Registries/R"), v1 + "/Registries/R": `{"Location":[{"Uri":"/redfish/v1/reg"}]}`, v1 + "/reg": `{"RegistryEntries":{"Attributes":[{"AttributeName":"a","Value":[{"ValueName":"b"}]}]}}`,
	})
}

func mutated(seed uint64) offline {
	r := rand.New(rand.NewPCG(seed, 1))
	res := wide()
	paths := slices.Sorted(maps.Keys(res))
	out := offline{}
	for _, p := range paths {
		var v any
		if err := json.Unmarshal([]byte(res[p]), &v); err != nil {
			panic(p + ": " + err.Error()) // the test's own
		}
		if seed > 0 {
			if r.IntN(15) == 0 {
				continue
			}
			if v = mutate(r, v, paths); r.IntN(40) == 0 {
				out[p] = [][]byte{[]byte("<html>"), []byte(`{"Members":[`), {}, []byte("null"), []byte("[[")}[r.IntN(5)]
				continue
			}
		}
		out[p] = v
	}
	return out
}

// TestMutatedTrees: whatever a service leaves out, retypes or links in circles,
// reading it ends, in something that can be shown or in one line.
func TestMutatedTrees(t *testing.T) {
	n := uint64(1500)
	if testing.Short() {
		n = 150
	}
	for seed := range n {
		readAll(t, mutated(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzTree is TestMutatedTrees for any seed, with one resource of any bytes.
func FuzzTree(f *testing.F) {
	f.Add(uint64(1), uint8(3), []byte(`{"Members":[{"@odata.id":"/redfish/v1/coll"}]}`))
	f.Add(uint64(0), uint8(9), []byte(`{"Members":{"@odata.id":"/redfish/v1/coll"},"Drives":[{"@odata.id":"#/x"}],"Status":"OK"}`))
	f.Fuzz(func(t *testing.T, seed uint64, which uint8, b []byte) {
		o := mutated(seed)
		paths := slices.Sorted(maps.Keys(wide()))
		o[paths[int(which)%len(paths)]] = b
		readAll(t, o)
	})
}

// TestEndless: answers without end, drop by drop, of a hundred thousand members
// or nested without bottom give one error within the time limit, and no more
// memory than is bounded.
func TestEndless(t *testing.T) {
	many := strings.Repeat(`{"@odata.id":"/redfish/v1/m"},`, 100_000)
	for _, tc := range []struct {
		name   string
		answer func(w http.ResponseWriter, q *http.Request)
		err    string // "" = none; what was left out is said
		slow   bool   // it comes for ever
	}{
		{"a body without end", func(w http.ResponseWriter, q *http.Request) {
			b := bytes.Repeat([]byte(" "), 1<<20)
			for q.Context().Err() == nil {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, "longer than", false},
		{"a body drop by drop", func(w http.ResponseWriter, q *http.Request) {
			for q.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-q.Context().Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		}, "did not answer within", true},
		{"a hundred thousand members", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"Members":[`+many+`{}]}`)
		}, "only its first 5000", false},
		{"nested without bottom", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"Members":`+strings.Repeat("[", 3<<20))
		}, "not a Redfish resource", false},
		{"large members without end", func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.WriteString(w, `{"Members":[{"Id":"1","Message":"`+strings.Repeat("x", 9<<20)+`"}],"Members@odata.nextLink":"`+v1+`/en?$skip=`+fmt.Sprint(len(q.URL.RawQuery))+strings.Repeat("1", len(q.URL.RawQuery)%50)+`"}`)
		}, "longer than", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &maker{res: wide()}
			delete(m.res, v1+"/en")
			m.res[v1+"/m"] = `{"Id":"1","Message":"m"}`
			r := &rig{}
			r.serve(t, m)
			r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
				if q.URL.Path == v1+"/en" && q.Header.Get("X-Auth-Token") == "tok" {
					tc.answer(w, q)
					return true
				}
				return false
			})
			c := r.open(t)
			timeout := time.Minute // what is refused for its size comes sooner, on any machine
			if tc.slow {
				timeout = time.Second
			}
			c.t.Timeout = timeout
			c.drv.(*redfishDriver).t.Timeout = timeout
			stop := make(chan struct{})
			peak := make(chan uint64)
			go func() {
				var most uint64
				for {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapInuse)
					select {
					case <-stop:
						peak <- most
						return
					case <-time.After(50 * time.Millisecond):
					}
				}
			}()
			begun := time.Now()
			es, err := c.Log(t.Context())
			took := time.Since(begun)
			close(stop)
			if most := <-peak; most > 400<<20 {
				t.Errorf("it took %d MiB of memory; want less than 400", most>>20)
			}
			// What came in time may still be parsed when it is over.
			if took > longReads*timeout+10*time.Second {
				t.Errorf("it took %s; want at most %s", took, longReads*timeout)
			}
			if tc.err == "only its first 5000" {
				if err != nil && !strings.Contains(err.Error(), "too slowly") || err == nil && len(es) != maxMembers {
					t.Errorf("Log() = %d entries, %v; want %d, or that it is too slow", len(es), err, maxMembers)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "too slowly") {
				wantErr(t, err, nil, tc.err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %v", err)
			}
		})
	}
}
