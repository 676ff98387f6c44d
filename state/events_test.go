package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestAppendRefuses(t *testing.T) {
	s := openTest(t)
	good := Event{Machine: "gpu-01", Kind: "test"}
	tests := []struct {
		name string
		bad  []Event
		want string
	}{
		{"no kind", []Event{good, {Machine: "gpu-01"}}, "has no kind"},
		{"unknown phase", []Event{good, phaseEvent(t, "gpu-01", "flying", "")}, `no phase "flying"`},
		{"data that is not JSON", []Event{good, {Kind: "test", Data: json.RawMessage("{")}}, "not JSON"},
		{"empty inventory", []Event{good, {Machine: "gpu-01", Kind: KindInventory}}, "it is empty"},
		{"too many", slices.Repeat([]Event{good}, MaxAppend+1), "at most 25"},
		{"too large", []Event{good, {Kind: "test", Text: strings.Repeat("x", maxRequestBytes)}}, "too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Append(t.Context(), tt.bad...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Append = %v; want an error with %q", err, tt.want)
			}
		})
	}
	if events, err := s.Events(t.Context(), Query{}); err != nil || len(events) != 0 {
		t.Errorf("Events after refused Appends = %d events, %v; want none: all or nothing", len(events), err)
	}
	if seq := mustAppend(t, s, good); seq != 1 {
		t.Errorf("Append after refusals = %d; want 1", seq)
	}
}

func TestEventsQuery(t *testing.T) {
	s := openTest(t)
	for i := range 350 { // more than three pages
		machine := []string{"gpu-01", "gpu-02", ""}[i%3]
		mustAppend(t, s, Event{Machine: machine, Kind: Kind([]string{"a", "b"}[i%2]), Text: fmt.Sprint(i)})
	}
	tests := []struct {
		name        string
		q           Query
		n           int
		first, last int64
	}{
		{"all", Query{}, 350, 1, 350},
		{"after", Query{After: 340}, 10, 341, 350},
		{"after all", Query{After: 350}, 0, 0, 0},
		{"newest", Query{Limit: 5}, 5, 346, 350},
		{"newest more than there are", Query{Limit: 1000}, 350, 1, 350},
		{"machine", Query{Machine: "gpu-01"}, 117, 1, 349},
		{"machine newest", Query{Machine: "gpu-01", Limit: 2}, 2, 346, 349},
		{"machine newest over pages", Query{Machine: "gpu-01", Limit: 110}, 110, 22, 349},
		{"machine that is not", Query{Machine: "gpu-0"}, 0, 0, 0},
		{"kind", Query{Kinds: []Kind{"b"}}, 175, 2, 350},
		{"kind newest", Query{Kinds: []Kind{"b", "c"}, Limit: 3}, 3, 346, 350},
		{"machine kind after newest", Query{Machine: "gpu-02", Kinds: []Kind{"a"}, After: 100, Limit: 4}, 4, 329, 347},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events, err := s.Events(t.Context(), tt.q)
			if err != nil || len(events) != tt.n {
				t.Fatalf("Events(%+v) = %d events, %v; want %d", tt.q, len(events), err, tt.n)
			}
			if tt.n > 0 && (events[0].Seq != tt.first || events[tt.n-1].Seq != tt.last) {
				t.Errorf("Events(%+v) = %d to %d; want %d to %d", tt.q, events[0].Seq, events[tt.n-1].Seq, tt.first, tt.last)
			}
			if !slices.IsSortedFunc(events, func(a, b Event) int { return int(a.Seq - b.Seq) }) {
				t.Errorf("Events(%+v) is out of order", tt.q)
			}
		})
	}
}

// Writers on two Stores of one cluster: every event is there once, numbered
// densely, and the statuses are the fold.
func TestAppendFromTwoStores(t *testing.T) {
	endpoint, conf := startCluster(t)
	c := Config{Endpoints: []string{endpoint}, TLS: conf}
	stores := []*Store{openConfig(t, c), openConfig(t, c)}
	const writers, each = 6, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				e := phaseEvent(t, fmt.Sprintf("gpu-%02d", i%3), []Phase{Agent, Ready}[i%2], "")
				e.Text = fmt.Sprintf("%d/%d", w, i)
				if _, err := stores[w%2].Append(t.Context(), e, Event{Kind: "test"}); err != nil {
					t.Errorf("Append = %v; want nil", err)
				}
			}
		})
	}
	wg.Wait()
	events, err := stores[0].Events(t.Context(), Query{})
	if err != nil || len(events) != 2*writers*each {
		t.Fatalf("Events = %d, %v; want %d", len(events), err, 2*writers*each)
	}
	seen, folded := map[string]bool{}, map[string]Status{}
	for i, e := range events {
		if e.Seq != int64(i+1) {
			t.Fatalf("event %d has Seq %d; want %d", i, e.Seq, i+1)
		}
		if e.Kind == "test" {
			if events[i-1].Kind == "test" {
				t.Errorf("events %d and %d are halves of two Appends", e.Seq-1, e.Seq)
			}
			continue
		}
		if seen[e.Text] {
			t.Errorf("event %q is there twice", e.Text)
		}
		seen[e.Text] = true
		folded[e.Machine] = Fold(folded[e.Machine], e)
	}
	statuses, err := stores[1].Statuses(t.Context())
	if err != nil || len(statuses) != 3 {
		t.Fatalf("Statuses = %d, %v; want 3", len(statuses), err)
	}
	for _, got := range statuses {
		if want := folded[got.Machine]; string(data(t, got)) != string(data(t, want)) {
			t.Errorf("Status(%s) = %s; want %s", got.Machine, data(t, got), data(t, want))
		}
	}
}

