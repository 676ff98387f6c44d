package bmc

import (
	"context"
	"errors"
	"net/netip"
)

// EachOptions bounds Each.
type EachOptions struct {
	// Parallel is how many BMCs are spoken to at once at most; default 128.
	Parallel int
	// Done is told of each machine as it ends, one at a time; may be nil.
	Done func(name string, err error)
	// Begin is asked before a BMC is opened, and what it returns is called once
	// it is closed; an error is the machine's. May be nil.
	Begin func(ctx context.Context, t Target) (end func(), err error)
	// Again says that f only reads: what this machine could not do half way
	// (it had no file descriptor left) is done again from its beginning. What
	// changes something is done again only where the BMC was not opened.
	Again bool
}

// Result is what came of one machine.
type Result[T any] struct {
	Target Target
	Value  T
	Err    error
}

// defaultParallel bounds what adapts.
const defaultParallel = 128

// Each opens every target, calls f, and closes: as many at once as bring more
// done, and at most Parallel (see adapt.go). The results are in the order of
// targets. A dead BMC costs its own Timeout and holds up nobody. When ctx ends,
// the targets that were not begun have its error. Each returns when every session
// that it opened was closed. Nodes that share a BMC are done after each other.
func Each[T any](ctx context.Context, targets []Target, o EachOptions, f func(ctx context.Context, c *Client) (T, error)) []Result[T] {
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	out := make([]Result[T], len(targets))
	a := newAdaptive(o.Parallel)
	a.after = sharing(targets)
	a.run(ctx, len(targets), func(i int) error {
		var final bool
		if out[i], final = one(ctx, targets[i], o, f); final && out[i].Err != nil {
			return errFinal
		}
		return out[i].Err
	}, func(i int) {
		if o.Done != nil {
			o.Done(targets[i].Name, out[i].Err)
		}
	})
	return out
}

// sharing says of each target which one comes after it, because both are nodes of
// one BMC.
func sharing(targets []Target) map[int]int {
	last, after := map[netip.AddrPort]int{}, map[int]int{}
	for i, t := range targets {
		if t.System == "" {
			continue
		}
		if before, ok := last[t.Address]; ok {
			after[before] = i
		}
		last[t.Address] = i
	}
	return after
}

// errFinal is an error after which nothing is done again.
var errFinal = errors.New("not to be done again")

// one does one target. What is final is not to be done again, even where it was
// this machine that failed.
func one[T any](ctx context.Context, t Target, o EachOptions, f func(context.Context, *Client) (T, error)) (r Result[T], final bool) {
	r.Target = t
	if err := ctx.Err(); err != nil {
		r.Err = t.fail("not begun", err)
		return r, false
	}
	if o.Begin != nil {
		end, err := o.Begin(ctx, t)
		if err != nil {
			r.Err = err
			return r, false
		}
		defer end()
	}
	c, err := Open(ctx, t)
	if err != nil {
		r.Err = err
		return r, false
	}
	defer func() {
		if err := c.Close(ctx); err != nil && r.Err == nil {
			r.Err, final = err, true // it was done
		}
	}()
	r.Value, r.Err = f(ctx, c)
	return r, !o.Again
}
