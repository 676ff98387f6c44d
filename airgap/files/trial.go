package files

import "github.com/fettle-dev/fettle/airgap"

// Trials implements airgap.Trier: one file, compared with its digest.
func (Format) Trials(lm airgap.LockedMirror, r airgap.ClientRequest) []airgap.Trial {
	for _, it := range lm.Items {
		if it.Kind != airgap.KindFile || it.Size > 64<<20 {
			continue
		}
		return []airgap.Trial{{Name: "file " + it.Path, Needs: "curl", Command: airgap.FetchTrial(r, lm, it)}}
	}
	return nil
}
