package airgap

import (
	"net/url"
	"strings"
)

// Trier is what a [Format] also is that knows how a client on a machine proves
// that a mirror can be used.
type Trier interface {
	Format
	// Trials are commands for a client that was configured for r by
	// [Configurer]. What they fetch goes to a temporary folder, or to where the
	// client keeps it.
	Trials(lm LockedMirror, r ClientRequest) []Trial
}

// Trial is one command on a machine.
type Trial struct {
	Name    string // for people: "pip download numpy"
	Needs   string // the program that must be there for it
	Command string // for sh
	// Else, where the machine has no such program, is what the client would
	// fetch, fetched with curl, which every image has.
	Else string
}

// FetchTrial is a command for sh that fetches indexes and then a file of a
// mirror, whose digest must be it's. Paths are below the mirror's address.
func FetchTrial(r ClientRequest, lm LockedMirror, it Item, indexes ...string) string {
	var b strings.Builder
	at := func(path string) string {
		return ShellWord(r.Signed() + "/" + lm.Format + "/" + lm.Name + "/" + (&url.URL{Path: path}).EscapedPath())
	}
	for _, path := range indexes {
		b.WriteString("curl -fsS -o /dev/null " + at(path) + " && ")
	}
	b.WriteString("curl -fsS " + at(it.Path) + " | sha256sum | grep -q '^" + it.SHA256.Hex() + "'")
	return b.String()
}

// mostTrials bounds how many packages of one mirror are tried.
const mostTrials = 3

// TrialItems are a few packages of a mirror that somebody named, or if there are
// none any, to be tried.
func TrialItems(lm LockedMirror) []Item {
	var named, rest []Item
	seen := map[[2]string]bool{}
	for _, it := range lm.Items {
		id := [2]string{it.Name, it.Version}
		again := seen[id]
		seen[id] = seen[id] || it.Kind == KindPackage
		switch {
		case again || it.Kind != KindPackage || it.Name == "" || it.Version == "":
		case it.Why == "the site file":
			named = append(named, it)
		default:
			rest = append(rest, it)
		}
	}
	if len(named) == 0 {
		named = rest
	}
	return named[:min(len(named), mostTrials)]
}

// ShellWord quotes a word for sh.
func ShellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
