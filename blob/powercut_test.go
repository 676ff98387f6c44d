//go:build linux

package blob

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// EXT4_IOC_SHUTDOWN, which tests of file systems use: from then on nothing
// reaches the disk, and what only memory had is lost, as when the power goes.
const (
	ext4Shutdown   = 0x8004587d // _IOR('X', 125, __u32)
	ext4NoLogFlush = 2
)

// powerRig is a file system of its own that can lose its power.
type powerRig struct {
	t          *testing.T
	image, dir string
}

// newPowerRig makes it in top.
func newPowerRig(t *testing.T, top string, mkfs ...string) *powerRig {
	t.Helper()
	r := &powerRig{t, filepath.Join(top, "image"), filepath.Join(top, "disk")}
	for _, args := range [][]string{{"truncate", "-s", "192M", r.image}, append(append([]string{"mkfs.ext4", "-q"}, mkfs...), r.image), {"mkdir", r.dir}, r.mountArgs()} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
			t.Skipf("needs a file system of its own, and root to mount it: %v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(r.dir, unix.MNT_DETACH) })
	return r
}

func (r *powerRig) mountArgs() []string { return []string{"mount", "-o", "loop", r.image, r.dir} }

// cut takes the power away. Files of it that are open can only be closed.
func (r *powerRig) cut() {
	f, err := os.Open(r.dir)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, ext4NoLogFlush); err != nil {
		r.t.Errorf("cutting the power: %v", err)
	}
}

// restart mounts what the disk has.
func (r *powerRig) restart() {
	r.t.Helper()
	if err := unix.Unmount(r.dir, 0); err != nil {
		r.t.Fatal(err)
	}
	args := r.mountArgs()
	if out, err := exec.CommandContext(r.t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		r.t.Fatalf("mounting again: %v: %s", err, out)
	}
}

// ownMounts runs the test again in a mount namespace of its own, and tells that
// this is there: another process that copies its parent's mounts would keep a
// file system alive, without power.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv("BLOB_TEST_MOUNTS") != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", fmt.Sprintf("-test.short=%t", testing.Short()))
	cmd.Env = append(os.Environ(), "BLOB_TEST_MOUNTS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Getenv("CI") != "true":
		t.Skipf("needs root for a file system of its own: %v", err)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.SkipNow()
	}
	return false
}

// TestPowerCut writes from many goroutines until the power is cut. What has a
// digest's name afterwards has its bytes; what was committed, or committed soon
// and flushed, is there.
func TestPowerCut(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	cuts := 4
	if testing.Short() {
		cuts = 1
	}
	r := newPowerRig(t, t.TempDir())
	promised := map[Digest]bool{}
	for i := range cuts {
		s, err := Open(filepath.Join(r.dir, "store"))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(promised, writeUntilCut(t, r, s, 40+70*i))
		r.restart()
		if s, err = Open(filepath.Join(r.dir, "store")); err != nil {
			t.Fatal(err)
		}
		there := map[Digest]bool{}
		if err := s.List(t.Context(), func(d Digest, n int64) error {
			there[d] = true
			if err := s.Verify(t.Context(), d); err != nil {
				t.Errorf("cut %d: a blob of %d bytes: %v", i, n, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for d := range promised {
			if !there[d] {
				t.Errorf("cut %d: blob %s was made durable and is gone", i, d.Short())
			}
		}
		t.Logf("cut %d: %d blobs promised, %d there", i, len(promised), len(there))
		if err := s.Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	if len(promised) == 0 {
		t.Error("nothing was durable before the power was cut")
	}
}

// writeUntilCut cuts the power after n blobs and returns those that were
// durable.
func writeUntilCut(t *testing.T, r *powerRig, s *Store, n int) map[Digest]bool {
	t.Helper()
	var mu sync.Mutex
	durable, soon := map[Digest]bool{}, map[Digest]bool{}
	count := 0
	note := func(d Digest, now bool) {
		mu.Lock()
		defer mu.Unlock()
		soon[d] = true
		if now {
			durable[d] = true
		}
		if count++; count == n {
			r.cut()
		}
	}
	var wg sync.WaitGroup
	for k := range 24 {
		wg.Go(func() {
			noise := rand.NewChaCha8([32]byte{byte(k)})
			for i := 0; ; i++ {
				if i > 1000 {
					t.Error("the power was not cut")
					return
				}
				head := fmt.Sprintf("%s %d %d\n", s.Dir(), n, i) // other bytes at each cut
				data := make([]byte, 1+rand.N(60_000))
				past := k%3 == 1 // past the page cache
				if past {
					data = make([]byte, directLeast+rand.N(gatherSize))
				}
				_, _ = noise.Read(data)
				copy(data, head)
				w, err := s.Create()
				if err != nil {
					return
				}
				if past {
					_, _ = w.Pour(bytes.NewReader(data))
				} else {
					_, _ = w.Write(data)
				}
				commit := w.CommitSoon
				if k == 0 {
					commit = w.Commit
				}
				d, _, err := commit("")
				if err != nil {
					return
				}
				note(d, k == 0)
				if i%8 != 7 {
					continue
				}
				mu.Lock()
				was := maps.Clone(soon)
				mu.Unlock()
				if s.Flush() != nil {
					return
				}
				mu.Lock()
				maps.Copy(durable, was)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return durable
}

// TestTogetherBadDisk syncs files in a round whose bytes the disk does not take:
// each of them says so. The disk is an image on a file system that is full.
func TestTogetherBadDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	top := t.TempDir()
	if err := unix.Mount("none", top, "tmpfs", 0, "size=32m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(top, unix.MNT_DETACH) })
	r := newPowerRig(t, top, "-O", "^has_journal")
	var files []*os.File
	for i := range 3 {
		f, err := os.Create(filepath.Join(r.dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = f.WriteString("it has a place on the disk")
		if err := errors.Join(err, f.Sync()); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	fill, err := os.Create(filepath.Join(top, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = fill.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v; want that it is full", err)
	}
	for _, f := range files {
		if _, err := f.Write(make([]byte, 2<<20)); err != nil {
			t.Fatal(err)
		}
	}
	for i, err := range syncAll(files) {
		if err == nil {
			t.Errorf("syncing file %d of a disk that takes no bytes = nil; want the disk's error", i)
		}
	}
}
