package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	// leaseStep is how many pages one transaction of a rewriting of all leases
	// takes: of 16 full leases each, well below what a request may be.
	leaseStep = 512
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

// write decides on a batch, writes it and answers its requests. An empty one
// only looks at the clock.
func (c *leaseCommitter) write(batch []*leaseRequest) {
	c.errs = append(c.errs[:0], make([]error, len(batch))...)
	errs := c.errs
	if err := c.commit(batch, errs); err != nil {
		full := errors.As(err, &errFull{})
		if !full {
			c.loaded = false // unknown whether it was written
		}
		if len(batch) == 0 && c.s.ctx.Err() == nil && !errors.Is(err, ErrUnavailable) {
			c.s.log.Warn("leases after a change of the clock are not written yet", "err", err)
		}
		for i := range errs {
			if !full || errs[i] == nil {
				errs[i] = err
			}
		}
	}
	for i, r := range batch {
		c.answer(r, errs[i])
	}
	clear(batch)
}

// errFull is of a disk with so little room that nothing was tried: the book is
// right still.
type errFull struct{ error }

func (e errFull) Unwrap() error { return e.error }

func (c *leaseCommitter) space() error {
	if err := c.s.space(); err != nil {
		return errFull{err}
	}
	return nil
}

// leaseTries bounds how often a batch is written anew because a write that was
// given up earlier got in between.
const leaseTries = 10

// commit fills errs with the refusals; an error of its own is of the whole
// batch.
func (c *leaseCommitter) commit(batch []*leaseRequest, errs []error) error {
	for range leaseTries {
		ok, err := true, error(nil)
		if c.behind() {
			ok, err = c.bounded(c.catchUp)
		}
		if err == nil && ok {
			ok, err = c.bounded(func(ctx context.Context) (bool, error) { return c.try(ctx, batch, errs) })
		}
		if ok || err != nil {
			return err
		}
		c.loaded = false
	}
	return fmt.Errorf("%s: other writes got in between %d times", c.s.where, leaseTries)
}

// bounded gives a part of the work its time limit.
func (c *leaseCommitter) bounded(do func(ctx context.Context) (bool, error)) (bool, error) {
	ctx, cancel := c.s.bound(c.s.ctx)
	defer cancel()
	return do(ctx)
}

// try writes a batch if nothing was written since the book was loaded.
func (c *leaseCommitter) try(ctx context.Context, batch []*leaseRequest, errs []error) (bool, error) {
	now, elapsed := c.s.now(), c.s.elapsed()
	change := c.s.book.change(&c.room)
	for i, r := range batch {
		errs[i] = nil
		if r.do != leasePut {
			change.drop(r.lease, r.do == leaseRelease)
			continue
		}
		errs[i] = change.put(hold(r.lease, now, elapsed), elapsed)
	}
	if len(change.pages) == 0 && !c.clock.unsaved {
		return true, nil
	}
	if full := c.space(); full != nil {
		return false, full
	}
	ok, err := c.store(ctx, change)
	if ok {
		change.apply()
	}
	return ok, err
}

// store writes a change.
func (c *leaseCommitter) store(ctx context.Context, change *leaseChange) (bool, error) {
	ops := make([]clientv3.Op, 0, 16)
	if c.clock.unsaved {
		op, err := c.clock.put()
		if err != nil {
			return false, err
		}
		ops = append(ops, op)
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
	ok, err := c.txn(ctx, ops)
	if ok {
		c.clock.unsaved = false
	}
	return ok, err
}

// txn writes if nothing was written since the book was loaded.
func (c *leaseCommitter) txn(ctx context.Context, ops []clientv3.Op) (bool, error) {
	ops = append(ops, clientv3.OpPut(keyLeaseSeq, strconv.FormatInt(c.seq+1, 10)))
	resp, err := c.s.txn(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(keyLeaseSeq), "=", c.revision)}, ops...)
	if err != nil {
		return false, err
	}
	if resp.Succeeded {
		c.seq, c.revision = c.seq+1, resp.Header.Revision
	}
	return resp.Succeeded, nil
}

