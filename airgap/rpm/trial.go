package rpm

import "github.com/fettle-dev/fettle/airgap"

// Trials implements airgap.Trier.
func (*Format) Trials(lm airgap.LockedMirror, r airgap.ClientRequest) []airgap.Trial {
	var out []airgap.Trial
	for _, it := range airgap.TrialItems(lm) {
		out = append(out, airgap.Trial{Name: "dnf download " + it.Name, Needs: "dnf",
			Command: "dnf -y --refresh --disablerepo='*' --enablerepo='fettle-*' install --downloadonly --downloaddir \"$(mktemp -d)\" " + airgap.ShellWord(it.Name+"-"+it.Version),
			Else:    airgap.FetchTrial(r, lm, it, "repodata/repomd.xml")})
	}
	return out
}
