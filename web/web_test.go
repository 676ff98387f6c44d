package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// operator plans and starts nothing; it remembers who asked for what.
type operator struct {
	asked []string
	err   error
	runs  []string
	flood chan error // a console writes until it fails, and tells
}

func (o *operator) ask(what, actor string, machines ...string) {
	o.asked = append(o.asked, strings.TrimSpace(what+" "+actor+" "+strings.Join(machines, ",")))
}

func (o *operator) Plan(_ context.Context, machines []string) (state.Plan, error) {
	o.ask("plan", "", machines...)
	p := state.Plan{Digest: "sha256:1", Revision: "sha256:2"}
	for _, m := range machines {
		p.Machines = append(p.Machines, state.MachinePlan{Machine: m, Disk: state.PlanDisk{Serial: "WD-1", Bytes: 1 << 40}, Image: "base", Reboots: true, Phase: state.Ready})
	}
	return p, o.err
}

func (o *operator) Deploy(_ context.Context, actor, plan string, machines []string) ([]string, error) {
	o.ask("deploy "+plan, actor, machines...)
	if plan != "sha256:1" {
		return nil, fmt.Errorf("deploying: %w", state.ErrPlanChanged)
	}
	return o.runs, o.err
}

func (o *operator) Inspect(_ context.Context, actor string, machines []string) ([]string, error) {
	o.ask("inspect", actor, machines...)
	return o.runs, o.err
}

func (o *operator) Abort(_ context.Context, actor, machine string) error {
	o.ask("abort", actor, machine)
	return o.err
}

func (o *operator) Why(_ context.Context, machine string) ([]string, error) {
	return []string{machine + " was powered on.", "It asked for an address."}, o.err
}

// bench is a server over a whole store, with tokens of each role.
type bench struct {
	store  *state.Store
	op     *operator
	server *Server
	http   *httptest.Server
	tokens string // the file
	secret map[Role]string
}

func testSite() *site.Site {
	return &site.Site{Name: "lab-one", Domain: "lab.example.org", Machines: []site.Machine{
		{
			Name: "gpu-01", Profile: "train", Rack: "r1", Unit: 12, Serial: "SN1", Firmware: site.UEFI,
			BMC:  site.BMC{Address: netip.MustParseAddr("192.0.2.201")},
			NICs: []site.NIC{{MAC: site.MAC{0x52, 0x54, 0, 0, 0, 1}, Address: netip.MustParseAddr("192.0.2.11"), Boot: true}},
		},
		{Name: "gpu-02", Profile: "train", Rack: "r1", Unit: 14, Serial: "SN2", Firmware: site.BIOS},
	}}
}