// behind reports whether catchUp has something to do.
func (c *leaseCommitter) behind() bool {
	return !c.loaded || c.old || c.clock.Shift != 0 || c.clock.jumped(c.s.now(), c.s.elapsed())
}

// catchUp loads the book where that is needed, and makes the leases on disk
// pages, in terms of the clock as it is now. However many there are, no
// transaction is too large: each takes so many pages and says how far it came,
// and who opens the directory after a kill goes on there.
func (c *leaseCommitter) catchUp(ctx context.Context) (bool, error) {
	if !c.loaded {
		if err := c.load(ctx); err != nil {
			return false, err
		}
	}
	if c.old || c.clock.Shift != 0 {
		if ok, err := c.rewrite(); !ok || err != nil {
			return false, err
		}
	}
	now, elapsed := c.s.now(), c.s.elapsed()
	if !c.clock.jumped(now, elapsed) {
		return true, nil
	}
	shift := c.clock.jump(now, elapsed)
	c.clock = newLeaseClock(c.clock.Boot, now, elapsed)
	c.clock.Shift = shift
	c.s.book.reckon(now, elapsed)
	return c.rewrite()
}

// rewrite writes the pages after clock.Done as they are in the book, step by
// step. Leases that have a key each go with the last step: until then they are
// the newer ones.
func (c *leaseCommitter) rewrite() (bool, error) {
	rest := c.s.book.after(c.clock.Done)
	for more := true; more; {
		step := rest[:min(leaseStep, len(rest))]
		rest = rest[len(step):]
		more = len(rest) > 0
		ok, err := c.bounded(func(ctx context.Context) (bool, error) { return c.step(ctx, step, !more) })
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *leaseCommitter) step(ctx context.Context, pages []keyed, last bool) (bool, error) {
	if full := c.space(); full != nil {
		return false, full
	}
	clock := c.clock
	switch {
	case last:
		clock.Shift, clock.Done = 0, ""
	case clock.Shift != 0:
		clock.Done = pages[len(pages)-1].key
	}
	op, err := clock.put()
	if err != nil {
		return false, err
	}
	ops := append(make([]clientv3.Op, 0, len(pages)+3), op)
	if last && c.old {
		ops = append(ops, clientv3.OpDelete(prefixLeases, clientv3.WithPrefix()))
	}
	for _, k := range pages {
		ops = append(ops, clientv3.OpPut(k.key, string(k.page.encode(k.first, nil))))
	}
	ok, err := c.txn(ctx, ops)
	if ok {
		clock.unsaved = false
		c.clock, c.old = clock, c.old && !last
	}
	return ok, err
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
	var was leaseClock // of no start of the machine
	if kv := one(resp.Responses[1].GetResponseRange().Kvs); kv != nil {
		if err := json.Unmarshal(kv.Value, &was); err != nil {
			return fmt.Errorf("%s is unreadable: %w", keyLeaseClock, err)
		}
	}
	c.clock = was.since(newLeaseClock(c.s.boot, now, elapsed))
	single, pages := resp.Responses[2].GetResponseRange().Kvs, resp.Responses[3].GetResponseRange().Kvs
	all, err := readLeases(single, pages, was)
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

// readLeases decodes pages of leases in terms of a clock, and after them those that have a key each,
// as a cluster and older directories have them. Who writes pages removes such
// keys: beside pages they are the newer ones.
func readLeases(single, pages []*mvccpb.KeyValue, clock leaseClock) ([]Lease, error) {
	out := make([]Lease, 0, len(single)+len(pages)*pageSize)
	for _, kv := range pages {
		on, err := decodePage(string(kv.Key), kv.Value)
		if err != nil {
			return nil, err
		}
		for _, l := range on {
			out = append(out, clock.ahead(string(kv.Key), l))
		}
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
	if by := at.Sub(h.Expires); by.Abs() > clockSlack {
		h.Granted, h.Expires = h.Granted.Add(by), at
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
