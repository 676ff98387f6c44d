package main

import (
	"fmt"
	"strings"
	"time"
)

// transferBar draws a transfer: bytes, rate and time left in one line that is
// redrawn on a terminal; a line every ten seconds otherwise; nothing with JSON.
// Its callers take turns.
type transferBar struct {
	e            *env
	what         string
	now          func() time.Time
	start, drawn time.Time
	from         int64
}

func newTransferBar(e *env, what string, now func() time.Time) *transferBar {
	return &transferBar{e: e, what: what, now: now}
}

func (b *transferBar) step(done, total int64, note string) {
	now := b.now()
	if b.start.IsZero() {
		b.start, b.drawn, b.from = now, now, done
	}
	every := 10 * time.Second
	if b.e.tty {
		every = 200 * time.Millisecond
	}
	if b.e.json || total <= 0 || now.Sub(b.drawn) < every {
		return
	}
	b.drawn = now
	rate := float64(done-b.from) / now.Sub(b.start).Seconds()
	left := ""
	if rate > 0 && total > done {
		left = (time.Duration(float64(total-done)/rate) * time.Second).Round(time.Second).String() + " left"
	}
	const cells = 20
	full := int(min(cells, max(0, done*cells/total)))
	line := fmt.Sprintf("%-7s [%s%s] %s of %s  %s/s  %s  %s", b.what, strings.Repeat("=", full), strings.Repeat(".", cells-full),
		bytesText(done), bytesText(total), bytesText(int64(rate)), left, note)
	if b.e.tty {
		fmt.Fprintf(b.e.stderr, "\r\x1b[K%s", strings.TrimRight(line, " "))
		return
	}
	fmt.Fprintln(b.e.stderr, strings.TrimRight(line, " "))
}

// end takes the bar away.
func (b *transferBar) end() {
	if b.e.tty && !b.e.json && !b.start.IsZero() {
		fmt.Fprint(b.e.stderr, "\r\x1b[K")
	}
	b.start = time.Time{}
}

// counted is a number of things, of which the name takes an s.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
