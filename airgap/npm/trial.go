package npm

import "github.com/fettle-dev/fettle/airgap"

// Trials implements airgap.Trier.
func (*Format) Trials(lm airgap.LockedMirror, r airgap.ClientRequest) []airgap.Trial {
	var out []airgap.Trial
	for _, it := range airgap.TrialItems(lm) {
		name := it.Name + "@" + it.Version
		out = append(out, airgap.Trial{Name: "npm pack " + name, Needs: "npm",
			Command: "cd \"$(mktemp -d)\" && HOME=$PWD npm pack --silent " + airgap.ShellWord(name),
			Else:    airgap.FetchTrial(r, lm, it, it.Name)})
	}
	return out
}
