package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Store is a folder of releases: DIR/blobs holds the files by digest,
// DIR/releases/NAME/INPUTS.json the releases. Its methods may be called
// concurrently, also by several processes on one folder.
type Store struct {
	dir    string
	blobs  *blob.Store
	proven *blob.Proven
}

// OpenStore opens the store in dir, and makes it if there is none.
func OpenStore(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening image store: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "releases"), 0o755); err != nil {
		return nil, fmt.Errorf("opening image store %s: %w; name another folder with --store", dir, err)
	}
	b, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return nil, err
	}
	return &Store{dir: dir, blobs: b, proven: blob.NewProven(b)}, nil
}

// Dir is the folder of the store.
func (s *Store) Dir() string { return s.dir }

// Blobs is where the files are.
func (s *Store) Blobs() *blob.Store { return s.blobs }

// stored is a release with the time at which it was last chosen.
type stored struct {
	Release
	chosen time.Time
}

func (s *Store) file(r Release) string {
	return filepath.Join(s.dir, "releases", r.Name, r.Inputs.Hex()+".json")
}

func (s *Store) read(name string) ([]stored, error) {
	dir := filepath.Join(s.dir, "releases", name)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading image store: %w", err)
	}
	var out []stored
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("reading image store: %w", err)
		}
		var r Release
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("%w: %s is not a release (%v); remove the file and build the image again", ErrDamaged, path, err)
		}
		if err := r.check(); err != nil || s.file(r) != path {
			return nil, fmt.Errorf("%w: %s does not describe the release that its name says (%v); remove the file and build the image again", ErrDamaged, path, err)
		}
		fi, err := e.Info()
		if err != nil {
			continue
		}
		out = append(out, stored{r, fi.ModTime()})
	}
	slices.SortFunc(out, func(a, b stored) int {
		if c := b.chosen.Compare(a.chosen); c != 0 {
			return c
		}
		return strings.Compare(string(a.Inputs), string(b.Inputs))
	})
	return out, nil
}

// List returns all releases, by name, of each name the latest first.
func (s *Store) List(ctx context.Context) ([]Release, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "releases"))
	if err != nil {
		return nil, fmt.Errorf("reading image store: %w", err)
	}
	var out []Release
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rs, err := s.read(e.Name())
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			out = append(out, r.Release)
		}
	}
	return out, nil
}

// Latest is the release of that name that was built, imported or asked of a
// [Builder] last.
func (s *Store) Latest(ctx context.Context, name string) (Release, bool, error) {
	if err := CheckName(name); err != nil {
		return Release{}, false, err
	}
	rs, err := s.read(name)
	if err != nil || len(rs) == 0 {
		return Release{}, false, err
	}
	return rs[0].Release, true, nil
}

// Find is the release of that name that was made from these inputs. Its files
// are there in full size; whether they are intact is [Store.Verify]'s business.
func (s *Store) Find(ctx context.Context, name string, inputs blob.Digest) (Release, bool, error) {
	rs, err := s.read(name)
	if err != nil {
		return Release{}, false, err
	}
	for _, r := range rs {
		if r.Inputs != inputs {
			continue
		}
		for _, f := range r.Files {
			if n, err := s.blobs.Size(f.Digest); err != nil || n != f.Size {
				return Release{}, false, nil
			}
		}
		return r.Release, true, nil
	}
	return Release{}, false, nil
}

// choose makes r the latest of its name.
func (s *Store) choose(r Release, now time.Time) error {
	if err := os.Chtimes(s.file(r), now, now); err != nil {
		return fmt.Errorf("choosing release %s: %w", r.Name, err)
	}
	return nil
}

// Add keeps a release whose files are in the blob store. It replaces one with
// the same name and inputs.
func (s *Store) Add(ctx context.Context, r Release) error {
	if err := r.check(); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, f := range r.Files {
		n, err := s.blobs.Size(f.Digest)
		if err != nil {
			return fmt.Errorf("keeping release %s: file %s: %w", r.Name, f.Name, err)
		}
		if n != f.Size {
			return fmt.Errorf("keeping release %s: file %s has %d bytes; want %d", r.Name, f.Name, n, f.Size)
		}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping release %s: %w", r.Name, err)
	}
	if err := writeFile(s.file(r), append(data, '\n')); err != nil {
		return fmt.Errorf("keeping release %s: %w", r.Name, err)
	}
	return nil
}

// Open opens a file of r: see [blob.Reader] for what it verifies.
func (s *Store) Open(ctx context.Context, r Release, file string) (*blob.Reader, error) {
	f, ok := r.File(file)
	if !ok {
		return nil, fmt.Errorf("release %s has no file %s: %w", r.Name, file, fs.ErrNotExist)
	}
	rd, err := s.blobs.Open(ctx, f.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: file %s of %s is missing; build or import the image again: %w", ErrDamaged, file, r.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening file %s of %s: %w", file, r.Name, err)
	}
	if rd.Size() != f.Size {
		rd.Close()
		return nil, fmt.Errorf("%w: file %s of %s is truncated to %d of %d bytes; build or import the image again", ErrDamaged, file, r.Name, rd.Size(), f.Size)
	}
	return rd, nil
}

// maxProven bounds what OpenFile verifies before it gives it out: more than a
// ramdisk would keep its first machine waiting.
const maxProven = 512 << 20

// OpenFile opens a file of r to be served. Up to 512 MB it is verified, once
// and when it has changed, and then a file of the operating system's, which
// reaches a socket without being read here. What is larger is a disk, which
// machines fetch in ranges and verify by digests of their own: see
// [blob.Reader].
func (s *Store) OpenFile(ctx context.Context, r Release, file string) (io.ReadSeekCloser, int64, error) {
	f, ok := r.File(file)
	if !ok || f.Size > maxProven {
		rd, err := s.Open(ctx, r, file)
		if err != nil {
			return nil, 0, err
		}
		return rd, rd.Size(), nil
	}
	plain, fi, err := s.proven.Open(ctx, f.Digest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, fmt.Errorf("%w: file %s of %s is missing; build or import the image again: %w", ErrDamaged, file, r.Name, err)
	case err != nil:
		return nil, 0, fmt.Errorf("opening file %s of %s: %w", file, r.Name, err)
	}
	return plain, fi.Size(), nil
}

// Remove forgets r and removes the files that no other release has.
func (s *Store) Remove(ctx context.Context, r Release) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(s.file(r)); err != nil {
		return fmt.Errorf("removing release %s: %w", r.Name, err)
	}
	os.Remove(filepath.Dir(s.file(r))) // when it was the last of its name
	rest, err := s.List(ctx)
	if err != nil {
		return err
	}
	keep := map[blob.Digest]bool{}
	for _, o := range rest {
		for _, f := range o.Files {
			keep[f.Digest] = true
		}
	}
	for _, f := range r.Files {
		if keep[f.Digest] {
			continue
		}
		if err := s.blobs.Remove(f.Digest); err != nil {
			return fmt.Errorf("removing release %s: %w", r.Name, err)
		}
	}
	return nil
}

// lock keeps other processes from adding and removing meanwhile. It is held
// for as long as it takes to write a small file.
func (s *Store) lock(ctx context.Context) (func(), error) {
	unlock, err := lockFile(ctx, filepath.Join(s.dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("waiting for image store %s: %w", s.dir, err)
	}
	return unlock, nil
}

// writeFile writes a small file durably: whole, or not at all.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
