// Package built mirrors what fettle built itself: it has no upstream, and its
// digests are the reason to trust it. Each file is at hand in a blob store.
package built

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// Name of the format, and of its one mirror.
const Name = "images"

// File is one file that was built.
type File struct {
	Path          string // in the mirror's tree
	Name, Version string
	Arch          string
	Size          int64
	SHA256        blob.Digest
	At            string // where it is, or ""
	Content       []byte // when At is ""
}

// Format is airgap.Format for what was built. Files finds what the release
// called name has now; it may be nil where nothing is resolved.
type Format struct {
	Files func(ctx context.Context, name string) ([]File, error)
}

// Name implements airgap.Format.
func (Format) Name() string { return Name }

// Resolve implements airgap.Format. m.Needs names the releases.
func (f Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	if f.Files == nil || len(m.Needs) == 0 {
		return airgap.LockedMirror{}, errors.New("it names nothing that was built: it is made by --from-site")
	}
	out := airgap.LockedMirror{Trust: []airgap.Trust{{What: "images", Source: "built by fettle on the connected side"}}}
	var all []byte
	for _, n := range m.Needs {
		files, err := f.Files(ctx, n.Name)
		if err != nil {
			return airgap.LockedMirror{}, err
		}
		for _, x := range files {
			if x.At != "" {
				_, err = env.Blobs.Link(ctx, x.At, x.SHA256)
			} else {
				err = putBytes(ctx, env.Blobs, x)
			}
			if err != nil {
				return airgap.LockedMirror{}, fmt.Errorf("image %s: %w", n.Name, err)
			}
			out.Items = append(out.Items, airgap.Item{Path: x.Path, URL: (&url.URL{Scheme: airgap.BuiltScheme, Path: "/" + x.Path}).String(),
				Size: x.Size, SHA256: x.SHA256, Kind: airgap.KindBuilt, Name: x.Name, Version: x.Version, Arch: x.Arch, Why: n.Why})
		}
	}
	slices.SortFunc(out.Items, func(a, b airgap.Item) int { return cmp.Compare(a.Path, b.Path) })
	for _, it := range out.Items {
		all = fmt.Appendf(all, "%s %s %s\n", it.Path, it.SHA256, it.Why)
	}
	out.Inputs = blob.FromBytes(all)
	if prev != nil && prev.Inputs == out.Inputs {
		return *prev, nil
	}
	return out, nil
}

// Publish implements airgap.Format.
func (Format) Publish(_ context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	var out []airgap.File
	for _, it := range lm.Items {
		f, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func putBytes(ctx context.Context, s *blob.Store, x File) error {
	_, _, err := s.Put(ctx, bytes.NewReader(x.Content), x.SHA256)
	return err
}
