package provision

import (
	"context"
	"encoding/json"
	"errors"
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
	ID       string        `json:"id"`
	Machine  string        `json:"machine"`
	Action   Action        `json:"action"`
	Actor    string        `json:"actor"`
	Token    string        `json:"token"` // what the agent and the installed OS show; ends with the run
	Revision site.Revision `json:"revision"`
	Phase    state.Phase   `json:"phase"`
	Reason   string        `json:"reason,omitempty"` // why it failed
	Started  time.Time     `json:"started"`
	Since    time.Time     `json:"since"`              // of the phase
	Heard    time.Time     `json:"heard"`              // last sign of life
	Attempts int           `json:"attempts"`           // power-ons so far, the one under way included
	Agents   int           `json:"agents"`             // inventories since the last power-on
	Stranger bool          `json:"stranger,omitempty"` // not in the site file: no BMC to act by
	// After is what a stranger does when it was inspected; "" = wait.
	After     site.AfterInspection `json:"after,omitempty"`
	PutBack   bool                 `json:"put_back,omitempty"` // an inspected machine is as it was before
	Deploy    *wire.Deploy         `json:"deploy,omitempty"`
	Image     string               `json:"image,omitempty"`    // release name
	Digest    string               `json:"digest,omitempty"`   // release inputs
	Installed bool                 `json:"installed"`          // there was a system to put back when an inspection began
	SSHKeys   []string             `json:"ssh_keys,omitempty"` // host keys that the installed OS reported
	Watched   *Watched             `json:"watched,omitempty"`  // the installed OS, if it tells of its disks
}

// Ended tells whether nothing more will happen in r.
func (r Run) Ended() bool {
	switch r.Phase {
	case state.Ready, state.Failed:
		return true
	case state.Inspected:
		return r.Action == ActionInspect && r.PutBack
	}
	return false
}

// hasSystem tells whether r left a system on the machine's disk.
func (r Run) hasSystem() bool {
	return r.Phase == state.Ready || r.Action == ActionInspect && r.Installed
}

// taskID names what r's agent does. A new start is a new task: an agent never
// does the same one twice.
func (r Run) taskID() string { return fmt.Sprintf("%s.%d", r.ID, r.Attempts) }

const runPrefix = "run/"

func runKey(machine string) string { return runPrefix + machine }

// run is a Run with what waits on it.
type run struct {
	turn   sync.Mutex      // held by one change at a time, until its events are written
	before <-chan struct{} // closed when nobody drives the machine's run before this one; nil: none
	idle   chan struct{}   // closed when nobody drives this one

	mu      sync.Mutex
	d       Run
	changed chan struct{} // closed and replaced at each change
	stop    func()        // ends what its driver does; nil before it starts
	lastLog time.Time     // of progress
	lastN   int64
}

func newRun(d Run) *run {
	return &run{d: d, changed: make(chan struct{}), idle: make(chan struct{})}
}

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

// publish shows a change that is durable to everybody.
func (r *run) publish(d Run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.d.Heard.After(d.Heard) {
		d.Heard = r.d.Heard
	}
	r.d = d
	close(r.changed)
	r.changed = make(chan struct{})
	if d.Ended() && r.stop != nil {
		r.stop()
	}
}

// settle waits until a change that is being made is shown.
func (r *run) settle() {
	r.turn.Lock()
	defer r.turn.Unlock()
}

// update changes a run that has not ended: it makes the change durable, appends
// the events that it is worth, and then shows it and wakes who waits. Changes
// take turns, so that the timeline has them in order, and the end of a run is
// on it before the next one may start. A change that returns false changes
// nothing. Events are appended after the document, so that a reader of the
// timeline never sees what a restart would forget; what a crash in between
// loses of the timeline, load makes up for.
func (p *Provisioner) update(ctx context.Context, r *run, actor string, change func(d *Run) (text string, ok bool)) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	before := r.doc()
	d := before
	if before.Ended() {
		return nil
	}
	text, ok := change(&d)
	if !ok {
		return nil
	}
	var events []state.Event
	var errs []error
	add := func(kind state.Kind, actor, text string, data any) {
		e, err := p.newEvent(d, kind, actor, text, data)
		events, errs = append(events, e), append(errs, err)
	}
	if d.Phase != before.Phase {
		d.Since = p.now()
		add(state.KindPhase, actor, text, state.PhaseData{Phase: d.Phase, Reason: d.Reason})
	} else if text != "" {
		add("run.note", actor, text, nil)
	}
	if d.Ended() {
		text, data := d.end()
		add(state.KindRunEnd, actor, text, data)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := p.save(ctx, d); err != nil {
		return err
	}
	if _, err := p.c.Store.Append(ctx, events...); err != nil {
		return fmt.Errorf("writing events of %s: %w", d.Machine, err)
	}
	r.publish(d)
	if d.Ended() {
		p.retire(d.Token)
	}
	return nil
}

// end tells how a run ended.
func (r Run) end() (string, state.RunEndData) {
	if r.Phase == state.Failed {
		return "the run failed: " + r.Reason, state.RunEndData{Reason: r.Reason}
	}
	return "the run is done", state.RunEndData{OK: true}
}

