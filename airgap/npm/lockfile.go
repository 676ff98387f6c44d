package npm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// entry is a package of a lockfile, at its place in the tree of node_modules:
// https://docs.npmjs.com/cli/v11/configuring-npm/package-lock-json.
type entry struct {
	Name        string            `json:"name,omitempty"` // when it is not its place's: an alias
	Version     string            `json:"version,omitempty"`
	Resolved    string            `json:"resolved,omitempty"`
	Integrity   string            `json:"integrity,omitempty"`
	Link        bool              `json:"link,omitempty"`
	InBundle    bool              `json:"inBundle,omitempty"`
	Dev         bool              `json:"dev,omitempty"`
	Optional    bool              `json:"optional,omitempty"`
	DevOptional bool              `json:"devOptional,omitempty"`
	OS          words             `json:"os,omitempty"`
	CPU         words             `json:"cpu,omitempty"`
	Libc        words             `json:"libc,omitempty"`
	Deps        map[string]string `json:"dependencies,omitempty"`
	DevDeps     map[string]string `json:"devDependencies,omitempty"`
	OptDeps     map[string]string `json:"optionalDependencies,omitempty"`
	PeerDeps    map[string]string `json:"peerDependencies,omitempty"`
}

// words is a list, or one word.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var one string
	if string(b) == "null" {
		return nil
	}
	if json.Unmarshal(b, &one) == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// lockfile is a package-lock.json.
type lockfile struct {
	file     string
	packages map[string]entry // by place; "" is the project
}

