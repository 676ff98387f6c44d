package apt

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
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
	suite               string
	source, sourceVer   string // its source package
	pin                 int    // how ready apt is to take it: apt_preferences(5)
	mirror              int    // which of the mirrors that are resolved together
}

// key is the same for the same package of one mirror.
func (p *pkg) key() string {
	return p.name + " " + p.version + " " + p.arch + " " + strconv.Itoa(p.mirror)
}

// better orders candidates of one name as apt does: by pin, then version.
func better(a, b *pkg) int { return cmp.Or(b.pin-a.pin, compareVersions(b.version, a.version)) }

// universe is what one architecture can choose from.
type universe struct {
	arch     string
	byName   map[string][]*pkg // the best first
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
		slices.SortStableFunc(ps, better)
	}
	for _, ps := range u.provides {
		slices.SortStableFunc(ps, func(a, b *pkg) int {
			return cmp.Or(cmp.Compare(rank(a.priority), rank(b.priority)), cmp.Compare(a.name, b.name), better(a, b))
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

// root is a package that is wanted for itself: a name, NAME=VERSION, or
// priority:NAME.
type root struct {
	name, why string
	mirror    int // that has it; -1: any
}

// closure takes the packages named by roots and everything that they depend
// on. recommends tells of a mirror whether recommendations of its packages
// count.
func (u *universe) closure(roots []root, recommends func(mirror int) bool) ([]chosen, error) {
	c := &closing{u: u, taken: map[string]chosen{}}
	var errs []error
	for _, r := range roots {
		if err := c.root(r); err != nil {
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
		if !recommends(p.mirror) {
			continue
		}
		for _, group := range parseRelations(p.recommends, u.arch) {
			_ = c.need(p, group) // a recommendation that nobody fulfils is no error
		}
	}
	out := slices.Collect(maps.Values(c.taken))
	slices.SortFunc(out, func(a, b chosen) int { return cmp.Compare(a.p.key(), b.p.key()) })
	return out, airgap.Several(errs)
}

type closing struct {
	u     *universe
	taken map[string]chosen
	queue []*pkg
}

func (c *closing) take(p *pkg, why string) {
	if _, ok := c.taken[p.key()]; !ok {
		c.taken[p.key()] = chosen{p, why}
		c.queue = append(c.queue, p)
	}
}

// errNoPackage says that a root is nowhere; its text is for the user.
type errNoPackage struct{ root, arch, have string }

func (e *errNoPackage) Error() string {
	return fmt.Sprintf("no suite has the package %s for %s%s", e.root, e.arch, e.have)
}

func (c *closing) root(r root) error {
	if prio, ok := strings.CutPrefix(r.name, "priority:"); ok {
		n := len(c.taken)
		for _, name := range slices.Sorted(maps.Keys(c.u.byName)) {
			ps := c.u.byName[name]
			i := slices.IndexFunc(ps, func(p *pkg) bool { return r.mirror < 0 || p.mirror == r.mirror })
			if i >= 0 && ps[i].priority == prio {
				c.take(ps[i], cmp.Or(r.why, r.name))
			}
		}
		if len(c.taken) == n {
			return &errNoPackage{r.name, c.u.arch, ""}
		}
		return nil
	}
	name, version, exact := strings.Cut(r.name, "=")
	rel := relation{name: name}
	if exact {
		rel.op, rel.version = "=", version
	}
	for _, p := range c.u.satisfies(rel) {
		if r.mirror < 0 || p.mirror == r.mirror {
			c.take(p, cmp.Or(r.why, "the site file"))
			return nil
		}
	}
	have := ""
	for _, p := range c.u.byName[name] {
		if r.mirror < 0 || p.mirror == r.mirror {
			have = "; there is " + p.version
			break
		}
	}
	return &errNoPackage{r.name, c.u.arch, cmp.Or(have, c.u.near(name))}
}

// need takes one alternative of a group: one that is taken already, else the
// first that can be satisfied, as apt does.
func (c *closing) need(by *pkg, group []relation) error {
	var first *pkg
	for _, r := range group {
		for _, p := range c.u.satisfies(r) {
			if _, ok := c.taken[p.key()]; ok {
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
		return fmt.Errorf("%s %s needs %s, which no suite of the site's mirrors has for %s: add the suite or the component that has it", by.name, by.version, strings.Join(words, " | "), c.u.arch)
	}
	c.take(first, by.name)
	return nil
}
