package blob

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestTogether: blobs that are committed while a round is on its way are the
// next one. None has its name before its bytes are synced, and one whose sync
// fails takes no other with it.
func TestTogether(t *testing.T) {
	const n, bad = 50, 7
	s := newStore(t)
	s.rounds.Lock() // a round is on its way
	errs := make([]error, n)
	digests := make([]Digest, n)
	var wg sync.WaitGroup
	for i := range n {
		w, err := s.Create()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "blob %d", i)
		digests[i] = FromBytes(fmt.Appendf(nil, "blob %d", i))
		if i == bad { // its sync fails: EINVAL
			w.f.Close()
			var pipe *os.File
			if pipe, w.f, err = os.Pipe(); err != nil {
				t.Fatal(err)
			}
			defer pipe.Close()
		}
		wg.Go(func() { _, _, errs[i] = w.CommitSoon(digests[i]) })
	}
	gathered := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.gathers != nil && len(s.gathers.files) == n
	}
	for end := time.Now().Add(10 * time.Second); !gathered(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the blobs do not gather into one round")
		}
	}
	for i, d := range digests {
		if s.Has(d) {
			t.Errorf("blob %d has its name before its bytes are durable", i)
		}
	}
	s.rounds.Unlock()
	wg.Wait()
	for i, d := range digests {
		if err := errs[i]; (err != nil) != (i == bad) || s.Has(d) == (i == bad) {
			t.Errorf("blob %d: CommitSoon = %v, Has = %t; want an error and no blob for %d alone", i, err, s.Has(d), bad)
		}
	}
	var path *os.PathError
	if !errors.As(errs[bad], &path) || path.Op != "sync" {
		t.Errorf("CommitSoon of a file that cannot be synced = %v; want the error of its sync", errs[bad])
	}
	if s.gathers != nil {
		t.Error("a round is left that nobody leads")
	}
	leftovers(t, s)
}
