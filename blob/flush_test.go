package blob

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestFlushWaits: what one caller is making durable another does not take for
// durable before it is. The folder is a pipe: its opening waits, its sync fails.
func TestFlushWaits(t *testing.T) {
	s := newStore(t)
	pipe := filepath.Join(s.Dir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	s.dirty[pipe] = true
	errs := make(chan error, 2)
	go func() { errs <- s.Flush() }()
	begun := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.dirty) == 0 }
	for end := time.Now().Add(10 * time.Second); !begun(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the first Flush does not begin")
		}
	}
	go func() { errs <- s.Flush() }()
	f, err := os.OpenFile(pipe, os.O_RDWR, 0) // lets both open it
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		if err := <-errs; err == nil {
			t.Error("Flush = nil; want the error of the sync, for who began it and for who came meanwhile")
		}
	}
}
