package provision

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/state"
)

// TestFloodIsNotRecorded has strangers send without end, and a machine of the
// site among them: its timeline is whole, theirs is bounded.
func TestFloodIsNotRecorded(t *testing.T) {
	b := newBench(t, nil)
	x := b.p.index()
	known := x.site.Machines[0].NICs[0]
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var l recordLimit
	kept, told, shed := 0, 0, int64(0)
	for i := range 100_000 {
		e := pxe.Exchange{MAC: []byte{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, Kind: "dhcp.discover"}
		wanted, told0 := l.look(x, e.MAC, netip.Addr{}, now, 0)
		if wanted != (kept < strangerBurst) {
			t.Fatalf("exchange %d of strangers, %d recorded: wanted %v", i, kept, wanted)
		}
		if told0 > 0 {
			told, shed = told+1, shed+told0
		}
		if !wanted {
			continue // it is counted
		}
		ok, tell := l.allow(x, &e, now)
		if ok {
			kept++
		}
		if tell > 0 {
			told, shed = told+1, shed+tell
		}
	}
	if kept != strangerBurst || told != 1 {
		t.Errorf("of 100,000 exchanges of strangers %d were recorded and the log was told %d times (%d); want %d and once", kept, told, shed, strangerBurst)
	}
	for i := range machineBurst + 1 {
		e := pxe.Exchange{MAC: known.MAC[:], Kind: "dhcp.discover"}
		if i%2 == 1 {
			e = pxe.Exchange{Addr: known.Address, Kind: "http.get"}
		}
		if ok, _ := l.allow(x, &e, now); ok != (i < machineBurst) {
			t.Fatalf("exchange %d of a machine of the site: recorded %v", i, ok)
		}
	}
	now = now.Add(time.Hour)
	if ok, _ := l.allow(x, &pxe.Exchange{MAC: known.MAC[:]}, now); !ok {
		t.Error("an exchange an hour later is not recorded")
	}
	if _, _, ok := x.machine(known.MAC); !ok || x.taken[known.Address] == "" || x.byNIC[netip.MustParseAddr("203.0.113.1")] != "" {
		t.Errorf("the index does not know %v", known)
	}
}

// TestRecordsAreWrittenAtTheEnd stops the server with more exchanges than one
// write takes that wait for others: all are on the timeline.
func TestRecordsAreWrittenAtTheEnd(t *testing.T) {
	b := newBench(t, nil)
	p, err := New(b.p.c) // the bench's own runs
	if err != nil {
		t.Fatal(err)
	}
	known := p.index().site.Machines[0]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	const all = state.MaxAppend + 5
	for i := range all {
		p.Record(pxe.Exchange{Time: p.now(), MAC: known.NICs[0].MAC[:], Kind: "tftp.read", Text: "the server stopped", Bytes: int64(i)})
	}
	done := make(chan struct{})
	go func() { defer close(done); p.recordLoop(ctx) }()
	select {
	case <-done:
	case <-time.After(recordRest + 10*time.Second):
		t.Fatal("recordLoop does not end")
	}
	events, err := p.c.Store.Events(t.Context(), state.Query{Machine: known.Name})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Kind == "tftp.read" {
			n++
		}
	}
	if n != all {
		t.Errorf("%d exchanges are on the timeline; want %d", n, all)
	}
}

// TestGatherAtTheEnd: exchanges that end with the server, a moment after it, are
// waited for.
func TestGatherAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Provisioner{exchanges: make(chan *pxe.Exchange, 100)}
		ctx, cancel := context.WithCancel(t.Context())
		p.exchanges <- &pxe.Exchange{}
		cancel()
		go func() {
			for range 3 {
				time.Sleep(recordGather / 4) // of the bubble's clock
				p.exchanges <- &pxe.Exchange{}
			}
		}()
		if batch := p.gather(ctx); len(batch) != 4 {
			t.Errorf("%d exchanges are gathered at the end; want the one that waited and the three that came", len(batch))
		}
		start := time.Now()
		if batch := p.gather(ctx); len(batch) != 0 || time.Since(start) != recordGather {
			t.Errorf("then %d are gathered in %v; want none in %v", len(batch), time.Since(start), recordGather)
		}
	})
}

// TestRecordsAreGathered has the exchanges of machines that boot together
// share a write: a sync for each would hold up the others' transfers.
func TestRecordsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Provisioner{exchanges: make(chan *pxe.Exchange, 100)}
		go func() {
			for i := range 30 {
				p.exchanges <- &pxe.Exchange{Bytes: int64(i)}
				if i < 10 {
					time.Sleep(recordGather / 10) // of the bubble's clock
				}
			}
		}()
		var sizes []int
		for got := 0; got < 30; {
			batch := p.gather(t.Context())
			for i, e := range batch {
				if e.Bytes != int64(got+i) {
					t.Fatalf("exchange %d of batch %v is number %d; want them in order", i, sizes, e.Bytes)
				}
			}
			got += len(batch)
			sizes = append(sizes, len(batch))
		}
		if len(sizes) > 3 || sizes[0] < 9 {
			t.Errorf("batches of %v exchanges; want those of %v together", sizes, recordGather)
		}
		start := time.Now()
		p.exchanges <- &pxe.Exchange{}
		if batch := p.gather(t.Context()); len(batch) != 1 || time.Since(start) != recordGather {
			t.Errorf("a lone exchange was kept in a batch of %d after %v; want 1 after %v", len(batch), time.Since(start), recordGather)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if batch := p.gather(ended); batch != nil {
			t.Errorf("gather after the end = %v; want nil", batch)
		}
	})
}
