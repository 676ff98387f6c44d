package airgap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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

// PutBytes stores b unless it is there.
func PutBytes(ctx context.Context, s *blob.Store, b []byte) (blob.Digest, error) {
	d := blob.FromBytes(b)
	if n, err := s.Size(d); err == nil && n == int64(len(b)) {
		return d, nil
	}
	_, _, err := s.Put(ctx, bytes.NewReader(b), d)
	return d, err
}

// writeFile replaces a file durably: whole, or not at all.
func writeFile(path string, data []byte) error {
	return placeFile(path, data, os.Rename)
}

// createFile is writeFile that leaves a file that is there alone: its error is
// fs.ErrExist.
func createFile(path string, data []byte) error {
	return placeFile(path, data, func(tmp, path string) error {
		return errors.Join(os.Link(tmp, path), os.Remove(tmp))
	})
}

func placeFile(path string, data []byte, place func(tmp, path string) error) (err error) {
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
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := place(f.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
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
