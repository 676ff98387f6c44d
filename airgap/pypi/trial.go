package pypi

import "github.com/fettle-dev/fettle/airgap"

// Trials implements airgap.Trier.
func (*Format) Trials(lm airgap.LockedMirror, r airgap.ClientRequest) []airgap.Trial {
	var out []airgap.Trial
	for _, it := range airgap.TrialItems(lm) {
		name := it.Name + "==" + it.Version
		out = append(out, airgap.Trial{Name: "pip download " + name, Needs: "pip3",
			Command: "cd \"$(mktemp -d)\" && pip3 download --no-deps --no-cache-dir " + airgap.ShellWord(name),
			Else:    airgap.FetchTrial(r, lm, it, "simple/"+normalize(it.Name)+"/")})
	}
	return out
}
