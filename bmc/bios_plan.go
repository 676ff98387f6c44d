package bmc

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// BIOSChange is one setting that is to change.
type BIOSChange struct {
	Name    string `json:"name"`
	From    any    `json:"from"`
	To      any    `json:"to"`
	Pending any    `json:"pending,omitempty"` // what waits for the next boot, if anything does
}

// BIOSPlan is what is to be done for the wanted settings. All changes are made
// by the firmware at the next boot.
type BIOSPlan struct {
	Changes []BIOSChange   `json:"changes"` // to be asked for
	Waiting []BIOSChange   `json:"waiting"` // asked for already: made at the next boot
	Same    []string       `json:"same"`    // as wanted
	Want    map[string]any `json:"want"`    // by attribute
}

// Reboot tells whether the machine must boot for the settings to be as wanted.
func (p BIOSPlan) Reboot() bool { return len(p.Changes)+len(p.Waiting) > 0 }

// PlanBIOS compares the settings with those that are wanted. A name is an
// attribute's, or a meaning of [Meanings] with "on" or "off". A setting that
// the machine does not have, or cannot take, is an error, and nothing is
// planned then.
func PlanBIOS(b BIOS, want map[string]any) (BIOSPlan, error) {
	p := BIOSPlan{Want: map[string]any{}}
	var errs []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		a, v, err := b.resolve(name, want[name])
		if err != nil {
			errs = append(errs, err.Error())
			continue
		}
		if old, ok := p.Want[a.Name]; ok && !sameValue(old, v) {
			errs = append(errs, fmt.Sprintf("%s is wanted as %v and as %v", a.Name, old, v))
			continue
		} else if ok {
			continue
		}
		p.Want[a.Name] = v
		ch := BIOSChange{a.Name, a.Value, v, a.Pending}
		switch {
		case a.Pending != nil && sameValue(a.Pending, v):
			p.Waiting = append(p.Waiting, ch)
		case a.Pending == nil && sameValue(a.Value, v):
			p.Same = append(p.Same, a.Name)
		case a.ReadOnly:
			errs = append(errs, fmt.Sprintf("%s is %v and cannot be written: another setting may rule it", a.Name, a.Value))
		default:
			p.Changes = append(p.Changes, ch)
		}
	}
	if len(errs) > 0 {
		return BIOSPlan{}, errors.New(strings.Join(errs, "; "))
	}
	return p, nil
}

// resolve finds the attribute, and the value in its type.
func (b BIOS) resolve(name string, v any) (Attribute, any, error) {
	if a := b.find(name); a != nil {
		v, err := a.take(v)
		return *a, v, err
	}
	all, err := Meanings()
	if err != nil {
		return Attribute{}, nil, err
	}
	i := slices.IndexFunc(all, func(m Meaning) bool { return m.Name == name })
	if i < 0 {
		return Attribute{}, nil, fmt.Errorf("there is no BIOS setting %q on this machine, and no meaning of that name", name)
	}
	var first error
	var of Attribute
	for _, n := range all[i].Attributes {
		for _, a := range b.Attributes {
			if !n.matches(a) {
				continue
			}
			v, err := a.meant(n, fmt.Sprint(v))
			if err == nil {
				return a, v, nil
			}
			if first == nil { // makers that share a name have other words
				first, of = err, a
			}
		}
	}
	if first != nil {
		return of, nil, first
	}
	return Attribute{}, nil, fmt.Errorf("no BIOS setting of this machine is known to mean %q: name the attribute itself", name)
}