// save makes a run durable.
func (p *Provisioner) save(ctx context.Context, d Run) error {
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encoding the run of %s: %w", d.Machine, err)
	}
	if err := p.c.Store.Put(ctx, runKey(d.Machine), b); err != nil {
		return fmt.Errorf("writing the run of %s: %w", d.Machine, err)
	}
	return nil
}

// fail ends a run with a sentence.
func (p *Provisioner) fail(ctx context.Context, r *run, actor, reason string) error {
	return p.update(ctx, r, actor, func(d *Run) (string, bool) {
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

// tokenGrace is how long the token of an ended run is remembered: its agent
// must hear that it ended, and a phone-home whose answer was lost comes again.
const tokenGrace = time.Hour

type retired struct {
	token string
	until time.Time
}

// retire forgets a token after its grace.
func (p *Provisioner) retire(token string) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = append(p.retired, retired{token, now.Add(tokenGrace)})
	for len(p.retired) > 0 && now.After(p.retired[0].until) {
		delete(p.tokens, p.retired[0].token)
		p.retired = p.retired[1:]
	}
}

// start makes a run durable and hands it to Run's loop. It refuses while
// another run of the machine is under way.
func (p *Provisioner) start(ctx context.Context, s *site.Site, d Run) (Run, error) {
	if err := p.wait(ctx); err != nil {
		return Run{}, err
	}
	ctx = context.WithoutCancel(ctx) // no run is left half-started by who asked for it
	now := p.now()
	d.ID = now.UTC().Format("20060102-150405") + "-" + randomHex(3)
	d.Token = randomHex(32)
	d.Started, d.Since, d.Heard = now, now, now
	d.Phase, d.Attempts = state.PoweringOn, 1
	if d.Deploy != nil && d.Deploy.MirrorSerial != "" {
		d.Watched = &Watched{Token: randomHex(32), Disks: []string{d.Deploy.DiskSerial, d.Deploy.MirrorSerial}}
	}
	if err := p.seedRun(s, &d); err != nil {
		return Run{}, err
	}
	r := newRun(d)
	r.turn.Lock()
	defer r.turn.Unlock()

	if old, ok := p.latest(d.Machine); ok {
		// Who has seen the old run's end on the timeline may start the next at
		// once: let that change be shown.
		old.settle()
	}
	p.mu.Lock()
	old := p.runs[d.Machine]
	if old != nil {
		was := old.doc()
		if !was.Ended() {
			p.mu.Unlock()
			return Run{}, fmt.Errorf("%s: %w (%s, phase %s): wait for it, or stop it with fettle machine abort %s", d.Machine, ErrBusy, was.ID, was.Phase, d.Machine)
		}
		if d.Action == ActionInspect && was.hasSystem() {
			d.Installed, d.SSHKeys, d.Watched = true, was.SSHKeys, was.Watched
			r.d = d
		}
		r.before = old.idle
	}
	p.runs[d.Machine] = r
	p.tokens[d.Token] = r
	p.mu.Unlock()

	if err := p.announce(ctx, d, d.Actor, fmt.Sprintf("%s asked to %s this machine", d.Actor, d.Action), "fettle", "telling the BMC to boot from the network"); err != nil {
		return Run{}, p.unstart(ctx, r, old, err)
	}
	select {
	case p.starts <- r:
	case <-p.stopped: // it is durable: the next server goes on with it
	}
	return d, nil
}

// announce makes a new run durable and puts it on the timeline.
func (p *Provisioner) announce(ctx context.Context, d Run, actor, text, phaseActor, phaseText string) error {
	first, err := p.newEvent(d, state.KindRun, actor, text, state.RunData{Action: string(d.Action), Revision: d.Revision, Image: d.Image, Digest: d.Digest})
	if err != nil {
		return err
	}
	second, err := p.newEvent(d, state.KindPhase, phaseActor, phaseText, state.PhaseData{Phase: d.Phase})
	if err != nil {
		return err
	}
	if err := p.save(ctx, d); err != nil {
		return err
	}
	if _, err := p.c.Store.Append(ctx, first, second); err != nil {
		return fmt.Errorf("writing events of %s: %w", d.Machine, err)
	}
	return nil
}

// unstart takes a run back that could not be made durable.
func (p *Provisioner) unstart(ctx context.Context, r, old *run, cause error) error {
	d := r.doc()
	dead := d
	dead.Phase, dead.Reason = state.Failed, "it could not be started"
	r.publish(dead)
	close(r.idle)
	p.mu.Lock()
	delete(p.tokens, d.Token)
	delete(p.runs, d.Machine)
	if old != nil {
		p.runs[d.Machine] = old
	}
	p.mu.Unlock()
	var err error
	if old != nil {
		err = p.save(ctx, old.doc())
	} else {
		err = p.c.Store.Delete(ctx, runKey(d.Machine))
	}
	return fmt.Errorf("starting a run of %s: %w", d.Machine, errors.Join(cause, err))
}
