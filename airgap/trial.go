package airgap

// Trier is what a [Format] also is that knows how a client on a machine proves
// that a mirror can be used.
type Trier interface {
	Format
	// Trials are commands for a client that is configured by [Configurer]. They
	// change nothing that lasts but what they install below a temporary folder.
	Trials(lm LockedMirror) []Trial
}

// Trial is one command on a machine.
type Trial struct {
	Name    string // for people: "pip download numpy"
	Needs   string // the program that must be there for it
	Command string // for sh
}
