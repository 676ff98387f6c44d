package rpm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// world is everything that mirrors which belong together have.
type world struct {
	env    airgap.Env
	rs     []*repo
	pkgs   []*pkg
	mods   modules
	groups map[string]group
}

// pick takes the packages of each mirror: all of a whole one, else what is
// named with what it requires, from whichever mirror has it.
func pick(ctx context.Context, env airgap.Env, rs []*repo) ([][]chosen, error) {
	w := &world{env: env, rs: rs, mods: modules{defaults: map[string]string{}, profiles: map[string][]string{}}, groups: map[string]group{}}
	out := make([][]chosen, len(rs))
	filtered := false
	for i, r := range rs {
		ps, err := r.primary(ctx, env, i)
		if err != nil {
			return nil, err
		}
		w.pkgs = append(w.pkgs, ps...)
		if !r.m.Whole() {
			filtered = true
			continue
		}
		for _, p := range ps {
			out[i] = append(out[i], chosen{p, ""})
		}
	}
	if !filtered {
		return out, nil
	}
	for _, r := range rs {
		if err := w.readExtras(ctx, r); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", r.m.Name, err)
		}
	}
	got, err := w.close(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range got {
		if !rs[c.p.repo].m.Whole() {
			out[c.p.repo] = append(out[c.p.repo], c)
		}
	}
	return out, nil
}

// readExtras reads modules and groups.
func (w *world) readExtras(ctx context.Context, r *repo) error {
	read := func(kind string, parse func(io.Reader) error) error {
		in, done, err := r.metadata(ctx, w.env, kind)
		if err != nil || in == nil {
			return err
		}
		return errors.Join(parse(in), done())
	}
	if err := read("modules", func(in io.Reader) error {
		m, err := parseModules(in)
		w.mods.streams = append(w.mods.streams, m.streams...)
		maps.Copy(w.mods.defaults, m.defaults)
		maps.Copy(w.mods.profiles, m.profiles)
		return err
	}); err != nil {
		return err
	}
	kind := "group"
	for _, k := range []string{"group", "group_gz", "group_xz", "group_zst"} {
		if r.has(k) {
			kind = k
			break
		}
	}
	return read(kind, func(in io.Reader) error {
		gs, err := parseComps(in)
		for id, g := range gs {
			old := w.groups[id]
			w.groups[id] = group{append(old.packages, g.packages...), append(old.groups, g.groups...)}
		}
		return err
	})
}

// roots are what the filtered mirrors name; groups and modules are resolved to
// their packages. optional are those that may be missing, as for dnf.
func (w *world) roots() (roots, optional []airgap.Need, on map[string]string, err error) {
	asked := map[string]string{}
	type spec struct{ name, stream, profile string }
	var specs []spec
	for _, r := range w.rs {
		all := slices.Clone(r.m.Needs)
		for _, p := range r.m.Packages {
			all = append(all, airgap.Need{Name: p, Why: "the site file"})
		}
		for _, n := range all {
			id, ok := strings.CutPrefix(n.Name, "@")
			if !ok {
				roots = append(roots, n)
				continue
			}
			if _, ok := w.groups[id]; ok {
				optional = append(optional, w.groupPackages(id, 0)...)
				continue
			}
			id, profile, _ := strings.Cut(id, "/")
			name, stream, _ := strings.Cut(id, ":")
			if stream = cmp.Or(stream, w.mods.defaults[name]); stream == "" {
				return nil, nil, nil, fmt.Errorf("there is no group %s, and no module of that name with a default stream", n.Name)
			}
			if old := asked[name]; old != "" && old != stream {
				return nil, nil, nil, fmt.Errorf("streams %s and %s of module %s are wanted: one machine can have one of them; keep them apart by suites", old, stream, name)
			}
			asked[name] = stream
			specs = append(specs, spec{name, stream, profile})
		}
	}
	if on, err = w.mods.enable(asked); err != nil {
		return nil, nil, nil, err
	}
	for _, s := range specs {
		ps, err := w.mods.install(s.name, s.stream, s.profile)
		if err != nil {
			return nil, nil, nil, err
		}
		for _, p := range ps {
			roots = append(roots, airgap.Need{Name: p, Why: "module " + s.name + ":" + s.stream})
		}
	}
	byName := func(a, b airgap.Need) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Why, b.Why)) }
	slices.SortFunc(roots, byName)
	slices.SortFunc(optional, byName)
	return roots, optional, on, nil
}

