package airgap

import (
	"bytes"
	"cmp"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func testKey(t testing.TB, letter string) *Key {
	t.Helper()
	k, err := ParseKey(secretKeyPrefix + strings.Repeat(letter, 42) + "A=")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testStore(t testing.TB) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// noise does not compress.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// contents of the tests' first snapshot.
func contents() map[string][]byte {
	return map[string][]byte{
		"empty": nil, "text": bytes.Repeat([]byte("all work and no play "), 9000), "big": noise(1, 300_000),
		"same-as-big": noise(1, 300_000), "pool/a": noise(2, 20_000), "pool/b": noise(3, 30_000), "pool/c": []byte("c"),
	}
}

// addSnapshot keeps a snapshot with one tree.
func addSnapshot(t testing.TB, s *Store, name string, serial int64, files map[string][]byte) Snapshot {
	t.Helper()
	m := Mirror{Name: "m", Format: "files"}
	snap := Snapshot{Version: snapshotVersion, Name: name, Serial: serial, Created: testTime.Add(time.Duration(serial) * time.Minute),
		Lock: Lock{LockVersion, []LockedMirror{{Name: "m", Format: "files", Spec: m, Inputs: blob.FromBytes(nil), Trust: []Trust{}, Items: []Item{}}}}}
	tree := Tree{Mirror: "m", Format: "files", Files: []File{}}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		d, err := PutBytes(t.Context(), s.Blobs(), files[p])
		if err != nil {
			t.Fatal(err)
		}
		tree.Files = append(tree.Files, File{p, int64(len(files[p])), d})
	}
	snap.Trees = []Tree{tree}
	if err := snap.check(); err != nil {
		t.Fatal(err)
	}
	data, err := marshal(snap)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.add(snap, data); err != nil {
		t.Fatal(err)
	}
	if err := s.Use(name); err != nil {
		t.Fatal(err)
	}
	return snap
}

// create makes a bundle in a new folder.
func create(t testing.TB, s *Store, k *Key, o CreateOptions) (string, Bundle) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	o.Site = cmp.Or(o.Site, "dc1")
	b, err := s.Create(t.Context(), k, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, b
}

func importDirs(t testing.TB, s *Store, k PublicKey, rollback bool, dirs ...string) (Receipt, error) {
	t.Helper()
	b, err := OpenBundle(k, dirs...)
	if err != nil {
		return Receipt{}, err
	}
	return s.Import(t.Context(), b, ImportOptions{AllowRollback: rollback, Now: func() time.Time { return testTime }})
}

func readDir(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		out[rel], err = os.ReadFile(p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkServed compares what a store serves with files.
func checkServed(t testing.TB, s *Store, name string, files map[string][]byte) {
	t.Helper()
	got, err := s.Served()
	if err != nil || got != name {
		t.Fatalf("Served() = %q, %v; want %q", got, err, name)
	}
	snap, _, err := s.Snapshot(name)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(snap.Trees[0].Files); n != len(files) {
		t.Errorf("snapshot %s has %d files; want %d", name, n, len(files))
	}
	for _, f := range snap.Trees[0].Files {
		data, err := ReadBlob(t.Context(), s.Blobs(), f.SHA256, 1<<30)
		if err != nil || !bytes.Equal(data, files[f.Path]) {
			t.Errorf("%s = %d bytes, %v; want %d", f.Path, len(data), err, len(files[f.Path]))
		}
	}
}

func now() time.Time { return testTime }

// needs skips a test that the machine cannot run, and fails it in CI.
func needs(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}
