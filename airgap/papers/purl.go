package papers

import (
	"path"
	"strings"

	"github.com/package-url/packageurl-go"

	"github.com/fettle-dev/fettle/airgap"
)

// purl is the package URL of an item: github.com/package-url/purl-spec.
func purl(m airgap.LockedMirror, it airgap.Item) string {
	q := map[string]string{}
	add := func(k, v string) {
		if v != "" {
			q[k] = v
		}
	}
	typ, space, name, version := packageurl.TypeGeneric, "", it.Name, it.Version
	if name == "" {
		name = path.Base(it.Path)
	}
	split := func(s string) { // the namespace is what stands before the last slash
		if i := strings.LastIndexByte(s, '/'); i >= 0 {
			space, name = s[:i], s[i+1:]
		}
	}
	switch {
	case m.Format == "apt" && it.Name != "":
		typ, space = packageurl.TypeDebian, distribution(m, "debian")
		add("arch", it.Arch)
	case m.Format == "rpm" && it.Name != "":
		typ, space = packageurl.TypeRPM, distribution(m, "")
		add("arch", it.Arch)
	case m.Format == "oci" || m.Format == "helm":
		typ = packageurl.TypeOCI
		ref := name
		if at := strings.LastIndexByte(ref, '@'); at >= 0 {
			ref = ref[:at]
		}
		if colon := strings.LastIndexByte(ref, ':'); colon > strings.LastIndexByte(ref, '/') {
			add("tag", ref[colon+1:])
			ref = ref[:colon]
		}
		add("repository_url", ref)
		add("arch", it.Arch)
		name, version = strings.ToLower(path.Base(ref)), string(it.SHA256)
	case m.Format == "pypi":
		typ, name = packageurl.TypePyPi, strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		add("file_name", path.Base(it.Path))
	case m.Format == "npm":
		typ = packageurl.TypeNPM
		split(name)
	case m.Format == "go":
		typ = packageurl.TypeGolang
		split(name)
	default:
		add("download_url", it.URL)
		add("checksum", string(it.SHA256))
	}
	return packageurl.NewPackageURL(typ, space, name, version, packageurl.QualifiersFromMap(q), "").ToString()
}

// distribution guesses the vendor of packages from their archive's address.
func distribution(m airgap.LockedMirror, unknown string) string {
	for _, it := range m.Items {
		for _, d := range []string{"debian", "ubuntu", "fedora", "rocky", "almalinux", "centos", "opensuse"} {
			if strings.Contains(it.URL, d) {
				return d
			}
		}
	}
	return unknown
}
