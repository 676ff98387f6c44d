package vbmc

import (
	"strconv"
	"strings"
)

// condition is a parsed $filter expression (DSP0266 §7.3.7): whether it holds
// for an object.
type condition interface{ holds(o obj) bool }

type (
	either  struct{ a, b condition }
	both    struct{ a, b condition }
	negated struct{ c condition }
	// comparison is a property compared with a literal: a string, a float64, a
	// bool, or nil.
	comparison struct {
		path []string
		op   string
		want any
	}
)

func (c either) holds(o obj) bool  { return c.a.holds(o) || c.b.holds(o) }
func (c both) holds(o obj) bool    { return c.a.holds(o) && c.b.holds(o) }
func (c negated) holds(o obj) bool { return !c.c.holds(o) }

// holds compares; what is not there is null, and values of different kinds are
// unequal and in no order.
func (c comparison) holds(o obj) bool {
	var v any = o
	for _, k := range c.path {
		in, _ := v.(obj)
		v = in[k]
	}
	order, ok := 0, false
	switch want := c.want.(type) {
	case string:
		if got, is := v.(string); is {
			order, ok = strings.Compare(got, want), true
		}
	case float64:
		if got, is := v.(float64); is {
			ok = true
			if got < want {
				order = -1
			} else if got > want {
				order = 1
			}
		}
	case bool:
		got, is := v.(bool)
		same := is && got == want
		return same && c.op == "eq" || !same && c.op == "ne"
	case nil:
		return v == nil && c.op == "eq" || v != nil && c.op == "ne"
	}
	switch c.op {
	case "eq":
		return ok && order == 0
	case "ne":
		return !ok || order != 0
	case "gt":
		return ok && order > 0
	case "ge":
		return ok && order >= 0
	case "lt":
		return ok && order < 0
	case "le":
		return ok && order <= 0
	}
	return false
}

// properties calls f for every property that a condition reads.
func properties(c condition, f func(path []string)) {
	switch c := c.(type) {
	case either:
		properties(c.a, f)
		properties(c.b, f)
	case both:
		properties(c.a, f)
		properties(c.b, f)
	case negated:
		properties(c.c, f)
	case comparison:
		f(c.path)
	}
}

// maxFilter bounds the words of a $filter.
const maxFilter = 200

// parseFilter reads a $filter: comparisons by eq, ne, gt, ge, lt and le, joined
// by and, or, not and parentheses. False: it is no such thing.
func parseFilter(text string) (condition, bool) {
	words, ok := filterWords(text)
	if !ok || len(words) == 0 || len(words) > maxFilter {
		return nil, false
	}
	p := &filterParser{words: words}
	c, ok := p.or(0)
	return c, ok && p.at == len(p.words)
}

// filterWords splits at blanks, keeping parentheses and quoted texts whole; a
// quote within a text is doubled.
func filterWords(text string) ([]string, bool) {
	var out []string
	for i := 0; i < len(text); {
		switch text[i] {
		case ' ':
			i++
		case '(', ')':
			out = append(out, text[i:i+1])
			i++
		case '\'', '"':
			quote, j := text[i], i+1
			for ; j < len(text); j++ {
				if text[j] == quote {
					if j+1 < len(text) && text[j+1] == quote {
						j++
						continue
					}
					break
				}
			}
			if j >= len(text) {
				return nil, false
			}
			out = append(out, "'"+strings.ReplaceAll(text[i+1:j], string(quote)+string(quote), string(quote)))
			i = j + 1
		default:
			j := i
			for j < len(text) && !strings.ContainsRune(" ()'\"", rune(text[j])) {
				j++
			}
			out = append(out, text[i:j])
			i = j
		}
	}
	return out, true
}

// filterParser descends over words: or, and, not, comparison.
type filterParser struct {
	words []string
	at    int
}

// maxFilterDepth bounds parentheses.
const maxFilterDepth = 20

func (p *filterParser) take(word string) bool {
	if p.at < len(p.words) && p.words[p.at] == word {
		p.at++
		return true
	}
	return false
}

func (p *filterParser) or(depth int) (condition, bool) {
	c, ok := p.and(depth)
	for ok && p.take("or") {
		var d condition
		d, ok = p.and(depth)
		c = either{c, d}
	}
	return c, ok
}

func (p *filterParser) and(depth int) (condition, bool) {
	c, ok := p.not(depth)
	for ok && p.take("and") {
		var d condition
		d, ok = p.not(depth)
		c = both{c, d}
	}
	return c, ok
}

func (p *filterParser) not(depth int) (condition, bool) {
	if depth > maxFilterDepth {
		return nil, false
	}
	if p.take("not") {
		c, ok := p.not(depth + 1)
		return negated{c}, ok
	}
	if p.take("(") {
		c, ok := p.or(depth + 1)
		return c, ok && p.take(")")
	}
	return p.compare()
}

func (p *filterParser) compare() (condition, bool) {
	if p.at+3 > len(p.words) {
		return nil, false
	}
	name, op, lit := p.words[p.at], p.words[p.at+1], p.words[p.at+2]
	p.at += 3
	switch op {
	case "eq", "ne", "gt", "ge", "lt", "le":
	default:
		return nil, false
	}
	if strings.HasPrefix(name, "'") || name == ")" || name == "(" {
		return nil, false
	}
	c := comparison{path: strings.Split(name, "/"), op: op}
	if t, ok := strings.CutPrefix(lit, "'"); ok {
		c.want = t
		return c, true
	}
	switch lit {
	case "true", "false":
		c.want = lit == "true"
	case "null":
	default:
		f, err := strconv.ParseFloat(lit, 64)
		if err != nil { // an unquoted word, as streams have been asked for
			if lit == "(" || lit == ")" {
				return nil, false
			}
			c.want = lit
			return c, true
		}
		c.want = f
	}
	if ordered := op != "eq" && op != "ne"; ordered && (c.want == nil || lit == "true" || lit == "false") {
		return nil, false
	}
	return c, true
}
