package site

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a site.
type Error struct {
	Pos  Pos    // zero for a Site made in Go
	Path string // e.g. "machines[3].nics[0].mac"
	Msg  string // what is wrong
	Hint string // what to do about it; may be empty
	Err  error  // the cause, when there is one
}

// Error is "file:line:column: what is wrong; what to do".
func (e *Error) Error() string {
	where := e.Pos.String()
	if where == "" {
		where = e.Path
	}
	s := e.Msg
	if where != "" {
		s = where + ": " + s
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errors is everything that is wrong with a site, in file order.
type Errors []*Error

// Error has one line for each error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the errors to errors.Is and errors.As.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// problems collects errors and knows where values were written.
type problems struct {
	errs Errors
	pos  map[string]Pos  // path of a value → where it stands
	bad  map[string]bool // paths that have an error already
}

func newProblems() *problems {
	return &problems{pos: map[string]Pos{}, bad: map[string]bool{}}
}

// at is the position of path, or of the nearest value that holds it.
func (p *problems) at(path string) Pos {
	for {
		if pos, ok := p.pos[path]; ok {
			return pos
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return p.pos[""]
		}
		path = path[:i]
	}
}

// add reports the first error of a path; what follows from it is not said.
func (p *problems) add(path, hint, format string, args ...any) {
	if p.bad[path] {
		return
	}
	p.bad[path] = true
	p.errs = append(p.errs, &Error{Pos: p.at(path), Path: path, Msg: fmt.Sprintf(format, args...), Hint: hint})
}

// err is the sorted Errors, or nil.
func (p *problems) err() error {
	if len(p.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(p.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
	})
	return p.errs
}

// nearest is the known word that is most like word, or "" if none is near.
func nearest(word string, known []string) string {
	best, limit := "", max(2, len(word)/3)+1
	for _, k := range known {
		if k == "" {
			continue
		}
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if d < limit && d < max(len(k), len(word)) {
			best, limit = k, d
		}
	}
	return best
}

// meant is a hint that names the nearest known word, or lists the known ones.
func meant(word string, known []string, none string) string {
	if n := nearest(word, known); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	if len(known) == 0 {
		return none
	}
	list := slices.Sorted(slices.Values(known))
	if len(list) > 12 {
		list = append(list[:12], "...")
	}
	return "known: " + strings.Join(list, ", ")
}

// distance counts the single-letter edits and swaps of neighbours between two
// words (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
