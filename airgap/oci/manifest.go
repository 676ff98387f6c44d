package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
)

// Media types of the OCI image-spec and of Docker's image manifest 2, schema 2.
const (
	typeImage      = "application/vnd.oci.image.manifest.v1+json"
	typeIndex      = "application/vnd.oci.image.index.v1+json"
	typeConfig     = "application/vnd.oci.image.config.v1+json"
	typeDocker     = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

const (
	// maxManifest is the largest manifest. Registries should take 4 MiB
	// (distribution-spec, pushing manifests); containerd reads 8.
	maxManifest = 8 << 20
	// maxDescriptors is how many things one manifest may name.
	maxDescriptors = 20_000
	maxBlobSize    = 1 << 40
)

// platform is what a manifest of an index runs on.
type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

func (p platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// descriptor names content: image-spec, descriptor.md.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       Digest            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *platform         `json:"platform,omitempty"`
}

func (d descriptor) check() error {
	if _, err := ParseDigest(string(d.Digest)); err != nil {
		return err
	}
	if d.Size < 0 || d.Size > maxBlobSize {
		return fmt.Errorf("%s has %d bytes", d.Digest.short(), d.Size)
	}
	return nil
}

// elsewhere tells whether the content is never pushed to a registry: layers
// that must not be distributed.
func (d descriptor) elsewhere() bool {
	return strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")
}

// manifest is what we read of an image manifest or of an index.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *descriptor       `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Manifests     []descriptor      `json:"manifests"`
	Subject       *descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// index tells whether it names manifests rather than layers.
func (m manifest) index() bool { return isIndex(m.MediaType) }

func isIndex(mediaType string) bool { return mediaType == typeIndex || mediaType == typeDockerList }

func isManifest(mediaType string) bool {
	return mediaType == typeImage || mediaType == typeDocker || isIndex(mediaType)
}

// artifact is the type by which referrers are filtered: image-spec, and
// distribution-spec 1.1, listing referrers.
func (m manifest) artifact() string {
	if m.ArtifactType == "" && m.Config != nil {
		return m.Config.MediaType
	}
	return m.ArtifactType
}

// blobs are the config and the layers.
func (m manifest) blobs() []descriptor {
	if m.Config == nil {
		return m.Layers
	}
	return append([]descriptor{*m.Config}, m.Layers...)
}

// parseManifest reads a manifest that was sent as contentType ("": unknown).
// What could be read as two different things is refused.
func parseManifest(data []byte, contentType string) (manifest, error) {
	if len(data) > maxManifest {
		return manifest{}, fmt.Errorf("a manifest of %d bytes; at most %d are taken", len(data), maxManifest)
	}
	var m manifest
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		return manifest{}, errors.New("the manifest is no JSON object")
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return manifest{}, fmt.Errorf("the manifest is no valid JSON: %w", err)
	}
	ctype := ""
	if contentType != "" {
		var err error
		if ctype, _, err = mime.ParseMediaType(contentType); err != nil {
			return manifest{}, fmt.Errorf("content type %.100q: %w", contentType, err)
		}
	}
	// image-spec: an old manifest need not say its own type.
	if m.MediaType == "" {
		switch {
		case isManifest(ctype):
			m.MediaType = ctype
		case m.Manifests != nil:
			m.MediaType = typeIndex
		default:
			m.MediaType = typeImage
		}
	}
	if ctype != "" && isManifest(ctype) && ctype != m.MediaType {
		return manifest{}, fmt.Errorf("the manifest says that it is %.100s, and was sent as %.100s", m.MediaType, ctype)
	}
	if !isManifest(m.MediaType) {
		return manifest{}, fmt.Errorf("a manifest of type %.100q: OCI image manifests and indexes and Docker's of schema 2 are taken", m.MediaType)
	}
	if m.SchemaVersion != 2 {
		return manifest{}, fmt.Errorf("a manifest of schema version %d; 2 is taken", m.SchemaVersion)
	}
	// CVE-2021-41190: what one client reads as an image must not be an index to
	// another.
	if m.index() && (m.Config != nil || m.Layers != nil) || !m.index() && m.Manifests != nil {
		return manifest{}, errors.New("the manifest is both an image and an index")
	}
	if !m.index() && m.Config == nil {
		return manifest{}, errors.New("the manifest of an image has no config")
	}
	all := slices.Concat(m.blobs(), m.Manifests)
	if m.Subject != nil {
		all = append(all, *m.Subject)
	}
	if len(all) > maxDescriptors {
		return manifest{}, fmt.Errorf("the manifest names %d things; at most %d are taken", len(all), maxDescriptors)
	}
	for _, d := range all {
		if err := d.check(); err != nil {
			return manifest{}, fmt.Errorf("the manifest: %w", err)
		}
	}
	return m, nil
}
