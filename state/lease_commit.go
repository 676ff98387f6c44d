package state

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// maxLeaseBatch is how many leases one transaction takes. The embedded
	// member is ours: its limit of operations is far above this.
	maxLeaseBatch = 512
	// leasesSoon is how many requests may wait that nobody waits for.
	leasesSoon = 1024
	// leaseGap is the least time between two batches, and leaseEnough how many
	// requests do not wait for it.
	leaseGap    = time.Millisecond
	leaseEnough = 48
	// clockCheck is how often an idle store looks for a clock that was set.
	clockCheck = 10 * time.Second
)

// leaseRequest is a lease to be put, or an address to be freed.
type leaseRequest struct {
	lease  Lease
	do     leaseDo
	done   chan error // buffered
	waiter Waiter     // instead of done
}

// leaseDo is what a request asks for.
type leaseDo int

const (
	leasePut     leaseDo = iota
	leaseDrop            // free the address, whoever has it
	leaseRelease         // free the address if the MAC has it
)

// Waiter is told what became of a lease. Written must return at once.
type Waiter interface {
	Written(err error)
}

// leaseCommitter is the one writer of leases of an embedded store. Requests
// that wait while a batch is synced to disk go together into the next.
type leaseCommitter struct {
	s        *Store
	loaded   bool  // the book is what is on disk
	revision int64 // ModRevision of keyLeaseSeq
	seq      int64
	old      bool // leases are on disk that have a key each
	clock    leaseClock
	began    time.Time // the last batch
	gap      *time.Timer
	room     leaseChange
	errs     []error
	pool     sync.Pool

	mu      sync.Mutex
	waiting []*leaseRequest
	ended   bool
	wake    chan struct{} // one waits, or enough do
}

func newLeaseCommitter(s *Store) *leaseCommitter {
	return &leaseCommitter{s: s, wake: make(chan struct{}, 1)}
}

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

// write decides on a batch, writes it and answers its requests. An empty one
// only looks at the clock.
func (c *leaseCommitter) write(batch []*leaseRequest) {
	ctx, cancel := c.s.bound(c.s.ctx)
	defer cancel()
	c.errs = append(c.errs[:0], make([]error, len(batch))...)
	errs := c.errs
	if err := c.commit(ctx, batch, errs); err != nil {
		c.loaded = false // unknown whether it was written
		if len(batch) == 0 && c.s.ctx.Err() == nil && !errors.Is(err, ErrUnavailable) {
			c.s.log.Warn("leases after a change of the clock are not written yet", "err", err)
		}
		for i := range errs {
			errs[i] = err
		}
	}
	for i, r := range batch {
		c.answer(r, errs[i])
	}
	clear(batch)
}

// commit fills errs with the refusals; an error of its own is of the whole
// batch. It goes on while a write that was given up earlier gets in between;
// ctx bounds it.
func (c *leaseCommitter) commit(ctx context.Context, batch []*leaseRequest, errs []error) error {
	for {
		if !c.loaded {
			if err := c.load(ctx); err != nil {
				return err
			}
		}
		now, elapsed := c.s.now(), c.s.elapsed()
		change := c.s.book.change(&c.room)
		clockSet := c.clock.jumped(now, elapsed)
		if clockSet {
			c.clock.shift(change, now, elapsed)
		}
		if c.old {
			change.rewrite()
		}
		for i, r := range batch {
			errs[i] = nil
			if r.do != leasePut {
				change.drop(r.lease, r.do == leaseRelease)
				continue
			}
			errs[i] = change.put(hold(r.lease, now, elapsed), elapsed)
		}
		if len(change.pages) == 0 && !clockSet && !c.old {
			return nil
		}
		if full := c.s.space(); full != nil {
			for i := range errs {
				errs[i] = cmp.Or(errs[i], full)
			}
			return nil
		}
		ok, err := c.store(ctx, change, clockSet, now, elapsed)
		if err != nil {
			return err
		}
		if ok {
			change.apply()
			return nil
		}
		c.loaded = false
	}
}

