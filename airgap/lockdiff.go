package airgap

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Diff says in sentences what is different in b than in a. Equal locks give
// none.
func Diff(a, b Lock) []string {
	var out []string
	names := map[string]bool{}
	for _, l := range []Lock{a, b} {
		for _, m := range l.Mirrors {
			names[m.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		ma, inA := a.Mirror(name)
		mb, inB := b.Mirror(name)
		var lines []string
		switch {
		case !inA:
			lines = []string{fmt.Sprintf("the mirror is new: %d files.", len(mb.Items))}
		case !inB:
			lines = []string{"the mirror is gone."}
		default:
			lines = diffMirror(ma, mb)
		}
		for _, l := range lines {
			out = append(out, name+": "+l)
		}
	}
	return out
}

func diffMirror(a, b LockedMirror) []string {
	out := append(diffSpec(a.Spec, b.Spec), diffTrust(a.Trust, b.Trust)...)
	return append(out, diffItems(a.Items, b.Items)...)
}

// diffSpec says what the site wants otherwise. Files of their own are told of
// as items.
func diffSpec(a, b Mirror) []string {
	var out []string
	list := func(what string, a, b []string) {
		not := func(x, y []string) []string {
			return slices.DeleteFunc(slices.Clone(x), func(s string) bool { return slices.Contains(y, s) })
		}
		if more := not(b, a); len(more) > 0 {
			out = append(out, fmt.Sprintf("the site wants %s %s too.", what, strings.Join(more, ", ")))
		}
		if less := not(a, b); len(less) > 0 {
			out = append(out, fmt.Sprintf("the site does not want %s %s any more.", what, strings.Join(less, ", ")))
		}
	}
	if (len(a.Packages) == 0) != (len(b.Packages) == 0) {
		out = append(out, map[bool]string{true: "the site wants the whole mirror now.", false: "the site wants only some packages now."}[len(b.Packages) == 0])
	}
	list("the archive", a.URLs, b.URLs)
	list("the suite", a.Suites, b.Suites)
	list("the component", a.Components, b.Components)
	list("the architecture", a.Archs, b.Archs)
	list("the package", a.Packages, b.Packages)
	list("the keyring", a.Keyrings, b.Keyrings)
	list("the file", a.Lockfiles, b.Lockfiles)
	list("Python", a.Python, b.Python)
	list("to omit", a.Omit, b.Omit)
	list("the installer's package", a.Udebs, b.Udebs)
	truth := func(what string, a, b bool) {
		if a != b {
			out = append(out, fmt.Sprintf("%s: %t became %t.", what, a, b))
		}
	}
	truth("recommends", a.Recommends, b.Recommends)
	truth("resign", a.Resign, b.Resign)
	truth("bootstrap", a.Bootstrap, b.Bootstrap)
	truth("sources", a.Sources, b.Sources)
	truth("installer", a.Installer, b.Installer)
	if a.Signed != b.Signed {
		out = append(out, fmt.Sprintf("ATTENTION: upstream signs its %s; it was its %s.", cmp.Or(b.Signed, "index"), cmp.Or(a.Signed, "index")))
	}
	return out
}

func diffTrust(a, b []Trust) []string {
	of := func(ts []Trust) map[string]Trust {
		out := map[string]Trust{}
		for _, t := range ts {
			out[t.What] = t
		}
		return out
	}
	ta, tb := of(a), of(b)
	var out []string
	for _, t := range b {
		old, ok := ta[t.What]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s is new%s.", t.What, signedText(t)))
		case old.SignedBy != t.SignedBy || old.Source != t.Source:
			out = append(out, fmt.Sprintf("ATTENTION: %s is trusted for another reason:%s; it was%s.", t.What, signedText(t), signedText(old)))
		case old.Date != t.Date:
			out = append(out, fmt.Sprintf("%s is as of %s; it was as of %s.", t.What, t.Date, old.Date))
		}
	}
	for _, t := range a {
		if _, ok := tb[t.What]; !ok {
			out = append(out, t.What+" is gone.")
		}
	}
	return out
}

func signedText(t Trust) string {
	if t.SignedBy == "" {
		return " by " + t.Source
	}
	return " signed by " + t.SignedBy + " of " + t.Source
}

// itemKey is what makes two items versions of one thing.
func itemKey(it Item) string {
	if it.Name == "" {
		return it.Path
	}
	return it.Name + " (" + cmp.Or(it.Arch, "any") + ")"
}

func diffItems(a, b []Item) []string {
	if len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) {
		return nil // nothing was resolved anew
	}
	of := func(items []Item) map[string][]Item {
		out := map[string][]Item{}
		for _, it := range items {
			if it.Kind == KindPackage || it.Kind == KindFile {
				out[itemKey(it)] = append(out[itemKey(it)], it)
			}
		}
		return out
	}
	ia, ib := of(a), of(b)
	keys := maps.Clone(ia)
	maps.Copy(keys, ib)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		out = append(out, diffVersions(k, ia[k], ib[k])...)
	}
	return out
}

// diffVersions compares the versions of one thing.
func diffVersions(key string, a, b []Item) []string {
	same := func(x, y Item) bool { return x.Version == y.Version && x.SHA256 == y.SHA256 }
	without := func(from, these []Item) []Item {
		return slices.DeleteFunc(slices.Clone(from), func(x Item) bool {
			return slices.ContainsFunc(these, func(y Item) bool { return same(x, y) })
		})
	}
	gone, come := without(a, b), without(b, a)
	text := func(items []Item) string {
		var out []string
		for _, it := range items {
			out = append(out, cmp.Or(it.Version, it.SHA256.Short()))
		}
		return strings.Join(out, ", ")
	}
	var out []string
	for i := 0; i < len(gone); i++ {
		j := slices.IndexFunc(come, func(y Item) bool { return y.Version == gone[i].Version && y.Version != "" })
		if j < 0 {
			continue
		}
		out = append(out, fmt.Sprintf("ATTENTION: %s %s has other bytes under the same version: %s became %s.",
			key, come[j].Version, gone[i].SHA256.Short(), come[j].SHA256.Short()))
		gone, come = slices.Delete(gone, i, i+1), slices.Delete(come, j, j+1)
		i--
	}
	switch {
	case len(gone) > 0 && len(come) > 0:
		out = append(out, fmt.Sprintf("%s %s became %s.", key, text(gone), text(come)))
	case len(come) > 0:
		why := ""
		if come[0].Why != "" {
			why = ", because of " + come[0].Why
		}
		out = append(out, fmt.Sprintf("%s %s is new%s.", key, text(come), why))
	case len(gone) > 0:
		out = append(out, fmt.Sprintf("%s %s is gone.", key, text(gone)))
	}
	return out
}
