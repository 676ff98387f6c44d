package airgap

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// ErrPolicy says that the site's policy refuses something.
var ErrPolicy = errors.New("refused by the site's policy")

// Policy says what may be mirrored and carried. Patterns are those of
// path.Match over a name, or over MIRROR:NAME.
type Policy struct {
	Allow         []string // none: everything
	Deny          []string // wins over Allow
	AllowLicences []string // none: every licence; else one that is not known is refused, unless "unknown" is listed
	DenyLicences  []string // wins over AllowLicences; "unknown": what is not known; X is also X WITH any exception
	MaxAge        time.Duration
	OnlySigned    bool
}

// Refusal is one thing that a policy refuses, and the rule.
type Refusal struct {
	Mirror string `json:"mirror"`
	What   string `json:"what"` // e.g. a package with its version, or a suite
	Rule   string `json:"rule"`
	Why    string `json:"why,omitempty"`
}

func (r Refusal) Error() string {
	s := fmt.Sprintf("%s: %s: refused by the rule %s", r.Mirror, r.What, r.Rule)
	if r.Why != "" {
		s += " (" + r.Why + ")"
	}
	return s
}

// PolicyError is everything that a policy refuses.
type PolicyError struct{ Refusals []Refusal }

func (e *PolicyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the site's policy refuses %d things; change what the mirrors want, or policy: packages: in the site file", len(e.Refusals))
	for i, r := range e.Refusals {
		if i == 20 {
			fmt.Fprintf(&b, "\nand %d more", len(e.Refusals)-i)
			break
		}
		b.WriteString("\n" + r.Error())
	}
	return b.String()
}

// Is makes errors.Is(err, ErrPolicy) true.
func (e *PolicyError) Is(target error) bool { return target == ErrPolicy }

// NeedsLicences tells whether the policy has rules about licences.
func (p Policy) NeedsLicences() bool { return len(p.AllowLicences)+len(p.DenyLicences) > 0 }

// validate finds patterns that never match.
func (p Policy) validate() error {
	for _, list := range [][]string{p.Allow, p.Deny, p.AllowLicences, p.DenyLicences} {
		for _, pattern := range list {
			if _, err := path.Match(pattern, ""); err != nil {
				return fmt.Errorf("the policy's pattern %q: %w", pattern, err)
			}
		}
	}
	return nil
}

// Check applies the policy to a lock as of now. licences tells those of an
// item; when it is nil, rules about licences wait: before anything is fetched
// they cannot be known. The error is a [PolicyError].
func (p Policy) Check(l Lock, now time.Time, licences func(Item) []string) error {
	if err := p.validate(); err != nil {
		return err
	}
	var out []Refusal
	for _, m := range l.Mirrors {
		out = append(out, p.trust(m, now)...)
		for _, it := range m.Items {
			if it.Kind != KindPackage && it.Kind != KindFile && (it.Name == "" || it.Version == "") {
				continue
			}
			rules := p
			if it.Kind == KindBuilt { // the site's own work: it may be kept back by name
				rules = Policy{Deny: p.Deny}
			}
			if r, bad := rules.item(m, it, licences); bad {
				out = append(out, r)
			}
		}
	}
	if len(out) > 0 {
		return &PolicyError{out}
	}
	return nil
}

// trust applies what is about a mirror's indexes.
func (p Policy) trust(m LockedMirror, now time.Time) []Refusal {
	var out []Refusal
	signed := false
	for _, t := range m.Trust {
		signed = signed || t.SignedBy != ""
		at, err := time.Parse(time.RFC3339, t.Date)
		if p.MaxAge > 0 && err == nil && now.Sub(at) > p.MaxAge {
			out = append(out, Refusal{m.Name, t.What, "max-age " + days(p.MaxAge), "it is as of " + t.Date})
		}
	}
	own := !slices.ContainsFunc(m.Items, func(it Item) bool { return it.Kind != KindBuilt })
	if p.OnlySigned && !signed && !own {
		why := "nothing vouches for it"
		if len(m.Trust) > 0 {
			why = "it is trusted because of " + m.Trust[0].Source
		}
		out = append(out, Refusal{m.Name, "the mirror", "only-signed", why})
	}
	return out
}

