// Package helm mirrors charts of classic Helm repositories: an index.yaml that
// names archives by digest, https://helm.sh/docs/topics/chart_repository.
// Charts in registries are images to fettle: package oci.
//
// A mirror takes versions of charts; the index that clients see is made from
// the Chart.yaml of each archive, as `helm repo index` does.
package helm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
	"gopkg.in/yaml.v3"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	maxIndex    = 64 << 20
	maxVersions = 100_000
)

// ErrReplaced says that a version of a chart has other bytes at upstream than
// it had.
var ErrReplaced = errors.New("upstream replaced a version")

// Format is airgap.Format for classic Helm repositories.
type Format struct{}

// Name implements airgap.Format.
func (Format) Name() string { return "helm" }

// version is one version of a chart in upstream's index.
type version struct {
	Name    string   `yaml:"name"`
	Version string   `yaml:"version"`
	URLs    []string `yaml:"urls"`
	Digest  string   `yaml:"digest"`
}

var chartName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$`)

// parseIndex reads an index.yaml.
func parseIndex(data []byte) (map[string][]version, error) {
	var idx struct {
		Entries map[string][]version `yaml:"entries"`
	}
	if err := yaml.Unmarshal(data, &idx); err != nil {
		return nil, fmt.Errorf("index.yaml: %w", err)
	}
	n := 0
	for name, vs := range idx.Entries {
		if n += len(vs); n > maxVersions {
			return nil, fmt.Errorf("index.yaml names more than %d versions", maxVersions)
		}
		for _, v := range vs {
			if v.Name != name {
				return nil, fmt.Errorf("index.yaml: an entry of %.100q says that it is %.100q", name, v.Name)
			}
		}
	}
	return idx.Entries, nil
}

// canonical is a version for comparing; "" when it is none.
func canonical(v string) string {
	if !strings.HasPrefix(v, "v") {
		v = "v" + v
	}
	if !semver.IsValid(v) {
		return ""
	}
	return v
}

// pick are the versions that want asks for: NAME is the newest that is no
// preview, NAME:PATTERN every one that matches.
func pick(all map[string][]version, want string) ([]version, error) {
	name, pattern, hasPattern := strings.Cut(want, ":")
	vs := all[name]
	if len(vs) == 0 {
		return nil, fmt.Errorf("upstream has no chart %.100q", name)
	}
	if hasPattern {
		var out []version
		for _, v := range vs {
			ok, err := path.Match(pattern, v.Version)
			if err != nil {
				return nil, fmt.Errorf("chart %s: %.100q is no pattern for versions", name, pattern)
			}
			if ok {
				out = append(out, v)
			}
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("chart %s: none of its %d versions is %s", name, len(vs), pattern)
		}
		return out, nil
	}
	best := slices.MaxFunc(vs, func(a, b version) int {
		ca, cb := canonical(a.Version), canonical(b.Version)
		stable := func(c string) int {
			if c != "" && semver.Prerelease(c) == "" {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(stable(ca), stable(cb)), semver.Compare(ca, cb))
	})
	return []version{best}, nil
}

// Resolve implements airgap.Format.
func (Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	fail := func(err error) (airgap.LockedMirror, error) { return airgap.LockedMirror{}, err }
	if len(m.URLs) == 0 {
		return fail(errors.New("it names no repository: write its address under urls"))
	}
	items := map[string]airgap.Item{}
	var out airgap.LockedMirror
	missing := map[string][]error{}
	for _, raw := range m.URLs {
		base, err := url.Parse(strings.TrimSuffix(raw, "/") + "/")
		if err != nil {
			return fail(err)
		}
		data, err := env.Fetch.Index(ctx, base.JoinPath("index.yaml").String(), maxIndex)
		if err != nil {
			return fail(err)
		}
		all, err := parseIndex(data)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", base.Redacted(), err))
		}
		wanted := m.Packages
		if len(wanted) == 0 {
			for name := range all {
				wanted = append(wanted, name+":*")
			}
		}
		for _, w := range wanted {
			vs, err := pick(all, w)
			if err != nil {
				missing[w] = append(missing[w], err)
				continue
			}
			for _, v := range vs {
				it, err := item(base, v, w)
				if err != nil {
					return fail(err)
				}
				if old, ok := items[it.Path]; ok && old.SHA256 != it.SHA256 {
					return fail(fmt.Errorf("chart %s %s is in two repositories, with other bytes: %s and %s", v.Name, v.Version, old.URL, it.URL))
				}
				items[it.Path] = it
			}
		}
		out.Trust = append(out.Trust, airgap.Trust{What: "repository " + base.Host + base.Path, Source: base.Scheme + "; its index is not signed"})
	}
	for _, w := range slices.Sorted(maps.Keys(missing)) {
		if len(missing[w]) == len(m.URLs) {
			return fail(errors.Join(missing[w]...))
		}
	}
	if prev != nil {
		for _, old := range prev.Items {
			if it, ok := items[old.Path]; ok && it.SHA256 != old.SHA256 {
				return fail(fmt.Errorf("%w: chart %s %s was %s and is %s now; if that is right, take it out of the site, resolve, and put it in again", ErrReplaced, it.Name, it.Version, old.SHA256, it.SHA256))
			}
		}
	}
	var inputs []byte
	for _, p := range slices.Sorted(maps.Keys(items)) {
		out.Items = append(out.Items, items[p])
		inputs = fmt.Appendf(inputs, "%s %s\n", p, items[p].SHA256)
	}
	out.Inputs = blob.FromBytes(inputs)
	return out, nil
}

// item is a version of a chart in the lock.
func item(base *url.URL, v version, why string) (airgap.Item, error) {
	if !chartName.MatchString(v.Name) || canonical(v.Version) == "" {
		return airgap.Item{}, fmt.Errorf("upstream has a chart %.100q of version %.100q: neither a name nor a version may be so", v.Name, v.Version)
	}
	d := blob.Digest("sha256:" + strings.ToLower(strings.TrimPrefix(v.Digest, "sha256:")))
	if err := d.Validate(); err != nil {
		return airgap.Item{}, fmt.Errorf("chart %s %s: upstream's index has no digest for it: %w", v.Name, v.Version, err)
	}
	if len(v.URLs) == 0 {
		return airgap.Item{}, fmt.Errorf("chart %s %s: upstream's index says nothing of where it is", v.Name, v.Version)
	}
	it := airgap.Item{Path: "charts/" + v.Name + "-" + v.Version + ".tgz", Size: -1, SHA256: d, Kind: airgap.KindFile, Name: v.Name, Version: v.Version, Why: "the site file: " + why}
	if err := airgap.CheckPath(it.Path); err != nil {
		return airgap.Item{}, err
	}
	for i, raw := range v.URLs {
		u, err := base.Parse(raw)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") {
			return airgap.Item{}, fmt.Errorf("chart %s %s: %.200q is no http or https address (charts in registries: format oci)", v.Name, v.Version, raw)
		}
		if base.Scheme == "https" && u.Scheme != "https" {
			return airgap.Item{}, fmt.Errorf("chart %s %s: its index came over https and sends to %s", v.Name, v.Version, u.Redacted())
		}
		if i == 0 {
			it.URL = u.String()
		} else {
			it.Also = append(it.Also, u.String())
		}
	}
	return it, nil
}
