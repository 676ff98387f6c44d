package site

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// A kind is one sort of value in a site file: how it is read from YAML,
// checked, written canonically and described by JSON Schema. The parser, the
// validation, the canonical form, Diff, Schema and SITE.md all walk the same
// kinds (table.go), so that they cannot disagree.
type kind interface {
	// decode sets v from n and reports what is wrong under path.
	decode(p *problems, n *yaml.Node, file, path string, v reflect.Value)
	// check reports a set value that decode would not have accepted.
	check(p *problems, path string, v reflect.Value)
	// encode is the canonical JSON value, nil when v is unset.
	encode(v reflect.Value) any
	// schema is the JSON Schema of the value.
	schema() map[string]any
	// label names the kind to people: "MAC address".
	label() string
}

// scalar is a kind that is written as one word.
type scalar struct {
	name    string
	numbers bool // a bare number is taken as it is written
	js      map[string]any
	parse   func(string) (reflect.Value, error)
	format  func(reflect.Value) string
	values  []string // all that there are, for an enumeration
}

// word makes a scalar of a Go type from its parser and printer.
func word[T any](name string, parse func(string) (T, error), format func(T) string, js map[string]any) *scalar {
	return &scalar{
		name: name, js: js,
		parse: func(s string) (reflect.Value, error) {
			t, err := parse(s)
			return reflect.ValueOf(t), err
		},
		format: func(v reflect.Value) string { return format(v.Interface().(T)) },
	}
}

// oneOf is an enumeration.
func oneOf[T ~string](name string, values ...T) *scalar {
	known := make([]string, len(values))
	for i, v := range values {
		known[i] = string(v)
	}
	k := word(name, func(s string) (T, error) {
		if slices.Contains(known, s) {
			return T(s), nil
		}
		return "", fmt.Errorf("%q is no %s; %s", s, name, meant(s, known, ""))
	}, func(t T) string { return string(t) }, map[string]any{"enum": known})
	k.values = known
	return k
}

func (k *scalar) label() string { return k.name }

func (k *scalar) schema() map[string]any {
	m := map[string]any{"type": "string"}
	if k.numbers {
		m["type"] = []string{"string", "number"}
	} else if k.values == nil {
		m["minLength"] = 1
	}
	for key, v := range k.js {
		m[key] = v
	}
	return m
}

func (k *scalar) decode(p *problems, n *yaml.Node, file, path string, v reflect.Value) {
	ok := n.Kind == yaml.ScalarNode
	if ok {
		switch n.ShortTag() {
		case "!!str", "!!timestamp":
		case "!!int", "!!float":
			ok = k.numbers
		default:
			ok = false
		}
	}
	if !ok {
		hint := fmt.Sprintf("write a %s", k.name)
		if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
			hint = fmt.Sprintf("write it in quotes: %q", n.Value)
		}
		p.add(path, hint, "%s must be a %s, not %s", keyOf(path), k.name, describe(n))
		return
	}
	if n.Value == "" {
		p.add(path, "give a value or leave the key out", "%s is empty", keyOf(path))
		return
	}
	got, err := k.parse(n.Value)
	if err != nil {
		p.add(path, "", "%s: %v", keyOf(path), err)
		return
	}
	v.Set(got.Convert(v.Type()))
}

func (k *scalar) check(p *problems, path string, v reflect.Value) {
	if v.IsZero() {
		return
	}
	if _, err := k.parse(k.format(v)); err != nil {
		p.add(path, "", "%s: %v", keyOf(path), err)
	}
}

func (k *scalar) encode(v reflect.Value) any {
	if v.IsZero() {
		return nil
	}
	return k.format(v)
}

// integer is a whole number in a range.
type integer struct {
	name     string
	min, max int64
}

func (k integer) label() string { return fmt.Sprintf("%s, %d to %d", k.name, k.min, k.max) }

