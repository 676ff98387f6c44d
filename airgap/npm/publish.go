package npm

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/mod/semver"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	// made is the folder of what is made here, in a tree.
	made = ".packuments/"
	// base stands in packuments for the mirror's address, which each client
	// writes as it reaches it.
	base = "fettle-base:/"

	maxManifest = 8 << 20
	maxUnpacked = 4 << 30
	maxMade     = 256 << 20
)

// Publish implements airgap.Format: tarballs, and packuments of what is there.
func (*Format) Publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	puts := airgap.NewPuts(ctx, env.Blobs)
	out, err := publish(ctx, env, lm, puts)
	return out, errors.Join(err, puts.Wait())
}

func publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror, puts *airgap.Puts) ([]airgap.File, error) {
	files := map[string]airgap.File{}
	versions := map[string]map[string]manifest{} // by name and version
	signatures := map[string]signed{}            // by path of evidence
	for _, it := range lm.Items {
		if it.Kind != airgap.KindEvidence {
			continue
		}
		if it.Path == signedDir+"keys.json" {
			d, err := airgap.PutBytes(ctx, env.Blobs, []byte(it.Text))
			if err != nil {
				return nil, err
			}
			files[keysPath] = airgap.File{Path: keysPath, Size: int64(len(it.Text)), SHA256: d}
			continue
		}
		var s signed
		if err := json.Unmarshal([]byte(it.Text), &s); err != nil {
			return nil, fmt.Errorf("%s: %w", it.Path, err)
		}
		signatures[it.Path] = s
	}
	for _, it := range lm.Items {
		if it.Kind == airgap.KindEvidence {
			continue
		}
		f, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		files[f.Path] = f
		if p := alias(it); p != "" {
			if _, ok := files[p]; !ok {
				files[p] = airgap.File{Path: p, Size: f.Size, SHA256: f.SHA256}
			}
		}
		m, err := readTarball(ctx, env, it)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", it.Path, err)
		}
		if s, ok := signatures[signedDir+it.Name+"@"+it.Version+".json"]; ok {
			m.sign(s)
		}
		if versions[it.Name] == nil {
			versions[it.Name] = map[string]manifest{}
		}
		versions[it.Name][it.Version] = m
	}
	for name, vs := range versions {
		for form, keep := range map[string]func(manifest) manifest{"full": nil, "install": abbreviated} {
			data, err := packument(name, vs, keep)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			p := made + name + "/" + form + ".json"
			files[p] = airgap.File{Path: p, Size: int64(len(data)), SHA256: puts.Bytes(data)}
		}
	}
	return slices.Collect(maps.Values(files)), nil
}

// manifest is a version as a packument has it.
type manifest map[string]any

// readTarball makes the manifest of a tarball, of its package.json.
func readTarball(ctx context.Context, env airgap.Env, it airgap.Item) (manifest, error) {
	r, err := env.Blobs.Open(ctx, it.SHA256)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	sum, err := shasum(r)
	if err != nil {
		return nil, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	m, err := packageJSON(r)
	if err != nil {
		return nil, err
	}
	if name, version := m["name"], m["version"]; name != it.Name || !sameVersion(version, it.Version) {
		return nil, fmt.Errorf("its package.json says that it is %v %v, and the lockfile that it is %s %s", name, version, it.Name, it.Version)
	}
	m["version"] = it.Version
	m["_id"] = it.Name + "@" + it.Version
	m["dist"] = map[string]any{"integrity": it.Sum, "shasum": sum, "tarball": base + it.Path}
	return m, nil
}

// published is a version's time, which stands outside of it in a packument.
const published = "_fettleTime"

// sign gives a manifest what its registry signed, in place of our own words.
func (m manifest) sign(s signed) {
	dist := m["dist"].(map[string]any)
	dist["integrity"], dist["signatures"] = s.Integrity, s.Signatures
	if !s.Time.IsZero() {
		m[published] = s.Time
	}
}

// sameVersion compares as npm does, which takes a "v" before a version away.
func sameVersion(v any, want string) bool {
	s, _ := v.(string)
	return strings.TrimLeft(strings.TrimSpace(s), "v=") == want
}

// packageJSON reads the package.json of a tarball. The name of its first
// folder says nothing, and npm takes it away.
func packageJSON(r io.Reader) (manifest, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("it is no tarball: %w", err)
	}
	var m manifest
	gyp := false
	limited := &io.LimitedReader{R: z, N: maxUnpacked}
	tr := tar.NewReader(limited)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if limited.N <= 0 {
				return nil, fmt.Errorf("unpacked it has more than %d bytes", int64(maxUnpacked))
			}
			return nil, fmt.Errorf("it is no tarball: %w", err)
		}
		_, name, _ := strings.Cut(strings.TrimPrefix(h.Name, "./"), "/")
		switch {
		case h.Typeflag != tar.TypeReg:
		case name == "binding.gyp":
			gyp = true
		case name == "package.json" && m == nil:
			if h.Size > maxManifest {
				return nil, fmt.Errorf("its package.json has %d bytes", h.Size)
			}
			data, err := io.ReadAll(tr)
			if err != nil {
				return nil, err
			}
			if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &m); err != nil {
				return nil, fmt.Errorf("its package.json: %w", err)
			}
		}
	}
	if m == nil {
		return nil, errors.New("it has no package.json")
	}
	normalize(m, gyp)
	return m, nil
}

