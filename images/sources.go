package images

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Source is one binary package source of apt: sources.list(5).
type Source struct {
	URI        string
	Suite      string
	Components []string
	SignedBy   string   // keyring file, or an ASCII-armoured key
	Options    []string // other options, as key=value, sorted
	Archs      []string `json:",omitempty"` // architectures; none: all
	File       string   // where it was found
}

// Line is the source in one-line form. It is not for a source with a key of
// its own in Signed-By: see [AptConfig].
func (s Source) Line() string {
	opts := slices.Clone(s.Options)
	if s.SignedBy != "" {
		opts = append(opts, "signed-by="+s.SignedBy)
	}
	line := "deb "
	if len(opts) > 0 {
		line += "[" + strings.Join(opts, " ") + "] "
	}
	return line + s.URI + " " + s.Suite + " " + strings.Join(s.Components, " ")
}

// options that are passed on; anything else of a source is dropped, and a
// source that says trusted=yes is not used at all: signatures are verified.
var sourceOptions = map[string]string{
	"check-valid-until": "check-valid-until",
	"valid-until-max":   "valid-until-max",
	"check-date":        "check-date",
}

// parseSourceList reads the one-line format.
func parseSourceList(r io.Reader, file string) ([]Source, error) {
	var out []Source
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, "deb")
		if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '\t' && rest[0] != '[') {
			continue // empty, deb-src, or not ours to judge
		}
		rest = strings.TrimSpace(rest)
		src := Source{File: file}
		trusted := false
		if strings.HasPrefix(rest, "[") {
			opts, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				return nil, fmt.Errorf("%s:%d: the options have no closing bracket", file, n)
			}
			rest = after
			for _, o := range strings.Fields(opts) {
				k, v, _ := strings.Cut(o, "=")
				trusted = trusted || setOption(&src, k, v)
			}
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			return nil, fmt.Errorf("%s:%d: a source needs an address and a suite", file, n)
		}
		src.URI, src.Suite, src.Components = strings.TrimSuffix(f[0], "/"), f[1], f[2:]
		slices.Sort(src.Options)
		if !trusted && len(src.Components) > 0 {
			out = append(out, src)
		}
	}
	return out, sc.Err()
}

// setOption notes an option; true means that the source must not be used.
func setOption(s *Source, key, value string) (trusted bool) {
	key = strings.ToLower(key)
	switch {
	case key == "signed-by":
		s.SignedBy = value
	case key == "arch" || key == "architectures":
		s.Archs = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
	case key == "trusted":
		return strings.EqualFold(value, "yes")
	case sourceOptions[key] != "":
		s.Options = append(s.Options, sourceOptions[key]+"="+value)
	}
	return false
}

// parseDeb822 reads the format of *.sources.
func parseDeb822(r io.Reader, file string) ([]Source, error) {
	stanzas, err := parseStanzas(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var out []Source
	for _, st := range stanzas {
		if strings.EqualFold(st["enabled"], "no") || !slices.Contains(strings.Fields(st["types"]), "deb") {
			continue
		}
		base := Source{File: file, Components: strings.Fields(st["components"])}
		trusted := false
		for k, v := range st {
			trusted = setOption(&base, k, v) || trusted
		}
		slices.Sort(base.Options)
		if trusted || len(base.Components) == 0 {
			continue
		}
		for _, uri := range strings.Fields(st["uris"]) {
			for _, suite := range strings.Fields(st["suites"]) {
				s := base
				s.URI, s.Suite = strings.TrimSuffix(uri, "/"), suite
				out = append(out, s)
			}
		}
	}
	return out, nil
}

// parseStanzas reads deb822(5): keys in lower case; the lines of a multi-line
// value keep their newlines.
func parseStanzas(r io.Reader) ([]map[string]string, error) {
	var out []map[string]string
	cur, last := map[string]string{}, ""
	flush := func() {
		if len(cur) > 0 {
			out = append(out, cur)
		}
		cur, last = map[string]string{}, ""
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimRight(sc.Text(), " \t\r")
		switch {
		case line == "":
			flush()
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return nil, fmt.Errorf("line %d continues nothing", n)
			}
			cur[last] += "\n" + strings.TrimSpace(line)
		default:
			k, v, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("line %d has no colon", n)
			}
			last = strings.ToLower(strings.TrimSpace(k))
			cur[last] = strings.TrimSpace(v)
		}
	}
	flush()
	return out, sc.Err()
}

// readSources reads every source below etc, apt's configuration folder:
// sources.list, sources.list.d/*.list and *.sources, in apt's order.
func readSources(etc string) ([]Source, error) {
	files := []string{filepath.Join(etc, "sources.list")}
	entries, err := os.ReadDir(filepath.Join(etc, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading apt's sources: %w", err)
	}
	for _, e := range entries { // sorted
		if x := filepath.Ext(e.Name()); x == ".list" || x == ".sources" {
			files = append(files, filepath.Join(etc, "sources.list.d", e.Name()))
		}
	}
	var out []Source
	for _, path := range files {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading apt's sources: %w", err)
		}
		parse := parseSourceList
		if filepath.Ext(path) == ".sources" {
			parse = parseDeb822
		}
		ss, err := parse(f, path)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading apt's sources: %w", err)
		}
		out = append(out, ss...)
	}
	return out, nil
}

// archiveSources keeps the sources of the distribution's own archive for a
// suite: those whose suite is the suite, its updates or its security, from an
// address that serves the suite itself or stands beside it. Third parties
// name suites of their own, or bring their own keyring; they are left out,
// because an image must not depend on what else somebody once added to this
// machine.
func archiveSources(all []Source, suite, arch string, components []string) []Source {
	var out []Source
	seen := map[string]bool{}
	for _, s := range all {
		if !ofSuite(s.Suite, suite) || !archiveKey(s) || !s.has(arch) {
			continue
		}
		if len(components) > 0 {
			s.Components = intersect(components, s.Components)
		}
		if len(s.Components) == 0 || seen[s.Line()] {
			continue
		}
		seen[s.Line()] = true
		out = append(out, s)
	}
	return out
}

// ofSuite tells whether a suite is a release's own, its updates or its security.
func ofSuite(s, suite string) bool {
	switch s {
	case suite, suite + "-updates", suite + "-security", suite + "/updates":
		return true
	}
	return false
}

// has tells whether a source is asked for an architecture: Ubuntu's archive is
// two, one of them for amd64 alone, and who uses both says so. "" is any.
func (s Source) has(arch string) bool {
	return len(s.Archs) == 0 || arch == "" || slices.Contains(s.Archs, arch)
}

// archiveKey tells whether a source is signed with a key of the distribution,
// or, where it names none, has an address like the distribution's.
func archiveKey(s Source) bool {
	if s.SignedBy == "" {
		return archivePath(s.URI) // apt's own trust store decides about the key
	}
	base := filepath.Base(s.SignedBy)
	for _, d := range distros {
		if strings.HasPrefix(base, d.keyring) {
			return true
		}
	}
	return false
}

// archivePath tells whether an address ends like the archive's do, on whatever
// host: debian, debian-security, ubuntu, ubuntu-ports, or a snapshot of one.
func archivePath(uri string) bool {
	for _, part := range strings.Split(strings.TrimSuffix(uri, "/"), "/") {
		switch part {
		case "debian", "debian-security", "security", "ubuntu", "ubuntu-ports":
			return true
		}
	}
	return false
}

func intersect(want, have []string) []string {
	var out []string
	for _, w := range want {
		if slices.Contains(have, w) {
			out = append(out, w)
		}
	}
	return out
}
