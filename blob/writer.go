package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

const (
	tmpPrefix  = "put-"
	flushEvery = 8 << 20
)

// Writer collects the bytes of one blob in a temporary file. It is not for
// concurrent use. Exactly one of Commit and Abort takes effect; Abort after
// either does nothing, so it can be deferred.
type Writer struct {
	s    *Store
	f    *os.File
	path string
	sum  hash.Hash
	n    int64
	err  error

	g       *gather // nil: bytes are written as they come
	flushed int64   // bytes that the disk was told to begin with
	done    bool
	keep    bool // Abort leaves the file: see Continue
}

// Create starts a blob whose digest is not known yet.
func (s *Store) Create() (*Writer, error) {
	// The lock tells Sweep that somebody still writes. The file may be swept
	// between its making and its locking: then it is made again.
	for range 10 {
		f, err := createTemp(filepath.Join(s.dir, "tmp", tmpPrefix))
		if err != nil {
			return nil, fmt.Errorf("storing a blob in %s: %w", s.dir, err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			f.Close()
			os.Remove(f.Name())
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		if _, err := os.Lstat(f.Name()); err != nil {
			f.Close()
			continue
		}
		return &Writer{s: s, f: f, path: f.Name(), sum: sha256.New()}, nil
	}
	return nil, fmt.Errorf("storing a blob in %s: temporary files vanish as they are made; is something sweeping the folder?", s.dir)
}

// Write appends p. After an error the blob cannot be committed.
func (w *Writer) Write(p []byte) (int, error) {
	if w.done {
		return 0, os.ErrClosed
	}
	total := 0
	for w.gathers() {
		n := copy(w.g.room(), p[total:])
		w.took(n)
		if total += n; total == len(p) {
			return total, w.err
		}
	}
	if w.err != nil {
		return total, w.err
	}
	n, err := w.f.Write(p[total:])
	w.sum.Write(p[total : total+n])
	w.n += int64(n)
	if w.n-w.flushed >= flushEvery {
		flush(w.f, w.flushed, w.n-w.flushed)
		w.flushed = w.n
	}
	if err != nil {
		w.err = w.explain(err)
	}
	return total + n, w.err
}

// Size is the number of bytes written so far.
func (w *Writer) Size() int64 { return w.n }

// Commit makes the blob durable under its digest. When want is not "" and the
// bytes have another digest, the error is [ErrMismatch] and nothing is kept.
func (w *Writer) Commit(want Digest) (Digest, int64, error) { return w.commit(want, true) }

// CommitSoon is Commit of one of many: the bytes are durable, but the blob may
// be gone after a power cut until [Store.Flush]. It is never there in part. It
// returns when the bytes are durable, together with those of others.
func (w *Writer) CommitSoon(want Digest) (Digest, int64, error) { return w.commit(want, false) }

func (w *Writer) commit(want Digest, name bool) (Digest, int64, error) {
	if w.done {
		return "", 0, os.ErrClosed
	}
	defer w.Abort()
	if w.err != nil {
		return "", 0, w.err
	}
	var sum [sha256.Size]byte
	w.sum.Sum(sum[:0])
	d := fromSum(sum)
	if want != "" {
		if err := want.Validate(); err != nil {
			return "", 0, err
		}
		if d != want {
			return "", 0, fmt.Errorf("%w: got %d bytes with %s; want %s; fetch or build them again", ErrMismatch, w.n, d, want)
		}
	}
	if err := w.place(d, name); err != nil {
		return "", 0, w.explain(err)
	}
	return d, w.n, nil
}

func (w *Writer) place(d Digest, name bool) error {
	if w.g != nil {
		err := w.g.spill(w.f)
		w.release()
		if err != nil {
			return err
		}
	}
	if err := w.f.Chmod(0o444); err != nil {
		return err
	}
	flush(w.f, w.flushed, w.n-w.flushed) // while others are synced
	if err := w.s.durable(w.f); err != nil {
		return err
	}
	path := w.s.Path(d)
	dir := filepath.Dir(path)
	// A rename replaces a blob of the same digest: it mends a damaged one, and
	// readers of the old file keep it.
	err := rename(w.path, path)
	if errors.Is(err, fs.ErrNotExist) { // the first blob of its folder
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		err = rename(w.path, path)
	}
	if w.keep && errors.Is(err, syscall.EXDEV) {
		return w.elsewhere(d)
	} else if err != nil {
		return err
	}
	w.done = true
	err = w.f.Close()
	if !name {
		w.s.mu.Lock()
		w.s.dirty[dir] = true
		w.s.mu.Unlock()
		return err
	}
	return errors.Join(err, syncDir(dir), w.s.syncName(dir))
}

// Abort forgets the blob, unless it was committed.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.release()
	if !w.keep {
		os.Remove(w.path)
	}
	w.f.Close()
}

func (w *Writer) explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("no space left in %s after %d bytes; nothing was kept; free some space and try again: %w", w.s.dir, w.n, err)
	}
	return fmt.Errorf("writing a blob in %s: %w", w.s.dir, err)
}

// createTemp makes a file whose name begins with prefix. A file that os.OpenFile
// opens is offered to the poller, which refuses it: five calls more of the
// system for each small blob.
func createTemp(prefix string) (*os.File, error) {
	for range 100 {
		path := prefix + strconv.FormatUint(rand.Uint64(), 36)
		fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, 0o600)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.EINTR):
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
	return nil, &fs.PathError{Op: "open", Path: prefix, Err: syscall.EEXIST}
}

// rename is os.Rename without looking at the new name first: it is a blob's.
func rename(from, to string) error {
	err := syscall.Rename(from, to)
	for errors.Is(err, syscall.EINTR) {
		err = syscall.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
