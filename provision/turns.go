package provision

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// Turns lets one change something at a time at each BMC, and one read: a run of
// the server's, or a person's command. Nodes of one chassis may share a BMC. BMCs have few sessions and one
// opinion about the next boot: two who pull at one get each other's results. A
// long reading keeps nobody from the power button: what changes something goes
// beside it. No reading begins beside a change. Make one with NewTurns. Its
// methods may be called concurrently.
//
// It knows this process alone: two servers on one etcd do not see each other's
// turns.
type Turns struct {
	now func() time.Time
	of  func(machine string) string // its BMC's name here

	mu sync.Mutex
	at map[string]*station // by BMC; only those that somebody has or wants
}

// Turn is what somebody wants a BMC for.
type Turn int

// Turns, from the one that bears the most company.
const (
	ToRead   Turn = iota // beside nobody who came before; a change may come
	ToChange             // beside who reads
	Alone                // what ends sessions, or changes what a reading reads: new firmware, a password
)

// station is one BMC: who has it, and who waits.
type station struct {
	reads, changes *turn
	waiting        []*turn // in the order in which they came
}

type turn struct {
	at      string // the BMC
	hold    state.BMCHold
	kind    Turn
	granted chan struct{}
}

// NewTurns makes Turns that nobody holds. of tells BMCs apart (see BMCOf); nil:
// each machine has its own. now may be nil.
func NewTurns(now func() time.Time, of func(machine string) string) *Turns {
	if now == nil {
		now = time.Now
	}
	if of == nil {
		of = func(machine string) string { return machine }
	}
	return &Turns{now: now, of: of, at: map[string]*station{}}
}

// HeldError says that a BMC was held by somebody else for longer than the wait.
type HeldError struct {
	Machine string
	Hold    state.BMCHold
	Waited  time.Duration
	now     time.Time
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s: its BMC is held by %s, and was not free within %s: try again when that is done",
		e.Machine, heldBy(e.Machine, e.Hold, e.now), e.Waited)
}

// heldBy says who has a machine's BMC, and that it is for another node's sake.
func heldBy(machine string, h state.BMCHold, now time.Time) string {
	if h.Machine == machine {
		return h.Says(now)
	}
	return h.Says(now) + " for " + h.Machine + ", which has the same BMC"
}

// Take takes a machine's BMC, and waits for whoever has it, at most for wait;
// waiting, which may be nil, is told once who that is. Who changes something
// goes before who reads; otherwise who came first is first. The release may be
// called twice.
func (t *Turns) Take(ctx context.Context, kind Turn, machine, holder, doing string, wait time.Duration, waiting func(state.BMCHold)) (release func(), err error) {
	mine := &turn{t.of(machine), state.BMCHold{Machine: machine, Holder: holder, Doing: doing}, kind, make(chan struct{})}
	release = sync.OnceFunc(func() { t.leave(mine) })
	t.mu.Lock()
	st := t.at[mine.at]
	if st == nil {
		st = &station{}
		t.at[mine.at] = st
	}
	st.waiting = append(st.waiting, mine)
	t.grant(mine.at, st)
	select {
	case <-mine.granted:
		t.mu.Unlock()
		return release, nil
	default:
	}
	before := st.before(mine)
	t.mu.Unlock()
	if waiting != nil {
		waiting(before)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-mine.granted:
		return release, nil
	case <-timer.C:
	case <-ctx.Done():
		err = fmt.Errorf("%s: waiting for its BMC, which %s has: %w", machine, before.Holder, context.Cause(ctx))
	}
	t.mu.Lock()
	before = st.before(mine)
	t.mu.Unlock()
	select {
	case <-mine.granted: // meanwhile
		if err == nil {
			return release, nil
		}
	default:
	}
	release()
	if err == nil {
		err = &HeldError{machine, before, wait, t.now()}
	}
	return nil, err
}

// before is who keeps w from its turn: of those who have the BMC, else who waits
// in front.
func (st *station) before(w *turn) state.BMCHold {
	switch {
	case st.changes != nil:
		return st.changes.hold
	case st.reads != nil && w.kind != ToChange:
		return st.reads.hold
	}
	for _, o := range st.waiting {
		if o != w && (o.kind != ToRead || w.kind == ToRead) {
			return o.hold
		}
	}
	return w.hold // nobody any more
}

// leave gives a turn back, or stops waiting for it.
func (t *Turns) leave(x *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := t.at[x.at]
	switch x {
	case st.reads:
		st.reads = nil
	case st.changes:
		st.changes = nil
	default:
		st.waiting = slices.DeleteFunc(st.waiting, func(o *turn) bool { return o == x })
	}
	t.grant(x.at, st)
}

// grant gives turns to those who wait and may have them: the first who changes
// something, and, if there is none, the first who reads.
func (t *Turns) grant(at string, st *station) {
	give := func(i int, to **turn) {
		x := st.waiting[i]
		st.waiting = slices.Delete(st.waiting, i, i+1)
		x.hold.Since = t.now()
		*to = x
		close(x.granted)
	}
	if i := slices.IndexFunc(st.waiting, func(x *turn) bool { return x.kind != ToRead }); i >= 0 {
		if st.changes == nil && (st.reads == nil || st.waiting[i].kind == ToChange) {
			give(i, &st.changes)
		}
	} else if len(st.waiting) > 0 && st.changes == nil && st.reads == nil {
		give(0, &st.reads)
	}
	if st.reads == nil && st.changes == nil && len(st.waiting) == 0 {
		delete(t.at, at)
	}
}

// Held lists who has which BMC, by machine.
func (t *Turns) Held() []state.BMCHold {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []state.BMCHold{}
	for _, st := range t.at {
		for _, x := range []*turn{st.reads, st.changes} {
			if x != nil {
				out = append(out, x.hold)
			}
		}
	}
	slices.SortFunc(out, func(a, b state.BMCHold) int {
		return cmp.Or(strings.Compare(a.Machine, b.Machine), a.Since.Compare(b.Since))
	})
	return out
}
