package apt

import (
	"slices"
	"strings"
)

// relation is one alternative of a dependency: deb-control(5), Debian Policy
// 7.1.
type relation struct {
	name, op, version string
	arch              string // a qualifier behind a colon: "any", "native" or an architecture
}

func (r relation) String() string {
	s := r.name
	if r.arch != "" {
		s += ":" + r.arch
	}
	if r.op != "" {
		s += " (" + r.op + " " + r.version + ")"
	}
	return s
}

// parseRelations reads a Depends-like field: groups of which each needs one of
// its alternatives. What is restricted to other architectures than arch is
// left out.
func parseRelations(field, arch string) [][]relation {
	var out [][]relation
	for _, group := range strings.Split(field, ",") {
		var alts []relation
		for _, alt := range strings.Split(group, "|") {
			if r, ok := parseRelation(alt, arch); ok {
				alts = append(alts, r)
			}
		}
		if len(alts) > 0 {
			out = append(out, alts)
		}
	}
	return out
}

func parseRelation(s, arch string) (relation, bool) {
	var r relation
	if before, archs, ok := strings.Cut(s, "["); ok {
		s = before
		if !forArch(strings.TrimSuffix(strings.TrimSpace(archs), "]"), arch) {
			return relation{}, false
		}
	}
	if before, v, ok := strings.Cut(s, "("); ok {
		s = before
		v, _, _ = strings.Cut(v, ")")
		v = strings.TrimSpace(v)
		n := 0
		for n < len(v) && strings.IndexByte("<>=", v[n]) >= 0 {
			n++
		}
		r.op, r.version = v[:n], strings.TrimSpace(v[n:])
	}
	r.name, r.arch, _ = strings.Cut(strings.TrimSpace(s), ":")
	return r, r.name != ""
}

// forArch reads an architecture restriction: "amd64 arm64", "!i386".
func forArch(list, arch string) bool {
	words := strings.Fields(list)
	if len(words) > 0 && strings.HasPrefix(words[0], "!") {
		return !slices.Contains(words, "!"+arch)
	}
	return slices.Contains(words, arch) || slices.Contains(words, "any") || slices.Contains(words, "linux-any")
}

// accepts tells whether a version satisfies the relation.
func (r relation) accepts(version string) bool {
	c := 0
	if r.op != "" {
		c = compareVersions(version, r.version)
	}
	switch r.op {
	case "":
		return true
	case "<<":
		return c < 0
	case "<=", "<": // "<" is the old way to say "<="
		return c <= 0
	case "=":
		return c == 0
	case ">=", ">":
		return c >= 0
	case ">>":
		return c > 0
	}
	return false
}
