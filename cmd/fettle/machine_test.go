package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// command runs a command against the bench's server.
func (b *deployBench) command(stdin string, tty bool, args ...string) (status int, stdout, stderr string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	return commandLine(ctx, stdin, tty, append(args, "--server", b.sock)...)
}

func TestMachineCommands(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   string
		stdin  string
		tty    bool
		status int
		want   []string // in stdout or stderr
		no     string   // in neither
		runs   int      // that were started
	}{
		{name: "ls", args: "machine ls", want: []string{"MACHINE", "gpu-01   ready", "gpu-02   failed", "its disk is gone"}},
		{name: "show", args: "machine show gpu-01", want: []string{`"phase": "ready"`}},
		{name: "show nobody", args: "machine show gpu-09", status: exitFailed, want: []string{"gpu-09"}},
		{name: "health", args: "machine health", status: exitFailed, want: []string{"gpu-01   root   SN-A  -       missing", "gpu-01   root   SN-B  vdb3    rebuilding (40 %)", "gpu-01: since 2026-11-22", "disk SN-A is missing: replace it"}},
		{name: "health of one that says nothing", args: "machine health gpu-02", want: []string{"gpu-02   -      -     -       it says nothing"}},
		{name: "health of nobody", args: "machine health gpu-09", status: exitUsage, want: []string{`no machine "gpu-09"`}},
		{name: "health in a list", args: "machine ls", want: []string{"disk SN-A is missing: replace it"}},
		{name: "why", args: "machine why gpu-01", want: []string{"gpu-01 was made for a test."}},
		{name: "plan", args: "plan gpu-01 gpu-02", want: []string{"gpu-01 (now ", "plan sha256:"}},
		{name: "plan of nothing", args: "plan", status: exitUsage, want: []string{"takes machines"}},
		{name: "deploy without a yes", args: "machine deploy gpu-01 gpu-02", status: exitRefused,
			want: []string{"gpu-01 (now", "wipe the disks above and restart 2 machines: say --yes"}},
		{name: "a person says no", args: "machine deploy gpu-01", stdin: "no\n", tty: true, status: exitRefused, want: []string{"Type yes: ", "not confirmed"}},
		{name: "a person says yes", args: "machine deploy gpu-01", stdin: "yes\n", tty: true, want: []string{"ready"}, runs: 1},
		{name: "deploy", args: "machine deploy --yes gpu-01", want: []string{"powering-on", "ready"}, runs: 1},
		{name: "deploy that fails", args: "machine deploy --yes gpu-01 gpu-02", status: exitFailed, want: []string{"gpu-02 failed: its disk is gone"}, runs: 2},
		{name: "deploy without waiting", args: "machine deploy --yes --wait=false gpu-02", runs: 1},
		{name: "inspect", args: "machine inspect --yes gpu-01", want: []string{"inspected"}},
		{name: "inspect without a yes", args: "machine inspect gpu-01", status: exitRefused, want: []string{"restart into the agent gpu-01 (now ready): say --yes"}},
		{name: "inspect of some", args: "machine inspect gpu-[01-02]", status: exitRefused, want: []string{"restart into the agent 2 machines: gpu-01 (now ready), gpu-02 (now failed): say --yes"}},
		{name: "inspect of one that is not there", args: "machine inspect gpu-03", status: exitFailed, want: []string{"gpu-03"}},
		{name: "a list of some", args: "machine ls gpu-02", want: []string{"gpu-02"}, no: "gpu-01"},
		{name: "a list of what is not there", args: "machine ls rack=r9", status: exitFailed, want: []string{"r9"}},
		{name: "abort", args: "machine abort gpu-01", status: exitFailed, want: []string{"no run is under way"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newDeployBench(t, "gpu-01", "gpu-02")
			b.phase("gpu-01", state.Ready)
			b.phase("gpu-02", state.Failed)
			b.health("gpu-01", state.HealthData{Problem: "root runs on 0 of 2 disks, as disk SN-A is missing: replace it", Since: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
				Arrays: []state.Array{{Name: "root", Device: "md127", Level: "raid1", Sync: "recover", Percent: 40, Members: []state.Member{
					{Serial: "SN-A", State: state.MemberMissing}, {Serial: "SN-B", Device: "vdb3", State: state.MemberRebuilding}}}}})
			b.outcome["gpu-01"], b.outcome["gpu-02"] = state.Ready, state.Failed
			status, out, errOut := b.command(tt.stdin, tt.tty, strings.Fields(tt.args)...)
			if status != tt.status {
				t.Errorf("fettle %s = %d; want %d\n%s%s", tt.args, status, tt.status, out, errOut)
			}
			for _, want := range tt.want {
				if !strings.Contains(out+errOut, want) {
					t.Errorf("fettle %s printed\n%s%s\nwant %q", tt.args, out, errOut, want)
				}
			}
			if tt.no != "" && strings.Contains(out+errOut, tt.no) {
				t.Errorf("fettle %s printed\n%s%s\nwant no %q", tt.args, out, errOut, tt.no)
			}
			if len(b.deployed) != tt.runs {
				t.Errorf("fettle %s deployed %v; want %d machines", tt.args, b.deployed, tt.runs)
			}
		})
	}
}

func (b *deployBench) health(machine string, d state.HealthData) {
	b.t.Helper()
	if _, err := b.store.Append(b.t.Context(), state.Event{Machine: machine, Kind: state.KindHealth, Text: d.Problem, Data: encode(b.t, d)}); err != nil {
		b.t.Fatal(err)
	}
}

// A plan that changed between its showing and the yes is refused.
func TestDeployOfAChangedPlan(t *testing.T) {
	b := newDeployBench(t, "gpu-01")
	b.changed = true
	if status, _, errOut := b.command("", false, "machine", "deploy", "--yes", "gpu-01"); status != exitRefused || len(b.deployed) != 0 {
		t.Errorf("deploy of a changed plan = %d, %q; want %d", status, errOut, exitRefused)
	}
}

// With --output json stdout is JSON and nothing else, whatever the command.
func TestOutputIsJSON(t *testing.T) {
	b := newDeployBench(t, "gpu-01")
	b.outcome["gpu-01"] = state.Ready
	b.phase("gpu-01", state.Ready)
	server := " --server " + b.sock
	empty := t.TempDir()
	for _, args := range []string{
		"machine ls" + server, "machine show gpu-01" + server, "machine why gpu-01" + server, "plan gpu-01" + server,
		"events" + server, "machine deploy --yes gpu-01" + server, "machine inspect --yes gpu-01" + server,
		"lab ls --labs " + empty, "image ls --store " + empty, "doctor --store " + empty,
		"site check --site ../../examples/two-gpu", "site show --site ../../examples/two-gpu",
	} {
		t.Run(args, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, out, errOut := commandLine(ctx, "", true, append([]string{"--output", "json"}, strings.Fields(args)...)...)
			n := 0
			for dec := json.NewDecoder(strings.NewReader(out)); ; n++ {
				var v any
				if err := dec.Decode(&v); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("fettle --output json %s printed something else: %v\n%s", args, err, out)
				}
			}
			if n == 0 {
				t.Errorf("fettle --output json %s printed nothing on stdout; stderr is %q", args, errOut)
			}
			if bytes.ContainsRune([]byte(out), 0x1b) {
				t.Errorf("fettle --output json %s draws: %q", args, out)
			}
		})
	}
}
