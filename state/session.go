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
	began    time.Time
	ctx      context.Context // ends when etcd fails or the store is closed; its cause says which
	cancel   context.CancelCauseFunc
	cli      *clientv3.Client
	member   *member       // nil when the cluster is external
	left     left          // of the client of an external one
	replaced chan struct{} // closed when the next session has begun
}

func (s *Store) newSession() *session {
	x := &session{began: time.Now(), replaced: make(chan struct{})} // of waiting, whatever clock the logic has
	x.ctx, x.cancel = context.WithCancelCause(s.ctx)
	return x
}

func (s *Store) embedded() bool { return s.dir != "" }

// Err is nil while the store can be read and written, [ErrUnavailable] with the
// reason while its etcd has failed and is being opened again, [ErrClosed] after
// Close, and [ErrWornOut].
func (s *Store) Err() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return context.Cause(s.session.Load().ctx)
}

// Wait waits until the store has ended by itself, and says why; it returns nil
// when ctx ends or the store is closed.
func (s *Store) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.ctx.Done():
	}
	if err := context.Cause(s.ctx); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

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

// reopening says how a failed etcd is opened again. Each that failed leaves
// goroutines, files and memory behind, some 2 MB of which nobody else can use: it
// waits for goroutines of its own that have ended.
type reopening struct {
	first, most time.Duration // between two tries, twice as long after each
	steady      time.Duration // one that ran for so long was not opened in vain
	slow        time.Duration // most, once many were left behind
	many, left  int           // what many are, and how many may be
}

func newReopening() reopening {
	return reopening{first: 200 * time.Millisecond, most: 10 * time.Second, steady: time.Minute, slow: time.Minute, many: 10, left: 100}
}

// next is the wait after one, with so many left behind.
func (r reopening) next(wait time.Duration, left int) time.Duration {
	if left > r.many {
		return min(2*wait, r.slow)
	}
	return min(2*wait, r.most)
}

// leftBehind is an error after which something is left of an etcd.
type leftBehind struct{ error }

func (e leftBehind) Unwrap() error { return e.error }

// supervise opens an embedded etcd again whenever it failed, until the store is
// closed, or too much was left behind.
func (s *Store) supervise() {
	left, wait := 0, time.Duration(0)
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
		if wait == 0 || begun.Sub(failed.began) >= s.reopening.steady {
			wait = s.reopening.first
		}
		s.log.Error("state cannot be written: machines get no addresses and runs stand still until its disk works again; fettle goes on by itself then", "err", context.Cause(failed.ctx))
		left++
		next := s.reopen(failed, &left, &wait)
		if next == nil {
			return
		}
		s.session.Store(next)
		close(failed.replaced)
		s.log.Info("state is written again", "where", s.where, "after", time.Since(begun).Round(time.Millisecond))
	}
}

// reopen ends what is left of a session and begins the next; nil when the store
// is closed meanwhile, or ends.
func (s *Store) reopen(failed *session, left *int, wait *time.Duration) *session {
	// Its error is why it failed, which was told.
	_ = failed.member.close(failed.cli)
	said := ""
	for {
		if *left > s.reopening.left {
			err := fmt.Errorf("%s: %w: it failed %d times, the last time because of: %w", s.where, ErrWornOut, *left, context.Cause(failed.ctx))
			s.log.Error("state is opened no more", "err", err)
			s.cancel(err)
			return nil
		}
		timer := time.NewTimer(*wait)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
			return nil
		}
		*wait = s.reopening.next(*wait, *left)
		// Without a time limit: a start that is given up goes on in the directory,
		// and nothing could be opened beside it.
		x, err := s.again(s.ctx)
		if err == nil {
			return x
		}
		if errors.As(err, &leftBehind{}) {
			*left++
		}
		if text := err.Error(); text != said && s.ctx.Err() == nil {
			said = text
			s.log.Warn("state cannot be opened again yet", "err", err)
		}
	}
}

// rest waits, so that what is left of an etcd may end; false: ctx ended.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// again opens the directory once more. What the failed etcd wrote last may be
// in the memory of this machine alone, marked as written (after a failed fsync
// Linux tries no second time): all of it is written once more and synced, so
// that nothing is built on what a power failure would take away.
func (s *Store) again(ctx context.Context) (*session, error) {
	lock, err := lockDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	if err := writeAgain(ctx, s.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", s.where, err), lock.Close())
	}
	return s.openSession(ctx, lock, freeReserve)
}
