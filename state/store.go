package state

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// Config says where state is kept: exactly one of Dir and Endpoints.
type Config struct {
	Dir       string      // folder of an embedded etcd; made when absent, held by one process
	Endpoints []string    // URLs of an existing etcd cluster, shared with other Stores
	TLS       *tls.Config // to the Endpoints
	Logger    *slog.Logger
	Now       func() time.Time // default time.Now
	// Elapsed is the time since some moment, by a clock that nobody sets; the
	// default is the time since the machine started or, with a Now of the
	// caller's, that clock.
	Elapsed func() time.Duration
}

// Errors that callers tell apart.
var (
	ErrClosed       = errors.New("the state store is closed")
	ErrAddressTaken = errors.New("the address is leased to another machine")
	ErrDirInUse     = errors.New("another process has the state directory open")
	ErrLockLost     = errors.New("the lock was lost")
	// ErrUnavailable is of an embedded store whose etcd gave up, as on an I/O
	// error. It is opened again until that works: nothing is lost that was
	// acknowledged, and nothing else is acknowledged meanwhile.
	ErrUnavailable = errors.New("the state store has failed and is being opened again")
	// ErrWornOut is of an embedded store whose etcd failed so often that what is
	// left of it would fill the memory: the store has ended.
	ErrWornOut = errors.New("the state's etcd failed too often in this process: mend its disk and start fettle again")
)

// Keys in etcd. STATE.md describes what is under each.
const (
	prefix           = "/fettle/"
	keySeq           = prefix + "seq"
	prefixEvents     = prefix + "events/"
	prefixByMachine  = prefix + "machine-events/"
	prefixStatus     = prefix + "status/"
	prefixInventory  = prefix + "inventory/"
	prefixLeases     = prefix + "leases/"
	prefixLeasePages = prefix + "lease-pages/"
	prefixLeaseMACs  = prefix + "lease-macs/"
	keyLeaseSeq      = prefix + "lease-seq"
	keyLeaseClock    = prefix + "lease-clock"
	prefixLocks      = prefix + "locks/"
	prefixDocs       = prefix + "doc/"
)

// openTimeout bounds Open, probeTimeout its first request to a cluster, and
// opTimeout every later request.
const (
	openTimeout  = 30 * time.Second
	probeTimeout = 5 * time.Second
	opTimeout    = 15 * time.Second
)

// Store is state kept in etcd. Its methods may be called concurrently, and
// several Stores may share one cluster. After Close they fail with ErrClosed,
// and while an embedded etcd that failed is being opened again with
// ErrUnavailable; leases can be read then too.
type Store struct {
	session atomic.Pointer[session]
	dir     string // "" for a cluster
	where   string // for errors
	log     *slog.Logger
	now     func() time.Time

	// Of an embedded store: leases in memory and their writer; nil for a
	// cluster, which others write to as well.
	book      *leaseBook
	committer *leaseCommitter
	elapsed   func() time.Duration // a clock that nobody sets
	boot      string               // which start of the machine that clock is of
	reopening reopening
	free      func() (uint64, error) // bytes that the directory's disk has left; nil for a cluster

	// ctx ends when the store is closed.
	ctx    context.Context
	cancel context.CancelCauseFunc

	queue   chan *appendRequest
	done    sync.WaitGroup
	closing sync.Once
	err     error // of Close
}

