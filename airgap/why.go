package airgap

import (
	"cmp"
	"slices"
	"strings"
)

// Reason is a file of a lock, and the chain of what brought it in: packages,
// then what a person or a machine wanted.
type Reason struct {
	Mirror  string   `json:"mirror"`
	Format  string   `json:"format"`
	Path    string   `json:"path"`
	Name    string   `json:"name,omitempty"`
	Version string   `json:"version,omitempty"`
	Arch    string   `json:"arch,omitempty"`
	Chain   []string `json:"chain"`
}

// Why finds what is called name - a package, an image, or a path - and says
// what brought it in. It looks into every mirror, since one may need what
// another has.
func (l Lock) Why(name string) []Reason {
	var out []Reason
	for _, m := range l.Mirrors {
		for _, it := range m.Items {
			if it.Kind == KindIndex || it.Kind == KindEvidence || it.Kind == KindPart || it.Name != name && it.Path != name {
				continue
			}
			// Of an image's files one is enough.
			if it.Kind == KindBuilt && slices.ContainsFunc(out, func(r Reason) bool { return r.Mirror == m.Name && r.Name == it.Name && r.Version == it.Version }) {
				continue
			}
			out = append(out, Reason{m.Name, m.Format, it.Path, it.Name, it.Version, it.Arch, l.chain(m, it)})
		}
	}
	return out
}

// Alike are names of the lock that a person may have meant by name, at most a
// few.
func (l Lock) Alike(name string) []string {
	var out []string
	for _, m := range l.Mirrors {
		for _, it := range m.Items {
			if it.Name != "" && strings.Contains(it.Name, name) && !slices.Contains(out, it.Name) {
				out = append(out, it.Name)
			}
		}
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return out[:min(len(out), 5)]
}

// chain follows the reasons of an item as far as they are packages.
func (l Lock) chain(m LockedMirror, it Item) []string {
	if it.Why == "" {
		return []string{"mirror " + m.Name + " is whole"}
	}
	var out []string
	seen := map[string]bool{}
	for why := it.Why; why != ""; {
		if seen[why] {
			break
		}
		seen[why] = true
		from, next, ok := l.find(m, why, it.Arch)
		if !ok {
			if why == "the site file" {
				why = "mirror " + m.Name + " of the site file"
			}
			return append(out, why)
		}
		step := next.Name
		if next.Version != "" {
			step += " " + next.Version
		}
		out = append(out, step)
		m, why = from, next.Why
		if why == "" {
			return append(out, "mirror "+m.Name+" is whole")
		}
	}
	return out
}

// find is the package of that name, or NAME@VERSION: in the same mirror if it is
// there, else in another of the same format; of a like architecture if there is
// one.
func (l Lock) find(m LockedMirror, name, arch string) (LockedMirror, Item, bool) {
	for _, likes := range []func(a, b string) bool{alikeArch, func(string, string) bool { return true }} {
		if c, it, ok := l.findArch(m, name, arch, likes); ok {
			return c, it, true
		}
	}
	return LockedMirror{}, Item{}, false
}

func (l Lock) findArch(m LockedMirror, name, arch string, likes func(a, b string) bool) (LockedMirror, Item, bool) {
	candidates := append([]LockedMirror{m}, l.Mirrors...)
	for i, c := range candidates {
		if c.Format != m.Format || i > 0 && c.Name == m.Name {
			continue
		}
		for _, it := range c.Items {
			if it.Name != "" && (it.Name == name || it.Name+"@"+it.Version == name) && it.Kind != KindEvidence && likes(it.Arch, arch) {
				return c, it, true
			}
		}
	}
	return LockedMirror{}, Item{}, false
}

// alikeArch tells whether two packages can be on one system, as far as their
// architectures say. "all" and none go with any.
func alikeArch(a, b string) bool {
	free := func(x string) bool { return x == "" || x == "all" || x == "noarch" }
	return a == b || free(a) || free(b)
}
