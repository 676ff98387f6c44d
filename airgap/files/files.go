// Package files mirrors single files: those that the site file names by URL and
// digest, which is the whole reason to trust them; those that a list of digests
// names which a trusted key signed; and snapshots of model repositories, which
// are a commit and the digests of its files.
package files

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// Format is airgap.Format for files.
type Format struct {
	// Dir is what keyrings of mirrors are relative to.
	Dir string
}

// Name implements airgap.Format.
func (Format) Name() string { return "files" }

// resolver is one resolution.
type resolver struct {
	env   airgap.Env
	m     airgap.Mirror
	prev  map[string]airgap.Item // of the earlier lock, by path
	out   airgap.LockedMirror
	paths map[string]bool
	all   []byte // what the inputs are made of
}

func (r *resolver) add(it airgap.Item) error {
	if err := airgap.CheckPath(it.Path); err != nil {
		return fmt.Errorf("%s: %w", it.URL, err)
	}
	if r.paths[it.Path] {
		return fmt.Errorf("two files would be at %s: give one of them a path", it.Path)
	}
	r.paths[it.Path] = true
	r.out.Items = append(r.out.Items, it)
	return nil
}

// Resolve implements airgap.Format. Of files by digest it asks upstream
// nothing: the site file says everything but the size.
func (f Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	r := &resolver{env: env, m: m, prev: map[string]airgap.Item{}, paths: map[string]bool{}}
	if prev != nil {
		for _, it := range prev.Items {
			r.prev[it.Path] = it
		}
	}
	if len(m.Files)+len(m.Checksums)+len(m.Models) == 0 {
		return airgap.LockedMirror{}, errors.New("it names no files, no checksums and no models")
	}
	if len(m.Files) > 0 {
		r.out.Trust = append(r.out.Trust, airgap.Trust{What: "files", Source: "the site file"})
	}
	for _, w := range m.Files {
		if err := r.file(w); err != nil {
			return airgap.LockedMirror{}, err
		}
	}
	if err := f.checksums(ctx, r); err != nil {
		return airgap.LockedMirror{}, err
	}
	if err := r.models(ctx); err != nil {
		return airgap.LockedMirror{}, err
	}
	r.out.Inputs = blob.FromBytes(r.all)
	if prev != nil && prev.Inputs == r.out.Inputs {
		return *prev, nil
	}
	return r.out, nil
}

// file is one file of the site file.
func (r *resolver) file(w airgap.WantFile) error {
	u, err := url.Parse(w.URL)
	if err != nil {
		return fmt.Errorf("%q is no http or https address", w.URL)
	}
	for _, a := range append([]string{w.URL}, w.Also...) {
		if err := airgap.CheckURL(a); err != nil {
			return err
		}
	}
	if err := w.SHA256.Validate(); err != nil {
		return fmt.Errorf("%s: %w", w.URL, err)
	}
	p := w.Path
	if p == "" {
		p = path.Base(u.Path)
	}
	r.all = fmt.Appendf(r.all, "%s %s %s %q\n", w.URL, w.SHA256, p, w.Also)
	return r.add(airgap.Item{Path: p, URL: w.URL, Size: -1, SHA256: w.SHA256, Kind: airgap.KindFile, Why: "the site file", Also: w.Also})
}

// Publish implements airgap.Format.
func (Format) Publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	var out []airgap.File
	for _, it := range lm.Items {
		f, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	more, err := publishModels(ctx, env, lm, out)
	return append(out, more...), err
}
