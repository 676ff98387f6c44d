package blob

import (
	"cmp"
	"os"
	"sync"
	"sync/atomic"
)

// syncsAtOnce is how many files of a round are synced at once: they wait for
// the disk together.
const syncsAtOnce = 32

// round is files whose bytes become durable together. A sync makes the file
// system write its journal, and who makes, renames or removes a file meanwhile
// waits for that. Files that are synced at once share it.
type round struct {
	files []*os.File
	errs  []error
	done  chan struct{}
}

// durable returns when the bytes of f are on the disk. Those who call while a
// round is on its way make up the next one: there is no timer, and who comes
// alone waits for nobody.
func (s *Store) durable(f *os.File) error {
	s.mu.Lock()
	r := s.gathers
	leads := r == nil
	if leads {
		r = &round{done: make(chan struct{})}
		s.gathers = r
	}
	at := len(r.files)
	r.files = append(r.files, f)
	s.mu.Unlock()
	if !leads {
		<-r.done
		return r.errs[at]
	}
	s.rounds.Lock() // waits for the round before
	defer s.rounds.Unlock()
	s.mu.Lock()
	s.gathers = nil
	s.mu.Unlock()
	r.errs = syncAll(r.files)
	close(r.done)
	return r.errs[at]
}

// syncAll syncs files and gives the error of each.
func syncAll(files []*os.File) []error {
	errs := make([]error, len(files))
	if len(files) > 1 {
		for i, f := range files {
			errs[i] = settle(f)
		}
	}
	atOnce(len(files), func(i int) { errs[i] = cmp.Or(errs[i], files[i].Sync()) })
	return errs
}

// syncDirs makes the names in folders durable. The error is the first one: a
// disk that is gone has the same for each.
func syncDirs(dirs []string) error {
	errs := make([]error, len(dirs))
	atOnce(len(dirs), func(i int) { errs[i] = syncDir(dirs[i]) })
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// atOnce calls do for 0 to n-1, syncsAtOnce at a time, and returns when all are
// done.
func atOnce(n int, do func(int)) {
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			do(int(i))
		}
	}
	var wg sync.WaitGroup
	for range min(n, syncsAtOnce) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}
