package airgap

import "strings"

// Licence is what a thing's metadata says of its licence: one, or several that
// are joined. SPDX specification 2.3, annex D; what distributions wrote before
// it, "MIT and GPLv2+", reads the same.
type Licence struct {
	Name  string    // of one; with its exception: "GPL-2.0-only WITH Classpath-exception-2.0"
	Any   bool      // of several: one may be chosen
	Parts []Licence // none: it is one
}

// ParseLicence reads an expression. What is none is a name as it stands.
func ParseLicence(s string) Licence {
	spaced := strings.NewReplacer("(", " ( ", ")", " ) ").Replace(s)
	p := licenceParser{words: strings.Fields(spaced)}
	l := p.or(0)
	if p.bad || len(p.words) > 0 || l.Name == "" && len(l.Parts) == 0 {
		return Licence{Name: strings.TrimSpace(s)}
	}
	return l
}

// String writes an expression whose licences are named by name.
func (l Licence) String(name func(string) string) string {
	if len(l.Parts) == 0 {
		return name(l.Name)
	}
	var out []string
	for _, p := range l.Parts {
		s := p.String(name)
		if len(p.Parts) > 0 {
			s = "(" + s + ")"
		}
		out = append(out, s)
	}
	if l.Any {
		return strings.Join(out, " OR ")
	}
	return strings.Join(out, " AND ")
}

// Names are the licences of an expression.
func (l Licence) Names() []string {
	if len(l.Parts) == 0 {
		return []string{l.Name}
	}
	var out []string
	for _, p := range l.Parts {
		out = append(out, p.Names()...)
	}
	return out
}

// refused finds a licence that keeps a thing from being taken: of those that
// one may choose from, all must be bad.
func (l Licence) refused(bad func(name string) bool) (string, bool) {
	if len(l.Parts) == 0 {
		return l.Name, bad(l.Name)
	}
	first := ""
	for _, p := range l.Parts {
		name, no := p.refused(bad)
		switch {
		case no && !l.Any:
			return name, true
		case !no && l.Any:
			return "", false
		case no && first == "":
			first = name
		}
	}
	return first, l.Any
}

const maxLicenceDepth = 32

// licenceParser reads words; AND binds more than OR.
type licenceParser struct {
	words []string
	bad   bool
}

func (p *licenceParser) next(word string) bool {
	if len(p.words) > 0 && strings.EqualFold(p.words[0], word) {
		p.words = p.words[1:]
		return true
	}
	return false
}

func (p *licenceParser) or(depth int) Licence  { return p.joined(depth, "OR", true, p.and) }
func (p *licenceParser) and(depth int) Licence { return p.joined(depth, "AND", false, p.one) }

func (p *licenceParser) joined(depth int, word string, choice bool, part func(int) Licence) Licence {
	l := Licence{Any: choice, Parts: []Licence{part(depth)}}
	for !p.bad && p.next(word) {
		l.Parts = append(l.Parts, part(depth))
	}
	if len(l.Parts) == 1 {
		return l.Parts[0]
	}
	return l
}

func (p *licenceParser) one(depth int) Licence {
	if p.next("(") {
		if depth == maxLicenceDepth {
			p.bad = true
			return Licence{}
		}
		l := p.or(depth + 1)
		p.bad = p.bad || !p.next(")")
		return l
	}
	name := p.name()
	if p.next("WITH") {
		name += withWord + p.exception()
	}
	return Licence{Name: name}
}

const withWord = " WITH "

// exception is one word, or, as Debian's copyright files have it, several that
// end with "exception": https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
func (p *licenceParser) exception() string {
	out := p.name()
	for n, w := range p.words {
		if strings.ContainsAny(w, "(),;/") || joins(w) {
			break
		}
		if strings.EqualFold(w, "exception") {
			out += " " + strings.Join(p.words[:n+1], " ")
			p.words = p.words[n+1:]
			break
		}
	}
	return out
}

// joins tells whether a word is an operator.
func joins(w string) bool {
	return strings.EqualFold(w, "AND") || strings.EqualFold(w, "OR") || strings.EqualFold(w, "WITH")
}

// withoutException is the licence that an exception is to, "" when name has
// none. It may be no expression: "GPLv2 with the usual exceptions".
func withoutException(name string) string {
	i := strings.Index(strings.ToUpper(name), withWord)
	return strings.TrimSpace(name[:max(i, 0)])
}

// name is one word: free text, such as "BSD License", is no expression.
func (p *licenceParser) name() string {
	if len(p.words) == 0 || strings.ContainsAny(p.words[0], "(),;/") || joins(p.words[0]) {
		p.bad = true
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}
