// Package conformance keeps bmc/vbmc/CONFORMANCE.md true: tests note which
// client did which operation with which result, and the document's rows are
// those notes. Only tests import it.
package conformance

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Matrix collects results; the zero one is ready.
type Matrix struct {
	mu   sync.Mutex
	rows []*row
}

// row is a client's operation; its results are by variant (a cipher suite, a
// way of logging in), "" where there is one.
type row struct {
	client, operation string
	ok                map[string]bool
	reason            string // why there is no result
}

// Note adds a result. An operation that is noted twice is good when all are.
func (m *Matrix) Note(client, operation, variant string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.rows, func(r *row) bool { return r.client == client && r.operation == operation })
	if i < 0 {
		i = len(m.rows)
		m.rows = append(m.rows, &row{client: client, operation: operation, ok: map[string]bool{}})
	}
	before, known := m.rows[i].ok[variant]
	m.rows[i].ok[variant] = ok && (before || !known)
}

// Leave notes that an operation has no result, and why.
func (m *Matrix) Leave(client, operation, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.rows, func(r *row) bool { return r.client == client && r.operation == operation }) {
		m.rows = append(m.rows, &row{client: client, operation: operation, reason: reason})
	}
}

// Test notes how a whole test ended, unless it was skipped.
func (m *Matrix) Test(t testing.TB, client, operation string) {
	t.Cleanup(func() {
		if !t.Skipped() {
			m.Note(client, operation, "", !t.Failed())
		}
	})
}

func word(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

// line is the row of the document.
func (r *row) line() string {
	if r.reason != "" {
		return fmt.Sprintf("| %s | %s | not applicable: %s |", r.client, r.operation, r.reason)
	}
	var res []string
	for _, v := range slices.Sorted(maps.Keys(r.ok)) {
		res = append(res, strings.TrimSpace(v+" "+word(r.ok[v])))
	}
	return fmt.Sprintf("| %s | %s | %s |", r.client, strings.ReplaceAll(r.operation, "|", `\|`), strings.Join(res, ", "))
}

// lines are the rows in order of clients, a client's as they were noted.
func (m *Matrix) lines() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows := slices.Clone(m.rows)
	slices.SortStableFunc(rows, func(a, b *row) int { return strings.Compare(a.client, b.client) })
	var out []string
	for _, r := range rows {
		out = append(out, r.line())
	}
	return out
}

// ErrStale means that the document is not what the tests saw.
var ErrStale = errors.New("run `FETTLE_CONFORMANCE=update go test ./bmc ./bmc/vbmc`, and say in the commit why a result changed")

// Check compares the rows between the markers of part in the file with what was
// noted; with update it writes them. With all, a row that nobody noted is wrong.
func (m *Matrix) Check(file, part string, all, update bool) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- rows of "+part+" -->\n", "<!-- end of "+part+" -->"
	head, rest, ok := strings.Cut(string(b), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no markers %q and %q", file, begin, end)
	}
	got := m.lines()
	if update {
		table := "\n| client | operation | result |\n|---|---|---|\n" + strings.Join(got, "\n") + "\n\n"
		return os.WriteFile(file, []byte(head+begin+table+end+tail), 0o644)
	}
	var errs []error
	for _, l := range got {
		if !strings.Contains(have, l+"\n") {
			errs = append(errs, fmt.Errorf("%s lacks the row %s", file, l))
		}
	}
	for l := range strings.Lines(have) {
		l = strings.TrimSuffix(l, "\n")
		if all && strings.HasPrefix(l, "| ") && !strings.HasPrefix(l, "| client ") && !slices.Contains(got, l) {
			errs = append(errs, fmt.Errorf("%s has the row %s, which no test noted", file, l))
		}
	}
	if errs != nil {
		errs = append(errs, ErrStale)
	}
	return errors.Join(errs...)
}

// Run runs a package's tests, then checks its part of the file; its result is
// for os.Exit. A run of some tests checks their rows alone; FETTLE_CONFORMANCE=update
// with all tests writes the rows.
func (m *Matrix) Run(tests *testing.M, file, part string) int {
	code := tests.Run()
	some := testing.Short()
	for _, name := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		some = some || flag.Lookup(name).Value.String() != ""
	}
	update := os.Getenv("FETTLE_CONFORMANCE") == "update" && !some
	if code != 0 && update {
		return code // what fails is mended, not written down
	}
	// Elsewhere than in CI a client may be absent.
	if err := m.Check(file, part, !some && os.Getenv("CI") == "true", update); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n", err)
		return max(code, 1)
	}
	return code
}
