package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const maxLayoutIndex = 64 << 20

// Annotations of a layout's index: image-spec, annotations.md; the second is
// containerd's, which tools that import layouts read too.
const (
	annotationRef  = "org.opencontainers.image.ref.name"
	annotationName = "io.containerd.image.name"
)

// view is what a snapshot has of OCI mirrors. It does not change.
type view struct {
	snapshot string
	repos    map[string]*repo   // by local name
	hosts    map[string]bool    // registries, as they begin local names
	files    map[Digest]content // of all trees
}

// loadView reads the indexes of a snapshot's trees and the manifests that they
// name.
func loadView(ctx context.Context, s *airgap.Store, snap airgap.Snapshot) (*view, error) {
	v := &view{snapshot: snap.Name, repos: map[string]*repo{}, hosts: map[string]bool{}, files: map[Digest]content{}}
	for _, t := range snap.Trees {
		if t.Format != formatName {
			continue
		}
		if err := v.add(ctx, s, t); err != nil {
			return nil, fmt.Errorf("snapshot %s, mirror %s: %w", snap.Name, t.Mirror, err)
		}
	}
	for name := range v.repos {
		host, _, _ := strings.Cut(name, "/")
		v.hosts[host+"/"] = true
	}
	return v, nil
}

func (v *view) add(ctx context.Context, s *airgap.Store, t airgap.Tree) error {
	var index *airgap.File
	tree := map[Digest]content{}
	for _, f := range t.Files {
		if f.Path == "index.json" {
			index = &f
		}
		if rest, ok := strings.CutPrefix(f.Path, "blobs/"); ok {
			if d, err := ParseDigest(strings.Replace(rest, "/", ":", 1)); err == nil {
				tree[d] = content{f.Size, f.SHA256}
				v.files[d] = tree[d]
			}
		}
	}
	if index == nil {
		return errors.New("its tree has no index.json")
	}
	data, err := airgap.ReadBlob(ctx, s.Blobs(), index.SHA256, maxLayoutIndex)
	if err != nil {
		return err
	}
	var idx struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &idx); err != nil {
		return fmt.Errorf("its index.json: %w", err)
	}
	w := walker{ctx, s.Blobs(), tree}
	for _, d := range idx.Manifests {
		ref, err := ParseRef(d.Annotations[annotationName])
		if err != nil {
			return fmt.Errorf("its index.json: %w", err)
		}
		name := ref.local()
		if v.repos[name] == nil {
			v.repos[name] = newRepo(name)
		}
		if err := w.manifest(v.repos[name], d, 0); err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		if ref.Tag != "" {
			v.repos[name].Tags[ref.Tag] = d.Digest
		}
	}
	return nil
}

// walker takes manifests of a tree into repositories.
type walker struct {
	ctx   context.Context
	blobs *blob.Store
	tree  map[Digest]content
}

// manifest adds d and what it names. Of an index, children may be absent.
func (w walker) manifest(r *repo, d descriptor, depth int) error {
	c, ok := w.tree[d.Digest]
	if !ok {
		return fmt.Errorf("its tree lacks manifest %s", d.Digest)
	}
	if _, ok := r.Manifests[d.Digest]; ok {
		return nil
	}
	if depth > maxDepth {
		return fmt.Errorf("indexes in indexes, %d deep", depth)
	}
	data, err := airgap.ReadBlob(w.ctx, w.blobs, c.SHA256, maxManifest)
	if err != nil {
		return err
	}
	m, err := parseManifest(data, d.MediaType)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	r.add(d.Digest, m, c)
	for _, b := range m.blobs() {
		if c, ok := w.tree[b.Digest]; ok {
			r.Blobs[b.Digest] = c
		}
	}
	for _, child := range m.Manifests {
		if _, ok := w.tree[child.Digest]; !ok || !isManifest(child.MediaType) {
			continue
		}
		if err := w.manifest(r, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// find is the repository that a pull of name from the registry host means; nil
// when there is none. A client that does not say which registry it wants may
// mean Docker Hub, whose name Docker leaves out. One registry's image is never
// given for another's.
func (v *view) find(from asked, name string) *repo {
	if from.host != "" {
		if r := v.repos[localName(from.host, name)]; r != nil {
			return r
		}
		if from.sure || v.hosts[localName(from.host, "")] {
			return nil
		}
	}
	if r := v.repos[name]; r != nil {
		return r
	}
	return v.repos[localName("docker.io", name)]
}

// view is what the served snapshot has. When a new one cannot be read, the
// last good one stays.
func (g *Registry) view(ctx context.Context) (*view, error) {
	name, err := g.store.Served()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cur != nil && g.cur.snapshot == name {
		return g.cur, nil
	}
	if g.cur != nil && g.bad == name {
		return g.cur, nil
	}
	next := &view{}
	if name != "" {
		var snap airgap.Snapshot
		if snap, _, err = g.store.Snapshot(name); err == nil {
			next, err = loadView(ctx, g.store, snap)
		}
		if err != nil && g.cur == nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, airgap.ErrNoSnapshot) {
			return nil, err
		}
		if err != nil && ctx.Err() == nil {
			g.log.Error("the images of the new snapshot cannot be read; the last ones are served on", "snapshot", name, "error", err)
			if g.cur == nil {
				return nil, err
			}
			g.bad = name
			return g.cur, nil
		}
		if err != nil {
			return nil, err
		}
	}
	g.cur, g.bad = next, ""
	return next, nil
}
