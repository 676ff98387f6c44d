package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// untilEnd waits, within a bound, until a machine's run is over.
func (b *bench) untilEnd(machine string) state.Status {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	for ev, err := range b.store.Watch(ctx, state.Query{Machine: machine}) {
		if err != nil {
			break
		}
		st, err := b.store.Status(ctx, machine)
		if err != nil {
			b.t.Fatal(err)
		}
		if ev.Kind == state.KindRunEnd && st.Run == ev.Run && !st.RunEnd.IsZero() {
			b.settle(machine)
			return st
		}
	}
	why, err := b.p.Why(b.t.Context(), machine)
	b.t.Fatalf("the run of %s did not end (%v):\n%s", machine, err, strings.Join(why, "\n"))
	return state.Status{}
}

// install takes a machine to ready.
func (b *bench) install(machine string) (token string) {
	b.t.Helper()
	token = b.deploy(machine)
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	b.want("POST", wire.PathReport, token, wire.Report{Task: b.task(token).ID, Step: wire.StepDone}, 204)
	b.until(machine, state.FirstBoot)
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: machine, SSHKeys: []string{"ssh-ed25519 KEY"}}, 204)
	b.until(machine, state.Ready)
	return token
}

func TestAbortedRunStopsItsAgent(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	id := b.task(token).ID
	b.want("POST", wire.PathReport, token, wire.Report{Task: id, Step: wire.StepWrite, Text: "writing"}, 204)
	if err := b.p.Abort(t.Context(), "user:test", "gpu-01"); err != nil {
		t.Fatal(err)
	}
	if text := b.want("POST", wire.PathReport, token, wire.Report{Task: id, Step: wire.StepWrite, Done: 1, Total: 2}, 410); !strings.Contains(text, "aborted by user:test in phase deploying") {
		t.Errorf("answer to a report of an aborted run = %q; want that it was aborted", text)
	}
	if got := b.task(token); got.Kind != wire.TaskHalt {
		t.Errorf("task of an aborted run = %s; want halt", got.Kind)
	}
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "gpu-01"}, 410)
	if st := b.untilEnd("gpu-01"); st.Phase != state.Failed || !strings.Contains(st.Reason, "aborted by user:test") {
		t.Errorf("status = %s (%s); want failed, aborted", st.Phase, st.Reason)
	}
	if err := b.p.Abort(t.Context(), "user:test", "gpu-01"); err == nil {
		t.Error("Abort of an aborted run = nil; want that no run is under way")
	}
}

// blockingBMC holds power commands until it is told to go on, or their context
// ends.
type blockingBMC struct {
	*fakeBMC
	entered chan struct{}
	goOn    chan struct{}
}

