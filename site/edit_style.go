package site

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// style is how the items of a list are written, taken from one of them.
type style struct {
	dash, key int        // columns of the dash and of the keys, from 0
	step      int        // of a mapping inside, from its key
	seq       int        // of a list's dashes inside, from its key
	model     *yaml.Node // nil: none
	object    *object
}

// styleOf reads the style of an item.
func styleOf(lines []string, item *yaml.Node, o *object) style {
	st := style{key: item.Column - 1, step: 2, seq: 2, model: item, object: o}
	st.dash = max(st.key-2, 0)
	if item.Line <= len(lines) {
		if l := lines[item.Line-1]; item.Style&yaml.FlowStyle == 0 && strings.HasPrefix(strings.TrimSpace(l), "-") {
			st.dash = indentOf(l)
		} else if item.Style&yaml.FlowStyle != 0 {
			st.dash = indentOf(l)
		}
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		k, v := item.Content[i], item.Content[i+1]
		if v.Style&yaml.FlowStyle != 0 || len(v.Content) == 0 || v.Line == k.Line {
			continue
		}
		switch v.Kind {
		case yaml.MappingNode:
			st.step = max(v.Column-k.Column, 1)
		case yaml.SequenceNode:
			st.seq = max(v.Column-k.Column, 0)
		}
	}
	return st
}

// item is a thing as an item of the list, its dash included.
func (st style) item(thing *yaml.Node) []string {
	if st.model != nil && st.model.Style&yaml.FlowStyle != 0 {
		return []string{strings.Repeat(" ", st.dash) + "- " + st.flow(st.arrange(thing, st.model, st.object), st.model)}
	}
	lines := st.mapping(st.arrange(thing, st.model, st.object), st.model, st.object, st.key)
	lines[0] = strings.Repeat(" ", st.dash) + "-" + strings.Repeat(" ", st.key-st.dash-1) + strings.TrimLeft(lines[0], " ")
	return lines
}

// mapping is a mapping as lines at a column.
func (st style) mapping(n, model *yaml.Node, o *object, column int) []string {
	var out []string
	pad := strings.Repeat(" ", column)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i].Value, n.Content[i+1]
		like := child(model, key)
		inner := objectAt(o, key)
		switch {
		case v.Kind == yaml.MappingNode && like != nil && like.Style&yaml.FlowStyle != 0:
			out = append(out, pad+key+": "+st.flow(st.arrange(v, like, inner), like))
		case v.Kind == yaml.MappingNode:
			out = append(out, pad+key+":")
			out = append(out, st.mapping(st.arrange(v, like, inner), like, inner, column+st.step)...)
		case v.Kind == yaml.SequenceNode && len(v.Content) > 0 && v.Content[0].Kind == yaml.MappingNode:
			out = append(out, pad+key+":")
			out = append(out, st.sequence(v, like, inner, column+st.seq)...)
		default:
			out = append(out, pad+key+": "+st.flow(v, like))
		}
	}
	return out
}

// sequence is a list of mappings as lines, the dashes at a column.
func (st style) sequence(n, model *yaml.Node, o *object, column int) []string {
	var out []string
	pad := strings.Repeat(" ", column)
	for i, item := range n.Content {
		var like *yaml.Node
		if model != nil && model.Kind == yaml.SequenceNode && len(model.Content) > 0 {
			like = model.Content[min(i, len(model.Content)-1)]
		}
		item = st.arrange(item, like, o)
		if like == nil || like.Style&yaml.FlowStyle != 0 {
			out = append(out, pad+"- "+st.flow(item, like))
			continue
		}
		lines := st.mapping(item, like, o, column+2)
		lines[0] = pad + "- " + strings.TrimLeft(lines[0], " ")
		out = append(out, lines...)
	}
	return out
}

// flow is a value on one line.
func (st style) flow(n, model *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		var parts []string
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			parts = append(parts, key+": "+st.inFlow(n.Content[i+1], child(model, key)))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case yaml.SequenceNode:
		var parts []string
		for _, c := range n.Content {
			parts = append(parts, st.inFlow(c, nil))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return scalarText(n, model, false)
}

func (st style) inFlow(n, model *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return scalarText(n, model, true)
	}
	return st.flow(n, model)
}

// arrange puts the keys in the order of a model; what the model does not have
// follows the key that is before it in the reference.
func (st style) arrange(n, model *yaml.Node, o *object) *yaml.Node {
	if model == nil || n.Kind != yaml.MappingNode || model.Kind != yaml.MappingNode || o == nil {
		return n
	}
	var order []string
	for i := 0; i+1 < len(model.Content); i += 2 {
		order = append(order, model.Content[i].Value)
	}
	reference := o.keys()
	for i, k := range reference {
		if slices.Contains(order, k) {
			continue
		}
		at := 0
		for j := i - 1; j >= 0; j-- {
			if p := slices.Index(order, reference[j]); p >= 0 {
				at = p + 1
				break
			}
		}
		order = slices.Insert(order, at, k)
	}
	out := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range order {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == k {
				out.Content = append(out.Content, n.Content[i], n.Content[i+1])
			}
		}
	}
	return out
}

// child is the value of a key in a mapping of the model.
func child(model *yaml.Node, key string) *yaml.Node {
	if model == nil || model.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(model.Content); i += 2 {
		if model.Content[i].Value == key {
			return model.Content[i+1]
		}
	}
	return nil
}

// objectAt is the object that a key holds, itself or in a list.
func objectAt(o *object, key string) *object {
	if o == nil {
		return nil
	}
	f, _ := o.field(key)
	switch k := f.kind.(type) {
	case *object:
		return k
	case list:
		of, _ := k.of.(*object)
		return of
	}
	return nil
}

// base60 is what a YAML 1.1 parser takes for a number: 52:54:00:00:00:11.
var base60 = regexp.MustCompile(`^[0-9][0-9_]*(:[0-9]+)+$`)

// scalarText is a scalar, quoted as the model is, or where it must be.
func scalarText(n, model *yaml.Node, inFlow bool) string {
	s := n.Value
	if n.ShortTag() != "!!str" {
		return s // a number, or true
	}
	quote := model != nil && model.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0
	plain := model != nil && model.Kind == yaml.ScalarNode && !quote
	if !quote && plainSafe(s, inFlow) && (plain || !base60.MatchString(s) && !strings.Contains(s, ":")) {
		return s
	}
	if model != nil && model.Style&yaml.SingleQuotedStyle != 0 {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return strconv.Quote(s)
}

// plainSafe tells whether text without quotes is read as itself.
func plainSafe(s string, inFlow bool) bool {
	text := "k: " + s
	if inFlow {
		text = "{k: " + s + ", l: 1}"
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) != 1 || len(doc.Content[0].Content) < 2 {
		return false
	}
	v := doc.Content[0].Content[1]
	return v.Kind == yaml.ScalarNode && v.ShortTag() == "!!str" && v.Value == s && v.Style == 0 && v.LineComment == "" && v.Anchor == ""
}