// take is v in the attribute's type, if it is one that it takes.
func (a Attribute) take(v any) (any, error) {
	s := fmt.Sprint(v)
	wrong := func(what string) error { return fmt.Errorf("%s takes %s, not %q", a.Name, what, s) }
	switch a.Type {
	case "Boolean":
		switch strings.ToLower(s) {
		case "true", "on":
			return true, nil
		case "false", "off":
			return false, nil
		}
		return nil, wrong("true or false")
	case "Integer":
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, wrong("a whole number")
		}
		if a.Low != nil && float64(n) < *a.Low || a.High != nil && float64(n) > *a.High {
			return nil, wrong(fmt.Sprintf("%v to %v", limitText(a.Low), limitText(a.High)))
		}
		return n, nil
	case "Password":
		return nil, fmt.Errorf("%s is a password: it is not set here", a.Name)
	}
	if len(a.Allowed) > 0 && !slices.Contains(a.Allowed, s) {
		return nil, wrong(strings.Join(a.Allowed, ", "))
	}
	return s, nil
}

func limitText(f *float64) string {
	if f == nil {
		return "any"
	}
	return strconv.FormatFloat(*f, 'f', -1, 64)
}

// Meaning is a setting by what it does, and what makers call it.
type Meaning struct {
	Name       string         `json:"name"`
	Says       string         `json:"says"`
	Attributes []MeantSetting `json:"attributes"`
}

// MeantSetting is one maker's attribute. On and Off are its values, where they
// are not the plain enabled and disabled.
type MeantSetting struct {
	Maker  string `json:"maker"`
	Name   string `json:"name"`
	Suffix bool   `json:"suffix"`          // Supermicro's: four hex digits may follow, and signs within the name differ
	Title  string `json:"title,omitempty"` // the registry must call it so
	On     string `json:"on"`
	Off    string `json:"off"`
	Source string `json:"source"`
}

//go:embed bios_meanings.json
var meaningsFile []byte

// Meanings is the table of bios_meanings.json.
func Meanings() ([]Meaning, error) {
	var t struct {
		Meanings []Meaning `json:"meanings"`
	}
	if err := json.Unmarshal(meaningsFile, &t); err != nil {
		return nil, fmt.Errorf("bios_meanings.json is broken: %w", err)
	}
	return t.Meanings, nil
}

func (n MeantSetting) matches(a Attribute) bool {
	if n.Title != "" && !strings.EqualFold(strings.TrimSpace(a.Title), n.Title) {
		return false
	}
	if !n.Suffix {
		return n.Name == a.Name
	}
	return letters(withoutNumber.ReplaceAllString(a.Name, "")) == letters(n.Name)
}

// withoutNumber is what Supermicro's firmware adds to a name: the number of the
// question in its setup, which differs by version.
var withoutNumber = regexp.MustCompile(`[_#][0-9A-Fa-f]{4}$`)

// letters is a name without the signs that one version of Supermicro's firmware
// writes and the next replaces or leaves out: SR-IOVSupport, SR_IOVSupport.
func letters(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, s)
}

// meant is the attribute's value for "on" or "off"; any other value is taken
// as the attribute's own.
func (a Attribute) meant(n MeantSetting, v string) (any, error) {
	words := []string{"Enabled", "Enable", "On", "Yes"}
	exact := n.On
	switch strings.ToLower(v) {
	case "on", "true":
	case "off", "false":
		words, exact = []string{"Disabled", "Disable", "Off", "No"}, n.Off
	default:
		return a.take(v)
	}
	switch {
	case exact != "":
		return a.take(exact)
	case a.Type == "Boolean":
		return a.take(v)
	case a.Type == "Integer":
		return nil, fmt.Errorf("%s is a number: give the number instead of %s", a.Name, v)
	}
	for _, w := range words {
		if slices.Contains(a.Allowed, w) {
			return w, nil
		}
	}
	// Without a registry, the present value tells which words the firmware uses.
	for i, pair := range [][2]string{{"Enabled", "Disabled"}, {"Enable", "Disable"}, {"On", "Off"}, {"Yes", "No"}} {
		if len(a.Allowed) == 0 && (sameValue(a.Value, pair[0]) || sameValue(a.Value, pair[1])) {
			return words[i], nil
		}
	}
	return nil, fmt.Errorf("it is not known which value of %s is %q: give one of its own (%s)", a.Name, v, strings.Join(a.Allowed, ", "))
}
