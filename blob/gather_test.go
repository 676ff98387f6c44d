package blob

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
)

// TestGather writes blobs of all sizes around those at which a writer changes
// its way, in pieces and from a reader, on the file systems that are here.
func TestGather(t *testing.T) {
	dirs := map[string]string{"temporary folder": t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "blob-"); err == nil { // tmpfs: before 6.6 it has no writes past the page cache
		t.Cleanup(func() { os.RemoveAll(dir) })
		dirs["/dev/shm"] = dir
	}
	data := make([]byte, directMost+3*gatherSize+1)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(data)
	for name, dir := range dirs {
		s, err := Open(filepath.Join(dir, "blobs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{0, 1, directAlign, directLeast - 1, directLeast, directLeast + 1, gatherSize - 1, gatherSize, gatherSize + 1, gatherSize + directAlign,
			gatherSize + directLeast + 7, directMost - 1, directMost, directMost + 1, len(data)} {
			want := FromBytes(data[:size])
			for way, put := range map[string]func(*Writer) error{
				"one write": func(w *Writer) error { _, err := w.Write(data[:size]); return err },
				"pieces": func(w *Writer) error {
					_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{bytes.NewReader(data[:size])}, make([]byte, 5000))
					return err
				},
				"a reader": func(w *Writer) error { _, err := w.Pour(bytes.NewReader(data[:size])); return err },
				"a reader of halves, then a write": func(w *Writer) error {
					_, err := w.Pour(iotest.HalfReader(bytes.NewReader(data[:size/2])))
					_, werr := w.Write(data[size/2 : size])
					return errors.Join(err, werr)
				},
			} {
				w, err := s.Create()
				if err != nil {
					t.Fatal(err)
				}
				if err := put(w); err != nil {
					t.Fatalf("%s: %s of %d bytes: %v", name, way, size, err)
				}
				if w.Size() != int64(size) {
					t.Errorf("%s: %s: Size() = %d; want %d", name, way, w.Size(), size)
				}
				if _, _, err := w.Commit(want); err != nil {
					t.Fatalf("%s: %s of %d bytes: Commit = %v", name, way, size, err)
				}
				if got, err := os.ReadFile(s.Path(want)); err != nil || !bytes.Equal(got, data[:size]) {
					t.Errorf("%s: %s of %d bytes: the file is another one (%d bytes, %v)", name, way, size, len(got), err)
				}
			}
		}
		if n := s.gathered.Load(); n != 1 || len(s.spare) != 1 {
			t.Errorf("%s: one writer after the other made %d pieces of memory, of which %d are free; want one", name, n, len(s.spare))
		}
	}
}

// TestGatherIsBounded: writers beyond those that gather write as their bytes
// come, and what a reader fails with is its own.
func TestGatherIsBounded(t *testing.T) {
	s := newStore(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 30_000)
	var ws []*Writer
	for range gathersOnce + 3 {
		w, err := s.Create()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Pour(bytes.NewReader(data[:100_000])); err != nil {
			t.Fatal(err)
		}
		ws = append(ws, w)
	}
	if n := s.gathered.Load(); n != gathersOnce {
		t.Errorf("%d writers gather; want %d", n, gathersOnce)
	}
	for i, w := range ws {
		if i%2 == 0 {
			w.Abort()
			continue
		}
		broken := errors.New("the line is dead")
		if n, err := w.Pour(io.MultiReader(bytes.NewReader(data[100_000:200_000]), iotest.ErrReader(broken))); n != 100_000 || !errors.Is(err, broken) {
			t.Errorf("Pour = %d, %v; want 100000 bytes and the reader's error", n, err)
		}
		if _, err := w.Pour(bytes.NewReader(data[200_000:])); err != nil { // it goes on
			t.Fatal(err)
		}
		if _, _, err := w.Commit(FromBytes(data)); err != nil {
			t.Errorf("Commit = %v", err)
		}
		if _, err := w.Pour(bytes.NewReader(data)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Pour after Commit = %v; want %v", err, os.ErrClosed)
		}
	}
	if len(s.spare) != gathersOnce {
		t.Errorf("%d pieces of memory are free at the end; want all %d", len(s.spare), gathersOnce)
	}
	leftovers(t, s)
}