func newBench(t *testing.T) *bench {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	store, err := state.Open(t.Context(), state.Config{Dir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{store: store, op: &operator{runs: []string{"run-1"}}, tokens: filepath.Join(t.TempDir(), "tokens"), secret: map[Role]string{}}
	for _, role := range []Role{RoleViewer, RoleOperator, RoleAdmin} {
		if b.secret[role], err = AddToken(b.tokens, "a-"+string(role), role); err != nil {
			t.Fatal(err)
		}
	}
	tokens, err := OpenTokens(b.tokens)
	if err != nil {
		t.Fatal(err)
	}
	b.server, err = New(t.Context(), Config{
		Store: store, Site: testSite, Operator: b.op, Logger: log, Authenticate: Authenticator(tokens), Discoverer: b.op, BMCs: b.op,
		Reload: func(context.Context) (*site.Site, error) {
			s := testSite()
			s.Machines = append(s.Machines, site.Machine{Name: "gpu-03", Serial: "SN3", NICs: []site.NIC{{MAC: site.MAC{2, 0, 0, 0, 9, 2}}}})
			return s, b.op.err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.http = httptest.NewUnstartedServer(b.server)
	b.http.Config.ConnContext = ConnContext
	b.http.Start()
	t.Cleanup(func() { b.server.Close(); b.http.Close() })
	return b
}

func (b *bench) client(r Role) *Client {
	return NewClient(b.http.URL+"/", b.http.Client(), b.secret[r])
}

func (b *bench) phase(t *testing.T, machine string, p state.Phase, reason string) int64 {
	t.Helper()
	d, err := json.Marshal(state.PhaseData{Phase: p, Reason: reason})
	if err != nil {
		t.Fatal(err)
	}
	seq, err := b.store.Append(t.Context(), state.Event{Machine: machine, Kind: state.KindPhase, Text: machine + " is " + string(p), Data: d})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func TestClient(t *testing.T) {
	b := newBench(t)
	b.phase(t, "gpu-01", state.Ready, "")
	b.phase(t, "mac-525400aabbcc", state.Discovered, "")
	if _, err := b.store.Append(t.Context(), state.Event{Machine: "gpu-01", Kind: state.KindInventory, Text: "inventory", Data: json.RawMessage(`{"cpus":8}`)}); err != nil {
		t.Fatal(err)
	}
	c, ctx := b.client(RoleAdmin), t.Context()
	// A BMC that was seen is no machine, nor what gpu-01 was before the site had it.
	if _, err := b.store.Append(ctx, state.Event{Machine: "mac-020000000963", Kind: state.KindSeen, Text: "a BMC"}); err != nil {
		t.Fatal(err)
	}
	b.phase(t, "mac-525400000001", state.Inspected, "")

	ms, err := c.Machines(ctx)
	if err != nil || len(ms) != 3 {
		t.Fatalf("Machines() = %d, %v; want 3", len(ms), err)
	}
	if m := ms[2]; m.Known || m.Name != "mac-525400aabbcc" || m.Status.Phase != state.Discovered {
		t.Errorf("Machines()[2] = %+v; want the machine that is not in the site", m)
	}
	if m := ms[0]; !m.Known || m.Profile != "train" || m.Address != "192.0.2.11" || m.BMC != "192.0.2.201" ||
		m.Status.Phase != state.Ready || m.Status.Inventory != nil {
		t.Errorf("Machines()[0] = %+v; want gpu-01, ready, without inventory", m)
	}
	if m := ms[1]; m.Status.Phase != state.Unknown {
		t.Errorf("Machines()[1].Status = %+v; want unknown", m.Status)
	}
	if m, err := c.Machine(ctx, "gpu-01"); err != nil || string(m.Status.Inventory) != `{"cpus":8}` {
		t.Errorf("Machine(gpu-01) = %+v, %v; want it with its inventory", m, err)
	}
	if m, err := c.Machine(ctx, "52-54-00-00-00-01"); err != nil || m.Name != "gpu-01" {
		t.Errorf("Machine(by the MAC address of gpu-01) = %+v, %v; want gpu-01", m, err)
	}
	if why, err := c.Why(ctx, "52:54:00:aa:bb:cc"); err != nil || why[0] != "mac-525400aabbcc was powered on." {
		t.Errorf("Why(a MAC address of nobody) = %q, %v; want that of its timeline", why, err)
	}
	if m, err := c.Machine(ctx, "52:54:00:aa:bb:cc"); err != nil || m.Known {
		t.Errorf("Machine(52:54:00:aa:bb:cc) = %+v, %v; want it, not known", m, err)
	}
	if _, err := c.Machine(ctx, "gpu-99/../x"); err == nil || !strings.Contains(err.Error(), `no machine "gpu-99/../x"`) {
		t.Errorf("Machine of no name = %v; want it refused by name", err)
	}
	if why, err := c.Why(ctx, "gpu-01"); err != nil || len(why) != 2 {
		t.Errorf("Why = %q, %v; want two sentences", why, err)
	}
	if s, err := c.Site(ctx); err != nil || s.Name != "lab-one" || s.Machines != 2 || s.Revision != testSite().Revision() || !json.Valid(s.Site) {
		t.Errorf("Site() = %+v, %v; want lab-one", s, err)
	}
	if h, err := c.Health(ctx); err != nil || !h.OK || h.LastSeq != 5 {
		t.Errorf("Health() = %+v, %v; want 5 events", h, err)
	}
	addr := netip.MustParseAddr("192.0.2.50")
	if err := b.store.PutLease(ctx, state.Lease{Network: "boot", Addr: addr, MAC: site.MAC{1}, Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if ls, err := c.Leases(ctx); err != nil || len(ls) != 1 || ls[0].Addr != addr {
		t.Errorf("Leases() = %v, %v; want one of %s", ls, err, addr)
	}
	if err := c.DropLease(ctx, "boot", addr); err != nil {
		t.Errorf("DropLease = %v; want nil", err)
	}
	if err := c.DropLease(ctx, "boot", addr); err == nil {
		t.Error("DropLease of a free address = nil; want an error")
	}
	for e, err := range c.Events(ctx, state.Query{Limit: 1}, false) {
		if err != nil || e.Kind != "lease.drop" || e.Actor != "user:a-admin" {
			t.Errorf("newest event = %+v, %v; want lease.drop by user:a-admin", e, err)
		}
	}

	plan, err := c.Plan(ctx, []string{"gpu-01", "gpu-02"})
	if err != nil || len(plan.Machines) != 2 || plan.Machines[1].Disk.Serial != "WD-1" {
		t.Fatalf("Plan = %+v, %v; want two machines", plan, err)
	}
	if runs, err := c.Deploy(ctx, plan.Digest, []string{"gpu-01"}); err != nil || len(runs) != 1 {
		t.Errorf("Deploy = %v, %v; want one run", runs, err)
	}
	if _, err := c.Deploy(ctx, "sha256:0", []string{"gpu-01"}); !errors.Is(err, state.ErrPlanChanged) {
		t.Errorf("Deploy of an old plan = %v; want ErrPlanChanged", err)
	}
	if runs, err := c.Inspect(ctx, []string{"rack=r1"}); err != nil || len(runs) != 1 {
		t.Errorf("Inspect = %v, %v; want one run", runs, err)
	}
	if err := c.Abort(ctx, "gpu-01"); err != nil {
		t.Errorf("Abort = %v; want nil", err)
	}
	want := []string{
		"plan  gpu-01,gpu-02", "deploy sha256:1 user:a-admin gpu-01", "deploy sha256:0 user:a-admin gpu-01",
		"inspect user:a-admin rack=r1", "abort user:a-admin gpu-01",
	}
	if strings.Join(b.op.asked, ";") != strings.Join(want, ";") {
		t.Errorf("the operator was asked %q; want %q", b.op.asked, want)
	}
}

func TestClientErrors(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	status := func(err error) int {
		var p *Problem
		if errors.As(err, &p) {
			return p.Status
		}
		return 0
	}
	_, err := b.client(RoleOperator).Plan(ctx, []string{"gpu-1"})
	if status(err) != http.StatusNotFound || !strings.Contains(err.Error(), "gpu-1") {
		t.Errorf("Plan of a machine that is not = %v; want 404, naming it", err)
	}
	if _, err = b.client(RoleOperator).Plan(ctx, nil); status(err) != http.StatusBadRequest {
		t.Errorf("Plan of nothing = %v; want 400", err)
	}
	b.op.err = errors.New("the image base is not built: fettle image build base")
	_, err = b.client(RoleOperator).Inspect(ctx, []string{"gpu-01"})
	if status(err) != http.StatusUnprocessableEntity || err.Error() != b.op.err.Error() {
		t.Errorf("Inspect = %v; want 422 with the operator's sentence", err)
	}
	if runs, err := b.client(RoleOperator).Deploy(ctx, "sha256:1", []string{"gpu-01"}); err == nil || len(runs) != 1 {
		t.Errorf("Deploy that fails halfway = %v, %v; want the run that started and the error", runs, err)
	}
	for name, c := range map[string]*Client{"nothing": NewClient("http://127.0.0.1:1", nil, ""), "no socket": NewUnixClient("/nonexistent/socket")} {
		if _, err := c.Machines(ctx); err == nil || !strings.Contains(err.Error(), "is fettle serve running there?") {
			t.Errorf("Machines of %s = %v; want it to say that fettle does not answer", name, err)
		}
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if _, err := NewClient(other.URL, nil, "").Machines(ctx); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("Machines of another server = %v; want its status", err)
	}
}

func TestEventStream(t *testing.T) {
	b := newBench(t)
	const total = 60
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // 120 events, each waits for the disk
	defer cancel()
	for range total / 2 {
		b.phase(t, "gpu-01", state.Agent, "")
		b.phase(t, "gpu-02", state.Agent, "")
	}
	n := 0
	for e, err := range b.client(RoleViewer).Events(ctx, state.Query{Machine: "gpu-02", After: 2}, true) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; e.Seq != int64(2*n+2) || e.Machine != "gpu-02" {
			t.Fatalf("event %d = %d of %s; want %d of gpu-02", n, e.Seq, e.Machine, 2*n+2)
		}
		if n >= total/2-1 && n < total { // the past is over: each is written after the one before was read
			b.phase(t, "gpu-01", state.Agent, "")
			b.phase(t, "gpu-02", state.Agent, "")
		}
		if n == total {
			break
		}
	}
	if n != total {
		t.Errorf("the stream ended after %d events; want %d", n, total)
	}

	t.Run("ends with its reader", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for _, err := range b.client(RoleViewer).Events(ctx, state.Query{Limit: 1}, true) {
			if err != nil {
				t.Errorf("Events of an ended context yields %v; want no error", err)
			}
			cancel()
		}
	})
	t.Run("says when the server stops", func(t *testing.T) {
		var last error
		for _, err := range b.client(RoleViewer).Events(ctx, state.Query{Limit: 1}, true) {
			if last = err; err == nil {
				b.server.Close()
			}
		}
		if last == nil || !strings.Contains(last.Error(), "stopping") {
			t.Errorf("Events of a stopping server ended with %v; want it said", last)
		}
	})
}

func TestUnixPeerIsAdmin(t *testing.T) {
	b := newBench(t)
	sock := filepath.Join(t.TempDir(), "api")
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: b.server, ConnContext: ConnContext, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	if _, err := NewUnixClient(sock).Inspect(t.Context(), []string{"gpu-01"}); err != nil {
		t.Errorf("Inspect over the Unix socket = %v; want nil without a token", err)
	}
	if len(b.op.asked) != 1 || !strings.HasPrefix(b.op.asked[0], "inspect user:") {
		t.Errorf("the operator was asked %q; want an inspection by this user", b.op.asked)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}
