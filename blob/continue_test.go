package blob

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestContinue(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "part")
	open := func() *Writer {
		t.Helper()
		w, err := s.Continue(path)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	write := func(w *Writer, text string) {
		t.Helper()
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	whole := FromBytes([]byte("first second"))
	w := open()
	write(w, "first ")
	if _, err := s.Continue(path); !errors.Is(err, ErrInUse) {
		t.Errorf("Continue while another writes = %v; want ErrInUse", err)
	}
	w.Abort() // as a kill would
	w = open()
	if w.Size() != 6 {
		t.Errorf("Size = %d; want the 6 bytes that were there", w.Size())
	}
	write(w, "third")
	if _, _, err := w.Commit(whole); !errors.Is(err, ErrMismatch) {
		t.Errorf("Commit of other bytes = %v; want ErrMismatch", err)
	}
	if s.Has(whole) {
		t.Error("a blob with other bytes is there")
	}
	w = open()
	if err := w.Reset(); err != nil || w.Size() != 0 {
		t.Fatalf("Reset = %v, size %d; want an empty file", err, w.Size())
	}
	write(w, "first ")
	w.Abort()
	if err := os.Chmod(path, 0o444); err != nil { // killed when it was about to become a blob
		t.Fatal(err)
	}
	w = open()
	write(w, "second")
	if d, n, err := w.Commit(whole); err != nil || d != whole || n != 12 {
		t.Fatalf("Commit = %s, %d, %v; want %s", d, n, err, whole)
	}
	if err := s.Verify(t.Context(), whole); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file after Commit = %v; want none", err)
	}
}

// A file of another file system is copied.
func TestContinueElsewhere(t *testing.T) {
	other, err := os.MkdirTemp("/dev/shm", "fettle-blob-")
	if err != nil {
		t.Skipf("no second file system: %v", err)
	}
	defer os.RemoveAll(other)
	s, err := Open(filepath.Join(t.TempDir(), "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(other, "part")
	w, err := s.Continue(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 100_000)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	d, _, err := w.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), d); err != nil || d != FromBytes([]byte(text)) {
		t.Errorf("Verify(%s) = %v", d, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file after Commit = %v; want none", err)
	}
}

// Who waited for the file while its writer made it a blob does not get the
// blob to write into.
func TestContinueBecameBlob(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(s.Dir(), "part")
	w, err := s.Continue(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("whole")); err != nil {
		t.Fatal(err)
	}
	late, err := openGathered(path)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, _, err := w.Commit(FromBytes([]byte("whole"))); err != nil {
		t.Fatal(err)
	}
	if same, err := lockGathered(late, path); same || err != nil {
		t.Errorf("lockGathered of what became a blob = %t, %v; want false", same, err)
	}
	if err := os.WriteFile(path, []byte("the next"), 0o644); err != nil {
		t.Fatal(err)
	}
	if same, err := lockGathered(late, path); same || err != nil {
		t.Errorf("lockGathered of what became a blob, and another is there = %t, %v; want false", same, err)
	}
}
