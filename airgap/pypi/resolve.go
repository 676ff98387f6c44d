package pypi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	// resolveVersion changes when the same requirements resolve to something else.
	resolveVersion = "1"
	filesDir       = "packages/"
	// yankedDir has evidence: what upstream's index says of a file that was yanked.
	yankedDir = ".yanked/"
	parallel  = 8
)

// Resolve implements airgap.Format. With the same requirements as in the
// earlier lock upstream is asked nothing: digests are exact.
func (f *Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	none := airgap.LockedMirror{}
	if len(m.Packages) > 0 {
		return none, errors.New("packages are named by requirements with hashes: put them into a file and name it in lockfiles")
	}
	if len(m.Lockfiles) == 0 {
		return none, errors.New("it names no lockfiles, such as requirements.txt")
	}
	indexes, err := f.indexes(m)
	if err != nil {
		return none, err
	}
	inputs := []any{resolveVersion, m, indexes}
	var reqs []requirement
	for _, name := range m.Lockfiles {
		rs, texts, err := f.readRequirements(name, 0)
		if err != nil {
			return none, err
		}
		reqs = append(reqs, rs...)
		inputs = append(inputs, texts)
	}
	b, err := json.Marshal(inputs)
	if err != nil {
		return none, err
	}
	out := airgap.LockedMirror{Inputs: blob.FromBytes(b), Trust: []airgap.Trust{{What: "packages", Source: "hashes in " + strings.Join(m.Lockfiles, ", ")}}}
	if prev != nil && prev.Inputs == out.Inputs {
		return *prev, nil
	}
	targets := targetsOf(m)
	var mu sync.Mutex
	set := map[string]airgap.Item{}
	var errs []error
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, r := range reqs {
		ts := slices.DeleteFunc(slices.Clone(targets), func(t target) bool { return !r.wanted(t) })
		if len(ts) == 0 {
			continue
		}
		g.Go(func() error {
			items, err := find(gctx, env, indexes, r, ts)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			for _, it := range items {
				if old, ok := set[it.Path]; ok && old.SHA256 != it.SHA256 {
					errs = append(errs, fmt.Errorf("%s has two digests in the requirements: one of them is wrong", it.Path))
				}
				set[it.Path] = it
			}
			return nil
		})
	}
	_ = g.Wait()
	if err := ctx.Err(); err != nil {
		return none, err
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	if err := airgap.Several(errs); err != nil {
		return none, err
	}
	out.Items = slices.Collect(maps.Values(set))
	return out, nil
}

// targetsOf are the machines that a mirror is for: every version of Python on
// every architecture.
func targetsOf(m airgap.Mirror) []target {
	pythons, archs := m.Python, m.Archs
	if len(pythons) == 0 {
		pythons = []string{""}
	}
	if len(archs) == 0 {
		archs = []string{""}
	}
	var out []target
	for _, p := range pythons {
		for _, a := range archs {
			out = append(out, target{p, a})
		}
	}
	return out
}

// wanted tells whether a requirement's marker holds on a target. Where the
// target is open, so is the answer, and it is wanted.
func (r requirement) wanted(t target) bool {
	if r.marker == nil || t.python == "" || t.arch == "" || machine(t.arch) == t.arch {
		return true
	}
	return r.marker.holds(environmentOf(t.python, machine(t.arch)))
}

// find looks a requirement's files up and takes those that the targets use: the
// wheels, and where a target has none, the source distribution.
func find(ctx context.Context, env airgap.Env, indexes []string, r requirement, targets []target) ([]airgap.Item, error) {
	var files []listed
	var errs []error
	for _, index := range indexes {
		at := index + "/" + r.name + "/"
		data, err := env.Fetch.IndexAs(ctx, at, accept, maxIndex)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ls, err := parseIndex(data, at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files = append(files, ls...)
	}
	if len(files) == 0 && len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	type candidate struct {
		listed
		dist
	}
	var have []candidate
	seen := map[string]bool{}
	for _, l := range files {
		d, ok := parseFile(l.file)
		if !ok || d.name != r.name || !sameVersion(d.version, r.version) || !r.hashes[l.sha256] || seen[l.file] {
			continue // of another version, or one that nobody vouches for
		}
		seen[l.file] = true
		have = append(have, candidate{l, d})
	}
	take := map[string]candidate{}
	for _, t := range targets {
		open := t.python == "" && t.arch == ""
		found := false
		for _, c := range have {
			if open || c.wheel && c.usable(t) && allows(c.listed.python, pythonOf(t)) {
				take[c.file], found = c, true
			}
		}
		for _, c := range have {
			if !found && !c.wheel {
				take[c.file], found = c, true
			}
		}
		if !found {
			return nil, fmt.Errorf("%s %s has no file for %s whose hash is in the requirements (%d files of it are)", r.name, r.version, t, len(have))
		}
	}
	var out []airgap.Item
	for _, c := range take {
		out = append(out, airgap.Item{Path: filesDir + c.file, URL: c.url, Size: c.size, SHA256: blob.Digest("sha256:" + c.sha256), Kind: airgap.KindPackage,
			Name: r.name, Version: r.version, Arch: arch(c.dist), Why: r.why})
		if c.yanked != "" {
			text := strings.ReplaceAll(c.yanked, "\n", " ") + "\n"
			out = append(out, airgap.Item{Path: yankedDir + c.file, URL: indexes[0] + "/" + r.name + "/", Size: int64(len(text)), SHA256: blob.FromBytes([]byte(text)), Kind: airgap.KindEvidence, Text: text})
		}
	}
	return out, nil
}

// pythonOf is the Python that requires-python is asked for: a late one when the
// target has any.
func pythonOf(t target) string { return cmp.Or(t.python, "3.99") }

// arch tells the files of one version apart.
func arch(d dist) string {
	if !d.wheel {
		return "source"
	}
	return strings.Join(d.pythons, ".") + "-" + strings.Join(d.abis, ".") + "-" + strings.Join(d.platforms, ".")
}
