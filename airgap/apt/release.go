package apt

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// clockSlack is by how much a Release may be from the future.
const clockSlack = 24 * time.Hour

// release is a suite's index of indexes.
type release struct {
	origin, label, suite, codename string
	date, validUntil               time.Time // validUntil is zero when there is none
	components, archs              []string
	byHash                         bool
	allApart                       bool // packages for all architectures have an index of their own
	notAutomatic, butUpgrades      bool // apt_preferences(5)
	files                          map[string]listed
}

// pin is the priority that apt gives the release's packages by itself.
func (r release) pin() int {
	switch {
	case r.notAutomatic && r.butUpgrades:
		return 100
	case r.notAutomatic:
		return 1
	}
	return 500
}

// listed is a file that a Release names.
type listed struct {
	sha256 blob.Digest
	size   int64
}

// parseRelease reads a Release.
func parseRelease(data []byte) (release, error) {
	var sts []stanza
	err := readStanzas(bytes.NewReader(data), nil, false, func(s stanza) error { sts = append(sts, s); return nil })
	if err != nil {
		return release{}, err
	}
	if len(sts) != 1 {
		return release{}, fmt.Errorf("it has %d stanzas; want one", len(sts))
	}
	s := sts[0]
	r := release{
		origin: s.get("Origin"), label: s.get("Label"), suite: s.get("Suite"), codename: s.get("Codename"),
		components: strings.Fields(s.get("Components")), archs: strings.Fields(s.get("Architectures")),
		byHash:       strings.EqualFold(s.get("Acquire-By-Hash"), "yes"),
		allApart:     !strings.Contains(s.get("No-Support-for-Architecture-all"), "Packages"),
		notAutomatic: strings.EqualFold(s.get("NotAutomatic"), "yes"),
		butUpgrades:  strings.EqualFold(s.get("ButAutomaticUpgrades"), "yes"),
		files:        map[string]listed{},
	}
	if r.date, err = parseDate(s.get("Date")); err != nil {
		return release{}, fmt.Errorf("its Date is wrong: %w", err)
	}
	if v := s.get("Valid-Until"); v != "" {
		if r.validUntil, err = parseDate(v); err != nil {
			return release{}, fmt.Errorf("its Valid-Until is wrong: %w", err)
		}
	}
	for _, line := range strings.Split(s.get("SHA256"), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return release{}, fmt.Errorf("its SHA256 has the line %q", line)
		}
		f[2] = strings.TrimPrefix(f[2], "./") // flat archives write it
		d, err := blob.ParseDigest("sha256:" + strings.ToLower(f[0]))
		n, err2 := strconv.ParseInt(f[1], 10, 64)
		if err := errors.Join(err, err2, airgap.CheckPath(f[2])); err != nil || n < 0 {
			return release{}, fmt.Errorf("its SHA256 has the line %q: %w", line, err)
		}
		if old, twice := r.files[f[2]]; twice && old != (listed{d, n}) {
			return release{}, fmt.Errorf("it names %s twice and differently", f[2])
		}
		r.files[f[2]] = listed{d, n}
	}
	if len(r.files) == 0 {
		return release{}, errors.New("it has no SHA256 digests, and weaker ones are not trusted")
	}
	return r, nil
}

// parseDate reads the dates of a Release, always in UTC.
func parseDate(s string) (time.Time, error) {
	s = strings.Replace(s, " GMT", " UTC", 1)
	s = strings.Replace(s, " +0000", " UTC", 1)
	t, err := time.Parse("Mon, _2 Jan 2006 15:04:05 MST", s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no date: %w", s, err)
	}
	if name, _ := t.Zone(); name != "UTC" {
		return time.Time{}, fmt.Errorf("%q is not in UTC", s)
	}
	return t.UTC(), nil
}

func formatDate(t time.Time) string { return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 MST") }

// check refuses a Release of another suite, an expired one, and one from the
// future.
func (r release) check(suite string, now time.Time) error {
	name := strings.TrimSuffix(suite, "/updates")
	// A flat archive has no name of its own.
	if !flat(suite) && suite != r.suite && suite != r.codename && name != r.codename && name != r.suite {
		return fmt.Errorf("it is of suite %q (%q), not of %s: upstream swapped it", r.suite, r.codename, suite)
	}
	if !r.validUntil.IsZero() && now.After(r.validUntil) {
		return fmt.Errorf("it was valid until %s and is not any more: upstream is stale, or withholds newer ones", r.validUntil.Format(time.RFC3339))
	}
	if r.date.After(now.Add(clockSlack)) {
		return fmt.Errorf("it is dated %s, which is to come: is this machine's clock right?", r.date.Format(time.RFC3339))
	}
	return nil
}
