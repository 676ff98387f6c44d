package airgap

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// damage is one way to harm a file of a bundle.
type damage struct {
	name string
	do   func(path string) error
}

func damages() []damage {
	flip := func(at func(n int) int) func(string) error {
		return func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[at(len(data))] ^= 1
			return os.WriteFile(path, data, 0o644)
		}
	}
	return []damage{
		{"lost", os.Remove},
		{"flipped in a frame", flip(func(n int) int { return n / 2 })},
		{"flipped in its table", flip(func(n int) int { return n - 200 })},
		{"cut", func(path string) error { return os.Truncate(path, 50_000) }},
		{"an unreadable disc", func(path string) error { // a folder gives EISDIR where a scratch gives EIO
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o755))
		}},
	}
}

// TestParity loses and damages volumes: as many as there is parity are given
// back, one more is not.
func TestParity(t *testing.T) {
	secret, public, err := Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		to   []string
	}{{"plain", nil}, {"encrypted", []string{public}}} {
		s, k := testStore(t), testKey(t, "A")
		addSnapshot(t, s, "one", 1, contents())
		dir, b := create(t, s, k, CreateOptions{VolumeSize: 100_000, Parity: 2, Recipients: tt.to})
		if len(b.Volumes) < 4 || b.Parity == nil || len(b.Parity.Files) != 2 || b.Parity.Shards < len(b.Volumes) {
			t.Fatalf("%d volumes, parity %+v", len(b.Volumes), b.Parity)
		}
		t.Logf("%d volumes, %d data shards", len(b.Volumes), b.Parity.Shards)
		open := func(t *testing.T, dirs ...string) *OpenedBundle {
			t.Helper()
			o, err := OpenBundle(k.Public(), dirs...)
			if err != nil {
				t.Fatal(err)
			}
			if tt.to != nil {
				if err := o.Unlock(secret); err != nil {
					t.Fatal(err)
				}
			}
			return o
		}
		kinds := damages()
		if testing.Short() && tt.to != nil {
			kinds = kinds[:2]
		}
		for _, d := range kinds {
			for _, which := range [][]int{{1}, {2, 3}, {1, len(b.Volumes)}} {
				t.Run(fmt.Sprint(tt.name, "/", d.name, which), func(t *testing.T) {
					bad := copyDir(t, dir)
					var names []string
					for _, n := range which {
						names = append(names, b.Volumes[n-1].File)
						if err := d.do(filepath.Join(bad, b.Volumes[n-1].File)); err != nil {
							t.Fatal(err)
						}
					}
					o := open(t, bad)
					if err := o.Verify(t.Context(), nil); err != nil {
						t.Fatalf("Verify = %v; want parity to help", err)
					}
					if got := o.Restored(); !slices.Equal(got, names) {
						t.Errorf("Restored() = %v; want %v", got, names)
					}
					other := testStore(t)
					if _, err := other.Import(t.Context(), open(t, bad), ImportOptions{Now: now}); err != nil {
						t.Fatalf("Import = %v; want parity to help", err)
					}
					checkServed(t, other, "one", contents())
					out := t.TempDir()
					if _, err := open(t, bad).Repair(t.Context(), out, nil); err != nil {
						t.Fatalf("Repair = %v", err)
					}
					if got, want := readDir(t, out), readDir(t, dir); len(got) != len(which) || slices.ContainsFunc(names, func(n string) bool { return !bytes.Equal(got[n], want[n]) }) {
						t.Errorf("Repair wrote %v; want %v as they were", slices.Sorted(maps.Keys(got)), names)
					}
				})
			}
			t.Run(tt.name+"/"+d.name+", too many", func(t *testing.T) {
				bad := copyDir(t, dir)
				for n := range 3 {
					if err := d.do(filepath.Join(bad, b.Volumes[n].File)); err != nil {
						t.Fatal(err)
					}
				}
				other := testStore(t)
				_, err := other.Import(t.Context(), open(t, bad), ImportOptions{Now: now})
				if err == nil || !strings.Contains(err.Error(), "volume-000") {
					t.Errorf("Import with three of %d volumes gone and two of parity = %v; want it refused", len(b.Volumes), err)
				}
				if name, err := other.Served(); name != "" || err != nil {
					t.Errorf("Served() = %q, %v; want nothing", name, err)
				}
			})
			t.Run(tt.name+"/"+d.name+", parity too", func(t *testing.T) {
				bad := copyDir(t, dir)
				if err := errors.Join(d.do(filepath.Join(bad, b.Volumes[1].File)), d.do(filepath.Join(bad, b.Parity.Files[0].File))); err != nil {
					t.Fatal(err)
				}
				other := testStore(t)
				if _, err := other.Import(t.Context(), open(t, bad), ImportOptions{Now: now}); err != nil {
					t.Errorf("Import with a volume and one of two parity files gone = %v; want it done", err)
				}
			})
		}
	}
}

// The same bytes come out with and without parity, and each time.
func TestParityIsTheSame(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	a, _ := create(t, s, k, CreateOptions{VolumeSize: 100_000, Parity: 1})
	b, _ := create(t, s, k, CreateOptions{VolumeSize: 100_000, Parity: 1})
	if !maps.EqualFunc(readDir(t, a), readDir(t, b), bytes.Equal) {
		t.Error("the same bundle with parity made twice differs")
	}
	plain, _ := create(t, s, k, CreateOptions{VolumeSize: 100_000})
	for name, data := range readDir(t, plain) {
		if strings.HasSuffix(name, ".fvol") && !bytes.Equal(data, readDir(t, a)[name]) {
			t.Errorf("%s differs with parity", name)
		}
	}
	if _, err := s.Create(t.Context(), k, a, CreateOptions{Site: "dc1", VolumeSize: 100_000, Parity: 1}); err != nil {
		t.Errorf("Create again in the same folder = %v", err)
	}
	if _, err := s.Create(t.Context(), k, a, CreateOptions{Site: "dc1", VolumeSize: 100_000, Parity: 2}); err == nil {
		t.Error("Create with more parity over it = nil; want it refused")
	}
	if _, err := s.Create(t.Context(), k, t.TempDir(), CreateOptions{Site: "dc1", VolumeSize: 100_000, Parity: 256}); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("Create with 256 of parity = %v; want it refused", err)
	}
}

func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}
