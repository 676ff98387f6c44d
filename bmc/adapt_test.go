package bmc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// simulated is a rack on a fake clock: n BMCs, of which some are dead, behind a
// machine or a network that carries only so many at once.
type simulated struct {
	model
	mu         sync.Mutex
	now, most  int
	overruns   int
	lastAnswer time.Duration // since the start
	begin      time.Time
}

type model struct {
	each     time.Duration // of one BMC alone
	carries  int           // at once without slowing each other; 0 = any number
	slowing  float64       // how they do beyond: time × (at once / carries) to this power
	dead     int           // every n-th; 0 = none
	deadTime time.Duration
	files    int // more at once fail with EMFILE; 0 = any number
}

var errDead = errors.New("dead")

func (s *simulated) do(i int) error {
	s.mu.Lock()
	if s.dead > 0 && i%s.dead == 0 {
		s.mu.Unlock()
		time.Sleep(s.deadTime)
		return errDead
	}
	if s.files > 0 && s.now >= s.files {
		s.overruns++
		s.mu.Unlock()
		return fmt.Errorf("opening a socket: %w", syscall.EMFILE)
	}
	s.now++
	s.most = max(s.most, s.now)
	took := s.each + time.Duration(i%7)*s.each/20 // BMCs differ
	if s.carries > 0 && s.now > s.carries {
		took = time.Duration(float64(took) * math.Pow(float64(s.now)/float64(s.carries), s.slowing))
	}
	s.mu.Unlock()
	time.Sleep(took) // on the bubble's clock
	s.mu.Lock()
	s.now--
	s.lastAnswer = time.Since(s.begin)
	s.mu.Unlock()
	return nil
}

// fixed is what Each did before: so many at once, whatever happens.
func (s *simulated) fixed(n, parallel int) time.Duration {
	s.begin = time.Now()
	next := make(chan int)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := range next {
				_ = s.do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return time.Since(s.begin)
}

func (s *simulated) adapts(n, most int) (took time.Duration, a *adaptive, peak int) {
	s.begin = time.Now()
	a = newAdaptive(most)
	told := map[int]int{}
	peak = a.run(context.Background(), n, s.do, func(i int) { told[i]++ })
	for i := range n {
		if told[i] != 1 {
			panic(fmt.Sprintf("%d was told %d times", i, told[i]))
		}
	}
	return time.Since(s.begin), a, peak
}

// TestAdapt: 1,000 BMCs, against every fixed number that is near.
func TestAdapt(t *testing.T) {
	const n, most = 1000, 128
	for _, tc := range []struct {
		name string
		rack model
		// worse is how much longer than the best fixed number it may take, and
		// times how many times quicker than 128 at once it must be.
		worse, times float64
	}{
		{"nothing slows", model{each: 100 * time.Millisecond}, 2, 0},
		{"far away", model{each: 3 * time.Second}, 2, 0},
		{"two cores", model{each: time.Millisecond, carries: 2, slowing: 1}, 1.15, 0},
		{"more parallel is slower", model{each: time.Millisecond, carries: 8, slowing: 1.5}, 1.5, 2.5},
		{"much slower", model{each: 10 * time.Millisecond, carries: 16, slowing: 2}, 1.75, 4}, // it goes too far once
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				best, at := time.Duration(math.MaxInt64), 0
				var all time.Duration
				for _, p := range []int{1, 2, 4, 8, 16, 32, 64, most} {
					s := simulated{model: tc.rack}
					took := s.fixed(n, p)
					if took < best {
						best, at = took, p
					}
					all = took
				}
				s := simulated{model: tc.rack}
				took, a, peak := s.adapts(n, most)
				t.Logf("%s at first %d, at the end %d, at most %d; fixed: best %s with %d, %s with %d", took, beginWith, a.at(), peak, best, at, all, most)
				if float64(took) > float64(best)*tc.worse {
					t.Errorf("took %s; want at most %.2f of %s, the best of a fixed number (%d)", took, tc.worse, best, at)
				}
				if float64(took)*tc.times > float64(all) {
					t.Errorf("took %s; want it %.1f times as quick as %s, with %d at once", took, tc.times, all, most)
				}
				if peak > most {
					t.Errorf("%d at once; want at most %d", peak, most)
				}
			})
		})
	}
}

// TestAdaptDead: every fifth BMC of a rack is dead, and the others are as quick
// as without them.
func TestAdaptDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulated{model: model{each: 50 * time.Millisecond, dead: 5, deadTime: 30 * time.Second}}
		took, _, _ := s.adapts(500, 256)
		if took > 31*time.Second || s.lastAnswer > 10*time.Second {
			t.Errorf("all in %s, the last that answers after %s; want 31s and 10s", took, s.lastAnswer)
		}
		fixed := simulated{model: model{each: 50 * time.Millisecond, dead: 5, deadTime: 30 * time.Second}}
		was := fixed.fixed(500, 32)
		t.Logf("adapting: all in %s, the last that answers after %s; 32 at once: all in %s, after %s", took, s.lastAnswer, was, fixed.lastAnswer)
	})
}

// TestAdaptOverrun: what this machine could not do is done again, with fewer.
func TestAdaptOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulated{model: model{each: 100 * time.Millisecond, files: 20}}
		failed := 0
		a := newAdaptive(128)
		a.run(t.Context(), 400, func(i int) error {
			err := s.do(i)
			if err != nil && !errors.Is(err, syscall.EMFILE) {
				failed++
			}
			return err
		}, func(int) {})
		if failed > 0 || s.overruns == 0 || s.most > 20 {
			t.Errorf("%d failed, %d overruns, at most %d; want none, some, 20", failed, s.overruns, s.most)
		}
		// It ends where a machine never can.
		never := simulated{model: model{each: time.Millisecond, files: 1}, now: 1}
		told := 0
		if newAdaptive(8).run(t.Context(), 3, never.do, func(int) { told++ }); told != 3 || never.overruns != 3*(retries+1) {
			t.Errorf("told %d, tried %d times; want 3 and %d", told, never.overruns, 3*(retries+1))
		}
	})
}
