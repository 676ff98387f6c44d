package rpm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	repoFile  = "/etc/yum.repos.d/fettle.repo"
	keyFolder = "/etc/pki/rpm-gpg/"
	maxKeys   = 16 << 20
)

// Clients implements airgap.Configurer.
func (*Format) Clients() []string { return []string{"dnf"} }

// ClientConfig implements airgap.Configurer: a repository file, and the keys
// that it names. The index is verified wherever upstream or the site signed it,
// packages wherever all of them are signed: dnf.conf(5).
func (*Format) ClientConfig(ctx context.Context, _ string, r airgap.ClientRequest) ([]airgap.ClientFile, error) {
	var b strings.Builder
	var out []airgap.ClientFile
	base := r.Signed()
	for _, t := range r.Snapshot.Trees {
		if t.Format != "rpm" {
			continue
		}
		var keys []string
		add := func(file, suffix string) (bool, error) {
			i := slices.IndexFunc(t.Files, func(f airgap.File) bool { return f.Path == file })
			if i < 0 {
				return false, nil
			}
			data, err := airgap.ReadBlob(ctx, r.Store.Blobs(), t.Files[i].SHA256, maxKeys)
			if err != nil {
				return false, err
			}
			p := keyFolder + "fettle-" + t.Mirror + suffix
			keys = append(keys, "file://"+p)
			out = append(out, airgap.ClientFile{Path: p, Mode: 0o644, Content: data})
			return true, nil
		}
		bySite, err := add(siteKeyFile, "-site.asc")
		if err != nil {
			return nil, err
		}
		if _, err := add(keysFile, "-upstream.asc"); err != nil {
			return nil, err
		}
		bit := map[bool]int{true: 1}
		byUpstream := slices.ContainsFunc(t.Files, func(f airgap.File) bool { return f.Path == "repodata/repomd.xml.asc" })
		packages := slices.ContainsFunc(t.Files, func(f airgap.File) bool { return f.Path == packageKeys })
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "# mirror %s, by fettle\n[fettle-%s]\nname=%s\nbaseurl=%s/rpm/%s/\nenabled=1\ngpgcheck=%d\nrepo_gpgcheck=%d\ngpgkey=%s\n",
			t.Mirror, t.Mirror, t.Mirror, base, t.Mirror, bit[packages], bit[bySite || byUpstream], strings.Join(keys, " "))
		if r.CAFile != "" && strings.HasPrefix(base, "https://") {
			fmt.Fprintf(&b, "sslcacert=%s\n", r.CAFile)
		}
	}
	if b.Len() == 0 {
		return nil, nil
	}
	return append([]airgap.ClientFile{{Path: repoFile, Mode: 0o644, Content: []byte(b.String())}}, out...), nil
}
