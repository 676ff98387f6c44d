package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// Retry says how long to wait between attempts and when to give up.
type Retry struct {
	Min, Max time.Duration // wait after the first and after many failures
	GiveUp   time.Duration // give up after so long without progress; 0 = never
}

// Delay is the wait after the nth failure in a row (n ≥ 1): doubling, with a
// jitter of half of it, so that a rack of machines does not knock in step.
func (r Retry) Delay(n int) time.Duration {
	d := r.Max
	if n < 30 {
		d = min(r.Max, r.Min<<(n-1))
	}
	if d <= 1 {
		return d
	}
	return d/2 + rand.N(d/2)
}

// sleep waits, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
