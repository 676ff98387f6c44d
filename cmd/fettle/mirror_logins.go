package main

import (
	"cmp"
	"os"
	"path/filepath"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/npm"
)

// machineLogins are the logins that this machine's own configuration has for
// upstreams: netrc, which go, pip and curl use, apt's, and npm's tokens. A file
// that cannot be read has none.
func (e *env) machineLogins() []airgap.MachineLogin {
	home := e.getenv("HOME")
	var out []airgap.MachineLogin
	netrcs := []string{"/etc/apt/auth.conf"}
	if more, err := filepath.Glob("/etc/apt/auth.conf.d/*.conf"); err == nil {
		netrcs = append(netrcs, more...)
	}
	if p := cmp.Or(e.getenv("NETRC"), home); p == home && home != "" {
		netrcs = append(netrcs, filepath.Join(home, ".netrc"))
	} else if p != "" {
		netrcs = append(netrcs, p)
	}
	for _, p := range netrcs {
		if data, err := os.ReadFile(p); err == nil {
			out = append(out, airgap.ParseNetrc(string(data))...)
		}
	}
	if home != "" {
		if data, err := os.ReadFile(filepath.Join(home, ".npmrc")); err == nil {
			out = append(out, npm.Tokens(data, e.getenv)...)
		}
	}
	return out
}
