package papers

import (
	"regexp"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// spdxNames are SPDX identifiers of licences as debian/copyright and package
// registries write them (DEP-5, "Short name").
func spdxNames() map[string]string {
	return map[string]string{
		"expat": "MIT", "mit": "MIT", "x11": "X11", "isc": "ISC", "zlib": "Zlib", "curl": "curl", "0bsd": "0BSD",
		"apache-2.0": "Apache-2.0", "apache-2": "Apache-2.0", "apache 2.0": "Apache-2.0", "artistic": "Artistic-1.0-Perl", "artistic-2.0": "Artistic-2.0",
		"bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause", "bsl-1.0": "BSL-1.0",
		"cc0-1.0": "CC0-1.0", "cc0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-sa-4.0": "CC-BY-SA-4.0",
		"gpl-1": "GPL-1.0-only", "gpl-1+": "GPL-1.0-or-later", "gpl-2": "GPL-2.0-only", "gpl-2+": "GPL-2.0-or-later",
		"gpl-2.0": "GPL-2.0-only", "gpl-2.0+": "GPL-2.0-or-later", "gpl-3": "GPL-3.0-only", "gpl-3+": "GPL-3.0-or-later", "gpl-3.0+": "GPL-3.0-or-later",
		"lgpl-2": "LGPL-2.0-only", "lgpl-2+": "LGPL-2.0-or-later", "lgpl-2.0+": "LGPL-2.0-or-later", "lgpl-2.1": "LGPL-2.1-only", "lgpl-2.1+": "LGPL-2.1-or-later",
		"lgpl-3": "LGPL-3.0-only", "lgpl-3+": "LGPL-3.0-or-later", "agpl-3": "AGPL-3.0-only", "agpl-3+": "AGPL-3.0-or-later",
		"gfdl-1.2+": "GFDL-1.2-or-later", "gfdl-1.3+": "GFDL-1.3-or-later", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0", "openssl": "OpenSSL",
		"psf-2": "PSF-2.0", "python": "Python-2.0", "ruby": "Ruby", "unicode": "Unicode-DFS-2016", "unlicense": "Unlicense", "wtfpl": "WTFPL",
	}
}

var notIDString = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// licenceIDs are SPDX identifiers: of the list where the name is known, else
// a LicenseRef of the name. refs are those, by identifier.
func licenceIDs(names []string, refs map[string]string) []string {
	known := spdxNames()
	var out []string
	identifier := func(n string) string {
		// An exception is an identifier beside its licence.
		base, exception, with := strings.Cut(n, " WITH ")
		id, ok := known[strings.ToLower(base)]
		if !ok && spdxShaped.MatchString(base) {
			id, ok = base, true
		}
		switch {
		case ok && !with:
			return id
		case ok && spdxException.MatchString(exception): // other words for one are none of the list
			return id + " WITH " + exception
		}
		id = "LicenseRef-" + strings.Trim(notIDString.ReplaceAllString(strings.ReplaceAll(n, "+", "-or-later"), "-"), "-.")
		if id == "LicenseRef-" {
			return ""
		}
		refs[id] = n
		return id
	}
	for _, n := range names {
		l := airgap.ParseLicence(n)
		id := l.String(func(n string) string {
			id := identifier(n)
			if id == "" && len(l.Parts) > 0 { // an operator must have its operands
				id = "LicenseRef-unnamed"
				refs[id] = n
			}
			return id
		})
		if len(l.Parts) > 0 && len(names) > 1 {
			id = "(" + id + ")"
		}
		if id != "" && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// spdxShaped are identifiers that the list has in forms that nothing else uses.
var spdxShaped = regexp.MustCompile(`^(?:A?L?GPL-[123]\.[01]-(?:only|or-later)|GFDL-1\.[123]-(?:only|or-later))$`)

// spdxException are the exceptions of the list, nearly all of which say so.
var spdxException = regexp.MustCompile(`^(?:[A-Za-z0-9.-]+-exception(?:-[A-Za-z0-9.-]+)?|Linux-syscall-note|GPL-CC-1\.0|SHL-2\.[01])$`)

// expression joins identifiers: a package whose files have several licences is
// under all of them.
func expression(ids []string) string { return strings.Join(ids, " AND ") }
