package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// The bounds are generous: under TCG on a loaded machine of two cores, two
// machines took ten minutes.
const (
	e2eUpWait      = 25 * time.Minute // lab up, with images to be built
	e2eCommandWait = 3 * time.Minute  // everything else
)

// e2eRig is a lab of a site (examples/two-gpu) in a folder of its own, used through the
// built binary as a person would.
type e2eRig struct {
	t        *testing.T
	bin      string
	root     string // FETTLE_LABS
	name     string
	site     string
	store    string
	machines []string
}

// e2eNeed skips the test for a reason, or fails it in CI, where nothing may be
// skipped unseen.
func e2eNeed(t *testing.T, err error, what string) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s: %v", what, err)
	}
	t.Skipf("%s: %v", what, err)
}

// e2eArchive is the release of this machine's own archive, and those of its
// components that a mirror for the demo's machines needs.
func e2eArchive(t *testing.T) (h images.Host, components []string) {
	t.Helper()
	h, err := images.ThisHost()
	e2eNeed(t, err, "this machine's archive is not known")
	if h.OS == site.OSUbuntu {
		return h, []string{"main", "universe"}
	}
	return h, []string{"main"}
}

func newE2ERig(t *testing.T) *e2eRig {
	t.Helper()
	if testing.Short() {
		t.Skip("real virtual machines take minutes: not with -short")
	}
	e2eNeed(t, labs.Check(t.Context(), labs.Options{Name: "e2e"}), "labs do not run here")
	for _, tool := range []string{"virsh", "ssh"} {
		_, err := exec.LookPath(tool)
		e2eNeed(t, err, "a program is missing")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r := &e2eRig{t: t, name: fmt.Sprintf("e2e-%d", os.Getpid()), site: "../../examples/two-gpu", store: os.Getenv("FETTLE_STORE"), machines: []string{"gpu-02"}}
	if os.Getenv("CI") == "true" || os.Getenv("FETTLE_E2E") == "both" {
		r.machines = []string{"gpu-01", "gpu-02"}
	}
	if r.store == "" {
		r.store = filepath.Join(repo, ".cache", "store")
	}
	// Not t.TempDir: QEMU, another user, must reach it, and sockets have short names.
	if r.root, err = os.MkdirTemp("/tmp", "fe"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.root, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.dump()
		}
		if os.Getenv("FETTLE_E2E_KEEP") != "" {
			t.Logf("kept: FETTLE_LABS=%s FETTLE_LAB=%s", r.root, r.name)
			return
		}
		if _, err := os.Stat(r.dir()); err == nil {
			if res := r.fettle(context.Background(), "lab", "down", "--yes"); res.status != 0 {
				t.Errorf("fettle lab down at the end = %d; %s", res.status, res.stderr)
			}
		}
		if _, err := os.Stat(r.dir()); err == nil {
			return // what lab down left is for people to look at
		}
		if err := os.RemoveAll(r.root); err != nil {
			t.Error(err)
		}
	})
	r.bin = e2eBinary(t, repo, r.root)
	return r
}

// e2eBinary is the program under test: FETTLE_BIN, or what make builds now. It
// is copied, so that a build meanwhile changes nothing.
func e2eBinary(t *testing.T, repo, dir string) string {
	t.Helper()
	bin := os.Getenv("FETTLE_BIN")
	if bin == "" {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "make", "-C", repo, "bin/fettle").CombinedOutput()
		if err != nil {
			t.Fatalf("make bin/fettle = %v\n%s", err, out)
		}
		bin = filepath.Join(repo, "bin", "fettle")
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "fettle")
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

func (r *e2eRig) dir() string { return filepath.Join(r.root, r.name) }

// e2eResult is how a command ended.
type e2eResult struct {
	args           []string
	stdout, stderr string
	status         int
	took           time.Duration
}

func (r *e2eRig) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.bin, args...)
	cmd.Env = append(os.Environ(), "FETTLE_LABS="+r.root, "FETTLE_LAB="+r.name, "FETTLE_STORE="+r.store)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// fettle runs a command to its end.
func (r *e2eRig) fettle(ctx context.Context, args ...string) e2eResult {
	ctx, cancel := context.WithTimeout(ctx, e2eCommandWait)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := r.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	start := time.Now()
	err := cmd.Run()
	res := e2eResult{args: args, stdout: out.String(), stderr: errOut.String(), status: cmd.ProcessState.ExitCode(), took: time.Since(start)}
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		res.stderr += err.Error()
	}
	return res
}

// ok runs a command that must succeed.
func (r *e2eRig) ok(t *testing.T, args ...string) e2eResult {
	t.Helper()
	res := r.fettle(t.Context(), args...)
	if res.status != 0 {
		t.Fatalf("fettle %s = %d; want 0\n%s%s", strings.Join(args, " "), res.status, res.stdout, res.stderr)
	}
	return res
}