func (k integer) schema() map[string]any {
	return map[string]any{"type": "integer", "minimum": k.min, "maximum": k.max}
}

func (k integer) decode(p *problems, n *yaml.Node, _, path string, v reflect.Value) {
	i, err := strconv.ParseInt(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
		p.add(path, fmt.Sprintf("write a number from %d to %d", k.min, k.max), "%s must be a whole number, not %s", keyOf(path), describe(n))
		return
	}
	v.SetInt(i)
	k.check(p, path, v)
}

func (k integer) check(p *problems, path string, v reflect.Value) {
	// The zero value is "unsaid", whatever the range.
	if i := v.Int(); (i < k.min || i > k.max) && i != 0 {
		p.add(path, fmt.Sprintf("write a number from %d to %d", k.min, k.max), "%s is %d, out of range", keyOf(path), i)
	}
}

func (k integer) encode(v reflect.Value) any {
	if v.IsZero() {
		return nil
	}
	return v.Int()
}

// oneNumber is one of a few whole numbers.
type oneNumber []int64

func (k oneNumber) label() string {
	var known []string
	for _, n := range k {
		known = append(known, strconv.FormatInt(n, 10))
	}
	return strings.Join(known, " or ")
}

func (k oneNumber) schema() map[string]any {
	return map[string]any{"type": "integer", "enum": []int64(k)}
}

func (k oneNumber) decode(p *problems, n *yaml.Node, _, path string, v reflect.Value) {
	i, err := strconv.ParseInt(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
		p.add(path, "write "+k.label(), "%s must be a number, not %s", keyOf(path), describe(n))
		return
	}
	v.SetInt(i)
	if i == 0 || !slices.Contains(k, i) {
		p.add(path, "write "+k.label(), "%s is %d", keyOf(path), i)
	}
}

func (k oneNumber) check(p *problems, path string, v reflect.Value) {
	// The zero value is "unsaid".
	if i := v.Int(); i != 0 && !slices.Contains(k, i) {
		p.add(path, "write "+k.label(), "%s is %d", keyOf(path), i)
	}
}

func (k oneNumber) encode(v reflect.Value) any {
	if v.IsZero() {
		return nil
	}
	return v.Int()
}

// truth is true or false.
type truth struct{}

func (truth) label() string { return "true or false" }

func (truth) schema() map[string]any { return map[string]any{"type": "boolean"} }

func (truth) decode(p *problems, n *yaml.Node, _, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
		p.add(path, "write true or false", "%s must be true or false, not %s", keyOf(path), describe(n))
		return
	}
	v.SetBool(strings.EqualFold(n.Value, "true"))
}

func (truth) check(*problems, string, reflect.Value) {}

func (truth) encode(v reflect.Value) any {
	if v.IsZero() {
		return nil
	}
	return true
}

// list is a sequence of one kind. Elements that are objects may have a key
// (name, mac) by which Diff tells them apart.
type list struct {
	of     kind
	sorted bool // order means nothing: the canonical form sorts by name
}

func (k list) label() string { return "list of " + plural(k.of.label()) }

func plural(s string) string {
	if strings.HasSuffix(s, "s") {
		return s + "es"
	}
	return s + "s"
}

func (k list) schema() map[string]any {
	return map[string]any{"type": "array", "items": k.of.schema()}
}

// decode appends, so that lists from several files join.
func (k list) decode(p *problems, n *yaml.Node, file, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		p.add(path, `write one item a line, each behind "- "`, "%s must be a %s, not %s", keyOf(path), k.label(), describe(n))
		return
	}
	for _, item := range n.Content {
		i := v.Len()
		at := fmt.Sprintf("%s[%d]", path, i)
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		p.decode(k.of, item, file, at, v.Index(i))
	}
}

