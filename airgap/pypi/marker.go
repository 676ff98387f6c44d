package pypi

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// marker is a condition on the environment: PEP 508.
type marker struct {
	op          string // and, or, or a comparison
	left, right *marker
	a, b        operand
}

type operand struct {
	name bool // of the environment, else a text
	text string
}

var tokenRE = regexp.MustCompile(`^\s*(\(|\)|'[^']*'|"[^"]*"|===|==|~=|!=|<=|>=|<|>|[A-Za-z_][A-Za-z0-9_.]*)`)

const maxDepth = 50

type markerParser struct{ tokens []string }

func parseMarker(s string) (*marker, error) {
	p := &markerParser{}
	rest := s
	for strings.TrimSpace(rest) != "" {
		m := tokenRE.FindStringSubmatch(rest)
		if m == nil {
			return nil, fmt.Errorf("%q: %w", s, errMarker)
		}
		p.tokens = append(p.tokens, m[1])
		rest = rest[len(m[0]):]
	}
	m, err := p.or(0)
	if err != nil || len(p.tokens) > 0 {
		return nil, fmt.Errorf("%q: %w", s, errMarker)
	}
	return m, nil
}

func (p *markerParser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *markerParser) next() string {
	t := p.peek()
	if t != "" {
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *markerParser) or(depth int) (*marker, error) {
	return p.joined("or", func() (*marker, error) {
		return p.joined("and", func() (*marker, error) { return p.term(depth) })
	})
}

func (p *markerParser) joined(op string, part func() (*marker, error)) (*marker, error) {
	m, err := part()
	for err == nil && p.peek() == op {
		p.next()
		var r *marker
		if r, err = part(); err == nil {
			m = &marker{op: op, left: m, right: r}
		}
	}
	return m, err
}

func (p *markerParser) term(depth int) (*marker, error) {
	if depth > maxDepth {
		return nil, errMarker
	}
	if p.peek() == "(" {
		p.next()
		m, err := p.or(depth + 1)
		if err == nil && p.next() != ")" {
			err = errMarker
		}
		return m, err
	}
	a, err := operandOf(p.next())
	if err != nil {
		return nil, err
	}
	op := p.next()
	if op == "not" {
		if p.next() != "in" {
			return nil, errMarker
		}
		op = "not in"
	}
	switch op {
	case "===", "==", "~=", "!=", "<=", ">=", "<", ">", "in", "not in":
	default:
		return nil, errMarker
	}
	b, err := operandOf(p.next())
	return &marker{op: op, a: a, b: b}, err
}

func operandOf(t string) (operand, error) {
	if len(t) >= 2 && (t[0] == '\'' || t[0] == '"') {
		return operand{false, t[1 : len(t)-1]}, nil
	}
	if t == "" || strings.ContainsAny(t, "()<>=!~") || t == "and" || t == "or" || t == "not" || t == "in" {
		return operand{}, errMarker
	}
	return operand{true, t}, nil
}

// environment is what markers ask for.
type environment map[string]string

// environmentOf is that of CPython on Linux.
func environmentOf(python, machine string) environment {
	return environment{
		"python_version": python, "python_full_version": python + ".0", "implementation_version": python + ".0", "os_name": "posix", "sys_platform": "linux",
		"platform_system": "Linux", "platform_machine": machine, "platform_python_implementation": "CPython", "implementation_name": "cpython", "extra": "", "platform_release": "", "platform_version": "",
	}
}

func (m *marker) holds(env environment) bool {
	switch m.op {
	case "and":
		return m.left.holds(env) && m.right.holds(env)
	case "or":
		return m.left.holds(env) || m.right.holds(env)
	}
	value := func(o operand) string {
		if o.name {
			return env[o.text]
		}
		return o.text
	}
	a, b := value(m.a), value(m.b)
	switch m.op {
	case "in":
		return strings.Contains(b, a)
	case "not in":
		return !strings.Contains(b, a)
	}
	return compare(a, m.op, b)
}

// compare compares as versions when both are some, else as text.
func compare(a, op, b string) bool {
	va, okA := releaseOf(a)
	prefix, wild := strings.CutSuffix(b, ".*")
	vb, okB := releaseOf(prefix)
	if !okA || !okB {
		switch op {
		case "==", "===":
			return a == b
		case "!=":
			return a != b
		}
		return false
	}
	if wild {
		same := len(va) >= len(vb) && compareRelease(va[:min(len(va), len(vb))], vb) == 0
		return same == (op == "==")
	}
	c := compareRelease(va, vb)
	switch op {
	case "==":
		return c == 0
	case "===":
		return a == b
	case "!=":
		return c != 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	case ">=":
		return c >= 0
	case "~=":
		return c >= 0 && len(vb) > 1 && compareRelease(va[:min(len(va), len(vb)-1)], vb[:len(vb)-1]) == 0
	}
	return false
}

// releaseOf reads the numbers of a version of Python.
func releaseOf(s string) ([]int, bool) {
	var out []int
	for part := range strings.SplitSeq(strings.TrimSpace(s), ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return nil, false
		}
		out = append(out, n)
	}
	return out, len(out) > 0
}

func compareRelease(a, b []int) int {
	for i := range max(len(a), len(b)) {
		x, y := 0, 0
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			if x < y {
				return -1
			}
			return 1
		}
	}
	return 0
}

// allows tells whether a requires-python, such as ">=3.8,<4", takes a version
// of Python. What cannot be read takes any: pip has the last word.
func allows(specifiers, python string) bool {
	for s := range strings.SplitSeq(specifiers, ",") {
		s = strings.TrimSpace(s)
		for _, op := range []string{"===", "==", "~=", "!=", "<=", ">=", "<", ">"} {
			v, ok := strings.CutPrefix(s, op)
			if !ok {
				continue
			}
			v = strings.TrimSpace(v)
			// 3.11 stands for all of 3.11.x: what excludes a late one only, or asks
			// for one, may take it.
			have := python + ".99"
			if strings.HasPrefix(op, "<") {
				have = python + ".0"
			}
			if _, ok := releaseOf(strings.TrimSuffix(v, ".*")); ok && op != "!=" && !compare(have, op, v) {
				return false
			}
			break
		}
	}
	return true
}
