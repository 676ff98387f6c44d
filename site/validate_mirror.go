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
