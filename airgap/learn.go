package airgap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/blob"
)

// Unknown is a file for which upstream vouches by another digest than sha256.
type Unknown struct {
	Item Item // without SHA256
	// Check tells whether these are the bytes that upstream vouches for. Its
	// error ends in the message to the person.
	Check func(r io.ReaderAt, size int64) error
}

// Learn fetches files into the blob store and gives their items with size and
// sha256, in the order of files. Bytes that a check refuses are not kept.
func (f *Fetcher) Learn(ctx context.Context, files []Unknown) ([]Item, error) {
	f.init()
	out := make([]Item, len(files))
	p := Progress{FilesTotal: len(files)}
	for _, u := range files {
		p.BytesTotal += max(0, u.Item.Size)
	}
	var mu sync.Mutex
	report := func(n int64, done string) {
		mu.Lock()
		defer mu.Unlock()
		p.Bytes += n
		p.BytesTotal = max(p.BytesTotal, p.Bytes)
		if done != "" {
			p.Files, p.Last = p.Files+1, done
		}
		if f.Progress != nil {
			f.Progress(p)
		}
	}
	var g errgroup.Group
	g.SetLimit(defaultParallel)
	var errs []error
	for i, u := range files {
		g.Go(func() error {
			it, err := f.learn(ctx, u, func(n int64) { report(n, "") })
			mu.Lock()
			out[i] = it
			if err != nil && ctx.Err() == nil {
				errs = append(errs, err)
			}
			mu.Unlock()
			if err == nil {
				report(0, it.Path)
			}
			return nil
		})
	}
	_ = g.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if n := len(errs); n > 20 {
		errs = append(errs[:20], fmt.Errorf("and %d more", n-20))
	}
	if err := errors.Join(append(errs, f.Blobs.Flush())...); err != nil {
		return nil, err
	}
	return out, nil
}

func (f *Fetcher) learn(ctx context.Context, u Unknown, add func(int64)) (Item, error) {
	it := u.Item
	dir := filepath.Join(f.Dir, "partial")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return it, err
	}
	sum := sha256.Sum256([]byte(it.URL + "\x00" + it.Sum))
	file, err := os.OpenFile(filepath.Join(dir, "learn-"+hex.EncodeToString(sum[:])), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return it, err
	}
	fi, err := file.Stat()
	if err != nil {
		return it, errors.Join(err, file.Close())
	}
	s := &learnSink{fileSink: fileSink{store: f.Blobs, f: file, n: fi.Size(), before: fi.Size() > 0}, check: u.Check}
	defer s.close()
	if it.Size >= 0 && s.n > it.Size {
		if err := s.reset(); err != nil {
			return it, err
		}
	}
	add(s.size())
	if err := f.bringAny(ctx, it, s, add); err != nil {
		return it, err
	}
	it.SHA256, it.Size = s.got, s.n
	return it, nil
}

// learnSink is a fileSink whose file is checked by another digest.
type learnSink struct {
	fileSink
	check func(io.ReaderAt, int64) error
	got   blob.Digest
}

func (s *learnSink) commit(context.Context, Item) error {
	if err := s.check(s.f, s.n); err != nil {
		return fmt.Errorf("%w: %w", blob.ErrMismatch, err)
	}
	// It becomes the blob itself, read once more for its sha256.
	w, err := s.store.Continue(s.f.Name())
	if err != nil {
		return permanent{err}
	}
	defer w.Abort()
	if s.got, _, err = w.CommitSoon(""); err != nil {
		return permanent{err}
	}
	return nil
}
