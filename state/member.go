package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"
)

// Limits of the embedded etcd. It preallocates two write-ahead files of 64 MB,
// and one more whenever one is full.
const (
	minFreeBytes    = 240 << 20 // to begin with
	freeReserve     = 96 << 20  // below this nothing is written
	quotaBytes      = 4 << 30
	maxRequestBytes = 8 << 20
	maxTxnOps       = 1 << 14 // a step of rewriting all leases takes 512, a batch of leases 1,024 at most
	raftLog         = 100     // entries
	backendInterval = time.Second
	backendWrites   = 50_000
	closeTimeout    = 5 * time.Second
	deadTimeout     = time.Second // for what is left of an etcd that gave up
	slowRequest     = 3 * time.Second
	// startTries is how often etcd is started before its directory counts as
	// damaged. It drops entries of raft's log from memory once it has applied them,
	// and when it begins its election before raft has noted that, as happens on a
	// machine that is busy, it looks for them and gives up: once in a hundred starts
	// of a store that had been killed (etcd 3.6.6, 2026-11-22).
	startTries = 3
)

// member is the one member of an embedded etcd cluster. It opens no socket:
// its client calls the server's functions.
type member struct {
	etcd *embed.Etcd
	data string // its folder
	lock *os.File
	died *fatal

	closing sync.Once
	err     error // of close
}

// startMember starts etcd in dir, which needs so many bytes of free disk, and
// owns the directory's lock from then on, also when it fails. dead is called at
// most once, when etcd gives up later on: its own answer would be to exit the
// process.
func startMember(ctx context.Context, dir string, lock *os.File, need uint64, log *slog.Logger, dead func(error)) (_ *member, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := checkSpace(dir, need); err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "etcd")
	died := newFatal(dead)
	e, err := startEtcd(ctx, memberConfig(data, log, died), died)
	if err != nil {
		died.left.leave()
		return nil, leftBehind{errors.Join(notOpened(data, err), fenceData(data))}
	}
	return &member{etcd: e, data: data, lock: lock, died: died}, nil
}

// notOpened says what to do about a folder that etcd has not opened. One that
// takes long may be whole.
func notOpened(data string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("etcd has not opened %s yet: %w; nothing is wrong with it as far as is known: look whether its disk is slow or stuck, and try again", data, err)
	}
	return fmt.Errorf("etcd cannot open %s: %w; restore it from a backup, or move it away to begin with empty state", data, err)
}

// fenceData is fence of a folder by any path to it.
func fenceData(data string) error {
	real, err := filepath.EvalSymlinks(data)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fence(real)
}

// lockDir takes the directory for this process. The lock ends with the file,
// so a killed process leaves none.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("is not writable: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("is not writable: %w", err), f.Close())
		}
		return f, nil
	}
	defer f.Close()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("cannot be locked: %w", err)
	}
	pid := make([]byte, 20)
	n, _ := f.Read(pid) // only to say who; empty will do
	return nil, fmt.Errorf("%w (process %s): stop it, or use its API", ErrDirInUse, strings.TrimSpace(string(pid[:n])))
}

// checkSpace refuses a disk on which etcd would die halfway through its start.
func checkSpace(dir string, need uint64) error {
	free, err := freeBytes(dir)
	if err != nil {
		return fmt.Errorf("cannot be examined: %w", err)
	}
	if free < need {
		return fmt.Errorf("has %d MiB free and needs %d MiB: free some space or choose another directory: %w",
			free>>20, need>>20, unix.ENOSPC)
	}
	return nil
}

func freeBytes(dir string) (uint64, error) {
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	return fs.Bavail * uint64(fs.Bsize), err //nolint:gosec // block sizes are positive
}

func isNoSpace(err error) bool {
	// etcd's quota alarm arrives as a gRPC status whose text is the constant.
	return errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "database space exceeded")
}

