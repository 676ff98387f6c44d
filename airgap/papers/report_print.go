package papers

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fettle-dev/fettle/airgap"
)

//go:embed report.html
var reportHTML string

const (
	changesOnPage  = 14
	licencesOnPage = 12
	mirrorsOnPage  = 12
)

// size is a number of bytes for people.
func size(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	v, i := float64(n), 0
	for v >= 1000 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// vouched says in a few words what a mirror's trust rests on.
func vouched(ts []airgap.Trust) []string {
	var out []string
	for _, t := range ts {
		s := t.What
		if t.SignedBy != "" {
			s += ", signed by " + group(t.SignedBy)
		} else {
			s += ", NOT SIGNED: trusted because of " + t.Source
		}
		if t.Date != "" {
			s += ", as of " + strings.TrimSuffix(strings.Replace(t.Date, "T", " ", 1), "Z")
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		out = []string{"NOT SIGNED: nothing vouches for it"}
	}
	return out
}

// group sets the hex digits of a fingerprint in groups of four.
func group(s string) string {
	if len(s) < 16 || strings.Trim(s, "0123456789abcdefABCDEF") != "" {
		return s
	}
	var out []string
	for part := range slices.Chunk([]byte(s), 4) {
		out = append(out, string(part))
	}
	return strings.Join(out, " ")
}

// HTML is the report as one page that needs nothing else, for a screen and
// for paper.
func (r Report) HTML() ([]byte, error) {
	first := func(n int, list []string) []string { return list[:min(n, len(list))] }
	t, err := template.New("report").Funcs(template.FuncMap{
		"size": size, "vouched": vouched, "first": first,
		"more":  func(n, of int) int { return max(0, of-n) },
		"split": strings.Fields,
		"loud":  func(s string) bool { return strings.Contains(s, "ATTENTION:") || strings.Contains(s, "NOT SIGNED") },
		"join":  strings.Join,
		"inc":   func(i int) int { return i + 1 },
	}).Parse(reportHTML)
	if err != nil {
		return nil, err
	}
	var entering int
	for _, m := range r.Mirrors {
		entering += m.Entering
	}
	var b bytes.Buffer
	err = t.Execute(&b, struct {
		Report
		Count                   int
		MaxChanges, MaxLicences int
		TopLicences             []LicenceReport
		TopMirrors              []MirrorReport
		When                    string
		Full                    bool
	}{r, entering, changesOnPage, licencesOnPage, r.Licences[:min(len(r.Licences), licencesOnPage)], r.Mirrors[:min(len(r.Mirrors), mirrorsOnPage)], r.Created.Format("2 January 2006, 15:04 UTC"), r.Base == ""})
	return b.Bytes(), err
}

// Text is the report for a terminal or a plain printer.
func (r Report) Text() []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	row := func(k, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", k, fmt.Sprintf(format, args...)) }
	row("BUNDLE FOR SITE", "%s", r.Site)
	row("snapshot", "%s (serial %d, %s)", r.Snapshot, r.Serial, r.Created.Format("2006-01-02 15:04 UTC"))
	if r.Base == "" {
		row("builds on", "nothing: it is full")
	} else {
		row("builds on", "snapshot %s", r.Base)
	}
	row("fingerprint", "%s", r.Fingerprint.Hex())
	row("as words", "%s", r.Words)
	row("signed by", "site key %s", r.KeyID)
	row("as words", "%s", r.KeyWords)
	row("holds", "%s and these papers, %s; %s, %s", counted(r.Files, "file"), size(r.Bytes), counted(r.Volumes, "volume"), size(r.Stored))
	if r.Parity > 0 {
		row("parity", "%s may be lost", counted(r.Parity, "volume"))
	}
	if len(r.Recipients) > 0 {
		row("encrypted to", "%s", strings.Join(r.Recipients, ", "))
	} else {
		row("encrypted", "no")
	}
	for _, p := range r.Programs {
		row("program", "%s, sha256 %s", p.File, p.SHA256.Hex())
	}
	w.Flush()
	section := func(title string) { fmt.Fprintf(&b, "\n%s\n", title) }
	section("WHAT ENTERS, FROM WHERE, WHO SIGNED")
	for _, m := range r.Mirrors {
		fmt.Fprintf(&b, "  %s (%s) from %s: %d of %d things enter, %s\n", m.Name, m.Format, strings.Join(m.Hosts, ", "), m.Entering, m.Things, size(m.Bytes))
		for _, t := range vouched(m.Trust) {
			fmt.Fprintf(&b, "      %s\n", t)
		}
	}
	section("WHAT CHANGED")
	for _, c := range r.Changes {
		fmt.Fprintf(&b, "  %s\n", c)
	}
	section("LICENCES OF WHAT ENTERS")
	for _, l := range r.Licences {
		name := l.Licence
		if name == "" {
			name = "not known"
		}
		fmt.Fprintf(&b, "  %6d  %s\n", l.Things, name)
	}
	if len(r.Notes) > 0 {
		section("NOTE")
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "  %s\n", n)
		}
	}
	section("CHECK, BEFORE ANYTHING OF THE BUNDLE RUNS")
	b.WriteString("  README.txt beside the volumes says how to verify with openssl and sha256sum.\n  Compare the words of the key with those that the site gave you by another way.\n")
	return b.Bytes()
}

// counted is a number of things, of which the name takes an s.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
