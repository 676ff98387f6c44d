package site

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// field is one key of an object.
type field struct {
	key      string
	goName   string // of the struct's field
	kind     kind
	required bool
	def      string // default as it would be written, "" = none
	derived  string // in words, where the default comes from other values
	doc      string
}

// object is a mapping with known keys, read into a struct.
type object struct {
	name     string // "machine"
	doc      string
	optional bool // the zero struct means that there is none
	fields   []field
}

func (o *object) label() string { return o.name }

func (o *object) keys() []string {
	out := make([]string, len(o.fields))
	for i, f := range o.fields {
		out[i] = f.key
	}
	return out
}

func (o *object) field(key string) (field, bool) {
	i := slices.IndexFunc(o.fields, func(f field) bool { return f.key == key })
	if i < 0 {
		return field{}, false
	}
	return o.fields[i], true
}

// schema refers to the object's definition: see Schema.
func (o *object) schema() map[string]any {
	return map[string]any{"$ref": "#/$defs/" + strings.ReplaceAll(o.name, " ", "-")}
}

func (o *object) decode(p *problems, n *yaml.Node, file, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		p.add(path, fmt.Sprintf("write its keys (%s) as lines", strings.Join(o.keys(), ", ")), "a %s must be a mapping, not %s", o.name, describe(n))
		return
	}
	if pos := v.FieldByName("Pos"); pos.IsValid() {
		pos.Set(reflect.ValueOf(Pos{file, n.Line, n.Column}))
	}
	p.pairs(n, file, path, func(key, value *yaml.Node, at string) {
		f, ok := o.field(key.Value)
		if !ok {
			p.mark(at, file, key)
			p.add(at, meant(key.Value, o.keys(), ""), "unknown key %q of a %s", key.Value, o.name)
			return
		}
		p.decode(f.kind, value, file, at, v.FieldByName(f.goName))
	})
}

func (o *object) check(p *problems, path string, v reflect.Value) {
	if o.optional && v.IsZero() {
		return
	}
	for _, f := range o.fields {
		at, fv := join(path, f.key), v.FieldByName(f.goName)
		if f.required && fv.IsZero() {
			if !p.bad[path] {
				p.add(at, fmt.Sprintf("add %q: %s", f.key, f.doc), "%s has no %q", o.title(path, v), f.key)
			}
			continue
		}
		f.kind.check(p, at, fv)
	}
}

// title names an object for messages: "machine gpu-01", or "nics[0]".
func (o *object) title(path string, v reflect.Value) string {
	if name := v.FieldByName("Name"); name.IsValid() && name.String() != "" {
		return o.name + " " + name.String()
	}
	if path == "" {
		return "the site"
	}
	return "this " + o.name
}

func (o *object) encode(v reflect.Value) any {
	m := map[string]any{}
	for _, f := range o.fields {
		if e := f.kind.encode(v.FieldByName(f.goName)); e != nil {
			m[f.key] = e
		}
	}
	if len(m) == 0 {
		return nil
	}
	return m
}

// setDefaults fills unset fields that have a default, through every level.
func (o *object) setDefaults(v reflect.Value) {
	if o.optional && v.IsZero() {
		return
	}
	for _, f := range o.fields {
		fv := v.FieldByName(f.goName)
		if f.def != "" && fv.IsZero() {
			n := yaml.Node{}
			// The table's own text: a test parses every default.
			if err := yaml.Unmarshal([]byte(f.def), &n); err == nil && len(n.Content) == 1 {
				f.kind.decode(newProblems(), n.Content[0], "", "", fv)
			}
		}
		switch k := f.kind.(type) {
		case *object:
			k.setDefaults(fv)
		case list:
			if elem, ok := k.of.(*object); ok {
				for i := range fv.Len() {
					elem.setDefaults(fv.Index(i))
				}
			}
		}
	}
}

// join makes the path of a key.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// decode notes where a value stands and hands it to its kind. Aliases are not
// read: a site file says each thing where it is.
func (p *problems) decode(k kind, n *yaml.Node, file, path string, v reflect.Value) {
	p.mark(path, file, n)
	if n.Kind == yaml.AliasNode {
		p.add(path, "write the value out, or put what machines share into a profile", "%s is a YAML alias, which site files do not have", keyOf(path))
		return
	}
	k.decode(p, n, file, path, v)
}

func (p *problems) mark(path, file string, n *yaml.Node) {
	if _, ok := p.pos[path]; !ok {
		p.pos[path] = Pos{file, n.Line, n.Column}
	}
}

// pairs calls do for each key of a mapping, and reports keys that are not
// plain words or come twice.
func (p *problems) pairs(n *yaml.Node, file, path string, do func(key, value *yaml.Node, at string)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, value := n.Content[i], n.Content[i+1]
		at := join(path, k.Value)
		here := fmt.Sprintf("%s@%d:%d", at, k.Line, k.Column)
		if k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" {
			p.mark(here, file, k)
			p.add(here, "write the keys out", "a key must be a plain word, not %s", describe(k))
			continue
		}
		if line, twice := seen[k.Value]; twice {
			p.mark(here, file, k)
			p.add(here, "keep one of them", "key %q is here twice (first on line %d)", k.Value, line)
			continue
		}
		seen[k.Value] = k.Line
		do(k, value, at)
	}
}
