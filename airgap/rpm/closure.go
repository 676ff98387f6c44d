package rpm

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// universe is what one set of architectures can choose from.
type universe struct {
	byName   map[string][]*pkg // the newest first
	provides map[string][]*pkg
	obsolete map[string][]*pkg // who obsoletes a name
	files    map[string][]*pkg
	missing  map[string]bool // files that nobody is known to have
	archs    []string        // the preferred first; noarch is as good as that
}

func newUniverse(archs []string, pkgs []*pkg) *universe {
	u := &universe{archs: archs, byName: map[string][]*pkg{}, provides: map[string][]*pkg{}, obsolete: map[string][]*pkg{}, files: map[string][]*pkg{}, missing: map[string]bool{}}
	for _, p := range pkgs {
		u.byName[p.name] = append(u.byName[p.name], p)
		for _, r := range p.provides {
			if l := u.provides[r.name]; len(l) == 0 || l[len(l)-1] != p {
				u.provides[r.name] = append(l, p)
			}
		}
		for _, r := range p.obsoletes {
			u.obsolete[r.name] = append(u.obsolete[r.name], p)
		}
		for _, f := range p.files {
			u.files[f] = append(u.files[f], p)
		}
	}
	for _, ps := range u.byName {
		slices.SortStableFunc(ps, func(a, b *pkg) int {
			return cmp.Or(compareEVR(b.evr, a.evr), cmp.Compare(u.rank(a), u.rank(b)), cmp.Compare(a.repo, b.repo))
		})
	}
	return u
}

// satisfies are the packages that satisfy a relation, the best first: of the
// same name, then short names, then by name; of each name the newest.
func (u *universe) satisfies(r relation) []*pkg {
	var out []*pkg
	for _, p := range u.provides[r.name] {
		if slices.ContainsFunc(p.provides, r.overlaps) {
			out = append(out, p)
		}
	}
	for _, p := range u.byName[r.name] {
		if !slices.Contains(out, p) && r.overlaps(relation{p.name, "=", p.evr}) {
			out = append(out, p)
		}
	}
	if strings.HasPrefix(r.name, "/") {
		for _, p := range u.files[r.name] {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
		if len(out) == 0 {
			u.missing[r.name] = true
		}
	}
	slices.SortStableFunc(out, func(a, b *pkg) int {
		return cmp.Or(-compareBool(a.name == r.name, b.name == r.name), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name), compareEVR(b.evr, a.evr), cmp.Compare(u.rank(a), u.rank(b)))
	})
	return out
}

