package apt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// Resolve implements airgap.Format.
func (f *Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	out, err := f.ResolveAll(ctx, env, []airgap.Mirror{m}, []*airgap.LockedMirror{prev})
	if err != nil {
		return airgap.LockedMirror{}, err
	}
	return out[0], nil
}

// joined is one of the mirrors that are resolved together.
type joined struct {
	m      airgap.Mirror
	suites []suite
	set    map[string]airgap.Item
	listing
}

func (j *joined) put(it airgap.Item) error {
	if old, ok := j.set[it.Path]; ok {
		if old.SHA256 != it.SHA256 {
			return fmt.Errorf("two suites have different files at %s: mirror them apart", it.Path)
		}
		return nil
	}
	j.set[it.Path] = it
	return nil
}

// ResolveAll implements airgap.Joint: a dependency may be in another mirror
// than the package that has it.
func (f *Format) ResolveAll(ctx context.Context, env airgap.Env, ms []airgap.Mirror, prev []*airgap.LockedMirror) ([]airgap.LockedMirror, error) {
	js := make([]*joined, len(ms))
	g, gctx := errgroup.WithContext(ctx)
	for i, m := range ms {
		js[i] = &joined{m: m, set: map[string]airgap.Item{}}
		g.Go(func() (err error) {
			if js[i].suites, err = f.suitesOf(gctx, env, m); err != nil {
				return fmt.Errorf("mirror %s: %w", m.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	inputs, err := jointInputs(env, js)
	if err != nil {
		return nil, err
	}
	unchanged := true
	for i, j := range js {
		unchanged = unchanged && prev[i] != nil && prev[i].Inputs == inputs[i]
		if prev[i] == nil {
			continue
		}
		if err := notOlder(prev[i].Trust, j.suites); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", j.m.Name, err)
		}
	}
	out := make([]airgap.LockedMirror, len(js))
	if unchanged {
		for i := range js {
			out[i] = *prev[i]
		}
		return out, nil
	}
	for i, j := range js {
		if err := j.read(ctx, env, i); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", j.m.Name, err)
		}
	}
	if err := pick(js); err != nil {
		return nil, err
	}
	if err := takeSources(js); err != nil {
		return nil, err
	}
	for i, j := range js {
		out[i] = airgap.LockedMirror{Inputs: inputs[i], Items: slices.Collect(maps.Values(j.set))}
		for _, s := range j.suites {
			out[i].Trust = append(out[i].Trust, s.trust)
		}
	}
	return out, nil
}

// suitesOf fetches and verifies the Releases of a mirror.
func (f *Format) suitesOf(ctx context.Context, env airgap.Env, m airgap.Mirror) ([]suite, error) {
	if remade(m) && env.Key == nil {
		return nil, errors.New("its index is to be signed by the site, and there is no site key: make one with fettle bundle key")
	}
	if len(m.Archs) == 0 {
		return nil, errors.New("it names no archs, such as amd64")
	}
	sources, err := f.sources(m)
	if err != nil {
		return nil, err
	}
	suites := make([]suite, len(sources))
	g, gctx := errgroup.WithContext(ctx)
	for i, candidates := range sources {
		g.Go(func() (err error) {
			suites[i], err = firstSuite(gctx, env, m, candidates)
			return err
		})
	}
	return suites, g.Wait()
}

// jointInputs is, for each mirror, a digest over everything that its
// resolution depends on: with packages picked out, all mirrors.
func jointInputs(env airgap.Env, js []*joined) ([]blob.Digest, error) {
	var all []byte
	out := make([]blob.Digest, len(js))
	for i, j := range js {
		d, err := inputsOf(env, j.m, j.suites)
		if err != nil {
			return nil, err
		}
		out[i] = d
		all = append(all, d...)
	}
	if len(js) == 1 || !slices.ContainsFunc(js, func(j *joined) bool { return !j.m.Whole() }) {
		return out, nil
	}
	for i := range out {
		out[i] = blob.FromBytes(append([]byte(out[i]), all...))
	}
	return out, nil
}

// read reads a mirror's indexes.
func (j *joined) read(ctx context.Context, env airgap.Env, number int) error {
	for _, s := range j.suites {
		for _, it := range s.signed {
			if err := j.put(it); err != nil {
				return err
			}
		}
	}
	var err error
	if j.listing, err = readIndexes(ctx, env, j.m, j.suites, j.put); err != nil {
		return err
	}
	for _, p := range j.pkgs {
		p.mirror = number
	}
	if err := j.takeUdebs(); err != nil {
		return err
	}
	for _, it := range j.netboot {
		if err := j.put(it); err != nil {
			return err
		}
	}
	return nil
}

func (j *joined) take(p *pkg, why string) error {
	return j.put(airgap.Item{Path: p.filename, URL: p.base + "/" + (&url.URL{Path: p.filename}).EscapedPath(), Size: p.size, SHA256: p.sha256,
		Kind: airgap.KindPackage, Name: p.name, Version: p.version, Arch: p.arch, Why: why})
}

// codename is what the pockets of one distribution's release have in common:
// bookworm of bookworm-updates and bookworm/updates.
func codename(suite string) string {
	if i := strings.IndexAny(suite, "-/"); i > 0 {
		return suite[:i]
	}
	return suite
}

// essential is a package that every release of a distribution has and no
// archive of third parties.
const essential = "base-files"

// worlds are sets of packages that one system is installed from: all pockets of
// a distribution's release, and the archives of third parties, which belong to
// each of them.
func worlds(js []*joined) [][]*pkg {
	bases := map[string]bool{}
	for _, j := range js {
		for _, p := range j.pkgs {
			if p.name == essential {
				bases[codename(p.suite)] = true
			}
		}
	}
	collect := func(in func(name string) bool) []*pkg {
		var out []*pkg
		for _, j := range js {
			for _, p := range j.pkgs {
				if in(codename(p.suite)) {
					out = append(out, p)
				}
			}
		}
		return out
	}
	if len(bases) == 0 {
		return [][]*pkg{collect(func(string) bool { return true })}
	}
	var out [][]*pkg
	for _, base := range slices.Sorted(maps.Keys(bases)) {
		out = append(out, collect(func(name string) bool { return name == base || !bases[name] }))
	}
	return out
}

// pick takes the packages of all mirrors: of whole ones all, of others those
// that are named and what they need.
func pick(js []*joined) error {
	for _, j := range js {
		if !j.m.Whole() {
			continue
		}
		for _, p := range j.pkgs {
			if err := j.take(p, ""); err != nil {
				return fmt.Errorf("mirror %s: %w", j.m.Name, err)
			}
		}
	}
	if !slices.ContainsFunc(js, func(j *joined) bool { return !j.m.Whole() }) {
		return nil
	}
	found := map[root]bool{}
	missing := map[root]*errNoPackage{}
	var errs []error
	for _, world := range worlds(js) {
		for _, arch := range archsOfAll(js) {
			if err := pickWorld(js, newUniverse(arch, world), found, missing); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, j := range js {
		if err := j.bootstrap(); err != nil {
			errs = append(errs, fmt.Errorf("mirror %s: %w", j.m.Name, err))
		}
	}
	// One that only one release or architecture has is there.
	for r, e := range missing {
		if !found[r] {
			err := error(e)
			if r.why != "" {
				err = fmt.Errorf("%w, which is needed by: %s", e, r.why)
			}
			errs = append(errs, err)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func archsOfAll(js []*joined) []string {
	var out []string
	for _, j := range js {
		for _, a := range j.m.Archs {
			if a != "all" && !slices.Contains(out, a) && !j.m.Whole() {
				out = append(out, a)
			}
		}
	}
	return out
}

// roots are what the mirrors that have an architecture are asked for.
func roots(js []*joined, arch string) []root {
	var out []root
	for i, j := range js {
		if !slices.Contains(j.m.Archs, arch) {
			continue
		}
		for _, name := range slices.Sorted(slices.Values(j.m.Packages)) {
			out = append(out, root{name: name, mirror: i})
		}
		for _, n := range j.m.Needs {
			out = append(out, root{name: n.Name, why: n.Why, mirror: -1})
		}
	}
	return out
}

func pickWorld(js []*joined, u *universe, found map[root]bool, missing map[root]*errNoPackage) error {
	var here []root
	for _, r := range roots(js, u.arch) {
		probe := &closing{u: u, taken: map[string]chosen{}}
		var none *errNoPackage
		if err := probe.root(r); errors.As(err, &none) {
			missing[r] = none
			continue
		}
		found[r] = true
		here = append(here, r)
	}
	got, err := u.closure(here, func(mirror int) bool { return js[mirror].m.Recommends })
	if err != nil {
		return err
	}
	for _, c := range got {
		j := js[c.p.mirror]
		if j.m.Whole() {
			continue // it is there
		}
		if err := j.take(c.p, c.why); err != nil {
			return fmt.Errorf("mirror %s: %w", j.m.Name, err)
		}
	}
	return nil
}

// bootstrap adds what debootstrap(8) installs before apt is there. It looks
// into one suite, so that a newer version in another pocket is no help.
func (j *joined) bootstrap() error {
	if !j.m.Bootstrap && !j.m.Installer || j.m.Whole() {
		return nil
	}
	for _, s := range j.suites {
		own := slices.DeleteFunc(slices.Clone(j.pkgs), func(p *pkg) bool { return p.suite != s.suite })
		if !slices.ContainsFunc(own, func(p *pkg) bool { return p.name == essential }) {
			continue // a pocket
		}
		for _, arch := range j.m.Archs {
			if arch == "all" {
				continue
			}
			why := "debootstrap of " + s.suite
			u := newUniverse(arch, own)
			sets := [][]root{{{"priority:required", why, -1}, {"priority:important", why, -1}, {"apt", why, -1}}}
			// Its scripts add these where the release has them. Each is closed by
			// itself: usr-is-merged must not pass for the usrmerge that others need.
			for _, name := range []string{"usr-is-merged", "ca-certificates"} {
				if len(u.byName[name]) > 0 {
					sets = append(sets, []root{{name, why, -1}})
				}
			}
			if j.m.Installer {
				sets = append(sets, installerRoots(u, s.suite))
			}
			for _, roots := range sets {
				got, err := u.closure(roots, func(int) bool { return false })
				if err != nil {
					return err
				}
				for _, c := range got {
					if err := j.take(c.p, c.why); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}
