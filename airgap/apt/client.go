package apt

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	sourcesFile = "/etc/apt/sources.list.d/fettle.sources"
	optionsFile = "/etc/apt/apt.conf.d/90fettle"
)

// Clients implements airgap.Configurer.
func (*Format) Clients() []string { return []string{"apt"} }

// ClientsByName implements airgap.Asker.
func (*Format) ClientsByName() []string { return []string{clientInstaller} }

// ClientConfig implements airgap.Configurer: apt's sources, and nothing else
// beside them.
func (*Format) ClientConfig(ctx context.Context, client string, r airgap.ClientRequest) ([]airgap.ClientFile, error) {
	if client == clientInstaller {
		return preseed(r)
	}
	if !slices.ContainsFunc(r.Snapshot.Trees, func(t airgap.Tree) bool { return t.Format == "apt" }) {
		return nil, nil
	}
	base := r.Signed()
	text, err := ClientConfig(ctx, r.Store, r.Snapshot, base)
	if err != nil {
		return nil, err
	}
	options := "// by fettle: what is mirrored is in " + sourcesFile + "\nAcquire::Languages \"none\";\n"
	if strings.HasPrefix(base, "https://") && r.CAFile != "" {
		options += fmt.Sprintf("Acquire::https::CAInfo %q;\n", r.CAFile)
	}
	// Where distributions put their own sources.
	instead := []byte("# Packages come from fettle: " + sourcesFile + "\n")
	return []airgap.ClientFile{
		{Path: "/etc/apt/sources.list", Mode: 0o644, Content: instead},
		{Path: "/etc/apt/sources.list.d/debian.sources", Mode: 0o644, Content: instead},
		{Path: "/etc/apt/sources.list.d/ubuntu.sources", Mode: 0o644, Content: instead},
		{Path: sourcesFile, Mode: 0o644, Content: []byte(text)},
		{Path: optionsFile, Mode: 0o644, Content: []byte(options)},
	}, nil
}

// ClientConfig is a file for /etc/apt/sources.list.d, in deb822 form, for the
// apt mirrors of a snapshot that is served at base: sources.list(5).
func ClientConfig(ctx context.Context, s *airgap.Store, snap airgap.Snapshot, base string) (string, error) {
	var b strings.Builder
	for _, t := range snap.Trees {
		if t.Format != "apt" {
			continue
		}
		lm, ok := snap.Lock.Mirror(t.Mirror)
		if !ok {
			return "", fmt.Errorf("snapshot %s has no lock of mirror %s", snap.Name, t.Mirror)
		}
		signedBy, err := signedByOf(ctx, s, t, lm)
		if err != nil {
			return "", fmt.Errorf("mirror %s: %w", t.Mirror, err)
		}
		// Components differ between suites: an entry for each set of them.
		type entry struct {
			suites, components, archs []string
			sources                   bool
		}
		var entries []entry
		for _, suite := range lm.Spec.Suites {
			e := entry{suites: []string{suite}}
			e.components, e.archs = contentsOf(t, suite)
			e.sources = slices.ContainsFunc(t.Files, func(f airgap.File) bool {
				return strings.HasPrefix(path.Base(f.Path), "Sources") && strings.HasPrefix(f.Path, strings.TrimPrefix(indexDir(suite)+"/", "./"))
			})
			if flat(suite) { // the address of a flat archive and its folder are one
				e.suites, e.archs = []string{"/"}, lm.Spec.Archs
				if dir := indexDir(suite); dir != "." {
					e.suites[0] = dir + "/"
				}
				entries = append(entries, e)
				continue
			}
			i := slices.IndexFunc(entries, func(x entry) bool {
				return slices.Equal(x.components, e.components) && slices.Equal(x.archs, e.archs) && x.sources == e.sources && !flat(x.suites[0])
			})
			if i >= 0 {
				entries[i].suites = append(entries[i].suites, suite)
			} else if len(e.components) > 0 {
				entries = append(entries, e)
			}
		}
		for _, e := range entries {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			types, components := "deb", ""
			if e.sources {
				types = "deb deb-src"
			}
			if len(e.components) > 0 {
				components = "Components: " + strings.Join(e.components, " ") + "\n"
			}
			fmt.Fprintf(&b, "# mirror %s, by fettle\nTypes: %s\nURIs: %s/apt/%s/\nSuites: %s\n%sArchitectures: %s\nSigned-By:%s\n",
				t.Mirror, types, strings.TrimSuffix(base, "/"), t.Mirror, strings.Join(e.suites, " "), components, strings.Join(e.archs, " "), signedBy)
		}
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("snapshot %s has no apt mirror", snap.Name)
	}
	return b.String(), nil
}

// contentsOf finds what a tree has of a suite.
func contentsOf(t airgap.Tree, suite string) (components, archs []string) {
	for _, f := range t.Files {
		rest, ok := strings.CutPrefix(f.Path, "dists/"+suite+"/")
		if !ok || strings.Contains(rest, "/by-hash/") {
			continue
		}
		comp, rest, ok := strings.Cut(rest, "/binary-")
		if strings.Contains(comp, "/") {
			continue // of the installer
		}
		arch, file, ok2 := strings.Cut(rest, "/")
		if !ok || !ok2 || !strings.HasPrefix(file, "Packages") {
			continue
		}
		if !slices.Contains(components, comp) {
			components = append(components, comp)
		}
		if arch != "all" && !slices.Contains(archs, arch) {
			archs = append(archs, arch)
		}
	}
	slices.Sort(components)
	slices.Sort(archs)
	return components, archs
}

// signedByOf is the value of Signed-By: the site's key itself, or where
// upstream's keyring is.
func signedByOf(ctx context.Context, s *airgap.Store, t airgap.Tree, lm airgap.LockedMirror) (string, error) {
	i := slices.IndexFunc(t.Files, func(f airgap.File) bool { return f.Path == keyFile })
	if i < 0 {
		if len(lm.Trust) == 0 || !strings.HasPrefix(lm.Trust[0].Source, "/") {
			return "", fmt.Errorf("upstream's key has no file of its own: set resign in the site file")
		}
		return " " + lm.Trust[0].Source, nil
	}
	r, err := s.Blobs().Open(ctx, t.Files[i].SHA256)
	if err != nil {
		return "", err
	}
	defer r.Close()
	key, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(string(key)), "\n") {
		if line == "" {
			line = "."
		}
		b.WriteString("\n " + line)
	}
	return b.String(), nil
}
