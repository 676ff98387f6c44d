package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// session is one opening of etcd. A cluster's lasts as long as its Store; that
// of an embedded etcd ends when etcd fails, and the next one begins when it was
// opened again.
type session struct {
	ctx      context.Context // ends when etcd fails or the store is closed; its cause says which
	cancel   context.CancelCauseFunc
	cli      *clientv3.Client
	member   *member       // nil when the cluster is external
	replaced chan struct{} // closed when the next session has begun
}

func (s *Store) newSession() *session {
	x := &session{replaced: make(chan struct{})}
	x.ctx, x.cancel = context.WithCancelCause(s.ctx)
	return x
}

func (s *Store) embedded() bool { return s.dir != "" }

// Err is nil while the store can be read and written, [ErrUnavailable] with the
// reason while its etcd has failed and is being opened again, and [ErrClosed]
// after Close.
func (s *Store) Err() error { return context.Cause(s.session.Load().ctx) }

// Ready waits until the store can be read and written: for as long as a failed
// etcd is being opened again. Its error is that ctx or the store ended.
func (s *Store) Ready(ctx context.Context) error {
	for {
		x := s.session.Load()
		if x.ctx.Err() == nil {
			return nil
		}
		select {
		case <-x.replaced:
		case <-ctx.Done():
			return fmt.Errorf("%w, and %w", context.Cause(x.ctx), ctx.Err())
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// errSlow is the cause of a request that took longer than opTimeout.
var errSlow = fmt.Errorf("no answer within %s; is its disk or network stuck?", opTimeout)

// bound gives one request its time limit, and ends it when etcd fails or the
// store is closed.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	x := s.session.Load()
	ctx, stop := context.WithTimeoutCause(ctx, opTimeout, errSlow)
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(x.ctx, func() { cancel(context.Cause(x.ctx)) })
	return ctx, func() { unhook(); cancel(nil); stop() }
}

// do makes a request of etcd. An embedded etcd that gave up leaves requests
// hanging whatever their context says: the request is left behind then, in
// its goroutine, and the session's end tells why.
func do[T any](ctx context.Context, s *Store, request func(context.Context, *clientv3.Client) (T, error)) (T, error) {
	var none T
	x := s.session.Load()
	if x.ctx.Err() != nil {
		return none, context.Cause(x.ctx)
	}
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		value, err := request(ctx, x.cli)
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		if a.err != nil && x.ctx.Err() != nil {
			return none, context.Cause(x.ctx)
		}
		return a.value, a.err
	case <-x.ctx.Done():
		return none, context.Cause(x.ctx)
	case <-ctx.Done():
		if x.ctx.Err() != nil { // both: ctx may have ended for that
			return none, context.Cause(x.ctx)
		}
		if cause := context.Cause(ctx); errors.Is(cause, ErrUnavailable) {
			return none, cause
		}
		return none, ctx.Err()
	}
}

// Waits between two tries to open a failed etcd again.
const (
	reopenFirst = 200 * time.Millisecond
	reopenMost  = 10 * time.Second
)

// supervise opens an embedded etcd again whenever it failed, until the store is
// closed.
func (s *Store) supervise() {
	for {
		failed := s.session.Load()
		select {
		case <-failed.ctx.Done():
		case <-s.ctx.Done():
		}
		if s.ctx.Err() != nil {
			return
		}
		begun := time.Now() // of the log line, whatever clock the logic has
		s.log.Error("state cannot be written: machines get no addresses and runs stand still until its disk works again; fettle goes on by itself then", "err", context.Cause(failed.ctx))
		next := s.reopen(failed)
		if next == nil {
			return
		}
		s.session.Store(next)
		close(failed.replaced)
		s.log.Info("state is written again", "where", s.where, "after", time.Since(begun).Round(time.Millisecond))
	}
}

// reopen ends what is left of a session and begins the next; nil when the store
// is closed meanwhile.
func (s *Store) reopen(failed *session) *session {
	// Its error is why it failed, which was told.
	_ = failed.member.close(failed.cli)
	said := ""
	for wait := reopenFirst; ; wait = min(2*wait, reopenMost) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
			return nil
		}
		x, err := s.again()
		if err == nil {
			return x
		}
		if text := err.Error(); text != said && s.ctx.Err() == nil {
			said = text
			s.log.Warn("state cannot be opened again yet", "err", err)
		}
	}
}

// again opens the directory once more. What the failed etcd wrote last may be
// in the memory of this machine alone, marked as written (after a failed fsync
// Linux tries no second time): all of it is written once more and synced, so
// that nothing is built on what a power failure would take away.
func (s *Store) again() (*session, error) {
	lock, err := lockDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	if err := writeAgain(s.ctx, s.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", s.where, err), lock.Close())
	}
	// Without a time limit: a start that is given up goes on in the directory,
	// and nothing could be opened beside it.
	return s.openSession(s.ctx, lock, freeReserve)
}
