package rpm

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// stream is a stream of a module: packages that are there only when it is
// enabled. https://docs.fedoraproject.org/en-US/modularity/
type stream struct {
	name, stream, version, context string
	artifacts                      []string // NEVRAs
	profiles                       map[string][]string
	requires                       map[string][]string // streams by module; empty: any
}

// modules are what a repository's modules.yaml says.
type modules struct {
	streams  []stream
	defaults map[string]string   // stream by module
	profiles map[string][]string // of "MODULE:STREAM" that are installed when none is named
}

// maxModules bounds modules.yaml, which is read whole.
const maxModules = 512 << 20

func parseModules(r io.Reader) (modules, error) {
	m := modules{defaults: map[string]string{}, profiles: map[string][]string{}}
	dec := yaml.NewDecoder(io.LimitReader(r, maxModules))
	for {
		var doc struct {
			Document string    `yaml:"document"`
			Version  int       `yaml:"version"`
			Data     yaml.Node `yaml:"data"`
		}
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return m, fmt.Errorf("reading modules: %w", err)
		}
		switch doc.Document {
		case "modulemd":
			err = m.addStream(doc.Data)
		case "modulemd-defaults":
			err = m.addDefaults(doc.Data)
		}
		if err != nil {
			return m, fmt.Errorf("reading modules: %w", err)
		}
	}
}

func (m *modules) addStream(n yaml.Node) error {
	var d struct {
		Name      string `yaml:"name"`
		Stream    string `yaml:"stream"`
		Version   string `yaml:"version"`
		Context   string `yaml:"context"`
		Artifacts struct {
			RPMs []string `yaml:"rpms"`
		} `yaml:"artifacts"`
		Profiles map[string]struct {
			RPMs []string `yaml:"rpms"`
		} `yaml:"profiles"`
		Dependencies []struct {
			Requires map[string][]string `yaml:"requires"`
		} `yaml:"dependencies"`
	}
	if err := n.Decode(&d); err != nil {
		return err
	}
	s := stream{name: d.Name, stream: d.Stream, version: d.Version, context: d.Context, artifacts: d.Artifacts.RPMs, profiles: map[string][]string{}, requires: map[string][]string{}}
	for name, p := range d.Profiles {
		s.profiles[name] = p.RPMs
	}
	for _, dep := range d.Dependencies {
		maps.Copy(s.requires, dep.Requires)
	}
	m.streams = append(m.streams, s)
	return nil
}

func (m *modules) addDefaults(n yaml.Node) error {
	var d struct {
		Module   string              `yaml:"module"`
		Stream   string              `yaml:"stream"`
		Profiles map[string][]string `yaml:"profiles"`
	}
	if err := n.Decode(&d); err != nil {
		return err
	}
	if d.Stream != "" {
		m.defaults[d.Module] = d.Stream
	}
	for stream, ps := range d.Profiles {
		m.profiles[d.Module+":"+stream] = ps
	}
	return nil
}

// enable chooses streams: those that are asked for, what they require, and the
// defaults of other modules.
func (m modules) enable(asked map[string]string) (map[string]string, error) {
	on := maps.Clone(asked)
	queue := slices.Sorted(maps.Keys(asked))
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		found := false
		for _, s := range m.streams {
			if s.name != name || s.stream != on[name] {
				continue
			}
			found = true
			for _, dep := range slices.Sorted(maps.Keys(s.requires)) {
				if on[dep] != "" || dep == "platform" {
					continue
				}
				want := m.defaults[dep]
				if list := s.requires[dep]; len(list) > 0 && !slices.Contains(list, want) {
					want = list[0]
				}
				if want != "" {
					on[dep] = want
					queue = append(queue, dep)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no module %s:%s", name, on[name])
		}
	}
	for name, s := range m.defaults {
		if on[name] == "" {
			on[name] = s
		}
	}
	return on, nil
}

// hidden are the packages that streams which are not enabled have, and those
// of no module whose name an enabled stream has: by NEVRA and by name.
func (m modules) hidden(on map[string]string) func(*pkg) bool {
	modular, active, names := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, s := range m.streams {
		enabled := on[s.name] != "" && on[s.name] == s.stream
		for _, a := range s.artifacts {
			modular[a] = true
			if enabled {
				active[a] = true
				names[nameOf(a)] = true
			}
		}
	}
	return func(p *pkg) bool {
		id := p.nevra()
		if modular[id] {
			return !active[id]
		}
		return names[p.name]
	}
}

// nameOf is the name in NAME-EPOCH:VERSION-RELEASE.ARCH.
func nameOf(nevra string) string {
	for range 2 {
		if i := strings.LastIndex(nevra, "-"); i > 0 {
			nevra = nevra[:i]
		}
	}
	return nevra
}

// install are the packages that a module's profile installs.
func (m modules) install(name, streamName, profile string) ([]string, error) {
	wanted := m.profiles[name+":"+streamName]
	if profile != "" {
		wanted = []string{profile}
	}
	var newest *stream
	for i, s := range m.streams {
		if s.name == name && s.stream == streamName && (newest == nil || cmp.Or(cmp.Compare(len(s.version), len(newest.version)), cmp.Compare(s.version, newest.version)) > 0) {
			newest = &m.streams[i]
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("there is no module %s:%s", name, streamName)
	}
	var out []string
	for _, w := range wanted {
		ps, ok := newest.profiles[w]
		if !ok {
			return nil, fmt.Errorf("module %s:%s has no profile %s: it has %s", name, streamName, w, strings.Join(slices.Sorted(maps.Keys(newest.profiles)), ", "))
		}
		out = append(out, ps...)
	}
	return out, nil
}
