package pypi

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// dist is a file of a project, by its name.
type dist struct {
	name, version string // normalized; the version as it is written
	wheel         bool
	pythons       []string
	abis          []string
	platforms     []string
}

var fileRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+!-]*$`)

// parseFile reads the name of a wheel (PEP 427) or a source distribution.
func parseFile(file string) (dist, bool) {
	if !fileRE.MatchString(file) || len(file) > 255 || strings.HasSuffix(file, ".metadata") {
		return dist{}, false
	}
	if stem, ok := strings.CutSuffix(file, ".whl"); ok {
		p := strings.Split(stem, "-")
		if len(p) != 5 && len(p) != 6 {
			return dist{}, false
		}
		n := len(p)
		return dist{normalize(p[0]), p[1], true, strings.Split(p[n-3], "."), strings.Split(p[n-2], "."), strings.Split(p[n-1], ".")}, true
	}
	for _, ext := range []string{".tar.gz", ".zip", ".tar.bz2", ".tar.xz"} {
		if stem, ok := strings.CutSuffix(file, ext); ok {
			i := strings.LastIndex(stem, "-")
			if i <= 0 || i == len(stem)-1 {
				return dist{}, false
			}
			return dist{name: normalize(stem[:i]), version: stem[i+1:]}, true
		}
	}
	return dist{}, false
}

// sameVersion compares as far as names of files differ: PEP 440's normal form
// of common spellings.
func sameVersion(a, b string) bool {
	norm := func(v string) string {
		v = strings.ToLower(strings.TrimPrefix(strings.ReplaceAll(v, "_", "+"), "v"))
		for strings.HasSuffix(v, ".0") {
			v = strings.TrimSuffix(v, ".0")
		}
		return strings.NewReplacer("-", ".", "alpha", "a", "beta", "b", "+", ".").Replace(v)
	}
	return norm(a) == norm(b)
}

// target is what a file is to be used on.
type target struct {
	python string // e.g. 3.11; "": any
	arch   string // e.g. amd64, or a platform tag; "": any
}

func (t target) String() string {
	s := "any Python"
	if t.python != "" {
		s = "Python " + t.python
	}
	if t.arch != "" {
		s += " on " + t.arch
	}
	return s
}

// machine is what Linux calls an architecture of the site file.
func machine(arch string) string {
	if m, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "armhf": "armv7l", "ppc64el": "ppc64le"}[arch]; ok {
		return m
	}
	return arch
}

// usable tells whether pip on a target would take a wheel: PEP 425, 600.
func (d dist) usable(t target) bool {
	return d.pythonFits(t.python) && slices.ContainsFunc(d.platforms, func(p string) bool { return platformFits(p, t.arch) })
}

func (d dist) pythonFits(python string) bool {
	if python == "" {
		return true
	}
	_, minorText, _ := strings.Cut(python, ".")
	minor, err := strconv.Atoi(minorText)
	if err != nil {
		return false
	}
	exact := "cp3" + minorText
	for _, py := range d.pythons {
		for _, abi := range d.abis {
			n, isPy := strings.CutPrefix(py, "py3")
			m, isCp := strings.CutPrefix(py, "cp3")
			older := func(s string) bool {
				x, err := strconv.Atoi(s)
				return s == "" || err == nil && x <= minor
			}
			switch {
			case isPy && abi == "none" && older(n),
				py == exact && (abi == exact || abi == "abi3" || abi == "none"),
				isCp && abi == "abi3" && older(m),
				py == "cp3" && abi == "none":
				return true
			}
		}
	}
	return false
}

// platformFits compares a platform tag. Debian's names of architectures are
// machines with glibc; any other arch of the site file is a tag, or a pattern.
func platformFits(tag, arch string) bool {
	if tag == "any" || arch == "" || tag == arch {
		return true
	}
	if m := machine(arch); m != arch {
		return tag == "linux_"+m || strings.HasPrefix(tag, "manylinux") && strings.HasSuffix(tag, "_"+m)
	}
	ok, err := path.Match(arch, tag)
	return err == nil && ok
}
