package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// DescriptionFile is the name of the file that describes a release where it is
// carried from one store to another: NAME/INPUTS/release.json, its files beside
// it.
const DescriptionFile = "release.json"

// CarryFolder is the folder of a release among those that are carried.
func CarryFolder(r Release) string { return r.Name + "/" + r.Inputs.Hex() }

// Describe is a release as a file.
func Describe(r Release) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("describing release %s: %w", r.Name, err)
	}
	return append(data, '\n'), nil
}

// Adopt keeps a release that was carried here, its files taken from another
// blob store, and makes it the latest of its name. It may be called again.
func (s *Store) Adopt(ctx context.Context, description []byte, from *blob.Store, now time.Time) (Release, error) {
	dec := json.NewDecoder(bytes.NewReader(description))
	dec.DisallowUnknownFields()
	var r Release
	if err := dec.Decode(&r); err != nil {
		return Release{}, fmt.Errorf("reading the description of a release: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Release{}, errors.New("reading the description of a release: something stands behind its end")
	}
	if err := r.check(); err != nil {
		return Release{}, err
	}
	if _, ok, err := s.Find(ctx, r.Name, r.Inputs); err != nil || ok {
		if err == nil {
			err = s.choose(r, now)
		}
		return r, err
	}
	for _, f := range r.Files {
		n, err := s.blobs.Link(ctx, from.Path(f.Digest), f.Digest)
		if err != nil {
			return Release{}, fmt.Errorf("taking file %s of release %s over: %w", f.Name, r.Name, err)
		}
		if n != f.Size {
			return Release{}, fmt.Errorf("taking file %s of release %s over: it has %d bytes; want %d", f.Name, r.Name, n, f.Size)
		}
	}
	if err := s.Add(ctx, r); err != nil {
		return Release{}, err
	}
	return r, s.choose(r, now)
}

// CachedPackage is where a builder with this cache keeps a Debian package that
// it fetched; "" when it has none.
func CachedPackage(cache, name, version, arch string) string {
	if strings.ContainsAny(name+version+arch, "/\x00") {
		return ""
	}
	path := filepath.Join(cache, "debs", pkg{Name: name, Version: version, Arch: arch}.fileName())
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	return path
}