// store writes a change if nothing was written since the book was loaded.
func (c *leaseCommitter) store(ctx context.Context, change *leaseChange, clockSet bool, now time.Time, elapsed time.Duration) (bool, error) {
	ops := append(make([]clientv3.Op, 0, 16), clientv3.OpPut(keyLeaseSeq, strconv.FormatInt(c.seq+1, 10)))
	if clockSet {
		c.clock.set(now, elapsed)
		b, err := json.Marshal(c.clock)
		if err != nil {
			return false, err
		}
		ops = append(ops, clientv3.OpPut(keyLeaseClock, string(b)))
	}
	if c.old {
		ops = append(ops, clientv3.OpDelete(prefixLeases, clientv3.WithPrefix()))
	}
	var room []byte
	for k, p := range change.pages {
		key := k.net.prefix + k.first.String()
		if p.empty() {
			ops = append(ops, clientv3.OpDelete(key))
			continue
		}
		room = p.encode(k.first, room[:0])
		ops = append(ops, clientv3.OpPut(key, string(room)))
	}
	resp, err := c.s.txn(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(keyLeaseSeq), "=", c.revision)}, ops...)
	if err != nil {
		return false, err
	}
	if resp.Succeeded {
		c.seq, c.revision, c.old = c.seq+1, resp.Header.Revision, false
	}
	return resp.Succeeded, nil
}

// load reads every lease, and what the clock was when they were written.
func (c *leaseCommitter) load(ctx context.Context) error {
	resp, err := c.s.txn(ctx, nil, clientv3.OpGet(keyLeaseSeq), clientv3.OpGet(keyLeaseClock),
		clientv3.OpGet(prefixLeases, clientv3.WithPrefix()), clientv3.OpGet(prefixLeasePages, clientv3.WithPrefix()))
	if err != nil {
		return err
	}
	c.seq, c.revision = 0, 0
	if kv := one(resp.Responses[0].GetResponseRange().Kvs); kv != nil {
		c.revision = kv.ModRevision
		if _, err := fmt.Sscan(string(kv.Value), &c.seq); err != nil {
			return fmt.Errorf("%s holds no number at %s: %w", c.s.where, keyLeaseSeq, err)
		}
	}
	now, elapsed := c.s.now(), c.s.elapsed()
	c.clock = newLeaseClock(c.s.boot, now, elapsed)
	if kv := one(resp.Responses[1].GetResponseRange().Kvs); kv != nil {
		var was leaseClock
		if err := json.Unmarshal(kv.Value, &was); err != nil {
			return fmt.Errorf("%s is unreadable: %w", keyLeaseClock, err)
		}
		c.clock = was.since(c.clock)
	} else {
		c.clock.unsaved = true
	}
	single, pages := resp.Responses[2].GetResponseRange().Kvs, resp.Responses[3].GetResponseRange().Kvs
	all, err := readLeases(single, pages)
	if err != nil {
		return err
	}
	leases := make([]held, len(all))
	for i, l := range all {
		leases[i] = c.clock.held(l, now, elapsed)
	}
	c.old = len(single) > 0
	c.s.book.replace(leases)
	c.loaded = true
	return nil
}

// readLeases decodes pages of leases, and after them those that have a key each,
// as a cluster and older directories have them. Who writes pages removes such
// keys: beside pages they are the newer ones.
func readLeases(single, pages []*mvccpb.KeyValue) ([]Lease, error) {
	out := make([]Lease, 0, len(single)+len(pages)*pageSize)
	for _, kv := range pages {
		on, err := decodePage(string(kv.Key), kv.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, on...)
	}
	for _, kv := range single {
		var l Lease
		if err := json.Unmarshal(kv.Value, &l); err != nil {
			return nil, fmt.Errorf("%s is unreadable: %w", kv.Key, err)
		}
		out = append(out, l)
	}
	return out, nil
}

// hold is a new lease as the book keeps it.
func hold(l Lease, now time.Time, elapsed time.Duration) held {
	// Right even if the clock was set since, in a process with a monotonic one.
	left, length := l.Expires.Sub(now), l.Expires.Sub(l.Granted)
	l.Granted, l.Expires = l.Granted.UTC().Round(0), l.Expires.UTC().Round(0)
	if at := now.UTC().Round(0).Add(left); at.Sub(l.Expires).Abs() > clockSlack {
		l.Expires, l.Granted = at, at.Add(-length) // a lease lasts no longer than between the two (leaseClock.held)
	}
	return held{l, elapsed + left}
}

// leaseOut is a lease as callers see it: it ends by the clock as it is now.
func (s *Store) leaseOut(h held) Lease {
	at := s.now().UTC().Round(0).Add(h.until - s.elapsed())
	if at.Sub(h.Expires).Abs() > clockSlack {
		h.Expires = at
	}
	return h.Lease
}

func validLease(l Lease) error {
	switch {
	case l.Network == "":
		return fmt.Errorf("the lease names no network")
	case !l.Addr.IsValid():
		return fmt.Errorf("the lease has no address")
	case l.Expires.IsZero():
		return fmt.Errorf("the lease never expires; give it a time, however far")
	}
	return nil
}
