package airgap

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/fettle-dev/fettle/blob"
)

const (
	snapshotVersion = 1
	maxSnapshot     = 1 << 30
)

// Snapshot is a lock and the trees that clients see. It never changes.
type Snapshot struct {
	Version int       `json:"snapshot"`
	Name    string    `json:"name"`
	Serial  int64     `json:"serial"`
	Created time.Time `json:"created"`
	Lock    Lock      `json:"lock"`
	Trees   []Tree    `json:"trees"`
}

// Tree is what clients see of one mirror, at /FORMAT/MIRROR/.
type Tree struct {
	Mirror string `json:"mirror"`
	Format string `json:"format"`
	Files  []File `json:"files"`
}

// Blobs calls yield for every distinct file of the trees, in their order.
func (s Snapshot) Blobs(yield func(File)) {
	seen := map[blob.Digest]bool{}
	for _, t := range s.Trees {
		for _, f := range t.Files {
			if !seen[f.SHA256] {
				seen[f.SHA256] = true
				yield(f)
			}
		}
	}
}

// Size is the number of distinct files of the trees and their bytes.
func (s Snapshot) Size() (files int, bytes int64) {
	s.Blobs(func(f File) { files, bytes = files+1, bytes+f.Size })
	return files, bytes
}

func (s Snapshot) check() error {
	if s.Version != snapshotVersion {
		return fmt.Errorf("a snapshot of version %d; this fettle reads version %d", s.Version, snapshotVersion)
	}
	if err := CheckName("snapshot", s.Name); err != nil {
		return err
	}
	if s.Serial < 1 {
		return fmt.Errorf("snapshot %s has serial %d", s.Name, s.Serial)
	}
	if err := s.Lock.Check(); err != nil {
		return err
	}
	for i, t := range s.Trees {
		if err := errors.Join(CheckName("mirror", t.Mirror), CheckName("format", t.Format)); err != nil {
			return err
		}
		if i > 0 && s.Trees[i-1].Mirror >= t.Mirror {
			return fmt.Errorf("tree %s stands twice or is not in order", t.Mirror)
		}
		for j, f := range t.Files {
			if err := errors.Join(CheckPath(f.Path), f.SHA256.Validate()); err != nil {
				return fmt.Errorf("tree %s: %w", t.Mirror, err)
			}
			if f.Size < 0 || j > 0 && t.Files[j-1].Path >= f.Path {
				return fmt.Errorf("tree %s: %s stands twice, is not in order, or has no size", t.Mirror, f.Path)
			}
		}
	}
	return nil
}

func parseSnapshot(data []byte) (Snapshot, error) {
	var s Snapshot
	if err := unmarshal(data, &s); err != nil {
		return Snapshot{}, fmt.Errorf("reading a snapshot: %w", err)
	}
	if err := s.check(); err != nil {
		return Snapshot{}, fmt.Errorf("reading a snapshot: %w", err)
	}
	return s, nil
}

// Store is a folder of snapshots and their blobs: FORMAT.md. Its methods may
// be called concurrently, also by several processes.
type Store struct {
	dir   string
	blobs *blob.Store
}

// OpenStore opens the store in dir and makes it if there is none.
func OpenStore(dir string) (*Store, error) {
	b, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "snapshots"), 0o755); err != nil {
		return nil, fmt.Errorf("opening the mirror store: %w", err)
	}
	return &Store{dir, b}, nil
}

// Dir is the folder of the store.
func (s *Store) Dir() string { return s.dir }

// Blobs is where the bytes are.
func (s *Store) Blobs() *blob.Store { return s.blobs }

// ErrBusy says that another process changes the store.
var ErrBusy = errors.New("another fettle changes this store")

