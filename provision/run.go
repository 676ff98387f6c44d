package provision

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Action is what a run does.
type Action string

// Actions of runs.
const (
	ActionDeploy  Action = "deploy"
	ActionInspect Action = "inspect"
)

// Run is one try at doing something to a machine. It is a durable document in
// the state; a server that restarts goes on where it says.
type Run struct {
	ID        string        `json:"id"`
	Machine   string        `json:"machine"`
	Action    Action        `json:"action"`
	Actor     string        `json:"actor"`
	Token     string        `json:"token"` // what the agent and the installed OS show; ends with the run
	Revision  site.Revision `json:"revision"`
	Phase     state.Phase   `json:"phase"`
	Reason    string        `json:"reason,omitempty"` // why it failed
	Started   time.Time     `json:"started"`
	Heard     time.Time     `json:"heard"`    // last sign of life
	Attempts  int           `json:"attempts"` // power-ons so far
	Deploy    *wire.Deploy  `json:"deploy,omitempty"`
	Image     string        `json:"image,omitempty"`    // release name
	Digest    string        `json:"digest,omitempty"`   // release inputs
	Installed bool          `json:"installed"`          // the machine had an OS when the run began
	SSHKeys   []string      `json:"ssh_keys,omitempty"` // host keys that the installed OS reported
}

// Ended tells whether nothing more will happen in r.
func (r Run) Ended() bool {
	switch r.Phase {
	case state.Ready, state.Failed:
		return true
	case state.Inspected:
		return r.Action == ActionInspect
	}
	return false
}

const runPrefix = "run/"

func runKey(machine string) string { return runPrefix + machine }

// run is a Run with what waits on it.
type run struct {
	mu      sync.Mutex
	d       Run
	changed chan struct{} // closed and replaced at each change
	lastLog time.Time     // of progress
	lastN   int64
}

func newRun(d Run) *run { return &run{d: d, changed: make(chan struct{})} }

func (r *run) doc() Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.d
}

// wait is a channel that is closed at the next change.
func (r *run) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// heard notes a sign of life. It is not made durable: a restarted server gives
// a machine the whole limit again.
func (r *run) heard(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.d.Heard = now
}

// update changes a run under its lock, makes it durable, appends the events
// that the change is worth, and wakes who waits. A change that returns false
// changes nothing. Events are appended after the document, so that a reader of
// the timeline never sees what a restart would forget.
func (p *Provisioner) update(ctx context.Context, r *run, actor string, change func(d *Run) (text string, ok bool)) error {
	r.mu.Lock()
	before := r.d
	d := r.d
	text, ok := change(&d)
	if !ok {
		r.mu.Unlock()
		return nil
	}
	b, err := json.Marshal(d)
	if err != nil {
		r.mu.Unlock()
		return fmt.Errorf("encoding the run of %s: %w", d.Machine, err)
	}
	if err := p.c.Store.Put(ctx, runKey(d.Machine), b); err != nil {
		r.mu.Unlock()
		return fmt.Errorf("writing the run of %s: %w", d.Machine, err)
	}
	r.d = d
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()

	if d.Phase != before.Phase {
		err = p.event(ctx, d, state.KindPhase, actor, text, state.PhaseData{Phase: d.Phase, Reason: d.Reason})
	} else if text != "" {
		err = p.event(ctx, d, "run.note", actor, text, nil)
	}
	if err != nil {
		return err
	}
	if d.Ended() && !before.Ended() {
		p.mu.Lock()
		delete(p.tokens, d.Token)
		p.mu.Unlock()
		end := "the run is done"
		if d.Phase == state.Failed {
			end = "the run failed: " + d.Reason
		}
		return p.event(ctx, d, state.KindRunEnd, actor, end, state.RunEndData{OK: d.Phase != state.Failed, Reason: d.Reason})
	}
	return nil
}

// fail ends a run with a sentence.
func (p *Provisioner) fail(ctx context.Context, r *run, actor, reason string) error {
	return p.update(ctx, r, actor, func(d *Run) (string, bool) {
		if d.Ended() {
			return "", false
		}
		d.Phase, d.Reason = state.Failed, reason
		return reason, true
	})
}

// latest is the machine's latest run.
func (p *Provisioner) latest(machine string) (*run, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.runs[machine]
	return r, ok
}

// start makes a run durable and hands it to Run's loop. It refuses while
// another run of the machine is under way.
func (p *Provisioner) start(ctx context.Context, d Run) (Run, error) {
	now := p.now()
	d.ID = now.UTC().Format("20060102-150405") + "-" + randomHex(3)
	d.Token = randomHex(32)
	d.Started, d.Heard = now, now
	d.Phase = state.PoweringOn
	if err := p.seedRun(&d); err != nil {
		return Run{}, err
	}
	r := newRun(d)

	p.mu.Lock()
	if old, ok := p.runs[d.Machine]; ok && !old.doc().Ended() {
		p.mu.Unlock()
		return Run{}, fmt.Errorf("%s: %w (%s, phase %s): wait for it, or stop it with fettle machine abort %s", d.Machine, ErrBusy, old.doc().ID, old.doc().Phase, d.Machine)
	}
	p.runs[d.Machine] = r
	p.tokens[d.Token] = r
	p.mu.Unlock()

	b, err := json.Marshal(d)
	if err == nil {
		err = p.c.Store.Put(ctx, runKey(d.Machine), b)
	}
	if err == nil {
		err = p.event(ctx, d, state.KindRun, d.Actor, fmt.Sprintf("%s asked to %s this machine", d.Actor, d.Action),
			state.RunData{Action: string(d.Action), Revision: d.Revision, Image: d.Image, Digest: d.Digest})
	}
	if err == nil {
		err = p.event(ctx, d, state.KindPhase, "fettle", "telling the BMC to boot from the network", state.PhaseData{Phase: d.Phase})
	}
	if err != nil {
		p.mu.Lock()
		delete(p.runs, d.Machine)
		delete(p.tokens, d.Token)
		p.mu.Unlock()
		return Run{}, fmt.Errorf("starting a run of %s: %w", d.Machine, err)
	}
	select {
	case p.starts <- r:
	case <-ctx.Done():
		return Run{}, ctx.Err()
	}
	return d, nil
}
