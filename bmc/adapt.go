package bmc

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"
)

// adaptive is how many BMCs are spoken to at once: as many as bring more done.
// It begins with few and doubles while they answer as fast as before; once they
// slow each other down (this machine's cores, the network between), it follows
// the ratio of the least time that was seen to the present one, as TCP Vegas and
// its heirs do. Times are medians of those that succeeded, so that one dead BMC
// says nothing about the others. It has one user, run.
type adaptive struct {
	most  int
	limit float64
	slow  bool // the first slowing was seen: no more doubling

	best   time.Duration   // the least median
	window []time.Duration // times since the last change
	full   bool            // the limit was reached since then

	after map[int]int // what is begun only when another has ended, by that; may be nil
}

const (
	beginWith = 4
	// tolerated is how much slower than at best is no reason to ask fewer.
	tolerated = 1.5
	// forget lets the best time age, by this much a window: BMCs differ, and
	// the first ones may have been the quickest.
	forget = 1.002
	// stalledAfter times the best time, and at least stalledMin, a BMC has
	// stalled: it does not count any more, so that it holds up nobody.
	stalledAfter = 10
	stalledMin   = time.Second
	stalledFirst = 5 * time.Second // before any time is known
	// retries are for what this machine could not do at that moment.
	retries    = 4
	retryPause = 50 * time.Millisecond
)

func newAdaptive(most int) *adaptive {
	return &adaptive{most: most, limit: float64(min(beginWith, most))}
}

// at is how many at once now.
func (a *adaptive) at() int { return max(1, min(int(a.limit), a.most)) }

// took takes in the time of one that succeeded.
func (a *adaptive) took(d time.Duration) {
	a.window = append(a.window, d)
	if len(a.window) < max(8, a.at()) {
		return
	}
	slices.Sort(a.window)
	median := max(a.window[len(a.window)/2], time.Microsecond)
	a.window = a.window[:0]
	full := a.full
	a.full = false
	if a.best == 0 || median < a.best {
		a.best = median
	} else {
		a.best = time.Duration(float64(a.best) * forget)
	}
	ratio := min(1, max(0.5, tolerated*float64(a.best)/float64(median)))
	more := math.Sqrt(a.limit) / 2
	switch {
	case ratio < 1 && !a.slow: // twice too many by now: back to before the last doubling
		a.slow = true
		a.limit = max(1, a.limit/2)
	case ratio < 1:
		a.set(a.limit*ratio + more)
	case !full:
	case !a.slow:
		a.limit = min(2*a.limit, float64(a.most))
	default:
		a.set(a.limit + 2*more)
	}
}

// set goes half of the way.
func (a *adaptive) set(to float64) { a.limit = max(1, min((a.limit+to)/2, float64(a.most))) }

// overrun says that this machine has had too much: halve.
func (a *adaptive) overrun() {
	a.slow = true
	a.limit = max(1, a.limit/2)
	a.window = a.window[:0]
}

// stalls is how long one may take before it does not count any more.
func (a *adaptive) stalls() time.Duration {
	if a.best == 0 {
		return stalledFirst
	}
	return max(stalledMin, stalledAfter*a.best)
}

// ours are errors that say nothing of the BMC: this machine ran out of
// something.
func ours(err error) bool {
	return slices.ContainsFunc([]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN},
		func(e error) bool { return errors.Is(err, e) })
}

// run calls do for 0 to n-1, at most most at once and as many as a allows, and
// done as each has ended, one at a time. It returns when all have. What failed
// because of this machine is done again, with fewer at once and after a pause
// that differs. peak is how many there were.
func (a *adaptive) run(ctx context.Context, n int, do func(i int) error, done func(i int)) (peak int) {
	type end struct {
		i    int
		err  error
		took time.Duration
	}
	var (
		ended   = make(chan end, n)
		begun   = map[int]time.Time{} // those that count
		stalled = map[int]bool{}
		tries   = map[int]int{}
		todo    = make([]int, 0, n)
	)
	later := map[int]bool{}
	for _, i := range a.after {
		later[i] = true
	}
	for i := range n {
		if !later[i] {
			todo = append(todo, i)
		}
	}
	start := func(i int) {
		begun[i] = time.Now()
		peak = max(peak, len(begun)+len(stalled))
		pause := time.Duration(0)
		if t := tries[i]; t > 0 {
			pause = time.Duration(float64(retryPause<<t) * (0.5 + rand.Float64()))
		}
		go func() {
			if pause > 0 {
				sleep(ctx, pause)
			}
			began := time.Now()
			err := do(i)
			ended <- end{i, err, time.Since(began)}
		}()
	}
	for left := n; left > 0; {
		for len(todo) > 0 && len(begun) < a.at() && len(begun)+len(stalled) < a.most {
			start(todo[0])
			todo = todo[1:]
		}
		if len(begun) >= a.at() {
			a.full = true
		}
		var look <-chan time.Time
		var timer *time.Timer
		if len(todo) > 0 && len(begun) > 0 && len(begun)+len(stalled) < a.most {
			oldest := time.Now()
			for _, t := range begun {
				if t.Before(oldest) {
					oldest = t
				}
			}
			timer = time.NewTimer(max(0, time.Until(oldest.Add(a.stalls()))))
			look = timer.C
		}
		select {
		case e := <-ended:
			delete(begun, e.i)
			delete(stalled, e.i)
			switch {
			case e.err != nil && ours(e.err) && tries[e.i] < retries && ctx.Err() == nil:
				tries[e.i]++
				todo = append(todo, e.i)
				a.overrun()
			default:
				left--
				if e.err == nil {
					a.took(e.took)
				}
				done(e.i)
				if next, ok := a.after[e.i]; ok {
					todo = slices.Insert(todo, 0, next)
				}
			}
		case <-look:
			for i, t := range begun {
				if time.Since(t) >= a.stalls() {
					delete(begun, i)
					stalled[i] = true
				}
			}
		}
		if timer != nil {
			timer.Stop()
		}
	}
	return peak
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
