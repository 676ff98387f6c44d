// Package gomod mirrors Go modules: https://go.dev/ref/mod#goproxy-protocol.
//
// A module version has three files: its go.mod, its zip, and an info with the
// time. The sums of go.mod and zip (h1:) are vouched for by a checksum
// database, a signed log that nobody can change unnoticed, or by the site's
// own go.sum. What proves that a sum is in the log (the record, a signed head
// of the tree, tiles of hashes) is mirrored too, so that go on the other side
// verifies the same proof.
package gomod

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Format is airgap.Format for Go modules.
type Format struct {
	// Dir is what lockfiles of mirrors are relative to.
	Dir string
	// Env is a variable of go's environment; nil: as go env says on this machine.
	Env func(key string) string
}

// Name implements airgap.Format.
func (*Format) Name() string { return "go" }

func (f *Format) env(key string) string {
	if f.Env != nil {
		return f.Env(key)
	}
	if v := os.Getenv(key); v != "" {
		return v
	}
	if dir, err := os.UserConfigDir(); err == nil {
		data, err := os.ReadFile(filepath.Join(dir, "go", "env"))
		for line := range strings.SplitSeq(string(data), "\n") {
			if v, ok := strings.CutPrefix(line, key+"="); ok && err == nil {
				return strings.TrimSpace(v)
			}
		}
	}
	out, err := exec.Command("go", "env", key).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
