package bmc

import (
	"context"
	"sync"
)

// EachOptions bounds Each.
type EachOptions struct {
	// Parallel is how many BMCs are spoken to at once; default 32.
	Parallel int
	// Done is told of each machine as it ends, one at a time; may be nil.
	Done func(name string, err error)
	// Begin is asked before a BMC is opened, and what it returns is called once
	// it is closed; an error is the machine's. May be nil.
	Begin func(ctx context.Context, t Target) (end func(), err error)
}

// Result is what came of one machine.
type Result[T any] struct {
	Target Target
	Value  T
	Err    error
}

// defaultParallel: seen on two busy cores, more is slower (issue 4).
const defaultParallel = 32

// Each opens every target, calls f, and closes, at most Parallel at once. The
// results are in the order of targets. A dead BMC costs its own Timeout and
// holds up nobody. When ctx ends, the targets that were not begun have its
// error. Each returns when every session that it opened was closed.
func Each[T any](ctx context.Context, targets []Target, o EachOptions, f func(ctx context.Context, c *Client) (T, error)) []Result[T] {
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	out := make([]Result[T], len(targets))
	next := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range min(o.Parallel, len(targets)) {
		wg.Go(func() {
			for i := range next {
				out[i] = one(ctx, targets[i], o, f)
				if o.Done != nil {
					mu.Lock()
					o.Done(targets[i].Name, out[i].Err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range targets {
		next <- i
	}
	close(next)
	wg.Wait()
	return out
}

func one[T any](ctx context.Context, t Target, o EachOptions, f func(context.Context, *Client) (T, error)) (r Result[T]) {
	r.Target = t
	if err := ctx.Err(); err != nil {
		r.Err = t.fail("not begun", err)
		return r
	}
	if o.Begin != nil {
		end, err := o.Begin(ctx, t)
		if err != nil {
			r.Err = err
			return r
		}
		defer end()
	}
	c, err := Open(ctx, t)
	if err != nil {
		r.Err = err
		return r
	}
	defer func() {
		if err := c.Close(ctx); err != nil && r.Err == nil {
			r.Err = err
		}
	}()
	r.Value, r.Err = f(ctx, c)
	return r
}
