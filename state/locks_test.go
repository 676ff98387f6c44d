package state

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestLockExcludes(t *testing.T) {
	endpoint, conf := startCluster(t)
	c := Config{Endpoints: []string{endpoint}, TLS: conf}
	stores := []*Store{openConfig(t, c), openConfig(t, c)}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	held, most := 0, 0
	var mu sync.Mutex
	count := func(by int) {
		mu.Lock()
		defer mu.Unlock()
		held += by
		most = max(most, held)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			l, err := stores[i%2].Lock(ctx, "machine/gpu-01", 10*time.Second)
			if err != nil {
				t.Errorf("Lock = %v; want nil", err)
				return
			}
			count(1)
			if _, err := stores[i%2].Append(ctx, Event{Kind: "test"}); err != nil {
				t.Error(err)
			}
			count(-1)
			if err := l.Unlock(ctx); err != nil {
				t.Errorf("Unlock = %v; want nil", err)
			}
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d held the lock at once; want 1", most)
	}
}

func TestLock(t *testing.T) {
	s := openTest(t)
	l, err := s.Lock(t.Context(), "gpu-01", time.Minute)
	if err != nil {
		t.Fatalf("Lock = %v; want nil", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx, "gpu-01", time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock of a held lock = %v; want the end of its context", err)
	}
	other, err := s.Lock(t.Context(), "gpu-02", time.Minute)
	if err != nil {
		t.Fatalf("Lock of another name = %v; want nil", err)
	}
	for range 2 {
		if err := l.Unlock(t.Context()); err != nil {
			t.Errorf("Unlock = %v; want nil", err)
		}
	}
	select {
	case <-l.Lost():
		t.Error("an unlocked lock was lost; want it only freed")
	default:
	}
	again, err := s.Lock(t.Context(), "gpu-01", time.Minute)
	if err != nil {
		t.Fatalf("Lock after Unlock = %v; want nil", err)
	}
	// The lease runs out, as after a long pause of the process.
	if _, err := s.session.Load().cli.Revoke(t.Context(), again.session.Lease()); err != nil {
		t.Fatal(err)
	}
	expectLost(t, again)
	if err := again.Unlock(t.Context()); !errors.Is(err, ErrLockLost) {
		t.Errorf("Unlock of a lost lock = %v; want ErrLockLost", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	expectLost(t, other)
	if _, err := s.Lock(t.Context(), "gpu-01", time.Minute); !errors.Is(err, ErrClosed) {
		t.Errorf("Lock of a closed store = %v; want ErrClosed", err)
	}
}

func expectLost(t *testing.T, l *Lock) {
	t.Helper()
	select {
	case <-l.Lost():
	case <-time.After(30 * time.Second):
		t.Error("Lost is open 30s after the lease ended; want it closed")
	}
}

// What a killed process held does not hold up the next one.
func TestLocksEndWithTheirDirectory(t *testing.T) {
	dir := t.TempDir()
	s := openConfig(t, Config{Dir: dir})
	if _, err := s.Lock(t.Context(), "gpu-01", time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // without Unlock
		t.Fatal(err)
	}
	s = openConfig(t, Config{Dir: dir})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // of the hour that the lock would last
	defer cancel()
	l, err := s.Lock(ctx, "gpu-01", time.Second)
	if err != nil {
		t.Fatalf("Lock in a reopened directory = %v; want nil at once", err)
	}
	if err := l.Unlock(ctx); err != nil {
		t.Error(err)
	}
}