func (f *blockingBMC) SetPower(ctx context.Context, a bmc.Action) error {
	f.entered <- struct{}{}
	select {
	case <-f.goOn:
		return f.fakeBMC.SetPower(ctx, a)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestAbortEndsWhatTheBMCIsDoing(t *testing.T) {
	slow := &blockingBMC{&fakeBMC{power: bmc.Off}, make(chan struct{}, 10), make(chan struct{})}
	b := newBench(t, func(c *Config) {
		c.OpenBMC = func(context.Context, site.Machine) (BMC, error) { return slow, nil }
	})
	plan, err := b.p.Plan(t.Context(), []string{"gpu-01"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	<-slow.entered
	first, _ := b.p.latest("gpu-01")
	if err := b.p.Abort(t.Context(), "user:test", "gpu-01"); err != nil {
		t.Fatal(err)
	}
	// The next run's command comes after the first one's has ended.
	if plan, err = b.p.Plan(t.Context(), []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	<-slow.entered
	select {
	case <-first.idle:
	default:
		t.Error("the second run speaks to the BMC while the aborted one still does")
	}
	close(slow.goOn)
	b.until("gpu-01", state.Firmware)
	// What is durable is the second run, whatever the first did last.
	raw, ok, err := b.store.Get(t.Context(), runKey("gpu-01"))
	if err != nil || !ok {
		t.Fatalf("Get(run) = %v, %v", ok, err)
	}
	var d Run
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if d.ID == first.doc().ID || d.Phase != state.Firmware {
		t.Errorf("durable run = %s in phase %s; want the second one, in firmware", d.ID, d.Phase)
	}
}

func TestLateChangesOfAnEndedRunChangeNothing(t *testing.T) {
	b := newBench(t, nil)
	b.deploy("gpu-01")
	old, _ := b.p.latest("gpu-01")
	if err := b.p.Abort(t.Context(), "user:test", "gpu-01"); err != nil {
		t.Fatal(err)
	}
	token := b.deploy("gpu-01")
	if err := b.p.fail(t.Context(), old, "test", "late"); err != nil {
		t.Fatal(err)
	}
	raw, _, err := b.store.Get(t.Context(), runKey("gpu-01"))
	if err != nil || !strings.Contains(string(raw), token) {
		t.Errorf("durable run after a late change of the old one = %s, %v; want the new run", raw, err)
	}
	if st, err := b.store.Status(t.Context(), "gpu-01"); err != nil || st.Phase != state.Firmware {
		t.Errorf("status = %s, %v; want firmware", st.Phase, err)
	}
}

func TestRunEndsAreOnTheTimelineBeforeTheNextRun(t *testing.T) {
	b := newBench(t, nil)
	for range 5 {
		b.deploy("gpu-01")
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.p.Abort(t.Context(), "user:test", "gpu-01"); err != nil {
				t.Error(err)
			}
		})
		for { // as soon as it may
			_, err := b.p.Inspect(t.Context(), "user:test", []string{"gpu-01"})
			if err == nil {
				break
			}
			if !errors.Is(err, ErrBusy) {
				t.Fatal(err)
			}
		}
		wg.Wait()
		if err := b.p.Abort(t.Context(), "user:test", "gpu-01"); err != nil {
			t.Fatal(err)
		}
	}
	events, err := b.store.Events(t.Context(), state.Query{Machine: "gpu-01", Kinds: []state.Kind{state.KindRun, state.KindRunEnd}})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if want := []state.Kind{state.KindRun, state.KindRunEnd}[i%2]; e.Kind != want || i%2 == 1 && e.Run != events[i-1].Run {
			t.Fatalf("event %d is %s of %s; want a start and an end of each run in turn", i, e.Kind, e.Run)
		}
	}
}

func TestPhoneHomeTwice(t *testing.T) {
	b := newBench(t, nil)
	token := b.install("gpu-01")
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "gpu-01"}, 204)
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "other"}, 204)
	if st := b.untilEnd("gpu-01"); st.Phase != state.Ready {
		t.Errorf("phase after a second phone-home = %s; want ready", st.Phase)
	}
	if got := b.p.HostKeys("gpu-01"); len(got) != 1 {
		t.Errorf("HostKeys = %q; want those of the first phone-home", got)
	}
}

func TestPhoneHomeUnderAnotherName(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "gpu-01"}, 400) // nothing is installed
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	b.want("POST", wire.PathReport, token, wire.Report{Task: b.task(token).ID, Step: wire.StepDone}, 204)
	b.until("gpu-01", state.FirstBoot)
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "localhost"}, 409)
	if st := b.untilEnd("gpu-01"); st.Phase != state.Failed || !strings.Contains(st.Reason, `"localhost"`) {
		t.Errorf("status = %s (%s); want failed, with the wrong name", st.Phase, st.Reason)
	}
}

func TestReportsThatFitNoTask(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	r, _ := b.p.latest("gpu-01")
	b.want("GET", wire.PathTask, token, nil, 409) // introduce yourself
	b.want("POST", wire.PathReport, token, wire.Report{Task: r.doc().taskID(), Step: wire.StepDone}, 410)
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	b.want("POST", wire.PathReport, token, wire.Report{Task: "other", Step: wire.StepFailed, Error: "x"}, 410)
	b.want("POST", wire.PathReport, token, wire.Report{Task: r.doc().taskID(), Step: "dance"}, 400)
	b.want("POST", wire.PathReport, token, "no report", 400)
	if d := r.doc(); d.Phase != state.Inspected {
		t.Errorf("phase = %s; want inspected still", d.Phase)
	}
	b.want("POST", wire.PathReport, token, wire.Report{Task: r.doc().taskID(), Step: wire.StepFailed}, 204)
	if st := b.untilEnd("gpu-01"); st.Phase != state.Failed || !strings.Contains(st.Reason, "without saying why") {
		t.Errorf("status = %s (%s); want failed, without a reason", st.Phase, st.Reason)
	}
}

