package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// progress draws what happens to machines: a line per machine that is redrawn
// on a terminal, a line per change otherwise, an event per line with JSON. Its
// methods may be called concurrently.
type progress struct {
	e        *env
	w        io.Writer
	machines []string
	now      func() time.Time

	mu     sync.Mutex
	status map[string]state.Status
	drawn  int // lines on the terminal to be overwritten
	plain  map[string]time.Time
}

// newProgress starts from what is known of the machines.
func newProgress(e *env, from []state.Status, now func() time.Time) *progress {
	p := &progress{e: e, w: e.stderr, now: now, status: map[string]state.Status{}, plain: map[string]time.Time{}}
	for _, st := range from {
		p.machines = append(p.machines, st.Machine)
		p.status[st.Machine] = st
	}
	slices.Sort(p.machines)
	if e.json {
		p.w = e.stdout
	}
	return p
}

// of is a machine's status as the events seen so far make it.
func (p *progress) of(machine string) state.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status[machine]
}

// event takes one event in.
func (p *progress) event(ev state.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, ok := p.status[ev.Machine]
	if !ok || ev.Seq <= before.LastSeq {
		return nil
	}
	after := state.Fold(before, ev)
	p.status[ev.Machine] = after
	line := func(text string) {
		fmt.Fprintf(p.w, "%s  %-12s %-12s %s\n", ev.Time.Local().Format("15:04:05"), ev.Machine, after.Phase, text)
	}
	switch {
	case p.e.json:
		return p.e.printLine(ev)
	case p.e.tty:
		p.draw()
	case ev.Kind == state.KindPhase && after.Phase != before.Phase:
		line(ev.Text)
	case ev.Kind == state.KindProgress && p.now().Sub(p.plain[ev.Machine]) > 10*time.Second:
		p.plain[ev.Machine] = p.now()
		line(transfer(after.Progress))
	}
	return nil
}

// run redraws once a second until ctx ends, so that times and spinners live.
func (p *progress) run(ctx context.Context) {
	if !p.e.tty || p.e.json {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		p.mu.Lock()
		p.draw()
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// draw redraws one line per machine. The lock is held.
func (p *progress) draw() {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	for _, m := range p.machines {
		st := p.status[m]
		since := "-"
		if !st.Since.IsZero() {
			since = max(0, p.now().Sub(st.Since)).Round(time.Second).String()
		}
		line := fmt.Sprintf("%-12s %s %-12s %6s", m, bar(st), st.Phase, since)
		if st.Progress != nil && st.Progress.Phase == st.Phase {
			line += "  " + transfer(st.Progress)
		}
		fmt.Fprintf(&b, "\r\x1b[K%s\n", line)
	}
	p.drawn = len(p.machines)
	io.WriteString(p.w, b.String())
}

// order is the phases of a deployment as a bar shows them.
var order = []state.Phase{
	state.PoweringOn, state.Firmware, state.Netboot, state.Agent, state.Inspected, state.Deploying,
	state.Verifying, state.Seeding, state.Restarting, state.FirstBoot, state.Ready,
}

// bar is how far a machine is, as eleven cells.
func bar(st state.Status) string {
	n := slices.Index(order, st.Phase) + 1
	if st.Phase == state.Failed {
		return "[" + strings.Repeat("x", len(order)) + "]"
	}
	return "[" + strings.Repeat("=", n) + strings.Repeat(".", len(order)-n) + "]"
}

func transfer(p *state.ProgressData) string {
	if p == nil || p.Total == 0 {
		return ""
	}
	s := fmt.Sprintf("%3d%%  %s of %s", p.Done*100/p.Total, bytesText(p.Done), bytesText(p.Total))
	if p.Rate > 0 {
		s += fmt.Sprintf("  %s/s", bytesText(p.Rate))
	}
	return s
}

// bytesText is a size in bytes with a decimal unit.
func bytesText(n int64) string {
	const units = "kMGTP"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}

// table prints rows with aligned columns; the first row is the header.
func table(w io.Writer, rows [][]string) {
	widths := map[int]int{}
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-len([]rune(c))+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
