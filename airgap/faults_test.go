package airgap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// plainFormat mirrors the files of a lock as they are; tests need no other.
type plainFormat struct{}

func (plainFormat) Name() string { return "files" }
func (plainFormat) Resolve(context.Context, Env, Mirror, *LockedMirror) (LockedMirror, error) {
	return LockedMirror{}, errors.New("the lock is given")
}
func (plainFormat) Publish(_ context.Context, env Env, lm LockedMirror) ([]File, error) {
	var out []File
	for _, it := range lm.Items {
		f, err := TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// upstreamOf serves files and returns a lock of them. With unknown the lock
// does not say their sizes.
func upstreamOf(t *testing.T, files map[string][]byte, unknown bool) Lock {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(srv.Close)
	m := LockedMirror{Name: "m", Format: "files", Spec: Mirror{Name: "m", Format: "files"}, Inputs: blob.FromBytes(nil), Trust: []Trust{}}
	for p, data := range files {
		it := Item{Path: p, URL: srv.URL + "/" + p, Size: int64(len(data)), SHA256: blob.FromBytes(data), Kind: KindFile}
		if unknown {
			it.Size = -1
		}
		m.Items = append(m.Items, it)
	}
	m.Sort()
	return Lock{LockVersion, []LockedMirror{m}}
}

func syncStore(ctx context.Context, s *Store, l Lock, name string) error {
	sy := &Syncer{Store: s, Formats: []Format{plainFormat{}}, Now: now, Fetch: &Fetcher{Blobs: s.Blobs(), Dir: s.Dir(), Tries: 1, Large: 200_000}}
	_, _, err := sy.Sync(ctx, l, name)
	return err
}

// childProcess does one thing to a store: VERB STORE and more.
func childProcess(args []string) int {
	s, err := OpenStore(args[1])
	if err != nil {
		return 1
	}
	ctx := context.Background()
	switch args[0] {
	case "sync": // LOCKFILE
		data, rerr := os.ReadFile(args[2])
		l, perr := ParseLock(data)
		err = errors.Join(rerr, perr)
		if err == nil {
			err = syncStore(ctx, s, l, "two")
		}
	case "create": // KEY OUT
		var k *Key
		if k, err = ParseKey(args[2]); err == nil {
			_, err = s.Create(ctx, k, args[3], childBundle())
		}
	case "create-big": // KEY OUT
		var k *Key
		if k, err = ParseKey(args[2]); err == nil {
			_, err = s.Create(ctx, k, args[3], CreateOptions{Site: "dc1", VolumeSize: 200 << 20, Parity: 1})
		}
	case "import": // KEY DIR
		var k PublicKey
		if k, err = ParsePublicKey(args[2]); err == nil {
			var b *OpenedBundle
			if b, err = OpenBundle(k, args[3]); err == nil {
				_, err = s.Import(ctx, b, ImportOptions{Now: now})
			}
		}
	case "collect":
		_, err = s.Collect(ctx, 1, false)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		_, _ = os.Stdout.Write(status) // for peak
	}
	return 0
}

func childBundle() CreateOptions {
	return CreateOptions{Site: "dc1", VolumeSize: 100_000, Parity: 1, Documents: func(Carried) ([]Document, error) {
		return []Document{NewDocument("changes.txt", bytes.Repeat([]byte("changed\n"), 1000))}, nil
	}}
}

// runChild runs a child and kills it after d; 0: never. It tells whether the
// child was killed before it was done.
func runChild(t *testing.T, d time.Duration, args ...string) (killed bool, took time.Duration) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), "AIRGAP_TEST_CHILD="+strings.Join(args, " "))
	var out bytes.Buffer
	cmd.Stderr = &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if d > 0 {
		timer := time.AfterFunc(d, func() { _ = cmd.Process.Kill() }) // it may have ended
		defer timer.Stop()
	}
	err = cmd.Wait()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Sys().(syscall.WaitStatus).Signaled() {
		return true, time.Since(start)
	}
	if err != nil {
		t.Fatalf("%s failed by itself: %v: %s", args[0], err, out.String())
	}
	return false, time.Since(start)
}