func TestWatchHasNoGapAndNoDuplicate(t *testing.T) {
	s := openTest(t)
	const total, watchers = 400, 8
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // each of 400 waits for the disk
	defer cancel()
	var wg sync.WaitGroup
	for w := range watchers {
		started := make(chan struct{})
		wg.Go(func() {
			close(started)
			next := int64(1)
			for e, err := range s.Watch(ctx, Query{}) {
				if err != nil {
					t.Errorf("watcher %d: %v", w, err)
					return
				}
				if e.Seq != next {
					t.Errorf("watcher %d got event %d; want %d", w, e.Seq, next)
					return
				}
				if next++; next > total {
					return
				}
			}
			t.Errorf("watcher %d ended at event %d; want %d", w, next-1, total)
		})
		<-started
		for range total / watchers { // each watcher begins at another moment of the writing
			mustAppend(t, s, Event{Kind: "test"})
		}
	}
	wg.Wait()
}

func TestWatch(t *testing.T) {
	t.Run("one machine, the newest of the past, then live", func(t *testing.T) {
		s := openTest(t)
		for i := range 10 {
			mustAppend(t, s, Event{Machine: []string{"gpu-01", "gpu-02"}[i%2], Kind: "test"})
		}
		var got []int64
		for e, err := range s.Watch(t.Context(), Query{Machine: "gpu-02", Limit: 2}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Seq)
			if len(got) == 2 { // the past is over
				mustAppend(t, s, Event{Machine: "gpu-01", Kind: "test"}, Event{Machine: "gpu-02", Kind: "test"})
			}
			if len(got) == 3 {
				break
			}
		}
		if want := []int64{8, 10, 12}; !slices.Equal(got, want) {
			t.Errorf("Watch = %v; want %v", got, want)
		}
	})
	t.Run("ends with its context", func(t *testing.T) {
		s := openTest(t)
		mustAppend(t, s, Event{Kind: "test"})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, err := range s.Watch(ctx, Query{}) {
			if err != nil {
				t.Errorf("Watch of an ended context yields %v; want no error", err)
			}
			cancel()
		}
	})
	t.Run("says that the store was closed", func(t *testing.T) {
		s := openTest(t)
		mustAppend(t, s, Event{Kind: "test"})
		var last error
		for _, err := range s.Watch(t.Context(), Query{}) {
			if last = err; err == nil {
				go s.Close()
			}
		}
		if !errors.Is(last, ErrClosed) {
			t.Errorf("Watch of a closed store ended with %v; want ErrClosed", last)
		}
	})
	t.Run("goes on when etcd has compacted", func(t *testing.T) {
		s := openTest(t)
		seq := mustAppend(t, s, Event{Kind: "test"}, Event{Kind: "test"})
		// A watch from a revision that is compacted away meanwhile.
		resp, err := s.session.Load().cli.Get(t.Context(), keySeq)
		if err != nil {
			t.Fatal(err)
		}
		old := resp.Header.Revision
		for range 5 {
			seq = mustAppend(t, s, Event{Kind: "test"})
		}
		resp, err = s.session.Load().cli.Get(t.Context(), keySeq)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.session.Load().cli.Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		next, err := s.follow(t.Context(), Query{After: 2}, old, func(Event, error) bool { t.Error("an event of a compacted revision"); return false })
		if err == nil || next.After != 2 {
			t.Fatalf("follow from a compacted revision = %+v, %v; want an error", next, err)
		}
		if !compacted(err) {
			t.Errorf("follow from a compacted revision = %v; want it recognised", err)
		}
		n := int64(0)
		for e, err := range s.Watch(t.Context(), Query{}) {
			if n++; err != nil || e.Seq != n {
				t.Fatalf("Watch after compaction = %d, %v; want %d", e.Seq, err, n)
			}
			if n == seq {
				break
			}
		}
	})
}

// One append at a time: what a disk sync costs.
func BenchmarkAppend(b *testing.B) {
	s := openTest(b)
	e := phaseEvent(b, "gpu-01", Agent, "")
	for b.Loop() {
		mustAppend(b, s, e)
	}
}

// Many callers share a sync.
func BenchmarkAppendParallel(b *testing.B) {
	s := openTest(b)
	e := phaseEvent(b, "gpu-01", Agent, "")
	b.SetParallelism(50)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Append(b.Context(), e); err != nil {
				b.Error(err)
			}
		}
	})
}
