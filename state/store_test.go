package state

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"
)

// openTest opens a store of the test's own, or skips nothing: etcd is in us.
func openTest(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))})
	if err != nil {
		t.Fatalf("Open(%s) = %v", dir, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	return s
}

// testWriter sends the store's log to the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	fmt.Print("LOG ", string(p))
	return len(p), nil
}

func data(t testing.TB, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func phase(t testing.TB, machine string, p Phase, reason string) Event {
	return Event{Machine: machine, Kind: KindPhase, Text: "is " + string(p), Data: data(t, PhaseData{p, reason})}
}

func TestOpenAppendReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	start := time.Now()
	s := openTest(t, dir)
	t.Logf("first open: %s", time.Since(start))
	for i := range 100 {
		seq, err := s.Append(t.Context(), phase(t, "gpu-01", Agent, ""))
		if err != nil || seq != int64(i+1) {
			t.Fatalf("Append = %d, %v; want %d", seq, err, i+1)
		}
	}
	start = time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("close: %s", time.Since(start))
	start = time.Now()
	s = openTest(t, dir)
	t.Logf("second open: %s", time.Since(start))
	ev, err := s.Events(context.Background(), Query{Machine: "gpu-01"})
	if err != nil || len(ev) != 100 {
		t.Fatalf("%d events, %v", len(ev), err)
	}
}