func (w *world) groupPackages(id string, depth int) []airgap.Need {
	var out []airgap.Need
	g := w.groups[id]
	for _, p := range g.packages {
		out = append(out, airgap.Need{Name: p, Why: "group " + id})
	}
	for _, sub := range g.groups {
		if depth < 10 {
			out = append(out, w.groupPackages(sub, depth+1)...)
		}
	}
	return out
}

// close makes the closure for each kind of machine.
func (w *world) close(ctx context.Context) ([]chosen, error) {
	roots, optional, on, err := w.roots()
	if err != nil {
		return nil, err
	}
	hidden := w.mods.hidden(on)
	var archs []string
	weak := false
	for _, r := range w.rs {
		weak = weak || r.m.Recommends
		archs = append(archs, r.m.Archs...)
	}
	taken := map[*pkg]chosen{}
	for _, m := range machines(archs) {
		var ps []*pkg
		for _, p := range w.pkgs {
			mine := p.arch == "noarch" || slices.Contains(m, p.arch)
			if mine && !hidden(p) {
				ps = append(ps, p)
			}
		}
		u := newUniverse(m, ps)
		rs := slices.Clone(roots)
		for _, n := range optional {
			if len(u.satisfies(relation{name: n.Name})) > 0 {
				rs = append(rs, n)
			}
		}
		got, err := w.closeFiles(ctx, u, rs, weak)
		if err != nil {
			return nil, fmt.Errorf("for %s: %w", m[0], err)
		}
		for _, c := range got {
			taken[c.p] = c
		}
	}
	byPlace := func(a, b chosen) int { return cmp.Or(cmp.Compare(a.p.repo, b.p.repo), cmp.Compare(a.p.href, b.p.href)) }
	out := slices.SortedFunc(maps.Values(taken), byPlace)
	if slices.Contains(archs, "source") || slices.Contains(archs, "src") {
		out = append(out, w.sources(out)...)
	}
	slices.SortFunc(out, byPlace)
	return out, nil
}

// closeFiles makes a closure; files that primary does not name are looked up in
// filelists, which are large and read only then.
func (w *world) closeFiles(ctx context.Context, u *universe, roots []airgap.Need, weak bool) ([]chosen, error) {
	looked := map[string]bool{}
	for {
		got, err := u.closure(roots, weak)
		want := map[string]bool{}
		for f := range u.missing {
			want[f] = !looked[f]
			looked[f] = true
		}
		maps.DeleteFunc(want, func(_ string, isNew bool) bool { return !isNew })
		if len(want) == 0 {
			return got, err
		}
		if err := w.lookFiles(ctx, u, want); err != nil {
			return nil, err
		}
	}
}

func (w *world) lookFiles(ctx context.Context, u *universe, want map[string]bool) error {
	for i, r := range w.rs {
		in, done, err := r.metadata(ctx, w.env, "filelists")
		if err != nil {
			return err
		}
		if in == nil {
			continue
		}
		err = readFiles(in, want, func(name, arch string, v evr, file string) {
			for _, p := range u.byName[name] {
				if p.repo == i && p.arch == arch && p.evr == v {
					u.files[file] = append(u.files[file], p)
				}
			}
		})
		if err := errors.Join(err, done()); err != nil {
			return fmt.Errorf("mirror %s: filelists: %w", r.m.Name, err)
		}
	}
	return nil
}

// sources are the source packages of packages.
func (w *world) sources(of []chosen) []chosen {
	bySource := map[string]*pkg{}
	for _, p := range w.pkgs {
		if p.arch == "src" || p.arch == "nosrc" {
			bySource[path.Base(p.href)] = p
		}
	}
	var out []chosen
	for _, c := range of {
		if p := bySource[c.p.source]; p != nil && c.p.source != "" {
			out = append(out, chosen{p, "the source of " + c.p.name})
			delete(bySource, c.p.source)
		}
	}
	return out
}
