package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Garbage collection of a server that is small: with the usual setting it
// collects after every few megabytes, which in a burst is a quarter of all its
// work.
const (
	gcLook  = 250 * time.Millisecond
	gcBusy  = 2         // collections between two looks: there is a burst
	gcRoom  = 24 << 20  // what may gather before a collection then, at least
	gcMost  = 128 << 20 // and at most, where a quarter of a second of the burst makes so much
	gcLeast = 40        // percent; of much that is live, this much may gather
	gcCalm  = 40        // looks without any: the burst is over, the memory is given back
	gcUsual = 100
)

// tuneGC gives the collector room while there is much to do, until ctx ends.
func tuneGC(ctx context.Context) {
	tick := time.NewTicker(gcLook)
	defer tick.Stop()
	usual := debug.SetGCPercent(gcUsual)
	defer debug.SetGCPercent(usual)
	if usual != gcUsual { // GOGC is set: somebody knows better
		debug.SetGCPercent(usual)
		return
	}
	s := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	last, roomy, calm, percent := s[0].Value.Uint64(), false, 0, gcUsual
	made, rate := s[2].Value.Uint64(), uint64(0)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		metrics.Read(s)
		cycles, live := s[0].Value.Uint64(), s[1].Value.Uint64()
		busy := cycles-last >= gcBusy
		if cycles == last {
			calm++
		} else {
			calm = 0
		}
		last = cycles
		// Of the last seconds, the newest counting most.
		rate = (3*rate + (s[2].Value.Uint64()-made)*uint64(time.Second/gcLook)) / 4
		made = s[2].Value.Uint64()
		roomy = roomy || busy
		switch {
		case roomy && calm >= gcCalm:
			debug.SetGCPercent(gcUsual)
			debug.FreeOSMemory()
			roomy, percent = false, gcUsual
		case roomy:
			// Of what is live now: a percentage of little is much too much once
			// there is more, and so is twice of much.
			room := min(max(rate/4, gcRoom), gcMost)
			want := max(gcLeast, int(room*100/max(live, 1<<20)))
			if d := want - percent; d > percent/8 || -d > percent/8 {
				debug.SetGCPercent(want)
				percent = want
			}
		}
	}
}