func (k list) check(p *problems, path string, v reflect.Value) {
	for i := range v.Len() {
		at := fmt.Sprintf("%s[%d]", path, i)
		if _, isObject := k.of.(*object); v.Index(i).IsZero() && !isObject {
			p.add(at, "fill it in or remove it", "%s is empty", keyOf(at))
			continue
		}
		k.of.check(p, at, v.Index(i))
	}
}

func (k list) encode(v reflect.Value) any {
	if v.Len() == 0 {
		return nil
	}
	out := make([]any, v.Len())
	for i := range out {
		if out[i] = k.of.encode(v.Index(i)); out[i] == nil {
			out[i] = map[string]any{}
		}
	}
	if k.sorted {
		slices.SortStableFunc(out, func(a, b any) int { return strings.Compare(itemKey(a), itemKey(b)) })
	}
	return out
}

// itemKey is what tells one element of a list from another: its name, MAC or
// serial; "" when it has none.
func itemKey(v any) string {
	if m, ok := v.(map[string]any); ok {
		for _, k := range []string{"name", "mac", "serial", "from"} {
			if s, ok := m[k].(string); ok {
				return s
			}
		}
	}
	return ""
}

// open is a mapping whose keys are not fettle's: settings of some firmware.
type open struct{}

func (open) label() string { return "mapping of settings" }

func (open) schema() map[string]any { return map[string]any{"type": "object"} }

func (open) decode(p *problems, n *yaml.Node, file, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		p.add(path, `write "Setting: value" lines`, "%s must be a mapping, not %s", keyOf(path), describe(n))
		return
	}
	if m, ok := freeValue(p, n, file, path, 0).(map[string]any); ok && len(m) > 0 {
		v.Set(reflect.ValueOf(m))
	}
}

func (open) check(p *problems, path string, v reflect.Value) {
	if v.Len() == 0 {
		return
	}
	if _, err := json.Marshal(v.Interface()); err != nil {
		p.add(path, "use strings, numbers, booleans, lists and mappings", "%s cannot be written as JSON: %v", keyOf(path), err)
	}
}

func (open) encode(v reflect.Value) any {
	if v.Len() == 0 {
		return nil
	}
	return v.Interface()
}

// freeValue reads a value that has no kind.
func freeValue(p *problems, n *yaml.Node, file, path string, depth int) any {
	p.mark(path, file, n)
	if depth > 16 {
		p.add(path, "settings are at most 16 levels deep", "%s is nested too deeply", keyOf(path))
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		p.pairs(n, file, path, func(key, value *yaml.Node, at string) {
			m[key.Value] = freeValue(p, value, file, at, depth+1)
		})
		return m
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, item := range n.Content {
			out[i] = freeValue(p, item, file, fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
		return out
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!str", "!!timestamp":
			return n.Value
		case "!!bool":
			return strings.EqualFold(n.Value, "true")
		case "!!int":
			if i, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
				return i
			}
		case "!!float":
			if f, err := strconv.ParseFloat(n.Value, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
				return f
			}
		}
	}
	p.add(path, "write a string, number, true, false, list or mapping", "%s cannot be %s", keyOf(path), describe(n))
	return nil
}

// keyOf is the last part of a path, for messages: "nics[0].mac" → "mac".
func keyOf(path string) string {
	path = path[strings.LastIndexByte(path, '!')+1:] // behind a file's name: see load
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		path = path[i+1:]
	}
	name, index, ok := strings.Cut(path, "[")
	if !ok {
		return name
	}
	i, _ := strconv.Atoi(strings.TrimSuffix(index, "]"))
	return fmt.Sprintf("item %d of %s", i+1, name)
}

// describe says what a YAML node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode:
		value := n.Value
		if len(value) > 40 {
			value = value[:40] + "..."
		}
		switch n.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!bool":
			return "the truth value " + value
		case "!!int", "!!float":
			return "the number " + value
		case "!!str":
			return fmt.Sprintf("the text %q", value)
		}
		return "a " + strings.TrimPrefix(n.Tag, "!")
	}
	return "nothing"
}