func TestInventoryBeyondTheLimitFailsTheRun(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	inv := goodInventory()
	inv.Kernel = strings.Repeat("x", maxBody)
	b.want("POST", wire.PathInventory, token, inv, 400)
	if st := b.untilEnd("gpu-01"); !strings.Contains(st.Reason, "inventory of more than 1MiB") {
		t.Errorf("reason = %q; want that its inventory is too large", st.Reason)
	}
}

func TestMachineThatStartsOverAndOver(t *testing.T) {
	t.Run("in the network boot", func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.Limits.Netboot, c.Limits.Attempts = 100*time.Millisecond, 2 })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		b.deploy("gpu-01")
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		r, _ := b.p.latest("gpu-01")
		for !r.doc().Ended() { // its kernel panics, and it asks again
			b.p.Record(pxe.Exchange{Time: time.Now(), MAC: net.HardwareAddr(bootMAC[:]), Network: "prov", Kind: "dhcp.discover", Text: "asked for an address"})
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal("the run of a machine that always starts again does not end")
			}
		}
		if st := b.untilEnd("gpu-01"); !strings.Contains(st.Reason, "its agent did not report within 100ms: see its console, and this was start 2 of 2") {
			t.Errorf("reason = %q; want that the agent did not report, twice, and where to look", st.Reason)
		}
	})
	t.Run("in the agent", func(t *testing.T) {
		b := newBench(t, nil)
		token := b.deploy("gpu-01")
		for range maxAgents {
			b.want("POST", wire.PathInventory, token, goodInventory(), 204)
			b.want("POST", wire.PathReport, token, wire.Report{Task: b.task(token).ID, Step: wire.StepWrite}, 204)
		}
		b.want("POST", wire.PathInventory, token, goodInventory(), 204)
		if st := b.untilEnd("gpu-01"); st.Phase != state.Failed || !strings.Contains(st.Reason, "never finished") {
			t.Errorf("status = %s (%s); want failed: the agent never finishes", st.Phase, st.Reason)
		}
	})
}

