package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/state"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(nil, nil)
		ctx := t.Context()
		release, err := turns.Take(ctx, ToChange, "gpu-01", "user:alice", "firmware-update", 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if other, err := turns.Take(ctx, ToChange, "gpu-02", "fettle", "a run", 0, nil); err != nil {
			t.Errorf("another machine's: %v", err)
		} else {
			other()
		}
		time.Sleep(12 * time.Second) // on the bubble's clock
		var waits []state.BMCHold
		start := time.Now()
		_, err = turns.Take(ctx, ToChange, "gpu-01", "fettle", "a run", 30*time.Second, func(h state.BMCHold) { waits = append(waits, h) })
		var held *HeldError
		const want = "gpu-01: its BMC is held by user:alice for 42s (firmware-update), and was not free within 30s"
		if !errors.As(err, &held) || !strings.HasPrefix(err.Error(), want) || time.Since(start) != 30*time.Second || len(waits) != 1 {
			t.Errorf("Take() of what is held = %v after %s, told %v; want %q after 30s", err, time.Since(start), waits, want)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := turns.Take(gone, ToChange, "gpu-01", "fettle", "a run", time.Hour, nil); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "user:alice") {
			t.Errorf("Take() of who left = %v; want canceled", err)
		}
		// Ten wait; each gets it, one at a time.
		busy, done := 0, make(chan error, 10)
		for range 10 {
			go func() {
				release, err := turns.Take(ctx, ToChange, "gpu-01", "user:bob", "power", time.Hour, nil)
				if err == nil {
					busy++
					if busy != 1 {
						err = errors.New("two at one BMC")
					}
					time.Sleep(time.Second)
					busy--
					release()
				}
				done <- err
			}()
		}
		synctest.Wait()
		start = time.Now()
		release()
		release() // twice is once
		for range 10 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took != 10*time.Second || len(turns.Held()) != 0 {
			t.Errorf("ten took %s, held %v; want 10s and nobody", took, turns.Held())
		}
	})
}

// TestTurnsCompany: who reads keeps nobody from the power button, and who
// changes something goes first.
func TestTurnsCompany(t *testing.T) {
	type ask struct {
		who  string
		kind Turn
		at   time.Duration // when it comes
		has  time.Duration // how long it has the BMC
	}
	for _, tc := range []struct {
		name string
		asks []ask
		want string // who began when, in seconds
	}{
		{"power beside a long reading", []ask{{"inventory", ToRead, 0, 100 * time.Second}, {"power", ToChange, 5 * time.Second, time.Second}}, "inventory 0 power 5"},
		{"two readings", []ask{{"inventory", ToRead, 0, 100 * time.Second}, {"sensors", ToRead, 5 * time.Second, time.Second}}, "inventory 0 sensors 100"},
		{"no reading beside a change", []ask{{"run", ToChange, 0, 10 * time.Second}, {"sensors", ToRead, 5 * time.Second, time.Second}}, "run 0 sensors 10"},
		{"firmware waits for a reading", []ask{{"inventory", ToRead, 0, 100 * time.Second}, {"firmware", Alone, 5 * time.Second, 10 * time.Second}}, "inventory 0 firmware 100"},
		{"no reading beside new firmware", []ask{{"firmware", Alone, 0, 10 * time.Second}, {"sensors", ToRead, 5 * time.Second, time.Second}, {"power", ToChange, 6 * time.Second, time.Second}}, "firmware 0 power 10 sensors 11"},
		{"a change overtakes readings", []ask{
			{"run", ToChange, 0, 10 * time.Second}, {"sensors", ToRead, time.Second, 5 * time.Second}, {"sel", ToRead, 2 * time.Second, 5 * time.Second}, {"power", ToChange, 3 * time.Second, 5 * time.Second},
		}, "run 0 power 10 sensors 15 sel 20"},
		{"readings do not starve new firmware", []ask{
			{"inventory", ToRead, 0, 100 * time.Second}, {"firmware", Alone, 5 * time.Second, 10 * time.Second}, {"sensors", ToRead, 6 * time.Second, time.Second},
		}, "inventory 0 firmware 100 sensors 110"},
		{"first come, first served", []ask{
			{"run", ToChange, 0, 10 * time.Second}, {"a", ToChange, time.Second, time.Second}, {"b", ToChange, 2 * time.Second, time.Second}, {"c", ToChange, 3 * time.Second, time.Second},
		}, "run 0 a 10 b 11 c 12"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns, start := NewTurns(nil, nil), time.Now()
				var mu sync.Mutex
				var got []string
				var wg sync.WaitGroup
				for _, a := range tc.asks {
					wg.Go(func() {
						time.Sleep(a.at) // on the bubble's clock
						release, err := turns.Take(t.Context(), a.kind, "gpu-01", "user:"+a.who, a.who, time.Hour, nil)
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						got = append(got, fmt.Sprintf("%s %d", a.who, int(time.Since(start).Seconds())))
						mu.Unlock()
						time.Sleep(a.has)
						release()
					})
				}
				wg.Wait()
				if s := strings.Join(got, " "); s != tc.want {
					t.Errorf("turns: %s; want %s", s, tc.want)
				}
				if len(turns.at) != 0 {
					t.Errorf("%d BMCs are still kept", len(turns.at))
				}
			})
		})
	}
}

// TestTurnsGivenUp: who gave up waiting keeps nobody waiting, and is told who
// it waited for.
func TestTurnsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(nil, nil)
		release, err := turns.Take(t.Context(), ToRead, "gpu-01", "user:alice", "inventory", 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := turns.Take(t.Context(), Alone, "gpu-01", "user:bob", "firmware-update", time.Second, nil); err == nil || !strings.Contains(err.Error(), "held by user:alice for 1s (inventory)") {
			t.Errorf("Take() = %v; want who has it", err)
		}
		other, err := turns.Take(t.Context(), ToChange, "gpu-01", "user:carol", "power-off", 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if held := turns.Held(); len(held) != 2 {
			t.Errorf("Held() = %v; want both", held)
		}
		release()
		other()
		if len(turns.at) != 0 {
			t.Errorf("still kept: %v", turns.at)
		}
	})
}

// TestTurnsOfNodes: who changes something at one node of a BMC keeps others from
// its other nodes, and not from other BMCs.
func TestTurnsOfNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(nil, func(machine string) string { return strings.TrimRight(machine, "ab") })
		release, err := turns.Take(t.Context(), ToChange, "node-1a", "user:alice", "bios-apply", 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		other, err := turns.Take(t.Context(), ToChange, "node-2a", "user:bob", "power-on", 0, nil)
		if err != nil {
			t.Fatalf("another BMC: %v", err)
		}
		defer other()
		_, err = turns.Take(t.Context(), ToChange, "node-1b", "fettle", "a run", 3*time.Second, nil)
		const want = "node-1b: its BMC is held by user:alice for 3s (bios-apply) for node-1a, which has the same BMC, and was not free within 3s"
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Take() of the other node = %v; want %q", err, want)
		}
		release()
		if release, err = turns.Take(t.Context(), ToChange, "node-1b", "fettle", "a run", 0, nil); err != nil {
			t.Fatal(err)
		}
		release()
		if held := turns.Held(); len(held) != 1 {
			t.Errorf("held: %v; want node-2a's", held)
		}
	})
}
