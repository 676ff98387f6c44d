package files

import (
	"net/url"

	"github.com/fettle-dev/fettle/airgap"
)

// Trials implements airgap.Trier: one file, compared with its digest.
func (Format) Trials(lm airgap.LockedMirror, r airgap.ClientRequest) []airgap.Trial {
	for _, it := range lm.Items {
		if it.Kind != airgap.KindFile || it.Size > 64<<20 {
			continue
		}
		at := r.Signed() + "/files/" + lm.Name + "/" + (&url.URL{Path: it.Path}).EscapedPath()
		return []airgap.Trial{{Name: "file " + it.Path, Needs: "curl",
			Command: "curl -fsS " + airgap.ShellWord(at) + " | sha256sum | grep -q '^" + it.SHA256.Hex() + "'"}}
	}
	return nil
}
