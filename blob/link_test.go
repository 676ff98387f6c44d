package blob

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLink(t *testing.T) {
	s := newStore(t)
	data := []byte("bytes that are at hand")
	path := filepath.Join(filepath.Dir(s.Dir()), "file")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Link(t.Context(), path, FromBytes([]byte("other"))); !errors.Is(err, ErrMismatch) {
		t.Errorf("Link of other bytes = %v; want ErrMismatch", err)
	}
	if s.Has(FromBytes([]byte("other"))) {
		t.Error("Link of other bytes kept them")
	}
	want := FromBytes(data)
	for range 2 {
		if n, err := s.Link(t.Context(), path, want); err != nil || n != int64(len(data)) {
			t.Fatalf("Link = %d, %v; want %d", n, err, len(data))
		}
	}
	a, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(s.Path(want))
	if err != nil || !os.SameFile(a, b) {
		t.Errorf("Link made a copy of the file: %v", err)
	}
	if got, err := os.ReadFile(s.Path(want)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("blob = %q, %v; want %q", got, err, data)
	}
	if _, err := s.Link(t.Context(), filepath.Join(t.TempDir(), "none"), FromBytes([]byte("none"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Link of no file = %v; want ErrNotExist", err)
	}
	if _, err := s.Link(t.Context(), t.TempDir(), FromBytes([]byte("folder"))); err == nil {
		t.Error("Link of a folder = nil; want an error")
	}
}
