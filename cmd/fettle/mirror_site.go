package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/apt"
	"github.com/fettle-dev/fettle/airgap/built"
	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/site"
)

// siteMirrors are the site's mirrors with all that its machines need: the
// packages of their images and profiles, and what fettle built for them.
func (e *env) siteMirrors(c *cli.Context, s *site.Site, mirrors []airgap.Mirror) ([]airgap.Mirror, airgap.Format, error) {
	needs, releases, err := images.Needs(s, s.Machines, images.ThisHost)
	if err != nil {
		return nil, nil, fail(exitInput, err)
	}
	if len(needs) == 0 {
		return nil, nil, fail(exitInput, errors.New("--from-site: no machine of the site has a profile, so none needs anything"))
	}
	if mirrors, err = addNeeds(mirrors, needs, (&apt.Format{}).HostSuites); err != nil {
		return nil, nil, fail(exitInput, err)
	}
	store, err := images.OpenStore(storeDir(c, e))
	if err != nil {
		return nil, nil, err
	}
	m := airgap.Mirror{Name: "site-images", Format: built.Name}
	for _, r := range releases {
		m.Needs = append(m.Needs, airgap.Need{Name: r.Name, Why: r.Why})
	}
	if err := freeName(mirrors, m.Name); err != nil {
		return nil, nil, fail(exitInput, err)
	}
	return append(mirrors, m), built.Format{Files: builtFiles(store)}, nil
}

func freeName(mirrors []airgap.Mirror, name string) error {
	if slices.ContainsFunc(mirrors, func(m airgap.Mirror) bool { return m.Name == name }) {
		return fmt.Errorf("--from-site makes a mirror %s, and the site file has one of that name: rename it", name)
	}
	return nil
}

// addNeeds adds packages to the mirrors that have their suites. Where none has,
// it makes one of this machine's own sources.
func addNeeds(mirrors []airgap.Mirror, needs []images.Need, hostSuites func() ([]string, error)) ([]airgap.Mirror, error) {
	mirrors = slices.Clone(mirrors)
	for _, n := range needs {
		i := slices.IndexFunc(mirrors, func(m airgap.Mirror) bool { return m.Format == "apt" && slices.Contains(m.Suites, n.Suite) })
		if i < 0 {
			have, err := hostSuites()
			if err != nil {
				return nil, err
			}
			m := airgap.Mirror{Name: "site-" + n.Suite, Format: "apt", Components: n.Components, Archs: []string{n.Arch}}
			for _, suite := range []string{n.Suite, n.Suite + "-updates", n.Suite + "-security"} {
				if slices.Contains(have, suite) {
					m.Suites = append(m.Suites, suite)
				}
			}
			if !slices.Contains(m.Suites, n.Suite) {
				return nil, fmt.Errorf("--from-site: %s needs the suite %s, which neither a mirror of the site nor this machine's apt sources have: add a mirror with it to the site file", n.Why, n.Suite)
			}
			if err := freeName(mirrors, m.Name); err != nil {
				return nil, err
			}
			mirrors, i = append(mirrors, m), len(mirrors)
		}
		m := &mirrors[i]
		m.Bootstrap = true
		if !slices.Contains(m.Archs, n.Arch) {
			m.Archs = append(slices.Clone(m.Archs), n.Arch)
		}
		j := slices.IndexFunc(m.Needs, func(x airgap.Need) bool { return x.Name == n.Package })
		switch {
		case j < 0:
			m.Needs = append(m.Needs, airgap.Need{Name: n.Package, Why: n.Why})
		case !slices.Contains(strings.Split(m.Needs[j].Why, "; "), n.Why):
			m.Needs[j].Why += "; " + n.Why
		}
	}
	return mirrors, nil
}

// builtFiles finds the files of the latest release of a name.
func builtFiles(store *images.Store) func(ctx context.Context, name string) ([]built.File, error) {
	return func(ctx context.Context, name string) ([]built.File, error) {
		r, ok, err := store.Latest(ctx, name)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fail(exitInput, fmt.Errorf("image %s travels with what machines need and is not in %s yet: fettle image build all makes it and the others", name, store.Dir()))
		}
		description, err := images.Describe(r)
		if err != nil {
			return nil, err
		}
		dir := images.CarryFolder(r)
		file := func(name string) built.File {
			return built.File{Path: dir + "/" + name, Name: r.Name, Version: r.Inputs.Short(), Arch: r.Arch}
		}
		d := file(images.DescriptionFile)
		d.Content, d.Size, d.SHA256 = description, int64(len(description)), blob.FromBytes(description)
		out := []built.File{d}
		for _, f := range r.Files {
			x := file(f.Name)
			x.At, x.Size, x.SHA256 = store.Blobs().Path(f.Digest), f.Size, f.Digest
			out = append(out, x)
		}
		return out, nil
	}
}

// adoptImages takes what a snapshot has of images into the image store, from
// where machines are installed.
func adoptImages(ctx context.Context, storeDir string, from *airgap.Store, snap airgap.Snapshot) ([]images.Release, error) {
	var out []images.Release
	for _, t := range snap.Trees {
		if t.Format != built.Name {
			continue
		}
		store, err := images.OpenStore(storeDir)
		if err != nil {
			return nil, err
		}
		for _, f := range t.Files {
			if path.Base(f.Path) != images.DescriptionFile {
				continue
			}
			data, err := readBlob(ctx, from, f)
			if err != nil {
				return nil, err
			}
			r, err := store.Adopt(ctx, data, from.Blobs(), time.Now())
			if err != nil {
				return nil, fmt.Errorf("image %s of snapshot %s: %w", f.Path, snap.Name, err)
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// readBlob reads a small file of a snapshot.
func readBlob(ctx context.Context, from *airgap.Store, f airgap.File) ([]byte, error) {
	r, err := from.Blobs().Open(ctx, f.SHA256)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	const most = 1 << 20
	if r.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", f.Path, r.Size(), most)
	}
	return io.ReadAll(r)
}

// adoptNamed is adoptImages of a snapshot by its name, and says what it did.
func (e *env) adoptNamed(c *cli.Context, s *airgap.Store, name string) error {
	snap, _, err := s.Snapshot(name)
	if err != nil {
		return err
	}
	got, err := adoptImages(c.Context, storeDir(c, e), s, snap)
	if err != nil {
		return err
	}
	for _, r := range got {
		fmt.Fprintf(e.stderr, "image %s is in the store (%s)\n", r.Name, bytesText(r.Size()))
	}
	return nil
}

// atHand finds packages that images were built from.
func atHand(storeDir string) func(airgap.Item) string {
	return func(it airgap.Item) string {
		if it.Kind != airgap.KindPackage || path.Ext(it.Path) != ".deb" {
			return ""
		}
		return images.CachedPackage(filepath.Join(storeDir, "cache"), it.Name, it.Version, it.Arch)
	}
}
