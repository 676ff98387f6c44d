package rpm

import (
	"cmp"
	"strings"
)

// evr is epoch, version and release. An empty part matches any in a relation.
type evr struct{ epoch, version, release string }

func (v evr) String() string {
	s := v.version
	if v.epoch != "" && v.epoch != "0" {
		s = v.epoch + ":" + s
	}
	if v.release != "" {
		s += "-" + v.release
	}
	return s
}

// parseEVR reads [EPOCH:]VERSION[-RELEASE].
func parseEVR(s string) evr {
	var v evr
	if e, rest, ok := strings.Cut(s, ":"); ok {
		v.epoch, s = e, rest
	}
	v.version, v.release, _ = strings.Cut(s, "-")
	return v
}

// compareEVR orders versions as rpm does; a release that one of them lacks is
// equal to any.
func compareEVR(a, b evr) int {
	if c := compareVersions(cmp.Or(a.epoch, "0"), cmp.Or(b.epoch, "0")); c != 0 {
		return c
	}
	if c := compareVersions(a.version, b.version); c != 0 {
		return c
	}
	if a.release == "" || b.release == "" {
		return 0
	}
	return compareVersions(a.release, b.release)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlpha(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// compareVersions is rpmvercmp: segments of digits or letters, with ~ before
// everything and ^ behind the end but before what follows.
// https://rpm-software-management.github.io/rpm/manual/dependencies.html#versioning
func compareVersions(a, b string) int {
	skip := func(s string) string {
		for len(s) > 0 && !isDigit(s[0]) && !isAlpha(s[0]) && s[0] != '~' && s[0] != '^' {
			s = s[1:]
		}
		return s
	}
	if a == b {
		return 0
	}
	for len(a) > 0 || len(b) > 0 {
		a, b = skip(a), skip(b)
		ta, tb := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~")
		if ta || tb {
			if !ta {
				return 1
			}
			if !tb {
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		ca, cb := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^")
		if ca || cb {
			switch {
			case a == "":
				return -1
			case b == "":
				return 1
			case !ca:
				return 1
			case !cb:
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			break
		}
		number := isDigit(a[0])
		is := isAlpha
		if number {
			is = isDigit
		}
		i, j := 0, 0
		for i < len(a) && is(a[i]) {
			i++
		}
		for j < len(b) && is(b[j]) {
			j++
		}
		if j == 0 { // segments of different kinds: numbers are newer
			if number {
				return 1
			}
			return -1
		}
		x, y := a[:i], b[:j]
		a, b = a[i:], b[j:]
		if number {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Compare(len(x), len(y)); c != 0 {
				return c
			}
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}
