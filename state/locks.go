package state

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// Lock is the right to do one named thing, held by one Store of a cluster at
// a time. It is kept alive until it is unlocked; when its holder dies it ends
// after its time to live.
type Lock struct {
	store   *Store
	name    string
	session *concurrency.Session
	mutex   *concurrency.Mutex
	lost    chan struct{}
	unlock  sync.Once
	freed   chan struct{} // closed by Unlock
	err     error         // of Unlock
}

// Lock waits until it holds the lock name, or ctx ends. ttl, at least a
// second, is how long others wait after a holder died.
func (s *Store) Lock(ctx context.Context, name string, ttl time.Duration) (*Lock, error) {
	doing := fmt.Sprintf("locking %s", name)
	x := s.session.Load()
	if x.ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", doing, context.Cause(x.ctx))
	}
	seconds := max(1, int((ttl+time.Second-1)/time.Second))
	grantCtx, cancel := s.bound(ctx)
	defer cancel()
	grant, err := do(grantCtx, s, func(ctx context.Context, cli *clientv3.Client) (*clientv3.LeaseGrantResponse, error) {
		return cli.Grant(ctx, int64(seconds))
	})
	if err != nil {
		return nil, s.wrap(grantCtx, doing, err)
	}
	session, err := concurrency.NewSession(x.cli, concurrency.WithTTL(seconds),
		concurrency.WithLease(grant.ID), concurrency.WithContext(x.ctx))
	if err != nil {
		return nil, s.wrap(ctx, doing, errors.Join(err, s.revoke(ctx, grant.ID)))
	}
	l := &Lock{
		store: s, name: name, session: session,
		mutex: concurrency.NewMutex(session, prefixLocks+url.PathEscape(name)),
		lost:  make(chan struct{}), freed: make(chan struct{}),
	}
	waitCtx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(x.ctx, stop)()
	if _, err := do(waitCtx, s, func(ctx context.Context, _ *clientv3.Client) (struct{}, error) {
		return struct{}{}, l.mutex.Lock(ctx)
	}); err != nil {
		session.Orphan()
		return nil, s.wrap(ctx, doing, errors.Join(err, s.revoke(ctx, grant.ID)))
	}
	s.done.Go(l.guard)
	return l, nil
}

// guard closes lost when the session ends before Unlock.
func (l *Lock) guard() {
	select {
	case <-l.freed:
	case <-l.session.Done():
		select {
		case <-l.freed:
		default:
			close(l.lost)
		}
	}
}

// Lost is closed when the lock is no longer held although Unlock was not
// called: its lease ran out, its etcd failed, or the store was closed. What the lock guards
// must stop then.
func (l *Lock) Lost() <-chan struct{} { return l.lost }

// Unlock frees the lock. It may be called twice. An error other than
// [ErrLockLost] means that others wait until the time to live is over.
func (l *Lock) Unlock(ctx context.Context) error {
	l.unlock.Do(func() {
		close(l.freed)
		select {
		case <-l.session.Done():
			l.err = fmt.Errorf("unlocking %s: %w", l.name, ErrLockLost)
			return
		default:
		}
		l.session.Orphan() // no more keep-alives; revoking the lease deletes its key
		if err := l.store.revoke(ctx, l.session.Lease()); err != nil {
			l.err = l.store.wrap(ctx, "unlocking "+l.name, err)
		}
	})
	return l.err
}

// revoke ends an etcd lease, also when ctx has ended.
func (s *Store) revoke(ctx context.Context, id clientv3.LeaseID) error {
	ctx, cancel := s.bound(context.WithoutCancel(ctx))
	defer cancel()
	_, err := do(ctx, s, func(ctx context.Context, cli *clientv3.Client) (*clientv3.LeaseRevokeResponse, error) {
		return cli.Revoke(ctx, id)
	})
	return err
}
