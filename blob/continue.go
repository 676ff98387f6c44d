package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrInUse says that somebody else writes the file of a blob that gathers.
var ErrInUse = errors.New("somebody else writes it")

// Continue goes on with a blob whose bytes gather in the file at path, which
// outlives the process, or starts it. Abort leaves the file as it is; Commit
// makes it a blob, without a copy when it is on the store's file system. What
// the file holds already is read, so that Commit vouches for the whole.
func (s *Store) Continue(path string) (*Writer, error) {
	// Who wrote it may make it a blob between its opening and its locking: a
	// blob is nobody's to write, and a new file is begun.
	for range 10 {
		f, err := openGathered(path)
		if err != nil {
			return nil, err
		}
		if same, err := lockGathered(f, path); err != nil {
			return nil, errors.Join(fmt.Errorf("going on with %s: %w", path, err), f.Close())
		} else if !same {
			f.Close()
			continue
		}
		w := &Writer{s: s, f: f, path: path, sum: sha256.New(), keep: true}
		if w.n, err = io.Copy(w.sum, f); err != nil {
			return nil, errors.Join(fmt.Errorf("going on with %s: %w", path, err), f.Close())
		}
		return w, nil
	}
	return nil, fmt.Errorf("going on with %s: %w", path, ErrInUse)
}

func openGathered(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if errors.Is(err, fs.ErrPermission) && os.Chmod(path, 0o644) == nil {
		// It was whole and about to become a blob, which is read-only.
		f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	}
	return f, err
}

// lockGathered locks f and tells whether it is still the file at path.
func lockGathered(f *os.File, path string) (same bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, ErrInUse
	}
	if err != nil {
		return false, err
	}
	is, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(is, now), err
}

// Discard removes a file of [Store.Continue], unless somebody writes it.
func Discard(path string) error { return sweepFile(path) }

// Reset forgets all bytes of a writer that [Store.Continue] made.
func (w *Writer) Reset() error {
	if w.done || !w.keep {
		return os.ErrClosed
	}
	if err := w.f.Truncate(0); err != nil {
		return err
	}
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.sum, w.n, w.flushed, w.err = sha256.New(), 0, 0, nil
	return nil
}

// elsewhere makes a file of another file system a blob: a copy.
func (w *Writer) elsewhere(d Digest) error {
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	c, err := w.s.Create()
	if err != nil {
		return err
	}
	defer c.Abort()
	if _, err := io.Copy(c, w.f); err != nil {
		return err
	}
	if _, _, err := c.Commit(d); err != nil {
		return err
	}
	w.done = true
	return errors.Join(os.Remove(w.path), w.f.Close(), syncDir(filepath.Dir(w.path)))
}