// lock makes this the one process that changes the store.
func (s *Store) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("the mirror store %s cannot be changed: let this user write there, or name another: %w", s.dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (%s): wait until it is done", ErrBusy, s.dir)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// ErrNoSnapshot says that the store has no such snapshot.
var ErrNoSnapshot = errors.New("no such snapshot")

func (s *Store) snapshotPath(name string) string {
	return filepath.Join(s.dir, "snapshots", name+".json")
}

// Snapshot is the snapshot called name and its digest.
func (s *Store) Snapshot(name string) (Snapshot, blob.Digest, error) {
	snap, data, err := s.read(name)
	if err != nil {
		return Snapshot{}, "", err
	}
	return snap, blob.FromBytes(data), nil
}

// read reads a snapshot; data is its file.
func (s *Store) read(name string) (snap Snapshot, data []byte, err error) {
	if err := CheckName("snapshot", name); err != nil {
		return Snapshot{}, nil, err
	}
	data, err = os.ReadFile(s.snapshotPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, nil, fmt.Errorf("%w: %s: see fettle mirror ls", ErrNoSnapshot, name)
	}
	if err != nil {
		return Snapshot{}, nil, err
	}
	snap, err = parseSnapshot(data)
	if err == nil && snap.Name != name {
		err = fmt.Errorf("it says that it is called %s", snap.Name)
	}
	if err != nil {
		return Snapshot{}, nil, fmt.Errorf("%s: %w", s.snapshotPath(name), err)
	}
	return snap, data, nil
}

// snapshotNames are the names of all snapshots, sorted.
func (s *Store) snapshotNames() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "snapshots"))
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && CheckName("snapshot", name) == nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Snapshots are all snapshots, in order of serial, then name.
func (s *Store) Snapshots() ([]Snapshot, error) {
	names, err := s.snapshotNames()
	if err != nil {
		return nil, err
	}
	var out []Snapshot
	for _, name := range names {
		snap, _, err := s.Snapshot(name)
		if err != nil {
			return nil, err
		}
		out = append(out, snap)
	}
	slices.SortFunc(out, func(a, b Snapshot) int { return cmp.Or(cmp.Compare(a.Serial, b.Serial), cmp.Compare(a.Name, b.Name)) })
	return out, nil
}

// Latest is the snapshot with the greatest serial; ok is false when there is
// none.
func (s *Store) Latest() (snap Snapshot, ok bool, err error) {
	name, err := s.latest()
	if err != nil || name == "" {
		return Snapshot{}, false, err
	}
	snap, _, err = s.Snapshot(name)
	return snap, err == nil, err
}

// latest is the name of the snapshot with the greatest serial, "" when there is
// none.
func (s *Store) latest() (best string, err error) {
	names, err := s.snapshotNames()
	if err != nil {
		return "", err
	}
	most := int64(-1)
	for _, name := range names { // in order: of equal serials, the last name
		n, err := s.serial(name)
		if err != nil {
			return "", err
		}
		if n >= most {
			best, most = name, n
		}
	}
	return best, nil
}

// serial is a snapshot's serial number. It stands at the beginning of its
// file; the rest, which is large, is read only when it does not.
func (s *Store) serial(name string) (int64, error) {
	f, err := os.Open(s.snapshotPath(name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	dec := jsontext.NewDecoder(f)
	for range 6 { // {, two keys with their values, the third key
		if _, err := dec.ReadToken(); err != nil {
			return 0, fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	if dec.StackPointer() == "/serial" {
		if t, err := dec.ReadToken(); err == nil && t.Kind() == '0' {
			if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
				return n, nil
			}
		}
	}
	snap, _, err := s.Snapshot(name)
	return snap.Serial, err
}

// add keeps a snapshot. The store is locked. The same snapshot may be added
// twice.
func (s *Store) add(snap Snapshot, data []byte) error {
	err := createFile(s.snapshotPath(snap.Name), data)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	old, err := os.ReadFile(s.snapshotPath(snap.Name))
	if err != nil {
		return err
	}
	if string(old) != string(data) {
		return fmt.Errorf("there is another snapshot %s already, and snapshots never change: give this one another name", snap.Name)
	}
	return nil
}

// Served is the name of the served snapshot, "" when there is none.
func (s *Store) Served() (string, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, "served"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// Use makes a snapshot the served one, atomically.
func (s *Store) Use(name string) error {
	if _, _, err := s.Snapshot(name); err != nil {
		return err
	}
	return s.serve(name)
}

// serve is Use of a snapshot that was read. Nothing is written when it is
// served already.
func (s *Store) serve(name string) error {
	if was, err := s.Served(); err == nil && was == name {
		return nil
	}
	return writeFile(filepath.Join(s.dir, "served"), []byte(name+"\n"))
}

// Pin keeps a snapshot when others are removed; with on false it no longer is.
func (s *Store) Pin(name string, on bool) error {
	if _, _, err := s.Snapshot(name); err != nil {
		return err
	}
	path := filepath.Join(s.dir, "pins", name)
	if on {
		return writeFile(path, nil)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Pinned tells whether a snapshot is pinned.
func (s *Store) Pinned(name string) bool {
	_, err := os.Stat(filepath.Join(s.dir, "pins", name))
	return err == nil
}
