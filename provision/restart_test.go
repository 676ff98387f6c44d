package provision

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// restart stops the server and starts another on the same state.
func (b *bench) restart(meanwhile func()) {
	b.t.Helper()
	b.stop()
	if meanwhile != nil {
		meanwhile()
	}
	b.start(b.p.c)
}

func TestServerRestartsInEachPhase(t *testing.T) {
	var ahead atomic.Int64
	b := newBench(t, func(c *Config) {
		// Shorter than the server is away: what nobody could hear is no silence.
		c.Limits.Agent, c.Limits.FirstBoot, c.Limits.Firmware, c.Limits.Netboot = time.Minute, time.Minute, time.Minute, time.Minute
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	away := func() { ahead.Add(int64(time.Hour)) }
	token := b.deploy("gpu-01")
	stays := func(want state.Phase) {
		t.Helper()
		b.restart(away)
		if err := b.p.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, ok := b.p.latest("gpu-01")
		if !ok || r.doc().Phase != want || r.doc().Attempts != 1 {
			t.Fatalf("run after a restart of the server = %s, start %d; want %s, start 1", r.doc().Phase, r.doc().Attempts, want)
		}
	}
	stays(state.Firmware)
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	stays(state.Inspected)
	id := b.task(token).ID
	b.want("POST", wire.PathReport, token, wire.Report{Task: id, Step: wire.StepWrite}, 204)
	stays(state.Deploying)
	b.want("POST", wire.PathReport, token, wire.Report{Task: id, Step: wire.StepVerify}, 204)
	stays(state.Verifying)
	b.want("POST", wire.PathReport, token, wire.Report{Task: id, Step: wire.StepDone}, 204)
	b.until("gpu-01", state.FirstBoot)
	stays(state.FirstBoot)
	b.want("POST", wire.PathReport, token, wire.Report{Task: id, Step: wire.StepDone}, 204) // not heard
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "gpu-01"}, 204)
	stays(state.Ready)
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "gpu-01"}, 204)
	want := []string{"boot pxe permanent=false uefi=true", "power on", "boot disk permanent=true uefi=true", "power cycle"}
	if got := b.bmc.said(); !slices.Equal(got, want) {
		t.Errorf("BMC was told %q; want %q: a server that restarts restarts no machine", got, want)
	}
}

func TestServerStopsWhileABMCWorks(t *testing.T) {
	for _, phase := range []state.Phase{state.PoweringOn, state.Restarting} {
		t.Run(string(phase), func(t *testing.T) {
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
			next := state.Firmware
			if phase == state.Restarting {
				<-slow.entered
				slow.goOn <- struct{}{}
				b.until("gpu-01", state.Firmware)
				token := b.bootToken()
				b.want("POST", wire.PathInventory, token, goodInventory(), 204)
				b.want("POST", wire.PathReport, token, wire.Report{Task: b.task(token).ID, Step: wire.StepDone}, 204)
				next = state.FirstBoot
			}
			<-slow.entered
			b.restart(nil)
			<-slow.entered // it goes on where it was
			if r, _ := b.p.latest("gpu-01"); r.doc().Phase != phase {
				t.Errorf("phase after the restart = %s; want %s", r.doc().Phase, phase)
			}
			close(slow.goOn)
			b.until("gpu-01", next)
		})
	}
}

func TestCrashBetweenRunAndTimeline(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	b.restart(func() {
		// The document was written, its events were not.
		r, _ := b.p.latest("gpu-01")
		d := r.doc()
		d.Phase, d.Reason = state.Failed, "its disk broke"
		if err := b.p.save(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	})
	st := b.untilEnd("gpu-01")
	if st.Phase != state.Failed || st.Reason != "its disk broke" {
		t.Errorf("status = %s (%s); want failed as the run's document says", st.Phase, st.Reason)
	}
	b.want("POST", wire.PathReport, token, wire.Report{Task: "x", Step: wire.StepDone}, 410)
	b.restart(func() {
		r, _ := b.p.latest("gpu-01")
		d := r.doc()
		d.ID, d.Token, d.Phase, d.Reason = "later", "0123456789", state.Firmware, ""
		if err := b.p.save(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	})
	if st := b.until("gpu-01", state.Firmware); st.Run != "later" || !st.RunEnd.IsZero() {
		t.Errorf("status = run %s, ended %v; want the later run, under way", st.Run, st.RunEnd)
	}
}

func TestDiscoverySurvivesARestart(t *testing.T) {
	b := newBench(t, nil)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	c := pxe.Client{MAC: mac, Network: "prov", PXE: true}
	l, err := b.p.Offer(t.Context(), c, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.p.Commit(t.Context(), c, l.Addr); err != nil {
		t.Fatal(err)
	}
	d, err := b.p.Boot(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b.restart(nil)
	again, err := b.p.Boot(t.Context(), c)
	if err != nil || again.Cmdline != d.Cmdline {
		t.Fatalf("Boot() after a restart = %q, %v; want the same run: %q", again.Cmdline, err, d.Cmdline)
	}
	_, token, _ := strings.Cut(d.Cmdline, wire.ArgToken+"=")
	token, _, _ = strings.Cut(token, " ")
	b.from = l.Addr.String() + ":1"
	b.want("GET", wire.PathTask, token, nil, 409)
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	st := b.untilEnd("mac-020000000007")
	if st.Phase != state.Inspected || len(st.Inventory) == 0 {
		t.Errorf("status = %s with %d bytes of inventory; want inspected", st.Phase, len(st.Inventory))
	}
	if got := b.task(token); got.Kind != wire.TaskHalt {
		t.Errorf("task of an inspected stranger = %s; want halt", got.Kind)
	}
}

// refusingStore is a state that cannot be written.
type refusingStore struct {
	*state.Store
	mu     sync.Mutex
	refuse bool
}

var errFull = errors.New("the disk is full")

func (s *refusingStore) Append(ctx context.Context, e ...state.Event) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse {
		return 0, errFull
	}
	return s.Store.Append(ctx, e...)
}

func TestRunThatCannotBeWrittenNeverWas(t *testing.T) {
	var full *refusingStore
	b := newBench(t, func(c *Config) {
		full = &refusingStore{Store: c.Store.(*state.Store)}
		c.Store = full
	})
	b.install("gpu-01")
	plan, err := b.p.Plan(t.Context(), []string{"gpu-01"})
	if err != nil {
		t.Fatal(err)
	}
	full.mu.Lock()
	full.refuse = true
	full.mu.Unlock()
	if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{"gpu-01"}); !errors.Is(err, errFull) {
		t.Fatalf("Deploy with a full state = %v; want %v", err, errFull)
	}
	full.mu.Lock()
	full.refuse = false
	full.mu.Unlock()
	if d, err := b.p.Boot(t.Context(), client()); err != nil || d.Action != pxe.BootDisk {
		t.Errorf("Boot() = %+v, %v; want the disk of a ready machine", d, err)
	}
	b.restart(nil)
	if d, err := b.p.Boot(t.Context(), client()); err != nil || d.Action != pxe.BootDisk {
		t.Errorf("Boot() after a restart = %+v, %v; want the disk of a ready machine", d, err)
	}
	if got := b.p.HostKeys("gpu-01"); len(got) != 1 {
		t.Errorf("HostKeys = %q; want those of the system that is there", got)
	}
}
