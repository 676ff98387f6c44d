// Package rpm mirrors repositories of rpm packages, as dnf uses them.
//
// repomd.xml is the index of a repository's metadata, by digest: primary (the
// packages and what they need), filelists, other, modules, updateinfo, comps.
// It is signed, beside it as repomd.xml.asc; or only the packages are, each in
// its header. A mirror is whole, and served as upstream made it, or filtered:
// the packages that the site names with everything that they require, under
// metadata of the site's own, signed with a key that is derived from the site
// key. Mirrors of the same suites (a name of a release, such as el9) are
// resolved together: what a package requires may be in another of them.
package rpm

import (
	"slices"

	"github.com/fettle-dev/fettle/airgap"
)

// Format is airgap.Format for rpm.
type Format struct {
	// Dir is what keyrings of mirrors are relative to.
	Dir string
}

// Name implements airgap.Format.
func (*Format) Name() string { return "rpm" }

const (
	evidence = ".upstream/"
	// resolveVersion changes when the same upstream resolves to something else.
	resolveVersion = "1"
	siteKeyFile    = "site-key.asc"
	keysFile       = "upstream-keys.asc"
	packageKeys    = "package-keys.asc" // upstream's keys too: there when one of them signed every package
)

// remade tells whether a mirror gets metadata of the site's own.
func remade(m airgap.Mirror) bool { return !m.Whole() || m.Resign }

// packagesSigned tells whether upstream signs packages instead of its index.
func packagesSigned(m airgap.Mirror) bool { return m.Signed == "packages" }

// rpmArch are rpm's names of an architecture of the site file, which has
// Debian's, or rpm's own.
func rpmArch(arch string) []string {
	switch arch {
	case "amd64":
		return []string{"x86_64"}
	case "arm64":
		return []string{"aarch64"}
	case "i386":
		return []string{"i686", "i586", "i486", "i386"}
	case "armhf":
		return []string{"armv7hl"}
	case "ppc64el":
		return []string{"ppc64le"}
	case "source":
		return []string{"src"}
	}
	return []string{arch}
}

// machines are the sets of architectures that one machine installs from: i386
// goes along with amd64.
func machines(archs []string) [][]string {
	var out [][]string
	for _, a := range archs {
		names := rpmArch(a)
		switch {
		case names[0] == "src", names[0] == "noarch":
			continue
		case names[0] == "i686" && (slices.Contains(archs, "amd64") || slices.Contains(archs, "x86_64")):
			continue
		case names[0] == "x86_64" && (slices.Contains(archs, "i386") || slices.Contains(archs, "i686")):
			names = append(names, rpmArch("i386")...)
		}
		if !slices.ContainsFunc(out, func(o []string) bool { return slices.Equal(o, names) }) {
			out = append(out, names)
		}
	}
	return out
}
