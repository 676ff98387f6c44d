package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

// withLabUp runs do where lab up would run, with these flags.
func withLabUp(t *testing.T, do func(c *cli.Context) error, args ...string) error {
	t.Helper()
	e := &env{stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
	app := &cli.App{Name: "fettle", Writer: io.Discard, ErrWriter: io.Discard, Commands: labCommands(e), ExitErrHandler: func(*cli.Context, error) {}}
	for _, c := range app.Commands[0].Subcommands {
		if c.Name == "up" {
			c.Action = do
		}
	}
	return app.RunContext(t.Context(), append([]string{"fettle", "lab", "up"}, args...))
}

func TestLabOptions(t *testing.T) {
	t.Setenv("FETTLE_LAB", "")
	t.Setenv("FETTLE_LABS", "")
	for _, tt := range []struct {
		name string
		args string
		want labs.Options
		err  string
	}{
		{"the site's name", "--labs /l", labs.Options{Name: "two-gpu", Dir: "/l/two-gpu"}, ""},
		{"another name", "--labs /l --lab mine", labs.Options{Name: "mine", Dir: "/l/mine"}, ""},
		{"sizes", "--labs /l --memory 4GiB --disk-size 20GB --cpus 3",
			labs.Options{Name: "two-gpu", Dir: "/l/two-gpu", Memory: 4 << 30, DiskSize: 20e9, CPUs: 3}, ""},
		{"machines", "--labs /l --machines gpu-01,rack=r1 --machines gpu-02",
			labs.Options{Name: "two-gpu", Dir: "/l/two-gpu", Machines: []string{"gpu-01", "rack=r1", "gpu-02"}}, ""},
		{"where", "--labs /l --accel tcg --connect qemu:///session",
			labs.Options{Name: "two-gpu", Dir: "/l/two-gpu", Accel: labs.TCG, URI: "qemu:///session"}, ""},
		{"bridge", "--labs /l --network bridge=br0", labs.Options{Name: "two-gpu", Dir: "/l/two-gpu", BridgeNetwork: "br0"}, ""},
		{"network of another kind", "--network eth0", labs.Options{}, `--network is bridge=NAME, not "eth0"`},
		{"bridge without a name", "--network bridge=", labs.Options{}, "--network is bridge=NAME"},
		{"memory that is none", "--memory much", labs.Options{}, "--memory"},
		{"disk that is none", "--disk-size -1", labs.Options{}, "--disk-size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got labs.Options
			err := withLabUp(t, func(c *cli.Context) (err error) {
				got, err = labOptions(c, &site.Site{Name: "two-gpu"})
				return err
			}, strings.Fields(tt.args)...)
			if tt.err != "" {
				if exitStatus(err) != exitUsage || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("labOptions(%s) = %v; want a usage error with %q", tt.args, err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("labOptions(%s) = %+v, %v; want %+v", tt.args, got, err, tt.want)
			}
		})
	}
}

// A name becomes a folder, a domain and a socket: lab up takes no other.
func TestLabNames(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"../up", "a/b", ".", "-x", "two gpu", "ü", strings.Repeat("x", 41)} {
		status, _, errOut := commandLine(t.Context(), "", false, "lab", "up", "--site", "../../examples/two-gpu", "--labs", root, "--lab="+name)
		if status != exitInput && status != exitUsage || !strings.Contains(errOut, "lab name") {
			t.Errorf("lab up --lab=%s = %d, %q; want that the lab name is wrong", name, status, errOut)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("wrong names left %v, %v in the labs' folder; want nothing", left, err)
	}
}

func TestLabDir(t *testing.T) {
	t.Setenv("FETTLE_LAB", "")
	root := t.TempDir()
	dirOf := func(args ...string) (dir string, err error) {
		err = withLabUp(t, func(c *cli.Context) (err error) {
			dir, err = labDir(c)
			return err
		}, append([]string{"--labs", root}, args...)...)
		return dir, err
	}
	want := func(want, says string, args ...string) {
		t.Helper()
		got, err := dirOf(args...)
		if (says == "") != (err == nil) || got != want || (err != nil && (!strings.Contains(err.Error(), says) || exitStatus(err) != exitUsage)) {
			t.Errorf("labDir(%v) = %q, %v; want %q, %q", args, got, err, want, says)
		}
	}
	make := func(name string) {
		t.Helper()
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := writeLabFile(dir, labFile{SiteDir: "/site", Options: labs.Options{Name: name, Dir: dir}}); err != nil {
			t.Fatal(err)
		}
	}
	want("", "fettle lab up")
	want("", "none", "--lab", "a")
	make("a")
	if err := os.Mkdir(filepath.Join(root, "no-lab"), 0o755); err != nil {
		t.Fatal(err)
	}
	want(filepath.Join(root, "a"), "")
	make("b")
	want("", "a, b")
	want(filepath.Join(root, "b"), "", "--lab", "b")
	want("", "a, b", "--lab", "c")
	want("", "no lab", "--lab", "no-lab")

	f, err := readLabFile(filepath.Join(root, "b"))
	if err != nil || f.SiteDir != "/site" || f.Options.Name != "b" {
		t.Errorf("readLabFile = %+v, %v; want what was written", f, err)
	}
	status, out, errOut := commandLine(t.Context(), "", false, "lab", "ls", "--labs", root, "-o", "json")
	if status != exitOK || !strings.Contains(out, `"daemon": "stopped"`) || strings.Contains(out, "no-lab") {
		t.Errorf("lab ls = %d, %s%s; want a and b, stopped", status, out, errOut)
	}
	for _, args := range [][]string{{"lab", "status"}, {"lab", "ssh", "gpu-01"}, {"lab", "exec", "gpu-01", "true"}, {"machine", "ls"}} {
		status, _, errOut := commandLine(t.Context(), "", false, slices.Concat(args[:2], []string{"--labs", root, "--lab", "a"}, args[2:])...)
		if (status != exitFailed && status != exitMissing) || !strings.Contains(errOut, "fettle lab up starts it") {
			t.Errorf("fettle %s of a stopped lab = %d, %q; want how to start it", strings.Join(args, " "), status, errOut)
		}
	}
}

// deployBench is a server whose operator deploys at once, as outcome says.
type deployBench struct {
	web.Operator
	t       *testing.T
	store   *state.Store
	outcome map[string]state.Phase
	client  *web.Client
	sock    string // where the server listens
	changed bool   // Deploy finds another plan than was shown

	deployed []string
	followed func() // called when somebody follows the events
}

func (b *deployBench) Plan(_ context.Context, machines []string) (state.Plan, error) {
	p := state.Plan{Digest: "sha256:" + strings.Repeat("1", 64)}
	for _, m := range machines {
		p.Machines = append(p.Machines, state.MachinePlan{Machine: m})
	}
	return p, nil
}

func (b *deployBench) Deploy(_ context.Context, _, _ string, machines []string) ([]string, error) {
	if b.changed {
		return nil, state.ErrPlanChanged
	}
	b.deployed = append(b.deployed, machines...)
	for _, m := range machines {
		b.run(m, "deploy")
		b.phase(m, state.PoweringOn)
		b.end(m, b.outcome[m])
	}
	return machines, nil
}

func (b *deployBench) Inspect(_ context.Context, _ string, machines []string) ([]string, error) {
	for _, m := range machines {
		b.run(m, "inspect")
		b.inspected(m)
	}
	return []string{"1"}, nil
}

func (b *deployBench) Abort(_ context.Context, _, machine string) error {
	return fmt.Errorf("%s: no run is under way", machine)
}

func (b *deployBench) Why(_ context.Context, machine string) ([]string, error) {
	return []string{machine + " was made for a test."}, nil
}

func (b *deployBench) phase(machine string, p state.Phase) {
	b.t.Helper()
	d := state.PhaseData{Phase: p}
	if p == state.Failed {
		d.Reason = "its disk is gone"
	}
	events := []state.Event{{Time: time.Now(), Machine: machine, Kind: state.KindPhase, Text: "now " + string(p), Data: encode(b.t, d)}}
	if p == state.Ready || p == state.Failed { // its run ends with it, as package provision has it
		events = append(events, state.Event{Time: time.Now(), Machine: machine, Kind: state.KindRunEnd, Text: "the run is over", Run: "1", Data: encode(b.t, state.RunEndData{OK: p == state.Ready, Reason: d.Reason})})
	}
	if _, err := b.store.Append(b.t.Context(), events...); err != nil {
		b.t.Error(err)
	}
}

// inspected ends an inspection: the machine is off again.
func (b *deployBench) inspected(machine string) {
	b.t.Helper()
	b.phase(machine, state.Inspected)
	if _, err := b.store.Append(b.t.Context(), state.Event{Time: time.Now(), Machine: machine, Kind: state.KindRunEnd, Text: "the run is over", Run: "1", Data: encode(b.t, state.RunEndData{OK: true})}); err != nil {
		b.t.Error(err)
	}
}

// end ends a machine's run in a phase.
func (b *deployBench) end(machine string, p state.Phase) {
	b.t.Helper()
	b.phase(machine, p)
	if _, err := b.store.Append(b.t.Context(), state.Event{Time: time.Now(), Machine: machine, Run: "1", Kind: state.KindRunEnd, Text: "the run ended", Data: encode(b.t, state.RunEndData{OK: p != state.Failed})}); err != nil {
		b.t.Error(err)
	}
}

func (b *deployBench) run(machine, action string) {
	b.t.Helper()
	if _, err := b.store.Append(b.t.Context(), state.Event{Time: time.Now(), Machine: machine, Kind: state.KindRun, Text: "a run", Run: "1", Data: encode(b.t, state.RunData{Action: action})}); err != nil {
		b.t.Error(err)
	}
}

func newDeployBench(t *testing.T, machines ...string) *deployBench {
	t.Helper()
	b := &deployBench{t: t, outcome: map[string]state.Phase{}}
	var err error
	if b.store, err = state.Open(t.Context(), state.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	s := &site.Site{Name: "bench"}
	for _, m := range machines {
		s.Machines = append(s.Machines, site.Machine{Name: m})
	}
	srv, err := web.New(t.Context(), web.Config{Store: b.store, Site: func() *site.Site { return s }, Operator: b,
		Authenticate: func(*http.Request) (web.Identity, error) {
			return web.Identity{Name: "test", Role: web.RoleAdmin}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	b.sock = filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", b.sock)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if b.followed != nil && req.URL.Query().Get("follow") != "" {
			b.followed()
		}
		srv.ServeHTTP(w, req)
	}))
	ts.Listener.Close()
	ts.Listener = ln
	ts.Start()
	t.Cleanup(func() {
		srv.Close()
		ts.Close()
		if err := b.store.Close(); err != nil {
			t.Error(err)
		}
	})
	b.client = web.NewUnixClient(b.sock)
	return b
}

// lab up starts what is not on its way, follows what is, and leaves alone what
// is ready.
func TestLabDeploy(t *testing.T) {
	b := newDeployBench(t, "failed", "inspecting", "new", "ready", "restarting")
	b.run("inspecting", "inspect")
	b.phase("inspecting", state.Agent)
	b.phase("ready", state.Ready)
	b.phase("failed", state.Failed)
	b.phase("restarting", state.Restarting)
	b.outcome["new"], b.outcome["failed"] = state.Ready, state.Ready
	var out, errOut bytes.Buffer
	e := &env{stdout: &out, stderr: &errOut}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	var built []string
	build := func(machines []string) error {
		built = append(built, machines...)
		return nil
	}
	go func() { done <- e.labDeploy(ctx, b.client, build) }()
	b.await(ctx, "new", state.Ready)
	select {
	case err := <-done:
		t.Fatalf("labDeploy = %v while a machine restarts; want it to follow that", err)
	default:
	}
	b.end("restarting", state.Ready)
	if err := <-done; err != nil {
		t.Errorf("labDeploy = %v; want nil\n%s", err, &errOut)
	}
	if slices.Sort(b.deployed); !slices.Equal(b.deployed, []string{"failed", "new"}) {
		t.Errorf("labDeploy deployed %v; want failed and new", b.deployed)
	}
	if slices.Sort(built); !slices.Equal(built, b.deployed) {
		t.Errorf("labDeploy built the images of %v; want of %v", built, b.deployed)
	}
	for _, m := range []string{"failed", "new", "restarting"} {
		if !strings.Contains(errOut.String(), fmt.Sprintf("  %-12s ready ", m)) {
			t.Errorf("labDeploy told\n%s\nwant that %s is ready", &errOut, m)
		}
	}
	if err := e.labDeploy(ctx, b.client, build); err != nil || len(b.deployed) != 2 || len(built) != 2 {
		t.Errorf("labDeploy of a lab that is ready = %v with %v deployed, images of %v built; want nothing done", err, b.deployed[2:], built[2:])
	}
}

func TestLabDeployLeavesAnInstalledSystemAlone(t *testing.T) {
	b := newDeployBench(t, "was-ready", "empty")
	for m, image := range map[string]string{"was-ready": "debian-12", "empty": ""} {
		if image != "" {
			if _, err := b.store.Append(t.Context(), state.Event{Machine: m, Kind: state.KindRun, Text: "a run", Run: "0", Data: encode(t, state.RunData{Action: "deploy", Image: image})}); err != nil {
				t.Fatal(err)
			}
			b.phase(m, state.Ready)
		}
		b.run(m, "inspect")
		b.phase(m, state.Failed)
	}
	b.outcome["empty"] = state.Ready
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := (&env{stdout: io.Discard, stderr: io.Discard}).labDeploy(ctx, b.client, nil)
	if err == nil || !strings.Contains(err.Error(), "was-ready failed to be inspected and is left alone, with image debian-12") {
		t.Errorf("labDeploy after a failed inspection = %v; want that the machine is left alone", err)
	}
	if !slices.Equal(b.deployed, []string{"empty"}) {
		t.Errorf("labDeploy deployed %v; want only the machine that never had a system", b.deployed)
	}
}

func TestLabDeployTellsOfFailures(t *testing.T) {
	b := newDeployBench(t, "gpu-01", "gpu-02", "gpu-03")
	b.outcome["gpu-01"], b.outcome["gpu-02"], b.outcome["gpu-03"] = state.Failed, state.Ready, state.Failed
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := (&env{stdout: io.Discard, stderr: io.Discard}).labDeploy(ctx, b.client, nil)
	if want := "gpu-01 failed: its disk is gone\ngpu-03 failed: its disk is gone"; err == nil || err.Error() != want {
		t.Errorf("labDeploy = %v; want %q", err, want)
	}
}

// An interrupted lab up leaves the runs to the daemon.
func TestLabDeployInterrupted(t *testing.T) {
	b := newDeployBench(t, "gpu-01")
	b.phase("gpu-01", state.Netboot)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.followed = cancel
	err := (&env{stdout: io.Discard, stderr: io.Discard}).labDeploy(ctx, b.client, nil)
	if !errors.Is(err, context.Canceled) || len(b.deployed) != 0 {
		t.Errorf("interrupted labDeploy = %v with %v deployed; want context canceled and none", err, b.deployed)
	}
}

// await waits until a machine has a phase.
func (b *deployBench) await(ctx context.Context, machine string, p state.Phase) {
	b.t.Helper()
	for ev, err := range b.client.Events(ctx, state.Query{Machine: machine}, true) {
		if err != nil {
			b.t.Fatal(err)
		}
		if phaseOf(ev) == p {
			return
		}
	}
	b.t.Fatal(fmt.Errorf("%s never was %s", machine, p))
}
