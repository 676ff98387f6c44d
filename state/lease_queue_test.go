package state

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// waiters are told of leases; each notes how often, and what.
type waiters struct {
	mu   sync.Mutex
	told map[int][]error
	all  sync.WaitGroup
}

type waiter struct {
	of *waiters
	i  int
}

func (w waiter) Written(err error) {
	w.of.mu.Lock()
	w.of.told[w.i] = append(w.of.told[w.i], err)
	w.of.mu.Unlock()
	w.of.all.Done()
}

// soon asks for a lease, and reports whether it will be told of it.
func (w *waiters) soon(s *Store, i int, l Lease) bool {
	w.all.Add(1)
	ok := s.PutLeaseSoon(l, waiter{w, i})
	if !ok {
		w.all.Done()
	}
	return ok
}

func soonLease(i int) Lease {
	at := time.Now()
	return Lease{Network: "boot", Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), MAC: site.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, Granted: at, Expires: at.Add(time.Hour)}
}

// TestPutLeaseSoon: whoever does not wait is told once, of what is on disk then,
// beside those who wait.
func TestPutLeaseSoon(t *testing.T) {
	dir := t.TempDir()
	s := openConfig(t, Config{Dir: dir})
	if !s.Quick() {
		t.Error("Quick() of an embedded store = false; want true")
	}
	const n = 2 * maxLeaseBatch // below leasesSoon with the others
	w := &waiters{told: map[int][]error{}}
	var waited sync.WaitGroup
	for g := range 4 {
		waited.Go(func() {
			for i := g; i < n; i += 4 {
				l := soonLease(i)
				if i%8 == g {
					l.Hostname = fmt.Sprint("waits-", i)
					if err := s.PutLease(t.Context(), l); err != nil {
						t.Errorf("PutLease(%v) = %v; want nil", l.Addr, err)
					}
					continue
				}
				if !w.soon(s, i, l) {
					t.Errorf("PutLeaseSoon(%v) = false; want it to be done", l.Addr)
				}
			}
		})
	}
	waited.Wait()
	w.all.Wait()
	// An address that another MAC has, and what is no lease.
	taken := soonLease(1)
	taken.MAC[5]++
	if !w.soon(s, n, taken) {
		t.Error("PutLeaseSoon of a taken address = false; want its waiter to be told")
	}
	w.all.Wait()
	for i := range n {
		if i%8 == i%4 {
			continue
		}
		if got := w.told[i]; !slices.Equal(got, []error{nil}) {
			t.Errorf("the waiter of lease %d was told %v; want nil, once", i, got)
		}
	}
	if got := w.told[n]; len(got) != 1 || !errors.Is(got[0], ErrAddressTaken) {
		t.Errorf("the waiter of a taken address was told %v; want ErrAddressTaken, once", got)
	}
	if none := soonLease(1); s.PutLeaseSoon(Lease{Addr: none.Addr, Expires: none.Expires}, waiter{w, 0}) {
		t.Error("PutLeaseSoon of a lease on no network = true; want false")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if w.soon(s, n+1, soonLease(1)) {
		t.Error("PutLeaseSoon of a closed store = true; want false")
	}
	s = openConfig(t, Config{Dir: dir})
	for i := range n {
		if l, ok, err := s.LeaseByAddr(t.Context(), "boot", soonLease(i).Addr); !ok || err != nil || l.MAC != soonLease(i).MAC {
			t.Fatalf("lease %d after opening again = %+v, %v, %v; want it", i, l, ok, err)
		}
	}
}

// TestLeaseQueueIsBounded: while the disk stands still so many requests wait that
// nobody waits for, and of the others none whose caller has gone. Those who wait
// in the end are told that the store was closed.
func TestLeaseQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancelCause(t.Context())
		s := &Store{ctx: ctx} // whose committer writes nothing
		s.committer = newLeaseCommitter(s)
		w := &waiters{told: map[int][]error{}}
		for i := range leasesSoon + 1 {
			if got, want := w.soon(s, i, soonLease(i)), i < leasesSoon; got != want {
				t.Fatalf("PutLeaseSoon %d = %v; want %v", i, got, want)
			}
		}
		for i := range 3 {
			short, cancel := context.WithTimeout(t.Context(), time.Second) // of the bubble's clock
			if err := s.committer.submit(short, soonLease(i), leasePut); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("submit = %v; want its deadline exceeded", err)
			}
			cancel()
		}
		if n := s.committer.count(); n != leasesSoon {
			t.Errorf("%d requests wait; want the %d whose waiters are there", n, leasesSoon)
		}
		end(ErrClosed)
		s.committer.end()
		w.all.Wait()
		for i := range leasesSoon {
			if got := w.told[i]; len(got) != 1 || !errors.Is(got[0], ErrClosed) {
				t.Fatalf("waiter %d was told %v; want %v, once", i, got, ErrClosed)
			}
		}
		if w.soon(s, 0, soonLease(0)) {
			t.Error("PutLeaseSoon after the end = true; want false")
		}
	})
}