func TestInspectionPutsBack(t *testing.T) {
	b := newBench(t, nil)
	b.install("gpu-01")
	inspect := func() {
		t.Helper()
		if _, err := b.p.Inspect(t.Context(), "user:test", []string{"gpu-01"}); err != nil {
			t.Fatal(err)
		}
		b.until("gpu-01", state.Firmware)
		b.want("POST", wire.PathInventory, b.bootToken(), goodInventory(), 204)
		if d, err := b.p.Boot(t.Context(), client()); err != nil || d.Action != pxe.BootDisk {
			t.Errorf("Boot() of an inspected machine = %+v, %v; want its disk", d, err)
		}
	}
	inspect()
	st := b.untilEnd("gpu-01")
	for st.Action != "inspect" { // the end of the deployment comes first
		st = b.untilEnd("gpu-01")
	}
	said := b.bmc.said()
	if last := said[len(said)-2:]; st.Phase != state.Ready || !slices.Equal(last, []string{"boot disk permanent=true uefi=true", "power cycle"}) {
		t.Errorf("after inspecting a ready machine: %s, BMC told %q; want ready, restarted into its disk", st.Phase, last)
	}
	if got := b.p.HostKeys("gpu-01"); len(got) != 1 {
		t.Errorf("HostKeys after an inspection = %q; want those that the system had", got)
	}
	// An inspection that fails takes no system away: the next one puts it back.
	if _, err := b.p.Inspect(t.Context(), "user:test", []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	if err := b.p.Abort(t.Context(), "user:test", "gpu-01"); err != nil {
		t.Fatal(err)
	}
	inspect()
	b.until("gpu-01", state.Ready)
}

func TestInspectionOfAnEmptyMachineSwitchesItOff(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01") // a deployment that fails leaves no system
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	b.want("POST", wire.PathReport, token, wire.Report{Task: b.task(token).ID, Step: wire.StepFailed, Error: "disk broken"}, 204)
	if _, err := b.p.Inspect(t.Context(), "user:test", []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	b.until("gpu-01", state.Firmware)
	b.want("POST", wire.PathInventory, b.bootToken(), goodInventory(), 204)
	b.until("gpu-01", state.Inspected)
	r, _ := b.p.latest("gpu-01")
	<-r.idle
	said := b.bmc.said()
	if last := said[len(said)-1]; last != "power off" || r.doc().Phase != state.Inspected {
		t.Errorf("after inspecting an empty machine: %s, BMC told %q; want inspected and off", r.doc().Phase, last)
	}
	b.deploy("gpu-01") // it may be deployed now
}

func TestStrangersAreForgottenForNewOnes(t *testing.T) {
	b := newBench(t, nil)
	name := func(i int) string { return fmt.Sprintf("mac-%012x", i) }
	for i := range maxStrangers {
		d := Run{Machine: name(i), Token: name(i), Stranger: true, Started: time.Unix(int64(i), 0), Phase: state.Discovered}
		b.p.runs[d.Machine], b.p.tokens[d.Token] = newRun(d), nil
	}
	if _, err := b.p.discover(t.Context(), b.site, "mac-new", ""); err != nil {
		t.Fatal(err)
	}
	if _, there := b.p.latest(name(0)); there {
		t.Error("the oldest stranger is still remembered; want it forgotten")
	}
	if n := len(b.p.runs); n != maxStrangers {
		t.Errorf("%d strangers are remembered; want %d", n, maxStrangers)
	}
	if n := len(b.p.tokens); n != maxStrangers {
		t.Errorf("%d tokens are remembered; want %d", n, maxStrangers)
	}
}

func TestTokensOfEndedRunsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Provisioner{now: time.Now, tokens: map[string]*run{"a": nil, "b": nil}}
		p.retire("a")
		time.Sleep(tokenGrace / 2) // synctest's clock
		p.retire("b")
		time.Sleep(tokenGrace/2 + time.Second)
		p.tokens["c"] = nil
		p.retire("c")
		if _, there := p.tokens["a"]; there || len(p.tokens) != 2 || len(p.retired) != 2 {
			t.Errorf("tokens = %v; want b and c", p.tokens)
		}
	})
}

func TestManyExchangesAreAllRecorded(t *testing.T) {
	b := newBench(t, nil)
	const n = 3 * state.MaxAppend
	for i := range n {
		b.p.Record(pxe.Exchange{Time: time.Now(), MAC: net.HardwareAddr(bootMAC[:]), Network: "prov", Kind: "tftp.read", Text: fmt.Sprint("read ", i)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := 0
	for ev, err := range b.store.Watch(ctx, state.Query{Machine: "gpu-01"}) {
		if err != nil {
			break
		}
		if ev.Kind == "tftp.read" {
			got++
		}
		if got == n {
			return
		}
	}
	t.Errorf("%d of %d exchanges are on the timeline", got, n)
}

func TestTokenIsNowhereToBeSeen(t *testing.T) {
	b := newBench(t, nil)
	token := b.install("gpu-01")
	events, err := b.store.Events(t.Context(), state.Query{})
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.store.Status(t.Context(), "gpu-01")
	if err != nil {
		t.Fatal(err)
	}
	why, err := b.p.Why(t.Context(), "gpu-01")
	if err != nil {
		t.Fatal(err)
	}
	for what, v := range map[string]any{"events": events, "status": st, "why": why} {
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(j), token) {
			t.Errorf("the run's token is in its machine's %s", what)
		}
	}
}

func TestRunKeepsItsImageWhenANewerOneIsBuilt(t *testing.T) {
	b := newBench(t, nil)
	rel := b.p.c.Releases.(fakeReleases)
	old := rel["debian-12"]
	path := releasePath(old) + "/disk.zst"
	newer := old
	newer.Inputs = rel["agent"].Inputs
	rel["debian-12"] = newer
	rel["debian-12@"+old.Inputs.Hex()] = old
	f, err := b.p.Open(t.Context(), path)
	if err != nil {
		t.Fatalf("Open(%s) after a newer build = %v; want the file of the older one", path, err)
	}
	f.Close()
	if _, err := b.p.Open(t.Context(), "release/debian-12/00ff/disk.zst"); err == nil {
		t.Error("Open of a release that never was = nil; want an error")
	}
}
