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
	failed := f.several(ctx, len(files), p, func(i int, add func(int64)) (string, error) {
		var err error
		out[i], err = f.learn(ctx, files[i], add)
		return out[i].Path, err
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := errors.Join(failed, f.Blobs.Flush()); err != nil {
		return nil, err
	}
	return out, nil
}

func (f *Fetcher) learn(ctx context.Context, u Unknown, add func(int64)) (Item, error) {
	it := u.Item
	leave, err := f.enter(ctx)
	if err != nil {
		return it, err
	}
	defer leave()
	dir := filepath.Join(f.Dir, "partial")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return it, err
	}
	sum := sha256.Sum256([]byte(it.URL + "\x00" + it.Sum))
	s := &learnSink{partSink: partSink{store: f.Blobs, path: filepath.Join(dir, "learn-"+hex.EncodeToString(sum[:]))}, check: u.Check, leave: leave}
	if s.w, err = f.Blobs.Continue(s.path); err != nil {
		return it, err
	}
	defer s.close()
	s.before = s.size() > 0
	if it.Size >= 0 && s.size() > it.Size {
		if err := s.reset(); err != nil {
			return it, err
		}
	}
	add(s.size())
	if err := f.bringAny(ctx, it, s, add); err != nil {
		return it, err
	}
	it.SHA256, it.Size = s.got, s.size()
	return it, nil
}

// learnSink is a partSink whose bytes are checked by another digest.
type learnSink struct {
	partSink
	check func(io.ReaderAt, int64) error
	leave func() // its place, once it is checked
	got   blob.Digest
}

func (s *learnSink) commit(context.Context, Item) error {
	f, err := os.Open(s.path)
	if err != nil {
		return permanent{err}
	}
	err = s.check(f, s.size())
	f.Close()
	if err != nil {
		return fmt.Errorf("%w: %w", blob.ErrMismatch, err)
	}
	s.leave()
	s.closed = true
	if s.got, _, err = s.w.CommitSoon(""); err != nil {
		return permanent{err}
	}
	return nil
}
