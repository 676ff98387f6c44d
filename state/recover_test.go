package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/site"
)

// storm leases addresses from several goroutines for as long as it runs, and
// remembers which of them were acknowledged.
type storm struct {
	s     *Store
	n     atomic.Int64
	acked sync.Map // netip.Addr
	count atomic.Int64
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func startStorm(t *testing.T, s *Store) *storm {
	ctx, stop := context.WithCancel(t.Context())
	w := &storm{s: s, stop: stop}
	for range 8 {
		w.done.Go(func() {
			for ctx.Err() == nil {
				i := w.n.Add(1)
				a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
				l := Lease{Network: "boot", Addr: a, MAC: site.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)},
					Granted: time.Now(), Expires: time.Now().Add(time.Hour)}
				if w.s.PutLease(ctx, l) == nil {
					w.acked.Store(a, l.MAC)
					w.count.Add(1)
					continue
				}
				select { // as clients do that got no answer, but sooner
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(w.end)
	return w
}

func (w *storm) end() { w.stop(); w.done.Wait() }

// grows waits until more leases were acknowledged.
func (w *storm) grows(t *testing.T, within time.Duration) {
	t.Helper()
	was := w.count.Load()
	until(t, within, "another lease is acknowledged", func() bool { return w.count.Load() > was+20 })
}

// kept opens the directory in another Store and looks for every lease that was
// acknowledged.
func (w *storm) kept(t *testing.T, dir string) {
	t.Helper()
	w.end()
	if err := w.s.Close(); err != nil {
		t.Fatalf("Close() = %v; want nil", err)
	}
	w.found(t, dir)
}

// found is kept of a store that was closed.
func (w *storm) found(t *testing.T, dir string) {
	t.Helper()
	s := openConfig(t, Config{Dir: dir})
	n := 0
	w.acked.Range(func(a, mac any) bool {
		n++
		l, ok, err := s.LeaseByAddr(t.Context(), "boot", a.(netip.Addr))
		if err != nil || !ok || l.MAC != mac {
			t.Errorf("the acknowledged lease of %v = %+v, %v, %v after opening again; want it there", a, l, ok, err)
		}
		return !t.Failed()
	})
	t.Logf("%d leases were acknowledged, all are there", n)
}

func until(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %s: not yet that %s", within, what)
		}
	}
}

// spoil makes every descriptor of this process that leads to a file of dir with
// this suffix lead to another file instead, so that etcd's own system calls
// fail as on a broken disk. It returns how many these were.
func spoil(t *testing.T, dir, suffix, with string, flags int) int {
	t.Helper()
	to, err := unix.Open(with, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(to)
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		fd, _ := strconv.Atoi(name.Name())
		at, err := os.Readlink("/proc/self/fd/" + name.Name())
		if err != nil || !strings.HasPrefix(at, dir+"/") || !strings.HasSuffix(at, suffix) {
			continue
		}
		// A lock stays with the mapping of a file that has no descriptor left.
		if err := unix.Flock(fd, unix.LOCK_UN); err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(to, fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// TestRecoversFromBrokenFiles breaks etcd's log or database under its feet, with
// system calls that fail: the store acknowledges nothing that is not stored,
// and goes on without being opened anew, its watchers too.
func TestRecoversFromBrokenFiles(t *testing.T) {
	tests := []struct {
		name, suffix, with string
		flags              int
	}{
		{"no space for the log (ENOSPC)", ".wal", "/dev/full", unix.O_RDWR},
		// Nothing is mapped at its beginning, where a new descriptor writes.
		{"an I/O error of the log (EIO)", ".wal", "/proc/self/mem", unix.O_WRONLY},
		{"the log cannot be written (EBADF)", ".wal", "/dev/null", unix.O_RDONLY},
		{"the log takes writes and cannot be synced (EINVAL)", ".wal", "/dev/null", unix.O_RDWR},
		{"no space for the database (ENOSPC)", "/db", "/dev/full", unix.O_RDWR},
		{"the database cannot be synced (EINVAL)", "/db", "/dev/null", unix.O_RDWR},
	}
	if testing.Short() {
		tests = slices.Delete(tests, 2, 4) // 2 s each
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := leftDir(t)
			s := openConfig(t, Config{Dir: dir})
			lock, err := s.Lock(t.Context(), "run/gpu-01", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			first := mustAppend(t, s, phaseEvent(t, "gpu-01", Agent, ""))
			seen := make(chan Event, 100)
			watching := make(chan error, 1)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			go func() {
				defer close(watching)
				for e, err := range s.Watch(ctx, Query{}) {
					if err != nil {
						watching <- err
						return
					}
					seen <- e
				}
			}()
			if e := <-seen; e.Seq != first {
				t.Fatalf("the watch began with %d; want %d", e.Seq, first)
			}
			w := startStorm(t, s)
			w.grows(t, 20*time.Second)

			if n := spoil(t, dir, tt.suffix, tt.with, tt.flags); n == 0 {
				t.Fatalf("etcd has no %s open", tt.suffix)
			}
			until(t, 30*time.Second, "the store says that it failed", func() bool { return errors.Is(s.Err(), ErrUnavailable) })
			t.Log(s.Err())
			// What needs no write goes on.
			some := netip.AddrFrom4([4]byte{10, 0, 0, 1})
			if _, ok, err := s.LeaseByAddr(t.Context(), "boot", some); !ok || err != nil {
				t.Errorf("LeaseByAddr while the store is unavailable = %v, %v; want the lease", ok, err)
			}
			ready, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := s.Ready(ready); err != nil {
				t.Fatalf("Ready() = %v; want nil", err)
			}
			w.grows(t, 20*time.Second)
			select {
			case <-lock.Lost():
			case <-time.After(10 * time.Second):
				t.Error("the lock of the failed etcd was not lost")
			}
			again, err := s.Lock(t.Context(), "run/gpu-01", time.Minute)
			if err != nil {
				t.Fatalf("Lock after the failure = %v; want nil", err)
			}
			if err := again.Unlock(t.Context()); err != nil {
				t.Error(err)
			}
			second := mustAppend(t, s, phaseEvent(t, "gpu-01", Ready, ""))
			if second != first+1 {
				t.Errorf("the event after the failure has Seq %d; want %d", second, first+1)
			}
			select {
			case e := <-seen:
				if e.Seq != second {
					t.Errorf("the watch went on with %d; want %d", e.Seq, second)
				}
			case err := <-watching:
				t.Errorf("the watch ended with %v; want it to go on", err)
			case <-time.After(10 * time.Second):
				t.Error("the watch saw nothing after the failure")
			}
			w.kept(t, dir)
		})
	}
}

// TestRecoversFromAFullDisk fills the disk faster than the store sees, with
// clients at work, and makes room again.
func TestRecoversFromAFullDisk(t *testing.T) {
	dir := smallDisk(t, 256<<20)
	s, err := Open(t.Context(), Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.free = nil // before the first request: nobody reads it yet
	recovers(t, s, dir, func() (free func()) {
		other := filepath.Join(dir, "other")
		fill(t, other)
		return func() {
			if err := os.Remove(other); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// fill writes a file until its file system is full.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, chunk := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, chunk))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filling the disk: %v", err)
		}
	}
}

// recovers has a disk fail under a store with clients at work, for a while.
func recovers(t *testing.T, s *Store, dir string, fail func() (mend func())) {
	t.Helper()
	t.Cleanup(func() { _ = s.Close() })
	w := startStorm(t, s)
	w.grows(t, 20*time.Second)
	mend := fail()
	// Events make the database grow, which the log's space of its own does not
	// help.
	big := Event{Machine: "gpu-01", Kind: "test", Text: strings.Repeat("x", 256<<10)}
	acked := int64(0)
	until(t, 60*time.Second, "the store says that it failed", func() bool {
		if seq, err := s.Append(t.Context(), big); err == nil {
			acked = seq
		}
		return errors.Is(s.Err(), ErrUnavailable)
	})
	t.Log(s.Err())
	if !errors.Is(s.Err(), unix.ENOSPC) { // what the disk said
		t.Errorf("Err() = %v; want %v", s.Err(), unix.ENOSPC)
	}
	if _, ok, err := s.LeaseByAddr(t.Context(), "boot", netip.AddrFrom4([4]byte{10, 0, 0, 1})); !ok || err != nil {
		t.Errorf("LeaseByAddr while the disk is broken = %v, %v; want the lease", ok, err)
	}
	before := w.count.Load()
	for range 3 { // tries to open it again fail as well
		if err := s.PutLease(t.Context(), Lease{Network: "other", Addr: netip.MustParseAddr("192.0.2.1"), Expires: time.Now().Add(time.Hour)}); err == nil {
			t.Error("PutLease on a broken disk = nil; want an error")
		}
		short, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		if err := s.Ready(short); err == nil {
			t.Error("Ready on a broken disk = nil; want an error")
		}
		cancel()
	}
	if n := w.count.Load(); n > before+8 { // one of each goroutine was on disk already
		t.Errorf("%d leases were acknowledged on a broken disk; want none", n-before)
	}
	mend()
	ready, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := s.Ready(ready); err != nil {
		t.Fatalf("Ready with the disk mended = %v; want nil", err)
	}
	w.grows(t, 20*time.Second)
	if _, err := s.Append(t.Context(), Event{Kind: "test", Text: "x"}); err != nil {
		t.Errorf("Append with the disk mended = %v; want nil", err)
	}
	events, err := s.Events(t.Context(), Query{})
	if err != nil || int64(len(events)) < acked {
		t.Errorf("%d events, %v; want the %d acknowledged", len(events), err, acked)
	}
	for i, e := range events {
		if e.Seq != int64(i+1) {
			t.Fatalf("event %d has Seq %d; want %d", i, e.Seq, i+1)
		}
	}
	w.kept(t, dir)
}

// blockDisk mounts an ext4 of its own on a loop device whose blocks are in a
// tmpfs of so many bytes, in the folder that it returns second: when that is
// full, ext4 takes writes and the sync after them fails, as on a disk that
// breaks. Without a journal ext4 goes on afterwards.
func blockDisk(t *testing.T, bytes int64) (dir, under string) {
	t.Helper()
	under = smallDisk(t, bytes)
	image := filepath.Join(under, "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<30), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1", image).CombinedOutput(); err != nil {
		unable(t, fmt.Sprintf("no ext4 can be made here: %v: %s", err, out))
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,errors=continue", image, dir).CombinedOutput(); err != nil {
		unable(t, fmt.Sprintf("no loop device can be mounted here: %v: %s", err, out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("unmounting %s: %v: %s", dir, err, out)
		}
	})
	return dir, under
}

// TestRecoversFromFailedSyncs has the block device below the store's file system
// refuse writes, which only a sync learns, and then work again.
func TestRecoversFromFailedSyncs(t *testing.T) {
	if testing.Short() {
		t.Skip("ten seconds of an ext4 on a loop device: left out with -short")
	}
	dir, under := blockDisk(t, 300<<20)
	s, err := Open(t.Context(), Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	recovers(t, s, dir, func() (mend func()) {
		other := filepath.Join(under, "other")
		fill(t, other)
		return func() {
			if err := os.Remove(other); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestFrozenDisk freezes the file system: every write and sync of it waits. Nobody
// gets an acknowledgement meanwhile, leases can be read, and all goes on when
// it thaws, without a failure.
func TestFrozenDisk(t *testing.T) {
	dir, _ := blockDisk(t, 400<<20)
	s, err := Open(t.Context(), Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := startStorm(t, s)
	w.grows(t, 20*time.Second)
	freeze := func(flag string) {
		t.Helper()
		if out, err := exec.Command("fsfreeze", flag, dir).CombinedOutput(); err != nil {
			t.Fatalf("fsfreeze %s: %v: %s", flag, err, out)
		}
	}
	freeze("--freeze")
	frozen := true
	defer func() {
		if frozen {
			freeze("--unfreeze")
		}
	}()
	before := w.count.Load()
	l := Lease{Network: "other", Addr: netip.MustParseAddr("192.0.2.1"), Expires: time.Now().Add(time.Hour)}
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := s.PutLease(short, l); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("PutLease on a disk that waits = %v; want its deadline exceeded", err)
	}
	if n := w.count.Load(); n > before+8 { // one of each goroutine was on disk already
		t.Errorf("%d leases were acknowledged while the disk waited; want none", n-before)
	}
	if _, ok, err := s.LeaseByAddr(t.Context(), "boot", netip.AddrFrom4([4]byte{10, 0, 0, 1})); !ok || err != nil {
		t.Errorf("LeaseByAddr while the disk waits = %v, %v; want the lease", ok, err)
	}
	freeze("--unfreeze")
	frozen = false
	w.grows(t, 20*time.Second)
	if err := s.PutLease(t.Context(), l); err != nil {
		t.Errorf("PutLease on a disk that goes on = %v; want nil", err)
	}
	if err := s.Err(); err != nil {
		t.Errorf("Err() = %v; want nil: a slow disk is no failure", err)
	}
	w.kept(t, dir)
}

// TestReopensSoOften has etcd fail again and again: it is opened so many times,
// and then the store ends and says so.
func TestReopensSoOften(t *testing.T) {
	dir := leftDir(t)
	s, err := Open(t.Context(), Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	const often = 3
	// Before the first failure: nobody reads it yet.
	s.reopening = reopening{first: time.Millisecond, most: 10 * time.Millisecond, slow: 20 * time.Millisecond, many: 1, left: often, steady: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- s.Wait(t.Context()) }()
	w := startStorm(t, s)
	for i := range often + 1 {
		w.grows(t, 20*time.Second)
		spoil(t, dir, ".wal", "/dev/full", unix.O_RDWR)
		until(t, 30*time.Second, "the store says that it failed", func() bool { return s.Err() != nil })
		ready, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := s.Ready(ready)
		cancel()
		if want := i < often; (err == nil) != want || !want && !errors.Is(err, ErrWornOut) {
			t.Fatalf("Ready() after failure %d = %v; want %v to be opened again", i+1, err, want)
		}
	}
	select {
	case err := <-ended:
		if !errors.Is(err, ErrWornOut) || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Wait() = %v; want %v and what the disk said", err, ErrWornOut)
		}
	case <-time.After(10 * time.Second):
		t.Error("Wait does not return")
	}
	if err := s.Err(); !errors.Is(err, ErrWornOut) {
		t.Errorf("Err() = %v; want %v", err, ErrWornOut)
	}
	w.end()
	_ = s.Close() // its error is of the last etcd, which was told
	w.found(t, dir)
}

// TestReopenWaits: the waits of a store whose etcd fails as soon as it is opened
// grow, and some more once much was left behind.
func TestReopenWaits(t *testing.T) {
	r := newReopening()
	wait, all := r.first, time.Duration(0)
	for left := 1; left <= r.left; left++ {
		all += wait
		next := r.next(wait, left)
		if next < wait || next > r.slow || left <= r.many && next > r.most {
			t.Fatalf("next(%v, %d) = %v; want no less, and %v at most, or %v after %d", wait, left, next, r.most, r.slow, r.many)
		}
		wait = next
	}
	if all < time.Hour {
		t.Errorf("an etcd that fails at once is given up after %v; want an hour at least", all)
	}
}

// TestSlowIsNotDamaged tells nobody to move a directory away that only takes
// long to open.
func TestSlowIsNotDamaged(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		away bool
	}{
		{"out of time", fmt.Errorf("starting: %w", context.DeadlineExceeded), false},
		{"given up", fmt.Errorf("becoming ready: %w", context.Canceled), false},
		{"damaged", errors.New("its files are damaged"), true},
	} {
		err := notOpened("/state/etcd", tt.err)
		if got := strings.Contains(err.Error(), "move it away"); got != tt.away || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v; want advice to move it away %v, and the cause", tt.name, err, tt.away)
		}
	}
}

// TestFailureIsNotCancellation has a request end together with its etcd: its
// caller learns that the store is unavailable, not that somebody left.
func TestFailureIsNotCancellation(t *testing.T) {
	for range 200 {
		s := &Store{}
		s.ctx, s.cancel = context.WithCancelCause(t.Context())
		x := s.newSession()
		s.session.Store(x)
		ctx, cancel := context.WithCancel(t.Context())
		context.AfterFunc(x.ctx, cancel) // as a lock's wait ends
		block := make(chan struct{})
		go x.cancel(ErrUnavailable)
		_, err := do(ctx, s, func(context.Context, *clientv3.Client) (int, error) {
			<-block
			return 0, nil
		})
		if close(block); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("do = %v; want %v", err, ErrUnavailable)
		}
		cancel()
		s.cancel(nil)
	}
}
