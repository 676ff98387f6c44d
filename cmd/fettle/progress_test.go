package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/state"
)

var progressStart = time.Date(2026, 11, 21, 19, 20, 1, 0, time.Local)

func encode(t *testing.T, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// progressEvents is a deployment of gpu-01, an event a second, with a stranger
// in it.
func progressEvents(t *testing.T) []state.Event {
	t.Helper()
	phase := func(p state.Phase, text string) state.Event {
		return state.Event{Machine: "gpu-01", Kind: state.KindPhase, Text: text, Data: encode(t, state.PhaseData{Phase: p})}
	}
	moved := func(done int64) state.Event {
		return state.Event{Machine: "gpu-01", Kind: state.KindProgress, Data: encode(t, state.ProgressData{Phase: state.Deploying, Done: done, Total: 2_000_000_000, Rate: 125_000_000})}
	}
	evs := []state.Event{
		phase(state.Netboot, "asked the network for an address"),
		{Machine: "gpu-01", Kind: "dhcp.ack", Text: "has an address"},
		{Machine: "gpu-99", Kind: state.KindPhase, Text: "of another lab", Data: encode(t, state.PhaseData{Phase: state.Failed})},
		phase(state.Deploying, "writing the image"),
		moved(500_000_000), moved(1_000_000_000), moved(2_000_000_000),
		phase(state.Ready, "reports that it is up"),
	}
	for i := range evs {
		evs[i].Seq = int64(11 + i)
		evs[i].Time = progressStart.Add(time.Duration(i) * time.Second)
	}
	return evs
}

// drawProgress lets progress see the events, each at its time.
func drawProgress(t *testing.T, e *env, step time.Duration) (stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	e.stdout, e.stderr = &out, &errOut
	now := progressStart
	p := newProgress(e, []state.Status{
		{Machine: "gpu-02", Phase: state.Ready, Since: progressStart, LastSeq: 9},
		{Machine: "gpu-01", Phase: state.Firmware, Since: progressStart.Add(-5 * time.Second), LastSeq: 10},
	}, func() time.Time { return now })
	for _, ev := range progressEvents(t) {
		if err := p.event(ev); err != nil {
			t.Fatal(err)
		}
		now = now.Add(step)
	}
	if got := p.of("gpu-01").Phase; got != state.Ready {
		t.Errorf("phase of gpu-01 after all events = %s; want ready", got)
	}
	if got := p.of("gpu-99").Phase; got != "" {
		t.Errorf("phase of a machine that is not followed = %s; want none", got)
	}
	return out.String(), errOut.String()
}

// Without a terminal there is a line for each change of phase, and one for
// bytes at most every ten seconds.
func TestProgressPlain(t *testing.T) {
	out, got := drawProgress(t, &env{}, 4*time.Second)
	want := `19:20:01  gpu-01       netboot      asked the network for an address
19:20:04  gpu-01       deploying    writing the image
19:20:05  gpu-01       deploying     25%  500.0 MB of 2.0 GB  125.0 MB/s
19:20:08  gpu-01       ready        reports that it is up
`
	// The second amount came 4 s after the first, the third 8 s.
	if got != want || out != "" {
		t.Errorf("progress without a terminal printed\n%s%s\nwant on stderr\n%s", out, got, want)
	}
	_, got = drawProgress(t, &env{}, 11*time.Second)
	if n := strings.Count(got, "%"); n != 3 {
		t.Errorf("progress told of bytes %d times with 11 s between; want 3\n%s", n, got)
	}
}

// With --output json, each event of the machines is a line on stdout, and
// nothing else is.
func TestProgressJSON(t *testing.T) {
	out, errOut := drawProgress(t, &env{json: true, tty: true}, time.Second)
	var seqs []int64
	for line := range strings.Lines(out) {
		var ev state.Event
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			t.Fatalf("line %q is no event: %v", line, err)
		}
		if ev.Machine != "gpu-01" {
			t.Errorf("progress printed an event of %s; want only gpu-01", ev.Machine)
		}
		seqs = append(seqs, ev.Seq)
	}
	if len(seqs) != 7 || errOut != "" {
		t.Errorf("progress printed events %v, stderr %q; want 7 events", seqs, errOut)
	}
}

// screen is what a terminal shows after s: lines, cursor up, erase.
func screen(s string) []string {
	lines, row := []string{""}, 0
	for len(s) > 0 {
		switch {
		case strings.HasPrefix(s, "\x1b["):
			end := strings.IndexAny(s, "AK")
			if s[end] == 'A' {
				n := 0
				for _, d := range s[2:end] {
					n = n*10 + int(d-'0')
				}
				row -= n
			} else {
				lines[row] = ""
			}
			s = s[end+1:]
		case s[0] == '\r':
			s = s[1:]
		case s[0] == '\n':
			row++
			for len(lines) <= row {
				lines = append(lines, "")
			}
			s = s[1:]
		default:
			lines[row] += s[:1]
			s = s[1:]
		}
	}
	return lines
}

// On a terminal each machine has one line, which is redrawn.
func TestProgressTerminal(t *testing.T) {
	_, got := drawProgress(t, &env{tty: true}, time.Second)
	lines := screen(got)
	if len(lines) != 3 || lines[2] != "" {
		t.Fatalf("a terminal shows %q; want a line for each of 2 machines", lines)
	}
	if !strings.HasPrefix(lines[0], "gpu-01       [===========] ready ") || !strings.HasPrefix(lines[1], "gpu-02       [===========] ready ") {
		t.Errorf("a terminal shows %q; want both ready, in the order of their names", lines)
	}
	if strings.Contains(lines[0], "%") {
		t.Errorf("a ready machine's line tells of bytes still: %q", lines[0])
	}
	if !strings.Contains(got, "gpu-01       [======.....] deploying        1s   25%  500.0 MB of 2.0 GB  125.0 MB/s\n") {
		t.Errorf("a terminal was never told of 25%%: %q", got)
	}
}

// Times go on when nothing happens.
func TestProgressTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p := newProgress(&env{tty: true, stderr: &b}, []state.Status{{Machine: "gpu-01", Phase: state.FirstBoot, Since: time.Now()}}, time.Now)
		ctx, cancel := context.WithTimeout(t.Context(), 90500*time.Millisecond)
		defer cancel()
		p.run(ctx)
		if lines := screen(b.String()); len(lines) != 2 || !strings.HasSuffix(lines[0], " first-boot    1m30s") {
			t.Errorf("after 90 s a terminal shows %q; want first-boot 1m30s", lines)
		}
	})
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1_500_000: "1.5 MB", 8_589_934_592: "8.6 GB", 5e18: "5000.0 PB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q; want %q", n, got, want)
		}
	}
}

func TestBar(t *testing.T) {
	for _, tt := range []struct {
		phase state.Phase
		want  string
	}{
		{state.Unknown, "[...........]"},
		{state.PoweringOn, "[=..........]"},
		{state.Deploying, "[======.....]"},
		{state.Ready, "[===========]"},
		{state.Failed, "[xxxxxxxxxxx]"},
	} {
		if got := bar(state.Status{Phase: tt.phase}); got != tt.want {
			t.Errorf("bar(%s) = %s; want %s", tt.phase, got, tt.want)
		}
	}
}
