package blob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestProven opens a blob many times at once, damages its file, and removes it.
func TestProven(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("ramdisk ", 1<<18)
	d, _, err := s.Put(t.Context(), strings.NewReader(text), "")
	if err != nil {
		t.Fatal(err)
	}
	p := NewProven(s)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			f, fi, err := p.Open(t.Context(), d)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			if err != nil || string(b) != text || fi.Size() != int64(len(text)) {
				t.Errorf("Open = %d bytes, size %d, %v; want %d", len(b), fi.Size(), err, len(text))
			}
		})
	}
	wg.Wait()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := NewProven(s).Open(ended, d); !errors.Is(err, context.Canceled) {
		t.Errorf("Open with a context that ended = %v; want that", err)
	}
	if err := os.Chmod(s.Path(d), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path(d), []byte(strings.Replace(text, "r", "R", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(s.Path(d), time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := p.Open(t.Context(), d); !errors.Is(err, ErrMismatch) {
			t.Errorf("Open of a damaged blob = %v; want ErrMismatch", err)
		}
	}
	if err := os.Remove(s.Path(d)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Open(t.Context(), d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of no blob = %v; want fs.ErrNotExist", err)
	}
}