// normalize brings a package.json into the form that clients expect of a
// registry: https://github.com/npm/registry/blob/main/docs/responses/package-metadata.md.
func normalize(m manifest, gyp bool) {
	for k := range m {
		if strings.HasPrefix(k, "_") || k == "dist" || k == "readme" {
			delete(m, k) // a registry's own
		}
	}
	if bin, ok := m["bin"].(string); ok {
		name, _ := m["name"].(string)
		m["bin"] = map[string]any{name[strings.LastIndex(name, "/")+1:]: bin}
	}
	if b, ok := m["bundledDependencies"]; ok && m["bundleDependencies"] == nil {
		m["bundleDependencies"] = b
	}
	scripts, _ := m["scripts"].(map[string]any)
	if gyp && scripts["install"] == nil && scripts["preinstall"] == nil && m["gypfile"] != false {
		if scripts == nil {
			scripts = map[string]any{}
		}
		scripts["install"] = "node-gyp rebuild"
		m["scripts"], m["gypfile"] = scripts, true
	}
	// A dependency that is optional too is optional.
	deps, _ := m["dependencies"].(map[string]any)
	opt, _ := m["optionalDependencies"].(map[string]any)
	for name := range opt {
		delete(deps, name)
	}
}

// abbreviated keeps what installing needs.
func abbreviated(m manifest) manifest {
	out := manifest{}
	for _, k := range []string{"name", "version", "deprecated", "dependencies", "optionalDependencies", "devDependencies", "bundleDependencies",
		"peerDependencies", "peerDependenciesMeta", "acceptDependencies", "bin", "directories", "dist", "engines", "os", "cpu", "libc", "funding", "_hasShrinkwrap"} {
		if v, ok := m[k]; ok {
			out[k] = v
		}
	}
	scripts, _ := m["scripts"].(map[string]any)
	for _, k := range []string{"preinstall", "install", "postinstall"} {
		if scripts[k] != nil {
			out["hasInstallScript"] = true
		}
	}
	return out
}

// packument is what a registry says of a package: the versions that are here.
func packument(name string, vs map[string]manifest, keep func(manifest) manifest) ([]byte, error) {
	versions, times := map[string]manifest{}, map[string]any{}
	for v, m := range vs {
		if at, ok := m[published]; ok {
			times[v] = at
		}
		if keep != nil {
			m = keep(m)
		} else {
			m = maps.Clone(m)
			delete(m, published)
		}
		versions[v] = m
	}
	latest := newest(slices.Collect(maps.Keys(vs)))
	doc := map[string]any{"name": name, "dist-tags": map[string]string{"latest": latest}, "versions": versions}
	if keep == nil {
		doc["_id"] = name
		if len(times) > 0 {
			doc["time"] = times
		}
		for _, k := range []string{"description", "license", "homepage", "repository", "keywords", "author", "bugs"} {
			if v, ok := vs[latest][k]; ok {
				doc[k] = v
			}
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(doc)
	return b.Bytes(), err
}

// newest is what the tag latest means: the greatest release, or, when there is
// none, the greatest version.
func newest(vs []string) string {
	return slices.MaxFunc(vs, func(a, b string) int {
		pa, pb := semver.Prerelease("v"+a) == "", semver.Prerelease("v"+b) == ""
		if pa != pb {
			if pa {
				return 1
			}
			return -1
		}
		if c := semver.Compare("v"+a, "v"+b); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
}
