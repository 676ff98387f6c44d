package oci

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// annotationLicences is an SPDX expression: image-spec, annotations.md.
const annotationLicences = "org.opencontainers.image.licenses"

const maxDescribing = 8 << 20 // of a manifest or a config

// Licences implements airgap.Licensed: what the manifest itself says.
func (f *Format) Licences(ctx context.Context, it airgap.Item, r io.Reader) ([]string, error) {
	return f.LicencesAcross(ctx, it, r, func(context.Context, blob.Digest) (io.ReadCloser, error) { return nil, fs.ErrNotExist })
}

// LicencesAcross implements airgap.LicensedAcross: annotations of the index and
// of its manifests, and the labels of images' configs, where docker build writes
// them. They speak for the image as a whole, not for each program in it.
func (*Format) LicencesAcross(ctx context.Context, it airgap.Item, r io.Reader, open airgap.OpenBlob) ([]string, error) {
	if it.Kind != airgap.KindPackage {
		return nil, nil
	}
	m, ok := readDescribing[manifest](r)
	if !ok {
		return nil, nil // not readable: not known
	}
	manifests := []manifest{m}
	for _, d := range m.Manifests {
		if err := withBlob(ctx, d, open, func(r io.Reader) {
			if m, ok := readDescribing[manifest](r); ok {
				manifests = append(manifests, m)
			}
		}); err != nil {
			return nil, err
		}
	}
	var out []string
	add := func(s string) {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	for _, m := range manifests {
		add(m.Annotations[annotationLicences])
		if m.Config == nil {
			continue
		}
		if err := withBlob(ctx, *m.Config, open, func(r io.Reader) {
			type config struct {
				Config struct{ Labels map[string]string } `json:"config"`
			}
			c, _ := readDescribing[config](r)
			add(c.Config.Labels[annotationLicences])
		}); err != nil {
			return nil, err
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// withBlob reads content that may be absent: of an index, only the platforms
// that the site wants are there.
func withBlob(ctx context.Context, d descriptor, open airgap.OpenBlob, read func(io.Reader)) (err error) {
	digest, err := blob.ParseDigest(string(d.Digest))
	if err != nil {
		return nil // named by another algorithm
	}
	r, err := open(ctx, digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	read(r)
	return ctx.Err()
}

func readDescribing[T any](r io.Reader) (v T, ok bool) {
	data, err := io.ReadAll(io.LimitReader(r, maxDescribing+1))
	return v, err == nil && len(data) <= maxDescribing && json.Unmarshal(data, &v) == nil
}