func (u *universe) rank(p *pkg) int {
	if p.arch == "noarch" {
		return 0
	}
	return slices.Index(u.archs, p.arch)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// chosen is a package and what brought it in.
type chosen struct {
	p   *pkg
	why string
}

// closing is a closure under way.
type closing struct {
	u       *universe
	taken   map[*pkg]string // why
	names   map[string][]*pkg
	queue   []*pkg
	pending []pending // conditions that were not fulfilled
}

type pending struct {
	by *pkg
	e  *expr
}

// closure takes what roots name and everything that it requires, also what
// obsoletes it, since dnf installs that instead.
func (u *universe) closure(roots []airgap.Need, weak bool) ([]chosen, error) {
	c := &closing{u: u, taken: map[*pkg]string{}, names: map[string][]*pkg{}}
	var errs []error
	for _, root := range roots {
		if err := c.root(root); err != nil {
			errs = append(errs, err)
		}
	}
	for {
		c.drain(weak, &errs)
		if !c.again(&errs) && (!weak || !c.supplements()) {
			break
		}
	}
	var out []chosen
	for p, why := range c.taken {
		out = append(out, chosen{p, why})
	}
	slices.SortFunc(out, func(a, b chosen) int { return cmp.Compare(a.p.nevra(), b.p.nevra()) })
	return out, airgap.Several(errs)
}

func (c *closing) drain(weak bool, errs *[]error) {
	for len(c.queue) > 0 {
		p := c.queue[0]
		c.queue = c.queue[1:]
		for _, e := range p.requires {
			if err := c.need(p, e); err != nil {
				*errs = append(*errs, err)
			}
		}
		for _, q := range c.u.obsolete[p.name] {
			if q.name != p.name && slices.ContainsFunc(q.obsoletes, func(r relation) bool { return r.overlaps(relation{p.name, "=", p.evr}) }) {
				c.take(q, "it obsoletes "+p.name)
			}
		}
		if weak {
			for _, e := range p.recommends {
				_ = c.need(p, e) // a recommendation that nobody fulfils is no error
			}
		}
	}
}

// again tries conditions that were not fulfilled, until none becomes so.
func (c *closing) again(errs *[]error) bool {
	old := c.pending
	c.pending = nil
	for _, p := range old {
		if err := c.need(p.by, p.e); err != nil {
			*errs = append(*errs, err)
		}
	}
	return len(c.queue) > 0
}

// supplements takes packages that say of themselves that they belong to what
// is taken.
func (c *closing) supplements() bool {
	for _, name := range slices.Sorted(maps.Keys(c.u.byName)) {
		p := c.u.byName[name][0]
		if _, ok := c.taken[p]; ok {
			continue
		}
		for _, e := range p.supplements {
			if c.holds(e) {
				c.take(p, "it supplements "+e.String())
			}
		}
	}
	return len(c.queue) > 0
}

func (c *closing) take(p *pkg, why string) {
	if _, ok := c.taken[p]; !ok {
		c.taken[p] = why
		c.names[p.name] = append(c.names[p.name], p)
		c.queue = append(c.queue, p)
	}
}

// root takes what a person named: NAME, NAME-VERSION, NAME-VERSION-RELEASE,
// with .ARCH, a path, or what packages provide.
func (c *closing) root(n airgap.Need) error {
	if ps := c.u.satisfies(relation{name: n.Name}); len(ps) > 0 {
		c.take(ps[0], n.Why)
		for _, p := range ps[1:] { // of other architectures of a multilib machine
			if p.name == ps[0].name && p.arch != ps[0].arch && compareEVR(p.evr, ps[0].evr) == 0 && ps[0].name == n.Name {
				c.take(p, n.Why)
			}
		}
		return nil
	}
	for i := range len(n.Name) {
		if n.Name[i] != '-' {
			continue
		}
		for _, p := range c.u.byName[n.Name[:i]] {
			full := p.evr.version + "-" + p.evr.release
			if rest := n.Name[i+1:]; rest == p.evr.version || rest == full || rest == full+"."+p.arch || rest == p.evr.epoch+":"+full || rest == p.evr.epoch+":"+full+"."+p.arch {
				c.take(p, n.Why)
				return nil
			}
		}
	}
	if i := strings.LastIndex(n.Name, "."); i > 0 {
		for _, p := range c.u.byName[n.Name[:i]] {
			if p.arch == n.Name[i+1:] {
				c.take(p, n.Why)
				return nil
			}
		}
	}
	return fmt.Errorf("no repository has %s, which %s wants", n.Name, n.Why)
}

// find is a package that satisfies r: one that is taken already, else the best.
func (c *closing) find(r relation) *pkg {
	ps := c.u.satisfies(r)
	for _, p := range ps {
		if _, ok := c.taken[p]; ok {
			return p
		}
	}
	if len(ps) == 0 {
		return nil
	}
	return ps[0]
}

// need fulfils a requirement of a package.
func (c *closing) need(by *pkg, e *expr) error {
	ps, ok := c.fulfil(by, e)
	if !ok {
		return fmt.Errorf("%s needs %s, which no repository has: add the mirror that has it", by, e)
	}
	for _, p := range ps {
		c.take(p, by.name)
	}
	return nil
}

// fulfil gives packages that fulfil a requirement; what is conditional waits.
func (c *closing) fulfil(by *pkg, e *expr) ([]*pkg, bool) {
	switch e.rich {
	case "":
		if e.overlaps(relation{by.name, "=", by.evr}) || slices.ContainsFunc(by.provides, e.overlaps) {
			return nil, true
		}
		p := c.find(e.relation)
		return []*pkg{p}, p != nil
	case "and":
		var out []*pkg
		for _, a := range e.args {
			ps, ok := c.fulfil(by, a)
			if !ok {
				return nil, false
			}
			out = append(out, ps...)
		}
		return out, true
	case "or":
		for _, a := range e.args {
			if c.holds(a) {
				return nil, true
			}
		}
		for _, a := range e.args {
			if ps, ok := c.fulfil(by, a); ok {
				return ps, true
			}
		}
		return nil, false
	case "with", "without":
		p := c.all(e)
		if len(p) == 0 {
			return nil, false
		}
		for _, q := range p {
			if _, ok := c.taken[q]; ok {
				return nil, true
			}
		}
		return p[:1], true
	case "if", "unless":
		if c.holds(e.args[1]) == (e.rich == "if") {
			return c.fulfil(by, e.args[0])
		}
		c.pending = append(c.pending, pending{by, e})
		if e.args[2] != nil {
			return c.fulfil(by, e.args[2])
		}
		return nil, true
	}
	return nil, false
}

// all are the packages that alone fulfil a requirement.
func (c *closing) all(e *expr) []*pkg {
	switch e.rich {
	case "":
		return c.u.satisfies(e.relation)
	case "with", "without":
		out := c.all(e.args[0])
		for _, a := range e.args[1:] {
			if a == nil {
				continue
			}
			other := c.all(a)
			out = slices.DeleteFunc(slices.Clone(out), func(p *pkg) bool { return slices.Contains(other, p) == (e.rich == "without") })
		}
		return out
	case "or":
		var out []*pkg
		for _, a := range e.args {
			out = append(out, c.all(a)...)
		}
		return out
	}
	return nil
}

// holds tells whether what is taken fulfils a requirement.
func (c *closing) holds(e *expr) bool {
	switch e.rich {
	case "", "with", "without":
		return slices.ContainsFunc(c.all(e), func(p *pkg) bool { _, ok := c.taken[p]; return ok })
	case "and":
		return !slices.ContainsFunc(e.args, func(a *expr) bool { return !c.holds(a) })
	case "or":
		return slices.ContainsFunc(e.args, c.holds)
	case "if", "unless":
		if c.holds(e.args[1]) == (e.rich == "if") {
			return c.holds(e.args[0])
		}
		return e.args[2] == nil || c.holds(e.args[2])
	}
	return false
}
