package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	formatName = "oci"
	maxDepth   = 4 // indexes in indexes
)

// Format is airgap.Format for images of registries. It may be used
// concurrently. A fetcher that is to bring its items has [Format.Transport] as
// Wrap.
type Format struct {
	// Dir is what keyrings of mirrors are relative to.
	Dir string
	// Login gives the user and the password for a registry, by its host as the
	// site writes it. nil, or ok false: what docker login left on this machine.
	Login func(host string) (user, password string, ok bool)

	auth authorizer
}

// Name implements airgap.Format.
func (*Format) Name() string { return formatName }

// ErrMoved says that a tag means another image at upstream than it did.
var ErrMoved = errors.New("the tag was given to another image")

// endpoint is where a registry is asked.
func endpoint(host string, plain func(host string) bool) *url.URL {
	u := &url.URL{Scheme: "https", Host: host}
	switch host {
	case "docker.io", "index.docker.io":
		u.Host = "registry-1.docker.io"
	}
	if plain(u.Host) {
		u.Scheme = "http"
	}
	return u
}

// loopback tells whether a host is this machine, by its name.
func loopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// plainHosts are the hosts that a mirror speaks to over plain HTTP: those that
// the site writes as http:// addresses, and this machine.
func plainHosts(m airgap.Mirror) (func(host string) bool, error) {
	var hosts []string
	for _, raw := range m.URLs {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("%q is no address of a registry: write http://HOST:PORT", raw)
		}
		if u.Scheme == "http" {
			hosts = append(hosts, u.Host)
		}
	}
	return func(host string) bool { return loopback(host) || slices.Contains(hosts, host) }, nil
}

// platforms are what a site wants of indexes.
type platforms []platform

// debianArch is what Go, and so OCI, calls Debian's architectures.
var debianArch = map[string]platform{
	"armhf": {"arm", "linux", "v7"}, "armel": {"arm", "linux", "v5"}, "i386": {"386", "linux", ""},
	"ppc64el": {"ppc64le", "linux", ""}, "mips64el": {"mips64le", "linux", ""},
}

// parsePlatforms reads architectures, by Debian's names or as OS/ARCH[/VARIANT].
func parsePlatforms(archs []string) (platforms, error) {
	var out platforms
	for _, a := range archs {
		parts := strings.Split(a, "/")
		switch p, ok := debianArch[a]; {
		case ok:
			out = append(out, p)
		case len(parts) == 1:
			out = append(out, platform{OS: "linux", Architecture: a})
		case len(parts) == 2:
			out = append(out, platform{OS: parts[0], Architecture: parts[1]})
		case len(parts) == 3:
			out = append(out, platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]})
		default:
			return nil, fmt.Errorf("platform %q: write an architecture, or OS/ARCHITECTURE/VARIANT", a)
		}
	}
	return out, nil
}

// wants tells whether the site wants a child of an index. No platforms are all.
func (ps platforms) wants(p *platform) bool {
	if len(ps) == 0 || p == nil || p.OS == "" && p.Architecture == "" {
		return true
	}
	return slices.ContainsFunc(ps, func(w platform) bool {
		// arm64's only variant is often left out.
		same := w.Variant == "" || w.Variant == p.Variant || w.Architecture == "arm64" && p.Variant == ""
		return w.OS == p.OS && w.Architecture == p.Architecture && same
	})
}

// Publish implements airgap.Format: an OCI image layout, image-layout.md.
func (f *Format) Publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	files := map[string]airgap.File{}
	manifests := []descriptor{}
	for _, it := range lm.Items {
		d := itemDigest(it)
		file, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		file.Path = d.path()
		files[file.Path] = file
		if it.Kind != airgap.KindPackage {
			continue
		}
		data, err := airgap.ReadBlob(ctx, env.Blobs, it.SHA256, maxManifest)
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(data, "")
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", it.Name, it.Version, err)
		}
		name := imageName(it)
		manifests = append(manifests, descriptor{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: d, Size: int64(len(data)),
			Annotations: map[string]string{annotationRef: name, annotationName: name}})
	}
	slices.SortFunc(manifests, func(a, b descriptor) int {
		return cmp.Compare(a.Annotations[annotationName], b.Annotations[annotationName])
	})
	index, err := indented(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": manifests})
	if err != nil {
		return nil, err
	}
	for p, b := range map[string][]byte{"index.json": index, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		d, err := airgap.PutBytes(ctx, env.Blobs, b)
		if err != nil {
			return nil, err
		}
		files[p] = airgap.File{Path: p, Size: int64(len(b)), SHA256: d}
	}
	out := make([]airgap.File, 0, len(files))
	for _, file := range files {
		out = append(out, file)
	}
	return out, nil
}

// imageName is what clients call an image of the lock.
func imageName(it airgap.Item) string {
	if strings.Contains(it.Version, ":") {
		return it.Name + "@" + it.Version
	}
	return it.Name + ":" + it.Version
}

// itemDigest is what upstream calls an item.
func itemDigest(it airgap.Item) Digest {
	if it.Sum != "" {
		return Digest(it.Sum)
	}
	return Digest(it.SHA256)
}
