package gomod

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/airgap"
)

// modFile is a go.mod that was read.
type modFile struct {
	item     airgap.Item
	requires []module.Version
	pruned   bool
}

// maxModules is the most modules of one graph.
const maxModules = 100_000

// graph reads the go.mod files of everything that is wanted: what is listed,
// and for each root the modules that go's own loader would read. Of these the
// greatest version of each path is taken with its zip, which is the version
// that go selects: https://go.dev/ref/mod#minimal-version-selection. So are the
// versions that a root itself requires: go reads no further when it need not.
func (r *resolver) graph(ctx context.Context, w wants) (map[module.Version]wanted, error) {
	all := maps.Clone(w.listed)
	if err := r.load(ctx, slices.Collect(maps.Keys(all))); err != nil {
		return nil, err
	}
	for _, rt := range w.roots {
		nodes, first, err := r.walk(ctx, rt)
		if err != nil {
			return nil, err
		}
		selected := map[string]string{}
		for v := range nodes {
			if semver.Compare(v.Version, selected[v.Path]) > 0 {
				selected[v.Path] = v.Version
			}
		}
		for v, why := range nodes {
			old := all[v]
			if old.why != "" {
				why = old.why
			}
			all[v] = wanted{v, old.zip || first[v] || selected[v.Path] == v.Version, why}
		}
	}
	return all, nil
}

// walk gives the modules of a root's graph and what brought each in, level by
// level, pruned as go does: https://go.dev/ref/mod#graph-pruning. first are the
// root's own requirements.
func (r *resolver) walk(ctx context.Context, rt root) (why map[module.Version]string, first map[module.Version]bool, err error) {
	type node struct {
		v      module.Version
		expand bool
	}
	why, first = map[module.Version]string{}, map[module.Version]bool{}
	seen := map[node]bool{}
	var level []node
	add := func(to *[]node, v module.Version, expand bool, by string) {
		if _, ok := why[v]; !ok {
			why[v] = by
		}
		if n := (node{v, expand}); !seen[n] {
			seen[n] = true
			*to = append(*to, n)
		}
	}
	for _, v := range rt.requires {
		add(&level, v, true, rt.why)
	}
	if rt.why == "the site file" { // a module that may be the main one, or be required by it
		if err := r.load(ctx, rt.requires); err != nil {
			return nil, nil, err
		}
		for _, v := range rt.requires {
			rt.pruned = rt.pruned && r.mods[v].pruned
			for _, q := range r.mods[v].requires {
				add(&level, q, true, v.Path+"@"+v.Version)
			}
		}
	}
	for _, n := range level {
		first[n.v] = true
	}
	for len(level) > 0 {
		if len(why) > maxModules {
			return nil, nil, fmt.Errorf("the graph of %s has more than %d modules", rt.why, maxModules)
		}
		var vs []module.Version
		for _, n := range level {
			vs = append(vs, n.v)
		}
		if err := r.load(ctx, vs); err != nil {
			return nil, nil, err
		}
		var next []node
		for _, n := range level {
			if !n.expand {
				continue
			}
			for _, q := range r.mods[n.v].requires {
				add(&next, q, !rt.pruned || !r.mods[n.v].pruned, n.v.Path+"@"+n.v.Version)
			}
		}
		level = next
	}
	return why, first, nil
}

