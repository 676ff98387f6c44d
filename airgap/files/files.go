// Package files mirrors single files, each named in the site file by its URL
// and its digest. The digest is the whole reason to trust it.
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
type Format struct{}

// Name implements airgap.Format.
func (Format) Name() string { return "files" }

// Resolve implements airgap.Format. It asks upstream nothing: the site file
// says everything but the size.
func (Format) Resolve(_ context.Context, _ airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	if len(m.Files) == 0 {
		return airgap.LockedMirror{}, errors.New("it names no files")
	}
	out := airgap.LockedMirror{Trust: []airgap.Trust{{What: "files", Source: "the site file"}}}
	seen := map[string]bool{}
	var all []byte
	for _, w := range m.Files {
		u, err := url.Parse(w.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return airgap.LockedMirror{}, fmt.Errorf("%q is no http or https address", w.URL)
		}
		if err := w.SHA256.Validate(); err != nil {
			return airgap.LockedMirror{}, fmt.Errorf("%s: %w", w.URL, err)
		}
		p := w.Path
		if p == "" {
			p = path.Base(u.Path)
		}
		if err := airgap.CheckPath(p); err != nil {
			return airgap.LockedMirror{}, fmt.Errorf("%s: %w", w.URL, err)
		}
		if seen[p] {
			return airgap.LockedMirror{}, fmt.Errorf("two files would be at %s: give one of them a path", p)
		}
		seen[p] = true
		out.Items = append(out.Items, airgap.Item{Path: p, URL: w.URL, Size: -1, SHA256: w.SHA256, Kind: airgap.KindFile, Why: "the site file", Also: w.Also})
		all = fmt.Appendf(all, "%s %s %s %q\n", w.URL, w.SHA256, p, w.Also)
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
