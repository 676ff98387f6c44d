package apt

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/blob"
)

// pkg is a binary package as an index describes it.
type pkg struct {
	name, version, arch string
	filename            string
	size                int64
	sha256              blob.Digest
	depends, recommends string
	provides            []relation
	priority            string
	base                string // address of the archive it is in
}

func (p *pkg) id() string { return p.name + " " + p.version + " " + p.arch }

// universe is what one architecture can choose from.
type universe struct {
	arch     string
	byName   map[string][]*pkg // greatest version first
	provides map[string][]*pkg
}

func newUniverse(arch string, pkgs []*pkg) *universe {
	u := &universe{arch, map[string][]*pkg{}, map[string][]*pkg{}}
	for _, p := range pkgs {
		if p.arch != arch && p.arch != "all" {
			continue
		}
		u.byName[p.name] = append(u.byName[p.name], p)
		for _, v := range p.provides {
			u.provides[v.name] = append(u.provides[v.name], p)
		}
	}
	for _, ps := range u.byName {
		slices.SortStableFunc(ps, func(a, b *pkg) int { return compareVersions(b.version, a.version) })
	}
	for _, ps := range u.provides {
		slices.SortStableFunc(ps, func(a, b *pkg) int {
			return cmp.Or(cmp.Compare(rank(a.priority), rank(b.priority)), cmp.Compare(a.name, b.name), compareVersions(b.version, a.version))
		})
	}
	return u
}

func rank(priority string) int {
	if i := slices.Index([]string{"required", "important", "standard", "optional"}, priority); i >= 0 {
		return i
	}
	return 4
}

// satisfies are the packages that satisfy r, the best first.
func (u *universe) satisfies(r relation) []*pkg {
	if r.arch != "" && r.arch != "any" && r.arch != "native" && r.arch != u.arch {
		return nil
	}
	var out []*pkg
	for _, p := range u.byName[r.name] {
		if r.accepts(p.version) {
			out = append(out, p)
		}
	}
	for _, p := range u.provides[r.name] {
		for _, v := range p.provides {
			// Policy 7.5: an unversioned Provides satisfies no versioned relation.
			if v.name == r.name && (r.op == "" || v.op == "=" && r.accepts(v.version)) {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// chosen is a package and what brought it in.
type chosen struct {
	p   *pkg
	why string
}

// closure takes the packages named by roots and everything that they depend
// on. A root is a name, NAME=VERSION, or priority:NAME.
func (u *universe) closure(roots []string, recommends bool) ([]chosen, error) {
	c := &closing{u: u, taken: map[string]chosen{}}
	var errs []error
	for _, root := range slices.Sorted(slices.Values(roots)) {
		if err := c.root(root); err != nil {
			errs = append(errs, err)
		}
	}
	for len(c.queue) > 0 {
		p := c.queue[0]
		c.queue = c.queue[1:]
		for _, group := range parseRelations(p.depends, u.arch) {
			if err := c.need(p, group); err != nil {
				errs = append(errs, err)
			}
		}
		if !recommends {
			continue
		}
		for _, group := range parseRelations(p.recommends, u.arch) {
			_ = c.need(p, group) // a recommendation that nobody fulfils is no error
		}
	}
	if len(errs) > 20 {
		errs = append(errs[:20], fmt.Errorf("and %d more", len(errs)-20))
	}
	out := slices.Collect(maps.Values(c.taken))
	slices.SortFunc(out, func(a, b chosen) int { return cmp.Compare(a.p.id(), b.p.id()) })
	return out, errors.Join(errs...)
}

type closing struct {
	u     *universe
	taken map[string]chosen
	queue []*pkg
}

func (c *closing) take(p *pkg, why string) {
	if _, ok := c.taken[p.id()]; !ok {
		c.taken[p.id()] = chosen{p, why}
		c.queue = append(c.queue, p)
	}
}

func (c *closing) root(root string) error {
	if prio, ok := strings.CutPrefix(root, "priority:"); ok {
		n := len(c.taken)
		for _, name := range slices.Sorted(maps.Keys(c.u.byName)) {
			if p := c.u.byName[name][0]; p.priority == prio {
				c.take(p, root)
			}
		}
		if len(c.taken) == n {
			return fmt.Errorf("no package of %s has priority %s", c.u.arch, prio)
		}
		return nil
	}
	name, version, exact := strings.Cut(root, "=")
	r := relation{name: name}
	if exact {
		r.op, r.version = "=", version
	}
	ps := c.u.satisfies(r)
	if len(ps) == 0 {
		have := ""
		if all := c.u.byName[name]; len(all) > 0 {
			have = "; there is " + all[0].version
		}
		return fmt.Errorf("no suite has the package %s for %s%s", root, c.u.arch, have)
	}
	c.take(ps[0], "the site file")
	return nil
}

// need takes one alternative of a group: one that is taken already, else the
// first that can be satisfied, as apt does.
func (c *closing) need(by *pkg, group []relation) error {
	var first *pkg
	for _, r := range group {
		for _, p := range c.u.satisfies(r) {
			if _, ok := c.taken[p.id()]; ok {
				return nil
			}
			if first == nil {
				first = p
			}
		}
	}
	if first == nil {
		var words []string
		for _, r := range group {
			words = append(words, r.String())
		}
		return fmt.Errorf("%s %s needs %s, which no suite of this mirror has for %s: add the suite or the component that has it", by.name, by.version, strings.Join(words, " | "), c.u.arch)
	}
	c.take(first, by.name)
	return nil
}
