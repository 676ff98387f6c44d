package rpm

import (
	"errors"
	"fmt"
	"strings"
)

// relation is a name with, perhaps, a condition on the version; as a provide,
// what a package has under it.
type relation struct {
	name string
	op   string // "", <, <=, =, >=, >
	evr  evr
}

func (r relation) String() string {
	if r.op == "" {
		return r.name
	}
	return r.name + " " + r.op + " " + r.evr.String()
}

// overlaps tells whether a provide satisfies a requirement: the ranges of their
// versions meet. One without a version is any.
func (r relation) overlaps(p relation) bool {
	if r.name != p.name {
		return false
	}
	if r.op == "" || p.op == "" {
		return true
	}
	less := func(op string) bool { return strings.HasPrefix(op, "<") }
	more := func(op string) bool { return strings.HasPrefix(op, ">") }
	equal := func(op string) bool { return strings.HasSuffix(op, "=") }
	switch c := compareEVR(p.evr, r.evr); {
	case c < 0:
		return more(p.op) || less(r.op)
	case c > 0:
		return less(p.op) || more(r.op)
	}
	return equal(p.op) && equal(r.op) || less(p.op) && less(r.op) || more(p.op) && more(r.op)
}

// expr is a requirement: a relation, or rich, an operation on requirements:
// https://rpm-software-management.github.io/rpm/manual/boolean_dependencies.html.
type expr struct {
	relation
	rich string  // "", and, or, with, without, if, unless
	args []*expr // of if and unless: what, condition, otherwise (nil when there is none)
}

func (e *expr) String() string {
	if e.rich == "" {
		return e.relation.String()
	}
	var words []string
	for i, a := range e.args {
		if a == nil {
			continue
		}
		if i == 2 && (e.rich == "if" || e.rich == "unless") {
			words = append(words, "else")
		} else if i > 0 {
			words = append(words, e.rich)
		}
		words = append(words, a.String())
	}
	return "(" + strings.Join(words, " ") + ")"
}

const maxDepth = 50

var errRich = errors.New("it is no boolean dependency")

// parseExpr reads the name of an entry of requires: rich when it begins with a
// parenthesis.
func parseExpr(rel relation) (*expr, error) {
	if !strings.HasPrefix(rel.name, "(") {
		return &expr{relation: rel}, nil
	}
	p := &richParser{words: richWords(rel.name)}
	e, err := p.group(0)
	if err != nil || len(p.words) > 0 {
		return nil, fmt.Errorf("%q: %w", rel.name, errRich)
	}
	return e, nil
}

// richWords splits at spaces and at parentheses that are not part of a name,
// such as those of font(:lang=en).
func richWords(s string) []string {
	var out []string
	for len(s) > 0 {
		switch s[0] {
		case ' ':
			s = s[1:]
			continue
		case '(', ')':
			out, s = append(out, s[:1]), s[1:]
			continue
		}
		depth, i := 0, 0
		for i < len(s) && s[i] != ' ' {
			if s[i] == '(' {
				depth++
			}
			if s[i] == ')' {
				if depth == 0 {
					break
				}
				depth--
			}
			i++
		}
		out, s = append(out, s[:i]), s[i:]
	}
	return out
}

type richParser struct{ words []string }

func (p *richParser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *richParser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0]
}

// group is an operation in parentheses.
func (p *richParser) group(depth int) (*expr, error) {
	if p.next() != "(" || depth > maxDepth {
		return nil, errRich
	}
	first, err := p.term(depth)
	if err != nil {
		return nil, err
	}
	op := p.next()
	if op == ")" {
		return first, nil
	}
	e := &expr{rich: op, args: []*expr{first}}
	switch op {
	case "and", "or", "with":
		for {
			a, err := p.term(depth)
			if err != nil {
				return nil, err
			}
			e.args = append(e.args, a)
			switch w := p.next(); w {
			case ")":
				return e, nil
			case op:
			default:
				return nil, errRich // another operation wants parentheses
			}
		}
	case "without", "if", "unless":
		a, err := p.term(depth)
		if err != nil {
			return nil, err
		}
		e.args = append(e.args, a, nil)
		if op != "without" && p.peek() == "else" {
			p.next()
			if e.args[2], err = p.term(depth); err != nil {
				return nil, err
			}
		}
		if p.next() != ")" {
			return nil, errRich
		}
		return e, nil
	}
	return nil, errRich
}

func (p *richParser) term(depth int) (*expr, error) {
	if p.peek() == "(" {
		return p.group(depth + 1)
	}
	name := p.next()
	if name == "" || name == ")" {
		return nil, errRich
	}
	e := &expr{relation: relation{name: name}}
	switch op := p.peek(); op {
	case "<", "<=", "=", ">=", ">":
		p.next()
		v := p.next()
		if v == "" || v == "(" || v == ")" {
			return nil, errRich
		}
		e.op, e.evr = op, parseEVR(v)
	}
	return e, nil
}