// load fetches and reads go.mod files that were not read yet.
func (r *resolver) load(ctx context.Context, vs []module.Version) error {
	todo := map[module.Version]bool{}
	for _, v := range vs {
		if _, ok := r.mods[v]; !ok {
			todo[v] = true
		}
	}
	sorted := sortedVersions(todo)
	if err := r.lookup(ctx, sorted); err != nil {
		return err
	}
	var unknown []airgap.Unknown
	var items []airgap.Item
	for _, v := range sorted {
		it, err := r.item(v, ".mod")
		if err != nil {
			return err
		}
		if it.Sum, err = r.sum(v, "/go.mod"); err != nil {
			return err
		}
		if old, ok := r.known(it); ok {
			items = append(items, old)
		} else {
			unknown = append(unknown, airgap.Unknown{Item: it, Check: checkMod(it.Sum)})
		}
	}
	if err := r.env.Fetch.All(ctx, items); err != nil {
		return err
	}
	got, err := r.env.Fetch.Learn(ctx, unknown)
	if err != nil {
		return err
	}
	for _, it := range append(items, got...) {
		data, err := airgap.ReadBlob(ctx, r.env.Blobs, it.SHA256, maxModFile)
		if err != nil {
			return fmt.Errorf("%s: %w", it.Path, err)
		}
		mf, err := modfile.ParseLax(it.Path, data, nil)
		if err != nil {
			return err
		}
		m := modFile{item: it, pruned: prunes(mf)}
		for _, q := range mf.Require {
			if err := checkVersion(q.Mod); err != nil {
				return fmt.Errorf("%s: %w", it.Path, err)
			}
			m.requires = append(m.requires, q.Mod)
		}
		r.mods[module.Version{Path: it.Name, Version: it.Version}] = m
	}
	return nil
}

// lookup asks the database for many at once.
func (r *resolver) lookup(ctx context.Context, vs []module.Version) error {
	if r.db == nil {
		return nil
	}
	g, _ := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, v := range vs {
		if module.MatchPrefixPatterns(r.private, v.Path) {
			continue
		}
		g.Go(func() error { return r.db.lookup(v) })
	}
	return g.Wait()
}

func checkMod(want string) func(io.ReaderAt, int64) error {
	return func(r io.ReaderAt, size int64) error {
		got, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(r, 0, size)), nil
		})
		return sameSum(got, want, err)
	}
}

func sameSum(got, want string, err error) error {
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("its sum is %s, and %s is vouched for", got, want)
	}
	return nil
}

// checkZip compares a module's zip: https://go.dev/ref/mod#zip-files.
func checkZip(v module.Version, want string) func(io.ReaderAt, int64) error {
	return func(r io.ReaderAt, size int64) error {
		if size > modzip.MaxZipFile {
			return fmt.Errorf("it has %d bytes; at most %d are allowed", size, int64(modzip.MaxZipFile))
		}
		z, err := zip.NewReader(r, size)
		if err != nil {
			return err
		}
		files := map[string]*zip.File{}
		var total uint64
		for _, f := range z.File {
			name, ok := strings.CutPrefix(f.Name, v.Path+"@"+v.Version+"/")
			if !ok {
				return fmt.Errorf("its file %q is not below %s@%s/", f.Name, v.Path, v.Version)
			}
			if err := airgap.CheckPath(strings.TrimSuffix(name, "/")); err != nil { // some old zips have folders
				return err
			}
			if files[f.Name] != nil {
				return fmt.Errorf("its file %q is there twice", f.Name)
			}
			if total += f.UncompressedSize64; f.UncompressedSize64 > modzip.MaxZipFile || total > modzip.MaxZipFile {
				return fmt.Errorf("unpacked it has more than %d bytes", int64(modzip.MaxZipFile))
			}
			files[f.Name] = f
		}
		got, err := dirhash.Hash1(slices.Collect(maps.Keys(files)), func(name string) (io.ReadCloser, error) {
			rc, err := files[name].Open()
			if err != nil {
				return nil, err
			}
			return &bounded{rc, int64(files[name].UncompressedSize64)}, nil
		})
		return sameSum(got, want, err)
	}
}

// bounded ends a file that unpacks to more than it says.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("a file of it unpacks to more than it says")
	}
	return n, err
}

// pseudo tells whether a version is a commit's.
func pseudo(v string) bool { return module.IsPseudoVersion(v) }

func lines(words []string) []byte {
	var b bytes.Buffer
	for _, w := range words {
		b.WriteString(w + "\n")
	}
	return b.Bytes()
}
