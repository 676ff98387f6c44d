package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Link stores the file at path, which must have the digest want, without a
// second copy of its bytes where the file system can do that. Whoever has the
// file must replace it rather than write into it; it is read whole first. A
// blob that is there already stays.
func (s *Store) Link(ctx context.Context, path string, want Digest) (int64, error) {
	if err := want.Validate(); err != nil {
		return 0, err
	}
	if n, err := s.Size(want); err == nil {
		return n, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("storing %s: %w", path, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("storing %s: %w", path, err)
	}
	if !fi.Mode().IsRegular() {
		return 0, fmt.Errorf("storing %s: it is not a regular file", path)
	}
	r := &Reader{ctx: ctx, f: f, d: want, size: fi.Size(), sum: sha256.New()}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return 0, fmt.Errorf("storing %s: %w", path, err)
	}
	if err := s.durable(f); err != nil { // who wrote it may not have
		return 0, fmt.Errorf("storing %s: %w", path, err)
	}
	to := s.Path(want)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, fmt.Errorf("storing %s: %w", path, err)
	}
	if err := os.Link(path, to); err == nil {
		// What was read is what was linked, unless somebody replaced it meanwhile.
		if now, err := os.Lstat(to); err == nil && os.SameFile(now, fi) {
			return fi.Size(), errors.Join(syncDir(filepath.Dir(to)), s.syncName(filepath.Dir(to)))
		}
		if err := os.Remove(to); err != nil {
			return 0, fmt.Errorf("storing %s: %w", path, err)
		}
	} else if errors.Is(err, fs.ErrExist) {
		return fi.Size(), nil
	}
	// Another file system, or one without links.
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("storing %s: %w", path, err)
	}
	_, n, err := s.Put(ctx, f, want)
	return n, err
}