// TestKilledAnywhere kills sync, create, import and collect at many moments
// (SIGKILL: what a power cut leaves, but for the disk's own cache). What was
// served stays whole, and the next run ends as an undisturbed one.
func TestKilledAnywhere(t *testing.T) {
	k := testKey(t, "A")
	one := map[string][]byte{"old": []byte("old"), "shared": noise(50, 100_000)}
	two := map[string][]byte{"shared": one["shared"]}
	for i := range 30 {
		two[fmt.Sprintf("f%02d", i)] = noise(uint64(i+60), 40_000)
	}
	two["large"] = noise(99, 600_000)
	lock := upstreamOf(t, two, false)
	lockPath := filepath.Join(t.TempDir(), "lock")
	data, err := MarshalLock(lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lockPath, data, 0o644); err != nil {
		t.Fatal(err)
	}
	whole := testStore(t)
	addSnapshot(t, whole, "one", 1, one)
	if err := syncStore(t.Context(), whole, lock, "two"); err != nil {
		t.Fatal(err)
	}
	o := childBundle()
	want, _ := create(t, whole, k, o)

	for _, tt := range []struct {
		name  string
		store func(t *testing.T) *Store
		args  func(t *testing.T, s *Store) []string
		// after a kill; last: after the run that ended.
		check func(t *testing.T, s *Store, args []string, last bool)
	}{
		{
			"sync", func(t *testing.T) *Store { s := testStore(t); addSnapshot(t, s, "one", 1, one); return s },
			func(_ *testing.T, s *Store) []string { return []string{"sync", s.Dir(), lockPath} },
			func(t *testing.T, s *Store, _ []string, last bool) { checkEither(t, s, one, two, last) },
		},
		{
			"create", func(t *testing.T) *Store { return whole },
			func(t *testing.T, s *Store) []string {
				return []string{"create", s.Dir(), k.Reveal(), filepath.Join(t.TempDir(), "out")}
			},
			func(t *testing.T, _ *Store, args []string, last bool) {
				b, err := OpenBundle(k.Public(), args[3])
				if err == nil {
					err = b.Verify(t.Context(), nil)
				}
				if _, serr := os.Stat(filepath.Join(args[3], IndexFile)); err != nil && (serr == nil || last) {
					t.Fatalf("the folder holds a bundle that is not whole: %v", err)
				}
				if got := mapOf(t, args[3]); last && !maps.EqualFunc(got, readDir(t, want), bytes.Equal) {
					t.Errorf("the folder has %v; want what an undisturbed create writes: %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(readDir(t, want))))
				}
			},
		},
		{
			"import", func(t *testing.T) *Store {
				s := testStore(t)
				addSnapshot(t, s, "one", 1, one)
				return s
			},
			func(_ *testing.T, s *Store) []string { return []string{"import", s.Dir(), k.Public().String(), want} },
			func(t *testing.T, s *Store, _ []string, last bool) { checkEither(t, s, one, two, last) },
		},
		{
			"collect", func(t *testing.T) *Store {
				s := testStore(t)
				addSnapshot(t, s, "one", 1, one)
				for i := range 20 {
					addSnapshot(t, s, fmt.Sprintf("x%02d", i), int64(2+i), map[string][]byte{"a": noise(uint64(i), 2000), "b": noise(uint64(i+100), 3000)})
				}
				addSnapshot(t, s, "two", 30, two)
				return s
			},
			func(_ *testing.T, s *Store) []string { return []string{"collect", s.Dir()} },
			func(t *testing.T, s *Store, _ []string, last bool) {
				checkServed(t, s, "two", two)
				all, err := s.Snapshots()
				if err != nil {
					t.Fatal(err)
				}
				for _, snap := range all {
					if err := s.complete(snap, nil); err != nil && snap.Name == "two" {
						t.Errorf("snapshot %s: %v", snap.Name, err)
					}
				}
				n := 0
				if err := s.Blobs().List(t.Context(), func(blob.Digest, int64) error { n++; return nil }); err != nil {
					t.Fatal(err)
				}
				if last && (len(all) != 1 || n != len(two)) {
					t.Errorf("collected to %d snapshots and %d blobs; want 1 and %d", len(all), n, len(two))
				}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.store(t)
			args := tt.args(t, s)
			_, full := runChild(t, 0, args...)
			tt.check(t, s, args, true)
			loops := 24
			if testing.Short() {
				loops = 4
			}
			killed := 0
			for i := range loops {
				s := tt.store(t)
				args := tt.args(t, s)
				was, took := runChild(t, full*time.Duration(i+1)/time.Duration(loops+1), args...)
				if was {
					killed++
				} else { // the one that was measured had a slower machine
					full = min(full, took)
				}
				tt.check(t, s, args, !was)
				runChild(t, 0, args...)
				tt.check(t, s, args, true)
				if left, err := filepath.Glob(filepath.Join(s.Dir(), "blobs", "tmp", "*")); err != nil || tt.name != "sync" && tt.name != "create" && len(left) > 0 {
					t.Errorf("left %v, %v", left, err)
				}
			}
			if killed < max(1, loops/6) {
				t.Errorf("only %d of %d were killed before they were done", killed, loops)
			}
			t.Logf("%d of %d killed within %s", killed, loops, full)
		})
	}
}

func mapOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return readDir(t, dir)
}

