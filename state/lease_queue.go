package state

import (
	"context"
	"math"
	"runtime"
	"slices"
	"time"
)

// submit hands a request over and waits until it is on disk.
func (c *leaseCommitter) submit(ctx context.Context, l Lease, do leaseDo) error {
	r := c.request(l, do, nil)
	if r.done == nil {
		r.done = make(chan error, 1)
	}
	s := c.s
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !c.queue(r, math.MaxInt) {
		return context.Cause(s.ctx)
	}
	select {
	case err := <-r.done:
		c.pool.Put(r)
		return err
	case <-ctx.Done():
		c.forget(r)
		return ctx.Err() // it may be written or not
	case <-s.ctx.Done():
		select {
		case err := <-r.done: // it was in time
			return err
		default:
			return context.Cause(s.ctx)
		}
	}
}

// soon is submit that does not wait; false: nothing was done.
func (c *leaseCommitter) soon(l Lease, w Waiter) bool {
	r := c.request(l, leasePut, w)
	if c.queue(r, leasesSoon) {
		return true
	}
	r.waiter = nil
	c.pool.Put(r)
	return false
}

func (c *leaseCommitter) request(l Lease, do leaseDo, w Waiter) *leaseRequest {
	r, _ := c.pool.Get().(*leaseRequest)
	if r == nil {
		r = &leaseRequest{}
	}
	r.lease, r.do, r.waiter = l, do, w
	return r
}

// queue lets a request wait for the next batch, unless so many wait already or
// there will be none.
func (c *leaseCommitter) queue(r *leaseRequest, most int) bool {
	c.mu.Lock()
	n := len(c.waiting)
	ok := !c.ended && n < most
	if ok {
		c.waiting = append(c.waiting, r)
	}
	c.mu.Unlock()
	if ok && (n == 0 || n+1 == leaseEnough) {
		c.look()
	}
	return ok
}

func (c *leaseCommitter) look() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// forget takes a request that nobody waits for any more out of those that wait,
// or they would be without end while the disk stands still.
func (c *leaseCommitter) forget(r *leaseRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.waiting, r); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
}

// answer tells who waits for a request.
func (c *leaseCommitter) answer(r *leaseRequest, err error) {
	w := r.waiter
	if w == nil {
		r.done <- err
		return
	}
	if err != nil {
		err = c.s.leaseErr(c.s.ctx, err, "leasing", r.lease)
	}
	r.waiter = nil
	c.pool.Put(r)
	w.Written(err)
}

// run ends with s.ctx.
func (c *leaseCommitter) run() {
	defer c.end()
	tick := time.NewTicker(clockCheck)
	defer tick.Stop()
	c.gap = time.NewTimer(leaseGap)
	defer c.gap.Stop()
	batch := make([]*leaseRequest, 0, maxLeaseBatch)
	for {
		select {
		case <-c.wake:
			if batch = c.gather(batch[:0]); len(batch) > 0 {
				c.write(batch)
			}
		case <-tick.C:
			c.write(nil)
		case <-c.s.ctx.Done():
			return
		}
	}
}

// end answers those who came too late.
func (c *leaseCommitter) end() {
	c.mu.Lock()
	late := c.waiting
	c.waiting, c.ended = nil, true
	c.mu.Unlock()
	for _, r := range late {
		c.answer(r, context.Cause(c.s.ctx))
	}
}

// gather takes those who wait. A lone request is written at once; in a burst,
// batches begin leaseGap apart: a disk that syncs quickly would have them of one
// or two, and what etcd does for each is most of the work.
func (c *leaseCommitter) gather(batch []*leaseRequest) []*leaseRequest {
	if wait := leaseGap - time.Since(c.began); wait > 0 {
		c.gap.Reset(wait)
	gather:
		for c.count() < leaseEnough {
			select {
			case <-c.wake:
			case <-c.gap.C:
				break gather
			case <-c.s.ctx.Done():
				break gather
			}
		}
		c.gap.Stop()
	} else {
		// On one processor those who would ask next have not run yet.
		runtime.Gosched()
	}
	c.began = time.Now() // of waiting, whatever clock the leases go by
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), maxLeaseBatch)
	batch = append(batch, c.waiting[:n]...)
	left := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[left:])
	if c.waiting = c.waiting[:left]; left > 0 {
		c.look()
	}
	return batch
}

func (c *leaseCommitter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}
