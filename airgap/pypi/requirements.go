package pypi

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// requirement is a project at a version, with the digests that its files may
// have.
type requirement struct {
	name    string // normalized
	version string
	marker  *marker // nil: always
	hashes  map[string]bool
	why     string
}

var requirementRE = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*==\s*([A-Za-z0-9.!+_-]+)\s*(?:;(.*))?$`)

const maxIncludes = 20

// readRequirements reads a requirements file:
// https://pip.pypa.io/en/stable/reference/requirements-file-format/.
func (f *Format) readRequirements(name string, depth int) ([]requirement, [][]byte, error) {
	if depth > maxIncludes {
		return nil, nil, fmt.Errorf("%s: requirements include each other more than %d deep", name, maxIncludes)
	}
	data, err := os.ReadFile(filepath.Join(f.Dir, name))
	if err != nil {
		return nil, nil, fmt.Errorf("reading what is wanted: %w", err)
	}
	reqs, includes, err := parseRequirements(name, string(data))
	if err != nil {
		return nil, nil, err
	}
	texts := [][]byte{data}
	for _, inc := range includes {
		p := path.Join(path.Dir(name), inc)
		if err := airgap.CheckPath(p); err != nil {
			return nil, nil, fmt.Errorf("%s includes %s: %w", name, inc, err)
		}
		more, ts, err := f.readRequirements(p, depth+1)
		if err != nil {
			return nil, nil, err
		}
		reqs, texts = append(reqs, more...), append(texts, ts...)
	}
	return reqs, texts, nil
}

// parseRequirements reads the text of a requirements file.
func parseRequirements(file, text string) (reqs []requirement, includes []string, err error) {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		at := fmt.Sprintf("%s, line %d", file, i+1)
		line := stripComment(lines[i])
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, "\\") + " " + stripComment(lines[i])
		}
		line = strings.TrimSpace(line)
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "-r ") || strings.HasPrefix(line, "--requirement"):
			words := strings.Fields(strings.ReplaceAll(line, "=", " "))
			if len(words) != 2 {
				return nil, nil, fmt.Errorf("%s: %q names no file", at, line)
			}
			includes = append(includes, words[1])
			continue
		case strings.HasPrefix(line, "-e"), strings.HasPrefix(line, "--editable"):
			return nil, nil, fmt.Errorf("%s: %q is a folder, not a version of a project", at, line)
		case strings.HasPrefix(line, "-"):
			continue // of pip itself: indexes are the mirror's urls
		}
		r, err := parseRequirement(line)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", at, err)
		}
		if r.why = via(lines[i+1:]); r.why == "" {
			r.why = file
		}
		reqs = append(reqs, r)
	}
	return reqs, includes, nil
}

func stripComment(line string) string {
	if strings.HasPrefix(strings.TrimSpace(line), "#") {
		return ""
	}
	if i := strings.Index(line, " #"); i >= 0 {
		line = line[:i]
	}
	return strings.TrimRight(line, " \t")
}

// via reads pip-compile's note of what brought a requirement in, which stands
// behind it.
func via(lines []string) string {
	var out []string
	for i, l := range lines {
		c, ok := strings.CutPrefix(strings.TrimSpace(l), "#")
		if !ok || !strings.HasPrefix(l, " ") {
			break
		}
		c = strings.TrimSpace(c)
		if i == 0 {
			if c, ok = strings.CutPrefix(c, "via"); !ok {
				break
			}
			c = strings.TrimSpace(c)
		}
		if c != "" {
			out = append(out, strings.TrimPrefix(c, "-r "))
		}
	}
	if len(out) == 0 {
		return ""
	}
	if n := out[0]; nameRE.MatchString(n) && !strings.HasSuffix(n, ".in") && !strings.HasSuffix(n, ".txt") {
		return normalize(n)
	}
	return out[0]
}

func parseRequirement(line string) (requirement, error) {
	r := requirement{hashes: map[string]bool{}}
	var rest []string
	for _, w := range strings.Fields(line) {
		h, ok := strings.CutPrefix(w, "--hash=")
		if !ok {
			rest = append(rest, w)
			continue
		}
		if hex, ok := strings.CutPrefix(h, "sha256:"); ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == "" {
			r.hashes[hex] = true
		}
	}
	m := requirementRE.FindStringSubmatch(strings.Join(rest, " "))
	if m == nil {
		return r, fmt.Errorf("%q is not NAME==VERSION: pip-compile --generate-hashes writes such files", strings.Join(rest, " "))
	}
	r.name, r.version = normalize(m[1]), m[2]
	if len(r.hashes) == 0 {
		return r, fmt.Errorf("%s has no sha256 hash: pip-compile --generate-hashes writes them", m[1])
	}
	if m[3] != "" {
		var err error
		if r.marker, err = parseMarker(m[3]); err != nil {
			return r, fmt.Errorf("%s: %w", m[1], err)
		}
	}
	return r, nil
}

var errMarker = errors.New("it is no environment marker")
