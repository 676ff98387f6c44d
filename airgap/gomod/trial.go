package gomod

import (
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// Trials implements airgap.Trier.
func (*Format) Trials(lm airgap.LockedMirror, r airgap.ClientRequest) []airgap.Trial {
	var out []airgap.Trial
	for _, it := range airgap.TrialItems(lm) {
		name := it.Name + "@" + it.Version
		out = append(out, airgap.Trial{Name: "go mod download " + name, Needs: "go",
			Command: ". " + profileFile + " && cd \"$(mktemp -d)\" && GOFLAGS=-modcacherw GOPATH=$PWD GOCACHE=$PWD/cache go mod download " + airgap.ShellWord(name),
			Else:    airgap.FetchTrial(r, lm, it, strings.TrimSuffix(it.Path, ".zip")+".info", strings.TrimSuffix(it.Path, ".zip")+".mod")})
	}
	return out
}