// okJSON runs a command that must succeed and reads its JSON.
func (r *e2eRig) okJSON(t *testing.T, v any, args ...string) {
	t.Helper()
	res := r.ok(t, args...)
	if err := json.Unmarshal([]byte(res.stdout), v); err != nil {
		t.Fatalf("fettle %s printed no JSON: %v\n%s", strings.Join(args, " "), err, res.stdout)
	}
}

// e2eStatus is the JSON of lab status, which is also lab up's last word.
type e2eStatus struct {
	Lab      string `json:"lab"`
	Accel    string `json:"accel"`
	Machines []struct {
		labMachine
		state.Status
	} `json:"machines"`
}

// e2eUp is one run of lab up.
type e2eUp struct {
	e2eResult
	events []state.Event
	last   *e2eStatus
}

// up runs lab up as from a terminal, in a process group of its own. on, which
// may be nil, sees each event as it comes; interrupt is the terminal's Ctrl-C.
func (r *e2eRig) up(t *testing.T, on func(ev state.Event, interrupt func())) e2eUp {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), e2eUpWait)
	defer cancel()
	cmd := r.command(ctx, "lab", "up", "--output", "json", "--site", r.site, "--machines", strings.Join(r.machines, ","))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	interrupt := sync.OnceFunc(func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
			t.Errorf("interrupting lab up: %v", err)
		}
	})
	u := e2eUp{e2eResult: e2eResult{args: cmd.Args[1:]}}
	var all bytes.Buffer
	dec := json.NewDecoder(io.TeeReader(stdout, &all))
	for {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("lab up --output json printed something else: %v\n%s", err, all.String())
			}
			break
		}
		var ev state.Event
		var st e2eStatus
		switch {
		case json.Unmarshal(raw, &ev) == nil && ev.Seq != 0:
			u.events = append(u.events, ev)
			if ev.Kind == state.KindPhase {
				t.Logf("%s  %-8s %-12s %s", ev.Time.Local().Format("15:04:05"), ev.Machine, phaseOf(ev), ev.Text)
			}
			if on != nil {
				on(ev, interrupt)
			}
		case json.Unmarshal(raw, &st) == nil && st.Lab != "":
			u.last = &st
		}
	}
	_, _ = io.Copy(io.Discard, stdout)
	err = cmd.Wait()
	u.status, u.took, u.stdout, u.stderr = cmd.ProcessState.ExitCode(), time.Since(start), all.String(), errOut.String()
	if ctx.Err() != nil && t.Context().Err() == nil {
		t.Fatalf("lab up did not end within %s: %v\n%s", e2eUpWait, err, u.stderr)
	}
	return u
}

// phaseOf is the phase that an event tells of, "" for other events.
func phaseOf(ev state.Event) state.Phase {
	var d state.PhaseData
	if ev.Kind != state.KindPhase || json.Unmarshal(ev.Data, &d) != nil {
		return ""
	}
	return d.Phase
}

// events are all events of a machine, of some kinds or of all.
func (r *e2eRig) events(t *testing.T, machine string, kinds ...state.Kind) []state.Event {
	t.Helper()
	args := []string{"events", "--output", "json", "--limit", "0"}
	for _, k := range kinds {
		args = append(args, "--kind", string(k))
	}
	res := r.ok(t, append(args, machine)...)
	var out []state.Event
	for dec := json.NewDecoder(strings.NewReader(res.stdout)); ; {
		var ev state.Event
		if err := dec.Decode(&ev); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("fettle events printed no JSON: %v", err)
		}
		out = append(out, ev)
	}
}

// phases are the phases that a machine went through in its latest run.
func (r *e2eRig) phases(t *testing.T, machine string) []state.Phase {
	t.Helper()
	var out []state.Phase
	for _, ev := range r.events(t, machine, state.KindRun, state.KindPhase) {
		if ev.Kind == state.KindRun {
			out = nil
			continue
		}
		out = append(out, phaseOf(ev))
	}
	return out
}

// daemon is what the lab's daemon says of itself.
func (r *e2eRig) daemon(t *testing.T) labInfo {
	t.Helper()
	info, err := labInfoOf(t.Context(), r.dir())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// dump logs what tells why a machine did not get through.
func (r *e2eRig) dump() {
	tail := func(name string, n int64) {
		b, err := os.ReadFile(name)
		if err != nil {
			r.t.Logf("%v", err)
			return
		}
		r.t.Logf("--- the end of %s\n%s", name, b[max(0, int64(len(b))-n):])
	}
	tail(filepath.Join(r.dir(), labDaemonLog), 12<<10)
	for _, m := range r.machines {
		tail(labs.ConsoleLog(r.dir(), m), 6<<10)
		res := r.fettle(context.Background(), "machine", "why", m)
		r.t.Logf("--- fettle machine why %s\n%s%s", m, res.stdout, res.stderr)
	}
}
