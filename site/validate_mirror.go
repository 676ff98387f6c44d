package site

import (
	"fmt"
	"slices"
	"strings"
)

// checkMirrors checks what mirrors name, and that each has what its format
// needs and nothing that only others have.
func (v *validator) checkMirrors() {
	single := map[string]string{} // mirror by format
	for i, m := range v.s.Mirrors {
		path, who := fmt.Sprintf("mirrors[%d]", i), "mirror "+m.Name
		v.refers(who, "secret", m.Secret, path+".secret")
		for _, k := range []struct {
			key     string
			said    bool
			formats []string
		}{
			{"suites", len(m.Suites) > 0, []string{"apt", "rpm"}},
			{"components", len(m.Components) > 0, []string{"apt"}},
			{"packages", len(m.Packages) > 0, []string{"apt", "rpm", "helm", "go"}},
			{"files", len(m.Files) > 0, []string{"files"}},
			{"images", len(m.Images) > 0, []string{"oci"}},
			{"moving", len(m.Moving) > 0, []string{"oci"}},
			{"keyrings", len(m.Keyrings) > 0, []string{"apt", "rpm", "files", "npm", "oci"}},
			{"recommends", m.Recommends, []string{"apt", "rpm"}},
			{"resign", m.Resign, []string{"apt", "rpm"}},
			{"sources", m.Sources, []string{"apt"}},
			{"installer", m.Installer, []string{"apt"}},
			{"udebs", len(m.Udebs) > 0, []string{"apt"}},
			{"bootstrap", m.Bootstrap, []string{"apt"}},
			{"lockfiles", len(m.Lockfiles) > 0, []string{"npm", "go", "pypi"}},
			{"python", len(m.Python) > 0, []string{"pypi"}},
			{"omit", len(m.Omit) > 0, []string{"npm"}},
			{"signed", m.Signed != "", []string{"rpm"}},
			{"metalink", m.Metalink != "", []string{"rpm"}},
			{"checksums", len(m.Checksums) > 0, []string{"files"}},
			{"models", len(m.Models) > 0, []string{"files"}},
		} {
			if k.said && !slices.Contains(k.formats, m.Format) {
				v.add(path+"."+k.key, "take it away, or correct format", "%s: %s is for mirrors of format %s, not %s", who, k.key, strings.Join(k.formats, ", "), m.Format)
			}
		}
		v.mirrorWants(m, path, who)
		if m.Format == "npm" || m.Format == "go" {
			if other, ok := single[m.Format]; ok {
				v.add(path+".format", "put its lockfiles and packages into that one", "%s: %s asks one registry, which is mirror %s's", who, m.Format, other)
			}
			single[m.Format] = m.Name
		}
		if len(m.Checksums) > 0 && len(m.Keyrings) == 0 {
			v.add(path+".checksums", "add keyrings: with files of upstream's OpenPGP keys", "%s: nobody can tell who signed its checksums", who)
		}
		if m.Metalink != "" && len(m.URLs) > 0 {
			v.add(path+".metalink", "leave one of the two out", "%s: it has urls and a metalink, which lists them", who)
		}
		if len(m.Models) > 0 && len(m.URLs) != 1 {
			v.add(path+".models", "write the hub as the one address of urls", "%s: its models come from nowhere", who)
		}
	}
}

// mirrorWants checks that a mirror says what it is a mirror of.
func (v *validator) mirrorWants(m Mirror, path, who string) {
	lacks := func(said bool, key, hint string) {
		if !said && !v.bad[path+"."+key] {
			v.add(path, hint, "%s: it names no %s", who, key)
		}
	}
	switch m.Format {
	case "apt":
		lacks(len(m.Suites) > 0, "suites", "add suites: [bookworm, bookworm-updates, bookworm-security] or the like")
		if len(m.URLs) > 0 {
			lacks(len(m.Keyrings) > 0, "keyrings", "add keyrings: with files of the archive's OpenPGP keys, or leave urls out: this machine's own sources have keys")
		}
	case "rpm":
		lacks(len(m.URLs) > 0 || m.Metalink != "", "urls", "add urls: with the folder that repodata is in, or metalink:")
	case "helm":
		lacks(len(m.URLs) > 0, "urls", "add urls: with the address of the repository")
	case "oci":
		lacks(len(m.Images) > 0, "images", "add images: with REGISTRY/REPOSITORY:TAG")
	case "npm":
		lacks(len(m.Lockfiles) > 0, "lockfiles", "add lockfiles: [package-lock.json]")
	case "pypi":
		lacks(len(m.Lockfiles) > 0, "lockfiles", "add lockfiles: [requirements.txt]; pip-compile --generate-hashes writes it")
	case "go":
		lacks(len(m.Lockfiles) > 0 || len(m.Packages) > 0, "lockfiles", "add lockfiles: [go.sum], or packages: [PATH@VERSION]")
	case "files":
		lacks(len(m.Files) > 0 || len(m.Checksums) > 0 || len(m.Models) > 0, "files", "add files:, checksums: or models:")
	}
}
