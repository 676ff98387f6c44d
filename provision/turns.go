package provision

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// Turns lets one at a time at each machine's BMC: a run of the server's, or a
// person's command. BMCs have few sessions and one opinion about the next boot:
// two who pull at one get each other's results. Make one with NewTurns. Its
// methods may be called concurrently.
//
// It knows this process alone: two servers on one etcd do not see each other's
// turns.
type Turns struct {
	now func() time.Time

	mu   sync.Mutex
	held map[string]*turn // by machine
}

type turn struct {
	hold  state.BMCHold
	ended chan struct{}
}

// NewTurns makes Turns that nobody holds. now may be nil.
func NewTurns(now func() time.Time) *Turns {
	if now == nil {
		now = time.Now
	}
	return &Turns{now: now, held: map[string]*turn{}}
}

// HeldError says that a BMC was held by somebody else for longer than the wait.
type HeldError struct {
	Hold   state.BMCHold
	Waited time.Duration
	now    time.Time
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s: its BMC is held by %s, and was not free within %s: try again when that is done",
		e.Hold.Machine, e.Hold.Says(e.now), e.Waited)
}

// Take takes a machine's BMC, and waits for whoever has it, at most for wait;
// waiting, which may be nil, is told once who that is. The release may be
// called twice.
func (t *Turns) Take(ctx context.Context, machine, holder, doing string, wait time.Duration, waiting func(state.BMCHold)) (release func(), err error) {
	var limit <-chan time.Time
	for {
		t.mu.Lock()
		cur := t.held[machine]
		if cur == nil {
			mine := &turn{state.BMCHold{Machine: machine, Holder: holder, Doing: doing, Since: t.now()}, make(chan struct{})}
			t.held[machine] = mine
			t.mu.Unlock()
			return sync.OnceFunc(func() {
				t.mu.Lock()
				delete(t.held, machine)
				t.mu.Unlock()
				close(mine.ended)
			}), nil
		}
		t.mu.Unlock()
		if limit == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			limit = timer.C
			if waiting != nil {
				waiting(cur.hold)
			}
		}
		select {
		case <-cur.ended:
		case <-limit:
			return nil, &HeldError{cur.hold, wait, t.now()}
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: waiting for its BMC, which %s has: %w", machine, cur.hold.Holder, context.Cause(ctx))
		}
	}
}

// Held lists who has which BMC, by machine.
func (t *Turns) Held() []state.BMCHold {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []state.BMCHold{}
	for _, x := range t.held {
		out = append(out, x.hold)
	}
	slices.SortFunc(out, func(a, b state.BMCHold) int { return strings.Compare(a.Machine, b.Machine) })
	return out
}
