package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

// seenBefore is a web.Discoverer with a list.
type seenBefore struct {
	mu     sync.Mutex
	list   []state.Discovery
	forgot []string
}

func (s *seenBefore) Discovered(_ context.Context, all bool) ([]state.Discovery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []state.Discovery
	for _, d := range s.list {
		if all || d.State != state.EnrolledInSite {
			out = append(out, d)
		}
	}
	return out, nil
}

func (s *seenBefore) Forget(_ context.Context, _, name string) error {
	s.forgot = append(s.forgot, name)
	return nil
}

func (s *seenBefore) Scan(_ context.Context, _ string, sc state.Scan, step func(state.ScanStep)) error {
	if len(sc.Prefixes) != 1 || sc.Prefixes[0] != netip.MustParsePrefix("10.60.4.0/29") {
		return fmt.Errorf("asked to search %v", sc.Prefixes)
	}
	for i := range 6 {
		st := state.ScanStep{Done: i + 1, Total: 6}
		if i == 2 {
			d := seenBMC()
			st.Found = &d
		}
		step(st)
	}
	return nil
}

func seenBMC() state.Discovery {
	at := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	return state.Discovery{Name: "bmc-10-60-4-3", Sort: state.SortBMC, State: state.Seen, Vendor: "HPE", Model: "iLO 5", Serial: "MXQ1234567", First: at, Last: at,
		Sightings: []state.Sighting{{Sort: state.SortBMC, Network: "bmc", First: at, Last: at}},
		BMC:       &state.DiscoveredBMC{Addr: netip.MustParseAddr("10.60.4.3"), BMCFacts: state.BMCFacts{Redfish: "1.13.0", IPMI: true}}}
}

func seenMachine(n byte) state.Discovery {
	at := time.Date(2026, 11, 21, 9, 0, int(n), 0, time.UTC)
	mac := site.MAC{2, 0x60, 0, 0, 0xaa, n}
	return state.Discovery{
		Name: state.NameOf(mac), Sort: state.SortMachine, State: state.WasInspected, First: at, Last: at,
		Sightings: []state.Sighting{{Sort: state.SortMachine, MAC: mac, Network: "prov", Port: fmt.Sprintf("Ethernet%d", n), Switch: "leaf-3", First: at, Last: at}},
		Serial:    fmt.Sprintf("GX8-55%02d", n), Vendor: "Acme", Model: "GX8", Firmware: "uefi", CPUs: 224, Memory: 2 << 40,
		NICs:  []state.DiscoveredNIC{{MAC: mac, Network: "prov", Boot: true}, {MAC: site.MAC{2, 0x60, 8, 0, 0xaa, n}}},
		Disks: []state.DiscoveredDisk{{Serial: fmt.Sprintf("BIG%d", n), Bytes: 7681501126656}, {Serial: fmt.Sprintf("SYS%d", n), Bytes: 1920383410176}},
		GPUs:  []state.DiscoveredGPU{{PCI: "10de:2330", Model: "NVIDIA H100 SXM5 80GB", Count: 8}},
	}
}

// enrollBench is a copy of the example of a rack, a server that has seen
// machines, and the command line.
type enrollBench struct {
	t        *testing.T
	dir      string
	seen     *seenBefore
	reloads  int
	sock     string
	store    *state.Store
	out, err bytes.Buffer
}

