package airgap

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/fettle-dev/fettle/blob"
)

// sink is where the bytes of one item gather.
type sink interface {
	pour(r io.Reader) (int64, error)
	size() int64
	resumed() bool // it began with bytes of an earlier transfer
	reset() error
	commit(ctx context.Context, it Item) error
	close()
}

// leaving gives a place up once all bytes are there.
type leaving struct {
	sink
	leave func()
}

func (l leaving) commit(ctx context.Context, it Item) error {
	l.leave()
	return l.sink.commit(ctx, it)
}

// open gives small items a blob writer, which lives as long as this run, and
// large ones a file that outlives it.
func (f *Fetcher) open(it Item) (sink, error) {
	if it.Size >= 0 && it.Size < orDefault(f.Large, defaultLarge) || f.Dir == "" {
		s := &blobSink{store: f.Blobs}
		return s, s.reset()
	}
	dir := filepath.Join(f.Dir, "partial")
	err := os.MkdirAll(dir, 0o755)
	if err != nil {
		return nil, err
	}
	s := &partSink{store: f.Blobs, path: filepath.Join(dir, it.SHA256.Hex())}
	if s.w, err = f.Blobs.Continue(s.path); err != nil {
		return nil, err
	}
	s.before = s.w.Size() > 0
	if it.Size >= 0 && s.w.Size() > it.Size {
		return s, s.reset()
	}
	return s, nil
}

type blobSink struct {
	store *blob.Store
	w     *blob.Writer
	cut   bool
	calls int
}

func (s *blobSink) pour(r io.Reader) (int64, error) { return pour(s.w, r) }
func (s *blobSink) size() int64                     { return s.w.Size() }
func (s *blobSink) resumed() bool                   { return s.calls > 1 }
func (s *blobSink) close()                          { s.w.Abort() }
func (s *blobSink) reset() (err error) {
	if s.w != nil {
		s.w.Abort()
	}
	s.w, err = s.store.Create()
	return err
}
func (s *blobSink) commit(_ context.Context, it Item) error {
	s.calls++
	_, _, err := s.w.CommitSoon(it.SHA256)
	if err != nil && !errors.Is(err, blob.ErrMismatch) {
		return permanent{err}
	}
	return err
}

// partSink gathers in a file that becomes the blob when it is whole.
type partSink struct {
	store  *blob.Store
	path   string
	w      *blob.Writer
	closed bool
	before bool
}

func (s *partSink) pour(r io.Reader) (int64, error) { return pour(s.w, r) }
func (s *partSink) size() int64                     { return s.w.Size() }
func (s *partSink) resumed() bool                   { return s.before }
func (s *partSink) close()                          { s.w.Abort() }
func (s *partSink) reset() (err error) {
	s.before = false
	if s.closed {
		if s.w, err = s.store.Continue(s.path); err != nil {
			return err
		}
		s.closed = false
	}
	return s.w.Reset()
}
func (s *partSink) commit(_ context.Context, it Item) error {
	s.closed = true
	_, _, err := s.w.CommitSoon(it.SHA256)
	if err != nil && !errors.Is(err, blob.ErrMismatch) {
		return permanent{err}
	}
	return err
}

// pour appends what r yields. What a disk refuses is no better the next time.
func pour(w *blob.Writer, r io.Reader) (int64, error) {
	from := &failing{r: r}
	n, err := w.Pour(from)
	if err != nil && from.err == nil {
		err = permanent{err}
	}
	return n, err
}

// failing remembers the reader's own error.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}