func parseLockfile(file string, data []byte) (lockfile, error) {
	var doc struct {
		Version  int              `json:"lockfileVersion"`
		Packages map[string]entry `json:"packages"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return lockfile{}, fmt.Errorf("%s is no package-lock.json: %w", file, err)
	}
	if doc.Version < 2 || doc.Version > 3 || doc.Packages == nil {
		return lockfile{}, fmt.Errorf("%s is of version %d; versions 2 and 3 can be read: npm install --package-lock-only, with npm 7 or newer, writes one", file, doc.Version)
	}
	return lockfile{file, doc.Packages}, nil
}

// wanted is a package that is mirrored.
type wanted struct {
	name, version string
	resolved      string
	integrity     string
	why           string
}

// item paths and served names are made of these.
var (
	nameRE    = regexp.MustCompile(`^(@[a-zA-Z0-9~_-][a-zA-Z0-9._~-]*/)?[a-zA-Z0-9~_-][a-zA-Z0-9._~-]*$`)
	versionRE = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
)

// tarball is where a package's tarball is below a registry's address.
func tarball(name, version string) string {
	return name + "/-/" + path.Base(name) + "-" + version + ".tgz"
}

// wants are the packages of a lockfile that come from a registry, or another
// web server, and that this mirror's platforms and kinds have a use for.
func (l lockfile) wants(m airgap.Mirror) ([]wanted, error) {
	why := l.reasons()
	var out []wanted
	for _, place := range slices.Sorted(maps.Keys(l.packages)) {
		e := l.packages[place]
		i := strings.LastIndex("/"+place, "/node_modules/")
		if i < 0 || e.Link || e.InBundle || omitted(e, m.Omit) || e.Optional && !usable(e, m.Archs) {
			continue // the project's own, inside another tarball, or of no use here
		}
		name := cmp.Or(e.Name, place[i+len("node_modules/"):])
		at := fmt.Sprintf("%s: %s", l.file, place)
		if strings.HasPrefix(e.Resolved, "file:") {
			continue // in the project's own folder
		}
		if !nameRE.MatchString(name) || len(name) > 214 {
			return nil, fmt.Errorf("%s: %q is no name of a package", at, name)
		}
		if !versionRE.MatchString(e.Version) || len(e.Version) > 256 {
			return nil, fmt.Errorf("%s: %q is no version", at, e.Version)
		}
		if e.Resolved != "" {
			if u, err := url.Parse(e.Resolved); err != nil || u.Scheme != "http" && u.Scheme != "https" {
				return nil, fmt.Errorf("%s comes from %s, which cannot be mirrored: depend on a version in a registry", at, e.Resolved)
			}
		}
		if err := checkIntegrity(e.Integrity); err != nil {
			return nil, fmt.Errorf("%s: %w: npm install --package-lock-only writes it anew", at, err)
		}
		out = append(out, wanted{name, e.Version, e.Resolved, e.Integrity, why[place]})
	}
	return out, nil
}

// omitted follows npm's --omit: what both kinds need goes only with both.
func omitted(e entry, omit []string) bool {
	dev, optional := slices.Contains(omit, "dev"), slices.Contains(omit, "optional")
	return e.Dev && dev || e.Optional && optional || e.DevOptional && dev && optional
}

// platform is what a package may be restricted to.
type platform struct{ os, cpu, libc string }

// platformOf reads an arch of the site file: Debian's name, or node's OS-CPU or
// OS-CPU-LIBC.
func platformOf(arch string) platform {
	cpus := map[string]string{"amd64": "x64", "arm64": "arm64", "armhf": "arm", "i386": "ia32", "ppc64el": "ppc64", "s390x": "s390x", "riscv64": "riscv64"}
	if cpu, ok := cpus[arch]; ok {
		return platform{"linux", cpu, "glibc"}
	}
	parts := strings.SplitN(arch+"--", "-", 4)
	p := platform{parts[0], parts[1], parts[2]}
	if p.os == "linux" && p.libc == "" {
		p.libc = "glibc"
	}
	return p
}

// usable tells whether any of the platforms can use a package; none named: all.
func usable(e entry, archs []string) bool {
	return len(archs) == 0 || slices.ContainsFunc(archs, func(a string) bool {
		p := platformOf(a)
		return allows(e.OS, p.os) && allows(e.CPU, p.cpu) && (p.libc == "" || allows(e.Libc, p.libc))
	})
}

// allows follows npm-install-checks: one word must match, none must be
// excluded by "!".
func allows(list words, have string) bool {
	if len(list) == 0 || len(list) == 1 && list[0] == "any" {
		return true
	}
	match, only := false, false
	for _, w := range list {
		if not, ok := strings.CutPrefix(w, "!"); ok {
			if not == have {
				return false
			}
			continue
		}
		only = true
		match = match || w == have
	}
	return match || !only
}

// reasons finds what brought each place in, going out from the project as node
// looks modules up: the nearest node_modules.
func (l lockfile) reasons() map[string]string {
	out := map[string]string{}
	var queue []string
	for _, place := range slices.Sorted(maps.Keys(l.packages)) {
		if !strings.Contains("/"+place, "/node_modules/") {
			queue = append(queue, place) // the project and its workspaces
		}
	}
	for len(queue) > 0 {
		place := queue[0]
		queue = queue[1:]
		e := l.packages[place]
		by := l.file
		if i := strings.LastIndex("/"+place, "/node_modules/"); i >= 0 {
			by = cmp.Or(e.Name, place[i+len("node_modules/"):]) + "@" + e.Version
		}
		names := map[string]bool{}
		for _, deps := range []map[string]string{e.Deps, e.DevDeps, e.OptDeps, e.PeerDeps} {
			for name := range deps {
				names[name] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if to, ok := l.lookup(place, name); ok && out[to] == "" {
				out[to] = by
				queue = append(queue, to)
			}
		}
	}
	for place := range l.packages {
		if out[place] == "" {
			out[place] = l.file
		}
	}
	return out
}

// lookup finds name as a package at place does.
func (l lockfile) lookup(place, name string) (string, bool) {
	for {
		to := path.Join(place, "node_modules", name)
		if _, ok := l.packages[to]; ok {
			return to, true
		}
		if place == "" {
			return "", false
		}
		if i := strings.LastIndex(place, "/node_modules/"); i >= 0 {
			place = place[:i]
		} else if j := strings.LastIndex(place, "/"); j >= 0 && !strings.HasPrefix(place, "node_modules/") {
			place = place[:j]
		} else {
			place = ""
		}
	}
}