func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return d.String()
}

// item applies what is about one item.
func (p Policy) item(m LockedMirror, it Item, licences func(Item) []string) (Refusal, bool) {
	name := it.Name
	if name == "" {
		name = it.Path
	}
	what := name
	if it.Version != "" {
		what += " " + it.Version
	}
	refuse := func(rule, why string) (Refusal, bool) { return Refusal{m.Name, what, rule, why}, true }
	why := ""
	if it.Why != "" {
		why = "brought in by " + it.Why
	}
	if pat, ok := matches(p.Deny, m.Name, name); ok {
		return refuse("deny "+pat, why)
	}
	if _, ok := matches(p.Allow, m.Name, name); len(p.Allow) > 0 && !ok {
		return refuse("allow", strings.TrimPrefix(why+", and no pattern of allow has it", ", "))
	}
	if licences == nil || !p.NeedsLicences() {
		return Refusal{}, false
	}
	ls := licences(it)
	if len(ls) == 0 {
		const unknown = "its licence is not known"
		if pat, ok := unknownIn(p.DenyLicences, m.Name); ok {
			return refuse("deny-licences "+pat, unknown)
		}
		if _, ok := unknownIn(p.AllowLicences, m.Name); len(p.AllowLicences) > 0 && !ok {
			return refuse("allow-licences", unknown)
		}
	}
	for _, text := range ls {
		l, under := ParseLicence(text), ""
		if len(l.Parts) > 0 {
			under = " (of " + text + ")"
		}
		denied := func(name string) (string, bool) { return p.deniedLicence(m.Name, name) }
		name, bad := l.refused(func(name string) bool {
			_, deny := denied(name)
			_, allow := matches(p.AllowLicences, m.Name, name)
			return deny || len(p.AllowLicences) > 0 && !allow
		})
		if !bad {
			continue
		}
		if pat, ok := denied(name); ok {
			return refuse("deny-licences "+pat, "it is under "+name+under)
		}
		return refuse("allow-licences", "it is under "+name+under)
	}
	return Refusal{}, false
}

// deniedLicence finds the rule that denies a licence. Who denies one denies it
// with every exception, unless AllowLicences names that exception.
func (p Policy) deniedLicence(mirror, name string) (string, bool) {
	naming := func(rules []string) []string { // an exception
		return slices.DeleteFunc(slices.Clone(rules), func(rule string) bool { return withoutException(rule) == "" })
	}
	if rule, ok := matches(naming(p.DenyLicences), mirror, name); ok {
		return rule, true
	}
	if bare := withoutException(name); bare != "" {
		if _, ok := matches(naming(p.AllowLicences), mirror, name); ok {
			return "", false
		}
		if rule, ok := matches(p.DenyLicences, mirror, bare); ok {
			return rule, true
		}
	}
	return matches(p.DenyLicences, mirror, name)
}

// unknownLicence, in a list of licences, means things whose licence is not
// known. No other pattern does.
const unknownLicence = "unknown"

func unknownIn(patterns []string, mirror string) (string, bool) {
	i := slices.IndexFunc(patterns, func(p string) bool { return strings.EqualFold(strings.TrimPrefix(p, mirror+":"), unknownLicence) })
	if i < 0 {
		return "", false
	}
	return patterns[i], true
}

// matches finds the pattern that matches name, or MIRROR:name.
func matches(patterns []string, mirror, name string) (string, bool) {
	low := strings.ToLower(name)
	for _, p := range patterns {
		for _, s := range []string{low, mirror + ":" + low} {
			if ok, err := path.Match(strings.ToLower(p), s); err == nil && ok {
				return p, true
			}
		}
	}
	return "", false
}
