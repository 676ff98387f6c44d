package airgap

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

const severalMost = 20

// Several joins the errors of many things, of which people read the first.
func Several(errs []error) error {
	if n := len(errs) - severalMost; n > 0 {
		errs = append(errs[:severalMost:severalMost], fmt.Errorf("and %d more", n))
	}
	return errors.Join(errs...)
}

// several fetches n things at once and tells how far all of them are. do is told
// which, and says under which name it is done. The error names each that failed.
func (f *Fetcher) several(ctx context.Context, n int, p Progress, do func(i int, add func(int64)) (name string, err error)) error {
	var mu sync.Mutex
	report := func(n int64, done string) {
		mu.Lock()
		defer mu.Unlock()
		p.Bytes += n
		p.BytesTotal = max(p.BytesTotal, p.Bytes) // of some the size was not known
		if done != "" {
			p.Files, p.Last = p.Files+1, done
		}
		if f.Progress != nil {
			f.Progress(p)
		}
	}
	var g errgroup.Group
	g.SetLimit(defaultAtOnce)
	var errs []error
	for i := range n {
		g.Go(func() error {
			name, err := do(i, func(n int64) { report(n, "") })
			if err == nil {
				report(0, name)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() == nil {
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	return Several(errs)
}
