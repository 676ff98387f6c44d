package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"gopkg.in/yaml.v3"
)

// Entry is one thing of a site, as the site file would say it with every
// default written out.
type Entry struct {
	kind kind
	tree any
}

// Entry finds a thing by what it is ("machine", "network", ...) and its name.
func (s *Site) Entry(what, name string) (Entry, error) {
	var sorts []string
	for _, f := range format().fields {
		l, ok := f.kind.(list)
		if !ok {
			continue
		}
		sorts = append(sorts, l.of.label())
		if l.of.label() != what {
			continue
		}
		things := keyed(s.tree()[f.key])
		if thing, ok := things[name]; ok {
			return Entry{l.of, thing}, nil
		}
		return Entry{}, fmt.Errorf("there is no %s %q; %s", what, name, meant(name, union(things, nil), "the site has none"))
	}
	return Entry{}, fmt.Errorf("a site has no %q; %s", what, meant(what, sorts, ""))
}

// MarshalJSON is the canonical form.
func (e Entry) MarshalJSON() ([]byte, error) { return json.Marshal(e.tree) }

// YAML is the entry with its keys in the order of the reference.
func (e Entry) YAML() ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(ordered(e.kind, e.tree)); err != nil {
		return nil, fmt.Errorf("writing YAML: %w", err)
	}
	return b.Bytes(), nil
}

// ordered is a tree as a YAML node, keys in the order of its kind's table.
func ordered(k kind, tree any) *yaml.Node {
	n := &yaml.Node{}
	switch t := tree.(type) {
	case map[string]any:
		n.Kind = yaml.MappingNode
		o, known := k.(*object)
		keys := union(t, nil)
		if known {
			order := o.keys()
			slices.SortFunc(keys, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
		}
		for _, key := range keys {
			var inner kind = open{}
			if known {
				if f, ok := o.field(key); ok {
					inner = f.kind
				}
			}
			word := &yaml.Node{}
			word.SetString(key)
			n.Content = append(n.Content, word, ordered(inner, t[key]))
		}
	case []any:
		n.Kind = yaml.SequenceNode
		of := k
		if l, ok := k.(list); ok {
			of = l.of
		}
		for _, item := range t {
			n.Content = append(n.Content, ordered(of, item))
		}
	default:
		if err := n.Encode(t); err != nil {
			n.SetString(fmt.Sprint(t))
		}
	}
	return n
}
