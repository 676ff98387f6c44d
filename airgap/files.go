package airgap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/blob"
)

// ReadBlob reads a whole blob, verified, of at most limit bytes.
func ReadBlob(ctx context.Context, s *blob.Store, d blob.Digest, limit int64) ([]byte, error) {
	r, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() > limit {
		return nil, fmt.Errorf("blob %s has %d bytes; at most %d were expected", d, r.Size(), limit)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err // what was read is not to be used
	}
	return b, nil
}

// PutBytes stores b unless it is there. It is there for good after the store's
// Flush, which [Syncer.Sync] calls before a snapshot names it.
func PutBytes(ctx context.Context, s *blob.Store, b []byte) (blob.Digest, error) {
	d := blob.FromBytes(b)
	return d, putBytes(ctx, s, b, d)
}

func putBytes(ctx context.Context, s *blob.Store, b []byte, d blob.Digest) error {
	if n, err := s.Size(d); err == nil && n == int64(len(b)) {
		return nil
	}
	_, _, err := s.PutSoon(ctx, bytes.NewReader(b), d)
	return err
}

// Gzip compresses what is served, without a name or a time: the same bytes each
// time.
func Gzip(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(data)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

// Puts stores many small blobs at once: a disk makes dozens durable in the time
// of one.
type Puts struct {
	ctx   context.Context
	blobs *blob.Store
	g     errgroup.Group
}

// NewPuts begins to store. Wait must be called.
func NewPuts(ctx context.Context, s *blob.Store) *Puts {
	p := &Puts{ctx: ctx, blobs: s}
	p.g.SetLimit(defaultParallel)
	return p
}

// Bytes gives the digest of b, which is there after Wait. b must not change.
func (p *Puts) Bytes(b []byte) blob.Digest {
	d := blob.FromBytes(b)
	p.g.Go(func() error { return putBytes(p.ctx, p.blobs, b, d) })
	return d
}

// Wait waits for all of them.
func (p *Puts) Wait() error { return p.g.Wait() }

// writeFile replaces a file durably: whole, or not at all.
func writeFile(path string, data []byte) error {
	return placeFile(path, data, true, os.Rename)
}

// writeHint replaces a file that may be lost or cut in a power failure.
func writeHint(path string, data []byte) error {
	return placeFile(path, data, false, os.Rename)
}

// createFile is writeFile that leaves a file that is there alone: its error is
// fs.ErrExist.
func createFile(path string, data []byte) error {
	return placeFile(path, data, true, func(tmp, path string) error {
		return errors.Join(os.Link(tmp, path), os.Remove(tmp))
	})
}

func placeFile(path string, data []byte, durable bool, place func(tmp, path string) error) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644))
	if durable {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := place(f.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if !durable {
		return nil
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
