package provision

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/state"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(nil)
		ctx := t.Context()
		release, err := turns.Take(ctx, "gpu-01", "user:alice", "firmware-update", 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if other, err := turns.Take(ctx, "gpu-02", "fettle", "a run", 0, nil); err != nil {
			t.Errorf("another machine's: %v", err)
		} else {
			other()
		}
		time.Sleep(12 * time.Second) // on the bubble's clock
		var waits []state.BMCHold
		start := time.Now()
		_, err = turns.Take(ctx, "gpu-01", "fettle", "a run", 30*time.Second, func(h state.BMCHold) { waits = append(waits, h) })
		var held *HeldError
		const want = "gpu-01: its BMC is held by user:alice for 42s (firmware-update), and was not free within 30s"
		if !errors.As(err, &held) || !strings.HasPrefix(err.Error(), want) || time.Since(start) != 30*time.Second || len(waits) != 1 {
			t.Errorf("Take() of what is held = %v after %s, told %v; want %q after 30s", err, time.Since(start), waits, want)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := turns.Take(gone, "gpu-01", "fettle", "a run", time.Hour, nil); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "user:alice") {
			t.Errorf("Take() of who left = %v; want canceled", err)
		}
		// Ten wait; each gets it, one at a time.
		busy, done := 0, make(chan error, 10)
		for range 10 {
			go func() {
				release, err := turns.Take(ctx, "gpu-01", "user:bob", "power", time.Hour, nil)
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