func memberConfig(data string, log *slog.Logger, died *fatal) *embed.Config {
	c := embed.NewConfig()
	c.Name = "fettle"
	c.Dir = data
	// The member's peer address is only its name: nothing listens or dials.
	self := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	c.AdvertisePeerUrls = []url.URL{self}
	c.InitialCluster = c.Name + "=" + self.String()
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil, nil
	// A lone member waits out one election timeout before it leads itself.
	c.TickMs, c.ElectionMs = 50, 250
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	c.QuotaBackendBytes = quotaBytes
	c.MaxRequestBytes = maxRequestBytes
	c.MaxTxnOps = maxTxnOps
	c.BootstrapDefragThresholdMegabytes = 256
	c.SnapshotCount = 10_000
	// Nobody follows a lone member: its log need not stay in memory.
	c.SnapshotCatchUpEntries = raftLog
	// What is durable is the write-ahead log, synced before an answer and read
	// again at a start. Bringing bbolt's file up to date holds up whoever waits
	// for an answer: seldom, then.
	c.BackendBatchInterval, c.BackendBatchLimit = backendInterval, backendWrites
	// Its warnings quote whole requests, hundreds of lines on a disk that is
	// busy: only what keeps machines waiting is worth them.
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = slowRequest, slowRequest
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(log, died))
	return c
}

// startEtcd starts the server and waits until it leads. etcd reports a broken
// directory by panicking or by exiting, so it starts in a goroutine of its own
// whose end is caught.
func startEtcd(ctx context.Context, c *embed.Config, died *fatal) (*embed.Etcd, error) {
	type result struct {
		etcd *embed.Etcd
		err  error
	}
	started := make(chan result, 1)
	go func() {
		r := result{err: errors.New("it ended without a reason")}
		defer func() {
			if p := recover(); p != nil {
				r = result{err: fmt.Errorf("its files are damaged: %v", p)}
			}
			if err := died.Err(); err != nil {
				r = result{err: err}
			}
			started <- r
		}()
		e, err := embed.StartEtcd(c)
		r = result{e, err}
	}()
	var r result
	select {
	case r = <-started:
	case <-died.done: // in a goroutine of etcd's own
		return nil, died.Err()
	case <-ctx.Done():
		return nil, fmt.Errorf("starting: %w", ctx.Err())
	}
	if r.err != nil {
		return nil, r.err
	}
	select {
	case <-r.etcd.Server.ReadyNotify():
		return r.etcd, nil
	case <-died.done:
		return nil, died.Err()
	case err := <-r.etcd.Err():
		return nil, err
	case <-ctx.Done():
		r.etcd.Close()
		return nil, fmt.Errorf("becoming ready: %w", ctx.Err())
	}
}

func (m *member) client() *clientv3.Client { return v3client.New(m.etcd.Server) }

// close stops etcd and its client, and frees the directory. An etcd that gave
// up may never stop: what is left of it then can write no more. It may be
// called twice.
func (m *member) close(cli *clientv3.Client) error {
	m.closing.Do(func() { m.err = m.end(cli) })
	return m.err
}

func (m *member) end(cli *clientv3.Client) error {
	stopped := make(chan error, 1)
	go func() {
		err := closeClient(cli)
		m.etcd.Close()
		stopped <- err
	}()
	within := closeTimeout
	if m.died.Err() != nil {
		within = deadTimeout
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	var err error
	select {
	case err = <-stopped:
	case <-timer.C:
		err = fmt.Errorf("etcd did not stop within %s", within)
	}
	if died := m.died.Err(); died != nil {
		err = fmt.Errorf("etcd gave up: %w", died)
	}
	m.died.left.leave()
	if err != nil {
		err = errors.Join(err, fenceData(m.data))
	}
	return errors.Join(err, m.lock.Close())
}

// fatal remembers why etcd gave up.
type fatal struct {
	once sync.Once
	done chan struct{}
	err  error
	call func(error)
	left left
}

func newFatal(call func(error)) *fatal { return &fatal{done: make(chan struct{}), call: call} }

// Err is nil until etcd gave up.
func (f *fatal) Err() error {
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}

func (f *fatal) fail(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.done)
		f.call(err)
	})
}