func newEnrollBench(t *testing.T, list ...state.Discovery) *enrollBench {
	t.Helper()
	b := &enrollBench{t: t, dir: t.TempDir(), seen: &seenBefore{list: list}}
	if err := os.CopyFS(b.dir, os.DirFS("../../examples/rack")); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	store, err := state.Open(t.Context(), state.Config{Dir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	b.store = store
	s, err := site.Load(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := web.New(t.Context(), web.Config{Store: store, Site: func() *site.Site { return s }, Operator: noOperator{}, Discoverer: b.seen,
		Reload: func(context.Context) (*site.Site, error) {
			b.reloads++
			return site.Load(b.dir)
		},
		Authenticate: func(*http.Request) (web.Identity, error) {
			return web.Identity{Name: "test", Role: web.RoleOperator}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	short, err := os.MkdirTemp("/tmp", "fe") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	b.sock = filepath.Join(short, "s")
	ln, err := net.Listen("unix", b.sock)
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: srv, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = hs.Serve(ln) }()
	t.Cleanup(func() {
		srv.Close()
		hs.Close()
		<-done
		store.Close()
		os.RemoveAll(short)
	})
	return b
}

func (b *enrollBench) fettle(args ...string) int {
	b.t.Helper()
	b.out.Reset()
	b.err.Reset()
	e := &env{stdin: strings.NewReader(""), stdout: &b.out, stderr: &b.err, getenv: func(k string) string {
		return map[string]string{"HOME": b.dir, "FETTLE_STATE_HOME": b.dir}[k]
	}}
	args = append([]string{"fettle"}, args...)
	if args[1] == "enroll" {
		args = append(args, "--site", b.dir)
	}
	return run(b.t.Context(), e, append(args, "--server", b.sock))
}

func (b *enrollBench) want(status int, says string, args ...string) {
	b.t.Helper()
	if got := b.fettle(args...); got != status || !strings.Contains(b.out.String()+b.err.String(), says) {
		b.t.Fatalf("fettle %s = %d\n%s%swant %d and %q", strings.Join(args, " "), got, &b.out, &b.err, status, says)
	}
}

// TestEnrollMany takes a row of machines in by a range: each behind its sibling,
// each at its own address and units; the server reads its site once.
func TestEnrollMany(t *testing.T) {
	b := newEnrollBench(t, seenMachine(1), seenMachine(2), seenMachine(3))
	file := filepath.Join(b.dir, "machines", "r07-gpu-storage.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"enroll", "--no-bmc", "--profile", "train", "--rack", "r07", "--unit", "34", "--height", "4", "--owner", "ml", "--name", "gpu-[03-05]", "all"}
	b.want(exitRefused, "write 3 machines: gpu-03, gpu-04, gpu-05 into the site: say --yes", args...)
	if !strings.Contains(b.out.String(), "+++ b/machines/r07-gpu-storage.yaml\n@@ ") || !strings.Contains(b.out.String(), "gpu-04: profile train would write to disk SYS2 (1.92TB), the smallest") {
		t.Errorf("fettle enroll shows\n%s\nwant the diff, and the disks", &b.out)
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, before) {
		t.Fatalf("the file changed without a yes (%v)", err)
	}
	b.want(exitUsage, "3 names for 1 machines", "enroll", "--no-bmc", "--name", "gpu-[03-05]", "GX8-5501")
	b.want(exitInput, "nothing that was seen is GX8-9999", "enroll", "--no-bmc", "gpu-03", "GX8-9999")
	b.want(exitInput, "rack r07 has 47 units", "enroll", "--no-bmc", "--rack", "r07", "--unit", "99", "--yes", "gpu-03", "GX8-5501")
	b.want(0, "gpu-05   GX8-5503  machines/r07-gpu-storage.yaml:", append(args, "--yes")...)
	if b.reloads != 1 {
		t.Errorf("the server read its site %d times; want once", b.reloads)
	}
	s, err := site.Load(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"gpu-03", "gpu-04", "gpu-05"} {
		m, ok := s.Machine(name)
		nic, _ := m.BootNIC()
		if want := fmt.Sprintf("10.60.0.%d", 23+i); !ok || nic.Address.String() != want || m.Unit != 34+4*i || m.Disks[0].Serial != fmt.Sprintf("SYS%d", i+1) || m.Profile != "train" {
			t.Errorf("%s = %+v; want it at %s in unit %d", name, m, want, 34+4*i)
		}
	}
	after, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rest := string(after)
	for _, l := range strings.SplitAfter(string(before), "\n") { // what was there is there, in its order
		_, tail, ok := strings.Cut(rest, l)
		if !ok {
			t.Fatalf("the line %q is gone:\n%s", l, after)
		}
		rest = tail
	}
	b.want(exitInput, "name gpu-03 is already that of machine gpu-03", "enroll", "--no-bmc", "--yes", "gpu-03", "GX8-5501")
	b.want(exitInput, "machines/r07-gpu-storage.yaml:", "enroll", "--no-bmc", "--yes", "gpu-09", "GX8-5501")
	b.seen.list[0].State, b.seen.list[0].Name = state.EnrolledInSite, "gpu-03"
	b.want(exitInput, "GX8-5501 is machine gpu-03 of the site already (machines/r07-gpu-storage.yaml:", "enroll", "--no-bmc", "gpu-09", "GX8-5501")
}

func TestEnrollJSON(t *testing.T) {
	b := newEnrollBench(t, seenMachine(1))
	b.want(0, "", "enroll", "--no-bmc", "--yes", "--output", "json", "--file", "machines/new.yaml", "gpu-03", "02:60:00:00:aa:01")
	var rows []enrolled
	if err := json.Unmarshal(b.out.Bytes(), &rows); err != nil || len(rows) != 1 || rows[0].Name != "gpu-03" || rows[0].File != "machines/new.yaml:4" || rows[0].Error != "" {
		t.Errorf("fettle enroll --output json = %s (%v); want gpu-03 and where it stands", &b.out, err)
	}
	text, err := os.ReadFile(filepath.Join(b.dir, "machines", "new.yaml"))
	if err != nil || !strings.HasPrefix(string(text), "# yaml-language-server: $schema=../../schema/part.json\n\nmachines:\n  - name: gpu-03\n") {
		t.Errorf("the new file is\n%s (%v)\nwant it to begin as its siblings do", text, err)
	}
}

func TestDiscoverCommand(t *testing.T) {
	b := newEnrollBench(t, seenMachine(1), seenBMC())
	b.want(0, "", "discover")
	for _, want := range []string{"GX8-5501", "Acme GX8", "2TiB", "BIG1 7.68TB, SYS1 1.92TB", "8×10de:2330", "02:60:00:00:aa:01 prov, port Ethernet1 of leaf-3", "10.60.4.3", "HPE", "redfish 1.13.0, ipmi"} {
		if !strings.Contains(b.out.String(), want) {
			t.Errorf("fettle discover lacks %q:\n%s", want, &b.out)
		}
	}
	b.want(0, "", "discover", "--output", "json")
	var list []state.Discovery
	if err := json.Unmarshal(b.out.Bytes(), &list); err != nil || len(list) != 2 || list[1].BMC.Addr.String() != "10.60.4.3" {
		t.Errorf("fettle discover --output json = %s (%v); want both", &b.out, err)
	}
	b.want(0, "MXQ1234567", "discover", "bmc", "--prefix", "10.60.4.1/29")
	b.want(0, `"vendor": "HPE"`, "discover", "bmc", "--prefix", "10.60.4.0/29", "--output", "json")
	b.want(exitUsage, "--prefix is such as", "discover", "bmc", "--prefix", "nonsense")
	b.want(0, "", "discover", "forget", "02:60:00:00:aa:01")
	if len(b.seen.forgot) != 1 || b.seen.forgot[0] != "mac-02600000aa01" {
		t.Errorf("forgot %v; want the machine by its name", b.seen.forgot)
	}
	b.want(exitUsage, "fettle discover has no", "discover", "everything")
}

// lineOut is an output of which lines are waited for.
type lineOut struct{ lines chan string }

func (l *lineOut) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		l.lines <- line
	}
	return len(p), nil
}

// TestDiscoverFollow prints what was seen, then what is seen meanwhile, each
// once, until it is interrupted.
func TestDiscoverFollow(t *testing.T) {
	b := newEnrollBench(t, seenMachine(1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lineOut{lines: make(chan string, 16)}
	e := &env{stdin: strings.NewReader(""), stdout: out, stderr: &b.err, getenv: func(string) string { return "" }}
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, e, []string{"fettle", "discover", "--follow", "--output", "json", "--server", b.sock})
	}()
	next := func() (d state.Discovery) {
		t.Helper()
		select {
		case l := <-out.lines:
			if err := json.Unmarshal([]byte(l), &d); err != nil {
				t.Fatalf("%v in %s", err, l)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("fettle discover --follow says nothing\n%s", &b.err)
		}
		return d
	}
	if d := next(); d.Serial != "GX8-5501" {
		t.Errorf("first line = %+v; want what was seen before", d)
	}
	b.seen.mu.Lock()
	b.seen.list = append(b.seen.list, seenMachine(2))
	b.seen.mu.Unlock()
	for _, text := range []string{"is seen", "is seen again, the same"} {
		if _, err := b.store.Append(ctx, state.Event{Machine: seenMachine(2).Name, Kind: state.KindSeen, Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	if d := next(); d.Serial != "GX8-5502" {
		t.Errorf("second line = %+v; want the machine that came", d)
	}
	cancel()
	if got := <-status; got != exitInterrupted {
		t.Errorf("fettle discover --follow after Ctrl-C = %d; want %d", got, exitInterrupted)
	}
	select {
	case l := <-out.lines:
		t.Errorf("a line too many: %s", l)
	default:
	}
}

// The kind that enrol adopts is what the secrets are.
var _ provision.Keyring = (*site.Secrets)(nil)