// Open opens the store and waits until it answers. A directory that another
// process has open fails with [ErrDirInUse].
func Open(ctx context.Context, c Config) (*Store, error) {
	if (c.Dir == "") == (len(c.Endpoints) == 0) {
		return nil, errors.New("opening state: give either a directory for the embedded etcd or the endpoints of a cluster")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	boot := bootID()
	switch {
	case c.Elapsed != nil:
	case c.Now == nil:
		c.Elapsed = sinceBoot
	default: // one clock for both: it is never seen to be set
		boot = ""
		c.Elapsed = func() time.Duration { return c.Now().Sub(time.Unix(0, 0)) }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Store{log: c.Logger, now: c.Now, elapsed: c.Elapsed, boot: boot, queue: make(chan *appendRequest, maxBatchEvents), reopening: newReopening()}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	ctx, stop := context.WithTimeout(ctx, openTimeout)
	defer stop()
	var err error
	if c.Dir != "" {
		err = s.openDir(ctx, c.Dir)
	} else {
		err = s.openCluster(ctx, c)
	}
	if err != nil {
		s.cancel(err)
		return nil, err
	}
	s.done.Go(s.appendLoop)
	if s.embedded() {
		s.done.Go(s.committer.run)
		s.done.Go(s.supervise)
	}
	return s, nil
}

func (s *Store) openDir(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	s.dir, s.where = dir, "state directory "+dir
	s.free = func() (uint64, error) { return freeBytes(dir) }
	s.book = newLeaseBook()
	s.committer = newLeaseCommitter(s)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("%s: cannot be made: %w", s.where, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	need := uint64(minFreeBytes)
	if _, err := os.Stat(filepath.Join(dir, "etcd", "member", "wal")); err == nil {
		need = freeReserve // its log has its space already
	}
	x, err := s.openSession(ctx, lock, need)
	for try := 1; try < startTries && errors.As(err, &leftBehind{}) && rest(ctx, s.reopening.first); try++ {
		s.log.Warn("state does not open, and is tried again", "err", err)
		next, again := s.again(ctx)
		if again == nil || errors.As(again, &leftBehind{}) { // else what etcd said itself tells more
			x, err = next, again
		}
	}
	if err != nil {
		return err
	}
	s.session.Store(x)
	if err := s.committer.load(ctx); err != nil {
		err = s.wrap(ctx, "reading leases", err)
		return errors.Join(err, s.closeEtcd())
	}
	return nil
}

// openSession starts etcd in the directory whose lock was taken. It needs so
// many bytes of free disk.
func (s *Store) openSession(ctx context.Context, lock *os.File, need uint64) (*session, error) {
	x := s.newSession()
	m, err := startMember(ctx, s.dir, lock, need, s.log, func(err error) {
		x.cancel(fmt.Errorf("%s: %w: %w", s.where, ErrUnavailable, err))
	})
	if err != nil {
		x.cancel(err)
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	x.member, x.cli = m, m.client()
	// Nobody else can hold a lock of a directory that only we have open: what
	// a killed process left would only delay us.
	if _, err := x.cli.Delete(ctx, prefixLocks, clientv3.WithPrefix()); err != nil {
		if x.ctx.Err() != nil {
			err = context.Cause(x.ctx)
		}
		x.cancel(err)
		err = errors.Join(fmt.Errorf("clearing old locks: %w", err), m.close(x.cli))
		if m.died.Err() != nil {
			err = leftBehind{err}
		}
		return nil, err
	}
	return x, nil
}

func (s *Store) openCluster(ctx context.Context, c Config) error {
	s.where = fmt.Sprintf("etcd at %v", c.Endpoints)
	x := s.newSession()
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints, TLS: c.TLS, Context: s.ctx,
		Logger:             zapUntil(s.log, &x.left),
		DialTimeout:        5 * time.Second,
		DialKeepAliveTime:  10 * time.Second,
		AutoSyncInterval:   0, // the endpoints given are the ones that are reachable
		RejectOldCluster:   false,
		MaxCallSendMsgSize: maxRequestBytes,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	x.cli = cli
	s.session.Store(x)
	probe, stop := context.WithTimeout(ctx, probeTimeout)
	defer stop()
	if _, err := cli.Get(probe, keySeq); err != nil {
		err = fmt.Errorf("%s does not answer; check the endpoints and certificates, and that the cluster has a leader: %w", s.where, err)
		return errors.Join(err, x.closeClient())
	}
	if err := s.indexLeases(ctx); err != nil {
		return errors.Join(s.wrap(ctx, "indexing leases", err), x.closeClient())
	}
	return nil
}

// Close ends watches and writes under way, and closes etcd. It may be
// called twice.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.cancel(ErrClosed)
		s.done.Wait()
		s.err = s.closeEtcd()
	})
	return s.err
}

func (s *Store) closeEtcd() error {
	x := s.session.Load()
	var err error
	if x.member != nil {
		err = x.member.close(x.cli)
	} else {
		err = x.closeClient()
	}
	if err != nil {
		return fmt.Errorf("closing %s: %w", s.where, err)
	}
	return nil
}

// closeClient closes the client of an external cluster.
func (x *session) closeClient() error {
	defer x.left.leave()
	return closeClient(x.cli)
}

func closeClient(cli *clientv3.Client) error {
	err := cli.Close()
	if errors.Is(err, context.Canceled) { // what clientv3 says of a context that ended
		return nil
	}
	return err
}

// wrap says what failed and, when the store itself ended or was too slow,
// why. ctx is the bounded one of the request.
func (s *Store) wrap(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		err = context.Cause(s.ctx)
	case errors.Is(context.Cause(ctx), ErrUnavailable):
		err = context.Cause(ctx)
	case errors.Is(context.Cause(ctx), errSlow):
		err = fmt.Errorf("%s: %w", s.where, errSlow)
	case isNoSpace(err) && !errors.Is(err, unix.ENOSPC):
		err = fmt.Errorf("%s is full (%w): free or add space, or move old events to another store", s.where, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// space refuses to write what a nearly full disk might not take: etcd gives up
// for good on a full one. With space again, all goes on.
func (s *Store) space() error {
	if s.free == nil {
		return nil
	}
	free, err := s.free()
	if err != nil || free >= freeReserve {
		return nil // a disk that cannot be examined says so when it is written
	}
	return fmt.Errorf("%s has %d MiB of disk left, and nothing is written below %d: free some space; it goes on by itself then: %w",
		s.where, free>>20, freeReserve>>20, unix.ENOSPC)
}

// txn does then if every cmp holds; with no cmp it always does.
func (s *Store) txn(ctx context.Context, cmps []clientv3.Cmp, then ...clientv3.Op) (*clientv3.TxnResponse, error) {
	return do(ctx, s, func(ctx context.Context, cli *clientv3.Client) (*clientv3.TxnResponse, error) {
		return cli.Txn(ctx).If(cmps...).Then(then...).Commit()
	})
}

// get reads a key or a range of keys.
func (s *Store) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return do(ctx, s, func(ctx context.Context, cli *clientv3.Client) (*clientv3.GetResponse, error) {
		return cli.Get(ctx, key, s.reads(opts...)...)
	})
}

// reads are the options of a read. An embedded store has one member, whose
// own copy is the newest; a cluster must be asked for its latest.
func (s *Store) reads(more ...clientv3.OpOption) []clientv3.OpOption {
	if s.embedded() {
		more = append(more, clientv3.WithSerializable())
	}
	return more
}
