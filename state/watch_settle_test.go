package state

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// A watcher that reads the status on an event must see that event in it.
func TestStatusIsNoOlderThanAWatchedEvent(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const n = 300
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wrote := make(chan error, 1)
	go func() {
		for i := range n {
			_, err := s.Append(ctx, Event{Time: time.Unix(int64(i), 0), Machine: "m", Actor: "test", Kind: "note", Text: fmt.Sprint(i)})
			if err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	seen := 0
	for e, err := range s.Watch(ctx, Query{Machine: "m"}) {
		if err != nil {
			t.Fatal(err)
		}
		st, err := s.Status(ctx, "m")
		if err != nil {
			t.Fatal(err)
		}
		if st.LastSeq < e.Seq {
			t.Fatalf("status on event %d is of event %d; want no older", e.Seq, st.LastSeq)
		}
		if seen++; seen == n {
			break
		}
	}
	if err := <-wrote; err != nil || seen != n {
		t.Errorf("saw %d events of %d, writer: %v", seen, n, err)
	}
}
