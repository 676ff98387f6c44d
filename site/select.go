package site

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxRange bounds what one name with a range may stand for.
const maxRange = 10000

// Select finds machines, in the site's order and each once. Each expression,
// or part of one between commas, adds machines:
//
//	gpu-01                       a name
//	gpu-[01-32,40]               names with ranges; the width of the first number counts
//	rack=r1  profile=train  owner=ml  purpose=training  firmware=uefi
//	rack=r1+profile=train        both at once
//	all                          every machine
//
// A name that no machine has, a filter that matches none and no expression at
// all are errors: what was meant must not silently be less.
func (s *Site) Select(exprs ...string) ([]Machine, error) {
	picked := map[string]bool{}
	terms := 0
	for _, expr := range exprs {
		parts, err := splitOutside(expr, ',')
		if err != nil {
			return nil, err
		}
		for _, term := range parts {
			if term == "" {
				continue
			}
			terms++
			names, err := s.selectTerm(term)
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				picked[n] = true
			}
		}
	}
	if terms == 0 {
		return nil, errors.New("no machine is named; give names, gpu-[01-32], rack=NAME, profile=NAME or all")
	}
	var out []Machine
	for _, m := range s.Machines {
		if picked[m.Name] {
			out = append(out, m)
		}
	}
	return out, nil
}

// selectTerm gives the names that match every part between plus signs.
func (s *Site) selectTerm(term string) ([]string, error) {
	var names []string
	for i, part := range strings.Split(term, "+") {
		found, err := s.selectOne(part)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			names = found
			continue
		}
		names = slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(found, n) })
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no machine is %s; each part has some, but none has them all", strings.ReplaceAll(term, "+", " and "))
	}
	return names, nil
}

func (s *Site) selectOne(part string) ([]string, error) {
	names := make([]string, len(s.Machines))
	for i, m := range s.Machines {
		names[i] = m.Name
	}
	if part == "all" {
		if len(names) == 0 {
			return nil, errors.New("the site has no machines yet; add some under the key machines")
		}
		return names, nil
	}
	if key, value, ok := strings.Cut(part, "="); ok {
		return s.filter(key, value)
	}
	want, err := expand(part)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, n := range want {
		if !slices.Contains(names, n) {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		if len(want) > 1 {
			return nil, fmt.Errorf("%s names machines that the site does not have: %s", part, shorten(missing))
		}
		return nil, fmt.Errorf("there is no machine %q; %s", part, meant(part, names, "the site has no machines yet"))
	}
	return want, nil
}

func shorten(names []string) string {
	if len(names) > 8 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:8], ", "), len(names)-8)
	}
	return strings.Join(names, ", ")
}

// filter gives the names of machines with a property.
func (s *Site) filter(key, value string) ([]string, error) {
	properties := map[string]func(Machine) string{
		"rack":     func(m Machine) string { return m.Rack },
		"profile":  func(m Machine) string { return m.Profile },
		"owner":    func(m Machine) string { return m.Owner },
		"purpose":  func(m Machine) string { return m.Purpose },
		"firmware": func(m Machine) string { return string(m.Firmware) },
	}
	of, ok := properties[key]
	if !ok {
		return nil, fmt.Errorf("machines cannot be selected by %q; %s", key, meant(key, []string{"rack", "profile", "owner", "purpose", "firmware"}, ""))
	}
	var names, values []string
	for _, m := range s.Machines {
		if v := of(m); v == value {
			names = append(names, m.Name)
		} else if v != "" && !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no machine has %s %q; %s", key, value, meant(value, values, "no machine says its "+key))
	}
	return names, nil
}

// splitOutside splits at sep, but not inside brackets.
func splitOutside(s string, sep byte) ([]string, error) {
	var out []string
	depth, start := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '[':
			depth++
		case ']':
			depth--
		case sep:
			if depth == 0 {
				out = append(out, s[start:i])
				start = i + 1
			}
		}
		if depth < 0 || depth > 1 {
			return nil, fmt.Errorf("%q has brackets that do not match; write ranges as gpu-[01-32]", s)
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("%q has brackets that do not match; write ranges as gpu-[01-32]", s)
	}
	return append(out, s[start:]), nil
}

// expand lists the names that a name with ranges stands for.
func expand(s string) ([]string, error) {
	open := strings.IndexByte(s, '[')
	if open < 0 {
		return []string{s}, nil
	}
	end := strings.IndexByte(s, ']')
	if end < open {
		return nil, fmt.Errorf("%q has brackets that do not match; write ranges as gpu-[01-32]", s)
	}
	tails, err := expand(s[end+1:])
	if err != nil {
		return nil, err
	}
	var out []string
	for part := range strings.SplitSeq(s[open+1:end], ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.ParseUint(from, 10, 31)
		b, errB := strconv.ParseUint(to, 10, 31)
		if errA != nil || errB != nil || b < a || len(from) > 10 {
			return nil, fmt.Errorf("%q is not a range of numbers in %q; write for example [01-32] or [1,3,5-8]", part, s)
		}
		if (b-a+1)*uint64(len(tails))+uint64(len(out)) > maxRange {
			return nil, fmt.Errorf("%q stands for more than %d names; write a smaller range", s, maxRange)
		}
		for n := a; n <= b; n++ {
			for _, tail := range tails {
				out = append(out, fmt.Sprintf("%s%0*d%s", s[:open], len(from), n, tail))
			}
		}
	}
	return out, nil
}
