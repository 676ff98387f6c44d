package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// ErrMismatch says that bytes do not have the digest or the size that they
// should have.
var ErrMismatch = errors.New("digest mismatch")

// Store is a folder of blobs. Its methods may be called concurrently, also by
// several processes on the same folder.
type Store struct {
	dir  string
	root string // of the blobs, with a separator

	mu     sync.Mutex
	synced map[string]bool // folders whose own names are durable
	dirty  map[string]bool // folders with names that are not durable yet

	gathers *round     // whose files are synced when the round before is done
	rounds  sync.Mutex // held by the leader of a round

	spare    chan *gather // memory of writers, that none has now
	gathered atomic.Int32 // how much of it there is

	plain sync.Pool // *[]byte of plainSize

	flushing sync.Mutex // who flushes waits for what others began to make durable
}

// Open opens the store in dir and makes the folder if there is none. What an
// interrupted writer left in DIR/tmp stays until [Store.Sweep].
func Open(dir string) (*Store, error) {
	for _, d := range []string{filepath.Join(dir, "sha256"), filepath.Join(dir, "tmp")} {
		if err := makeDir(d); err != nil {
			return nil, fmt.Errorf("opening blob store %s: %w", dir, err)
		}
	}
	return &Store{dir: dir, root: filepath.Join(dir, "sha256") + string(filepath.Separator), synced: map[string]bool{}, dirty: map[string]bool{}, spare: make(chan *gather, gathersOnce)}, nil
}

// makeDir is os.MkdirAll of which the names are durable.
func makeDir(dir string) error {
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return nil
	}
	above := filepath.Dir(dir)
	if above != dir {
		if err := makeDir(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(above)
}

// Dir is the folder of the store.
func (s *Store) Dir() string { return s.dir }

// Path is where the blob d is, or would be. It is "" when d is malformed.
func (s *Store) Path(d Digest) string {
	h := d.Hex()
	if h == "" {
		return ""
	}
	return s.root + h[:2] + string(filepath.Separator) + h
}

// syncName makes the name of a folder of blobs durable, once for each.
func (s *Store) syncName(dir string) error {
	s.mu.Lock()
	done := s.synced[dir]
	s.mu.Unlock()
	if done {
		return nil
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced[dir] = true
	return nil
}

// Flush makes durable what [Writer.CommitSoon] committed. After an error it may
// be called again.
func (s *Store) Flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	dirs := slices.Sorted(maps.Keys(s.dirty))
	clear(s.dirty) // names that come while this goes on make it dirty again
	parents := map[string]bool{}
	for _, dir := range dirs {
		if !s.synced[dir] {
			parents[filepath.Dir(dir)] = true
		}
	}
	s.mu.Unlock()
	err := syncDirs(dirs)
	for dir := range parents {
		if err == nil {
			err = syncDir(dir)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range dirs {
		if err != nil {
			s.dirty[dir] = true
		} else {
			s.synced[dir] = true
		}
	}
	if err != nil {
		return fmt.Errorf("making blobs in %s durable: %w", s.dir, err)
	}
	return nil
}

// Has tells whether there is a blob d. It does not read it.
func (s *Store) Has(d Digest) bool {
	_, err := s.Size(d)
	return err == nil
}

// Size is the size of the blob d; the error is fs.ErrNotExist when there is
// none.
func (s *Store) Size(d Digest) (int64, error) {
	path := s.Path(d)
	if path == "" {
		return 0, d.Validate()
	}
	fi, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	if !fi.Mode().IsRegular() {
		return 0, fmt.Errorf("blob %s: %s is not a regular file; remove it", d, path)
	}
	return fi.Size(), nil
}

// Put stores all that r yields and returns its digest and size. When want is
// not "", other bytes are refused with [ErrMismatch] and nothing is kept. A
// blob that is there already is replaced by the same bytes, which mends a
// damaged one. Concurrent calls with the same bytes are fine.
func (s *Store) Put(ctx context.Context, r io.Reader, want Digest) (Digest, int64, error) {
	return s.put(ctx, r, want, (*Writer).Commit)
}

// PutSoon is Put of one of many, as [Writer.CommitSoon] is Commit.
func (s *Store) PutSoon(ctx context.Context, r io.Reader, want Digest) (Digest, int64, error) {
	return s.put(ctx, r, want, (*Writer).CommitSoon)
}

func (s *Store) put(ctx context.Context, r io.Reader, want Digest, commit func(*Writer, Digest) (Digest, int64, error)) (Digest, int64, error) {
	w, err := s.Create()
	if err != nil {
		return "", 0, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, ctxReader{ctx, r}); err != nil {
		return "", 0, fmt.Errorf("storing a blob in %s: %w", s.dir, err)
	}
	return commit(w, want)
}

// Remove removes the blob d. It is no error when there is none. Readers that
// have it open can go on.
func (s *Store) Remove(d Digest) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if err := os.Remove(s.Path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing blob %s: %w", d, err)
	}
	return nil
}

// Verify reads the whole blob d and compares. The error is [ErrMismatch] when
// the file is damaged.
func (s *Store) Verify(ctx context.Context, d Digest) error {
	return s.VerifyProgress(ctx, d, nil)
}

// VerifyProgress is Verify that tells progress, when it is not nil, from time
// to time how many bytes have been read of how many.
func (s *Store) VerifyProgress(ctx context.Context, d Digest, progress func(done, total int64)) error {
	r, err := s.Open(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, 1<<20)
	var done int64
	for {
		n, err := r.Read(buf)
		done += int64(n)
		if progress != nil && n > 0 {
			progress(done, r.Size())
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// List calls yield for every blob, in order of digests, until it returns an
// error. Files that are not blobs are passed over.
func (s *Store) List(ctx context.Context, yield func(d Digest, size int64) error) error {
	root := filepath.Join(s.dir, "sha256")
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile
			}
			return fmt.Errorf("listing blobs: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		d := Digest(prefix + e.Name())
		if !e.Type().IsRegular() || d.Validate() != nil || s.Path(d) != path {
			return nil
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listing blobs: %w", err)
		}
		return yield(d, fi.Size())
	})
}

// Sweep removes what interrupted writers left behind: temporary files that no
// living writer holds locked.
func (s *Store) Sweep() error {
	tmp := filepath.Join(s.dir, "tmp")
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return fmt.Errorf("sweeping blob store %s: %w", s.dir, err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tmpPrefix) {
			continue
		}
		if err := sweepFile(filepath.Join(tmp, e.Name())); err != nil {
			return fmt.Errorf("sweeping blob store %s: %w", s.dir, err)
		}
	}
	return nil
}

func sweepFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil // its writer lives
	}
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ctxReader ends with the context's error.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
