package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// progress draws what happens to machines: a line per machine that is redrawn
// on a terminal, a line per change otherwise, an event per line with JSON.
type progress struct {
	e        *env
	w        io.Writer
	machines []string
	status   map[string]state.Status
	drawn    int // lines on the terminal to be overwritten
	plain    map[string]time.Time
	now      func() time.Time
}

func newProgress(e *env, machines []string, now func() time.Time) *progress {
	p := &progress{e: e, w: e.stderr, machines: slices.Sorted(slices.Values(machines)), status: map[string]state.Status{}, plain: map[string]time.Time{}, now: now}
	if e.json {
		p.w = e.stdout
	}
	return p
}

// event takes one event in; it tells whether it was about a machine that p
// follows.
func (p *progress) event(ev state.Event) error {
	if !slices.Contains(p.machines, ev.Machine) {
		return nil
	}
	before := p.status[ev.Machine]
	after := state.Fold(before, ev)
	p.status[ev.Machine] = after
	switch {
	case p.e.json:
		return p.e.printLine(ev)
	case p.e.tty:
		p.draw()
	case after.Phase != before.Phase:
		fmt.Fprintf(p.w, "%s  %-12s %-12s %s\n", ev.Time.Local().Format("15:04:05"), ev.Machine, after.Phase, ev.Text)
	case ev.Kind == state.KindProgress && p.now().Sub(p.plain[ev.Machine]) > 10*time.Second:
		p.plain[ev.Machine] = p.now()
		fmt.Fprintf(p.w, "%s  %-12s %-12s %s\n", ev.Time.Local().Format("15:04:05"), ev.Machine, after.Phase, transfer(after.Progress))
	}
	return nil
}

// draw redraws one line per machine.
func (p *progress) draw() {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	for _, m := range p.machines {
		st := p.status[m]
		line := fmt.Sprintf("%-12s %s %-12s %6s", m, bar(st), st.Phase, p.now().Sub(st.Since).Round(time.Second))
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
