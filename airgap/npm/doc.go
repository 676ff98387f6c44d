// Package npm mirrors packages of an npm registry.
//
// A lockfile (package-lock.json) names every package of a project by version
// and integrity, which is a digest of its tarball. A packument is what a
// registry says of a package: its versions with their manifests, and its tags.
// Packuments are not signed; those that are served are made here, of the
// package.json in each verified tarball.
package npm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// Format is airgap.Format for npm.
type Format struct {
	// Dir is what lockfiles of mirrors are relative to.
	Dir string
	// Registry is the registry of mirrors without urls; "": as npm is configured
	// on this machine.
	Registry string
}

// Name implements airgap.Format.
func (*Format) Name() string { return "npm" }

// registry is the address that packages are fetched from.
func (f *Format) registry(m airgap.Mirror) (string, error) {
	at := f.Registry
	switch {
	case len(m.URLs) > 1:
		return "", errors.New("npm has one registry: name one of the urls")
	case len(m.URLs) == 1:
		at = m.URLs[0]
	case at == "":
		at = configured()
	}
	if at == "" {
		return "", errors.New("there is no npm registry: name it as the mirror's url, or configure npm on this machine")
	}
	at = strings.TrimSuffix(at, "/")
	if err := airgap.CheckURL(at); err != nil {
		return "", fmt.Errorf("npm registry: %w", err)
	}
	return at, nil
}

// configured is the registry in npm's own configuration: environment, the
// user's file, what npm says.
func configured() string {
	for _, k := range []string{"npm_config_registry", "NPM_CONFIG_REGISTRY"} {
		if v := os.Getenv(k); v != "" {
			return v
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		if data, err := os.ReadFile(filepath.Join(home, ".npmrc")); err == nil {
			if v := setting(data, "registry"); v != "" {
				return v
			}
		}
	}
	out, err := exec.Command("npm", "config", "get", "registry").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// setting is a value in an npmrc file.
func setting(data []byte, key string) string {
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		k, v, ok := strings.Cut(sc.Text(), "=")
		if ok && strings.TrimSpace(k) == key {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}

// Tokens are the tokens that an npmrc file has for registries, as npm login
// writes them: //HOST/PATH/:_authToken=TOKEN.
func Tokens(npmrc []byte, getenv func(string) string) []airgap.MachineLogin {
	var out []airgap.MachineLogin
	for line := range strings.SplitSeq(string(npmrc), "\n") {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		at, ok2 := strings.CutSuffix(strings.TrimSpace(k), ":_authToken")
		at, ok3 := strings.CutPrefix(at, "//")
		v = strings.Trim(strings.TrimSpace(v), `"`)
		if name, isVar := strings.CutPrefix(v, "${"); isVar {
			v = getenv(strings.TrimSuffix(name, "}"))
		}
		if ok && ok2 && ok3 && at != "" && v != "" {
			out = append(out, airgap.MachineLogin{At: strings.TrimSuffix(at, "/"), Token: v})
		}
	}
	return out
}