// checkEither wants all of one or all of two served; two after the last run.
func checkEither(t *testing.T, s *Store, one, two map[string][]byte, last bool) {
	t.Helper()
	name, err := s.Served()
	if err != nil {
		t.Fatal(err)
	}
	if name == "one" && !last {
		checkServed(t, s, "one", one)
		return
	}
	checkServed(t, s, "two", two)
}

// inMountNamespace runs a test of this binary in a process that may mount, and
// whose mounts nobody else sees; without root, as root of its own user
// namespace.
func inMountNamespace(t *testing.T, name string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), "AIRGAP_TEST_DISK=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // made private by os/exec
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	var ee *exec.ExitError
	switch {
	case errors.Is(err, syscall.EPERM):
		needs(t, fmt.Sprintf("mounting a small tmpfs: %v", err))
	case errors.As(err, &ee), err == nil && !strings.Contains(string(out), "--- PASS: "+name+"/create"):
		t.Errorf("%s in a mount namespace: %v\n%s", name, err, out)
	case err != nil:
		t.Fatal(err)
	}
}

// smallDisk is a file system of n bytes.
func smallDisk(t *testing.T, n int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", n)); err != nil {
		needs(t, fmt.Sprintf("mounting a small tmpfs needs root: %v", err))
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves at most free bytes of the file system of dir.
func fill(t *testing.T, dir string, free int64) (path string) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(f, zeros{}, max(0, int64(st.Bavail)*st.Bsize-free)); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestDiskFull: no room is told before the first byte; a disk that fills up
// while the work goes on (somebody else writes) leaves what was served, no
// half files, and the next run ends well once there is room.
func TestDiskFull(t *testing.T) {
	if os.Getenv("AIRGAP_TEST_DISK") == "" {
		inMountNamespace(t, "TestDiskFull")
		return
	}
	k := testKey(t, "A")
	one := map[string][]byte{"old": []byte("old")}
	two := map[string][]byte{}
	for i := range 20 {
		two[fmt.Sprintf("f%02d", i)] = noise(uint64(i), 200_000)
	}
	whole := testStore(t)
	addSnapshot(t, whole, "one", 1, one)
	addSnapshot(t, whole, "two", 2, two)
	full, _ := create(t, whole, k, CreateOptions{VolumeSize: 1 << 20})

	small := func(t *testing.T) *Store {
		t.Helper()
		s, err := OpenStore(filepath.Join(smallDisk(t, 8<<20), "store"))
		if err != nil {
			t.Fatal(err)
		}
		addSnapshot(t, s, "one", 1, one)
		return s
	}
	for _, tt := range []struct {
		name string
		// do works on the store; step is called while it goes on.
		do   func(s *Store, step func()) error
		both bool // it knows beforehand what it needs
	}{
		{"sync", func(s *Store, step func()) error {
			return (&fillingSync{t, s, two, step, false}).run()
		}, true},
		{"sync of unknown sizes", func(s *Store, step func()) error {
			return (&fillingSync{t, s, two, step, true}).run()
		}, false},
		{"import", func(s *Store, step func()) error {
			b, err := OpenBundle(k.Public(), full)
			if err != nil {
				return err
			}
			_, err = s.Import(t.Context(), b, ImportOptions{Now: now, Progress: func(int64, int64) { step() }})
			return err
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := small(t)
			dir := filepath.Dir(s.Dir())
			if tt.both {
				filler := fill(t, dir, 2<<20)
				before := readDir(t, filepath.Join(s.Dir(), "blobs"))
				err := tt.do(s, func() {})
				if err == nil || !strings.Contains(err.Error(), "nothing was written") {
					t.Errorf("without room = %v; want it told beforehand", err)
				}
				if after := readDir(t, filepath.Join(s.Dir(), "blobs")); len(after) != len(before) {
					t.Errorf("it wrote %d files all the same", len(after)-len(before))
				}
				if err := os.Remove(filler); err != nil {
					t.Fatal(err)
				}
			}
			var filler string
			err := tt.do(s, func() {
				if filler == "" {
					filler = fill(t, dir, 300_000)
				}
			})
			if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
				t.Errorf("on a disk that fills up = %v; want that it is full and what to do", err)
			}
			checkServed(t, s, "one", one)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if err := tt.do(s, func() {}); err != nil {
				t.Fatalf("again, with room = %v", err)
			}
			checkServed(t, s, "two", two)
			if left, err := filepath.Glob(filepath.Join(s.Dir(), "blobs", "tmp", "*")); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
	t.Run("create", func(t *testing.T) {
		dir := smallDisk(t, 8<<20)
		out := filepath.Join(dir, "out")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		filler := fill(t, dir, 2<<20)
		o := CreateOptions{Site: "dc1", VolumeSize: 1 << 20}
		if _, err := whole.Create(t.Context(), k, out, o); err == nil || !strings.Contains(err.Error(), "nothing was written") || len(readDir(t, out)) > 0 {
			t.Errorf("Create without room = %v, %d files; want it told beforehand", err, len(readDir(t, out)))
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		filler = ""
		o.Progress = func(int64, int64) {
			if filler == "" {
				filler = fill(t, dir, 300_000)
			}
		}
		_, err := whole.Create(t.Context(), k, out, o)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Create on a disk that fills up = %v; want %v", err, syscall.ENOSPC)
		}
		if _, err := os.Stat(filepath.Join(out, IndexFile)); err == nil {
			t.Error("there is an index of a bundle that is not whole")
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		o.Progress = nil
		if _, err := whole.Create(t.Context(), k, out, o); err != nil {
			t.Fatalf("Create again, with room = %v", err)
		}
		if !maps.EqualFunc(readDir(t, out), readDir(t, full), bytes.Equal) {
			t.Error("the bundle is not as an undisturbed one")
		}
	})
	t.Run("collect", func(t *testing.T) {
		s := small(t)
		addSnapshot(t, s, "two", 2, two)
		addSnapshot(t, s, "three", 3, one)
		fill(t, filepath.Dir(s.Dir()), 0)
		got, err := s.Collect(t.Context(), 1, false)
		if err != nil || got.Blobs != len(two) {
			t.Errorf("Collect on a full disk = %+v, %v; want %d blobs gone", got, err, len(two))
		}
		checkServed(t, s, "three", one)
	})
}

// fillingSync syncs and calls step when the first bytes are there.
type fillingSync struct {
	t       *testing.T
	s       *Store
	files   map[string][]byte
	step    func()
	unknown bool
}

func (f *fillingSync) run() error {
	sy := &Syncer{Store: f.s, Formats: []Format{plainFormat{}}, Now: now, Fetch: &Fetcher{Blobs: f.s.Blobs(), Dir: f.s.Dir(), Tries: 2, Sleep: func(context.Context, time.Duration) error { return nil },
		Progress: func(Progress) { f.step() }}}
	_, _, err := sy.Sync(f.t.Context(), upstreamOf(f.t, f.files, f.unknown), "two")
	return err
}
