package apt

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// source is one suite of one archive.
type source struct {
	base       string // address of the archive, without a slash at the end
	suite      string
	components []string // none: all that its Release names
	dir        string   // what keyrings are relative to
	keyrings   []string // files
	keyTexts   []string
}

// sources are the sources of a mirror, in the order of its suites. Where the
// site names several archives, a suite has one candidate in each.
func (f *Format) sources(m airgap.Mirror) ([][]source, error) {
	if len(m.Suites) == 0 {
		return nil, errors.New("it names no suites")
	}
	for _, s := range m.Suites {
		p := s
		if flat(s) {
			if p = indexDir(s); p == "." {
				continue
			}
			if first, _, _ := strings.Cut(p, "/"); first == "dists" || strings.HasPrefix(first, ".") {
				return nil, fmt.Errorf("suite %q: a flat archive cannot be mirrored in that folder", s)
			}
		}
		if err := airgap.CheckPath(p); err != nil {
			return nil, fmt.Errorf("suite %q: %w", s, err)
		}
	}
	if len(m.URLs) > 0 {
		if len(m.Keyrings) == 0 {
			return nil, errors.New("it names urls and no keyrings: whose signature is to be trusted?")
		}
		var out [][]source
		for _, suite := range m.Suites {
			var c []source
			for _, u := range m.URLs {
				c = append(c, source{base: strings.TrimSuffix(u, "/"), suite: suite, components: m.Components, dir: f.Dir, keyrings: m.Keyrings})
			}
			out = append(out, c)
		}
		return out, nil
	}
	etc := f.Etc
	if etc == "" {
		etc = "/etc/apt"
	}
	all, err := readSources(etc)
	if err != nil {
		return nil, err
	}
	var out [][]source
	for _, suite := range m.Suites {
		var c []source
		for _, s := range all {
			if s.suite != suite || slices.ContainsFunc(c, func(x source) bool { return x.base == s.base }) {
				continue
			}
			if len(m.Components) > 0 {
				s.components = m.Components
			}
			if len(m.Keyrings) > 0 {
				s.dir, s.keyrings, s.keyTexts = f.Dir, m.Keyrings, nil
			}
			c = append(c, s)
		}
		if len(c) == 0 {
			return nil, fmt.Errorf("this machine's apt sources (%s) have no suite %s: name urls and keyrings in the site file", etc, suite)
		}
		out = append(out, c[:1]) // the first that apt would ask
	}
	return out, nil
}

// HostSuites are the suites that this machine's apt sources have.
func (f *Format) HostSuites() ([]string, error) {
	all, err := readSources(cmp.Or(f.Etc, "/etc/apt"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range all {
		if !slices.Contains(out, s.suite) {
			out = append(out, s.suite)
		}
	}
	return out, nil
}

// readSources reads sources.list(5) below etc, in apt's order. A source with
// trusted=yes is left out: signatures are verified here.
func readSources(etc string) ([]source, error) {
	trusted, err := trustedKeys(etc)
	if err != nil {
		return nil, err
	}
	files := []string{filepath.Join(etc, "sources.list")}
	entries, err := os.ReadDir(filepath.Join(etc, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading apt's sources: %w", err)
	}
	for _, e := range entries {
		if x := filepath.Ext(e.Name()); x == ".list" || x == ".sources" {
			files = append(files, filepath.Join(etc, "sources.list.d", e.Name()))
		}
	}
	var out []source
	for _, path := range files {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading apt's sources: %w", err)
		}
		parse := parseList
		if filepath.Ext(path) == ".sources" {
			parse = parseDeb822
		}
		ss, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		for _, s := range ss {
			if len(s.keyrings) == 0 && len(s.keyTexts) == 0 {
				s.keyrings = trusted
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// trustedKeys are the keys that apt trusts for sources that name none.
func trustedKeys(etc string) ([]string, error) {
	var out []string
	for _, pattern := range []string{"trusted.gpg", "trusted.gpg.d/*.gpg", "trusted.gpg.d/*.asc"} {
		m, err := filepath.Glob(filepath.Join(etc, pattern))
		if err != nil {
			return nil, err
		}
		out = append(out, m...)
	}
	return out, nil
}

// setSignedBy reads Signed-By: files, or a key itself.
func (s *source) setSignedBy(v string) {
	if strings.Contains(v, "BEGIN PGP PUBLIC KEY BLOCK") {
		lines := strings.Split(strings.TrimSpace(v), "\n")
		for i, l := range lines {
			if l == "." {
				lines[i] = "" // deb822's way to write an empty line
			}
		}
		s.keyTexts = []string{strings.Join(lines, "\n") + "\n"}
		return
	}
	for _, p := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		if filepath.IsAbs(p) {
			s.keyrings = append(s.keyrings, p)
		}
	}
}

// parseList reads the one-line format.
func parseList(data []byte) ([]source, error) {
	var out []source
	for n, line := range strings.Split(string(data), "\n") {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || !strings.ContainsRune(" \t[", rune(rest[0])) {
			continue
		}
		rest = strings.TrimSpace(rest)
		var s source
		trusted := false
		if strings.HasPrefix(rest, "[") {
			opts, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				return nil, fmt.Errorf("line %d: the options have no closing bracket", n+1)
			}
			rest = after
			for _, o := range strings.Fields(opts) {
				k, v, _ := strings.Cut(o, "=")
				switch strings.ToLower(k) {
				case "signed-by":
					s.setSignedBy(v)
				case "trusted":
					trusted = strings.EqualFold(v, "yes")
				}
			}
		}
		f := strings.Fields(rest)
		if len(f) < 3 || trusted {
			continue // flat, or not verified
		}
		s.base, s.suite, s.components = strings.TrimSuffix(f[0], "/"), f[1], f[2:]
		out = append(out, s)
	}
	return out, nil
}

// parseDeb822 reads the format of *.sources.
func parseDeb822(data []byte) ([]source, error) {
	var out []source
	err := readStanzas(bytes.NewReader(data), nil, false, func(st stanza) error {
		if strings.EqualFold(st.get("Enabled"), "no") || strings.EqualFold(st.get("Trusted"), "yes") ||
			!slices.Contains(strings.Fields(st.get("Types")), "deb") || st.get("Components") == "" {
			return nil
		}
		var s source
		s.components = strings.Fields(st.get("Components"))
		s.setSignedBy(st.get("Signed-By"))
		for _, u := range strings.Fields(st.get("URIs")) {
			for _, suite := range strings.Fields(st.get("Suites")) {
				s.base, s.suite = strings.TrimSuffix(u, "/"), suite
				out = append(out, s)
			}
		}
		return nil
	})
	return out, err
}
