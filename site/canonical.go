package site

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// Clone is a deep copy.
func (s *Site) Clone() *Site {
	v := reflect.New(reflect.TypeFor[Site]()).Elem()
	v.Set(deepCopy(reflect.ValueOf(*s)))
	out := v.Interface().(Site)
	return &out
}

// deepCopy copies what a Site is made of: slices, string-keyed maps, plain
// structs. Structs with unexported fields (netip) are values already.
func deepCopy(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(deepCopy(v.Index(i)))
		}
		return out
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for k, e := range v.Seq2() {
			out.SetMapIndex(k, deepCopy(e))
		}
		return out
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		out := reflect.New(v.Type()).Elem()
		out.Set(deepCopy(v.Elem()))
		return out
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		out.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(deepCopy(v.Field(i)))
			}
		}
		return out
	default:
		return v
	}
}

// tree is the canonical form before it is written: maps, lists, strings and
// numbers, with defaults filled in and named things sorted.
func (s *Site) tree() map[string]any {
	c, table := s.Clone(), format()
	table.setDefaults(reflect.ValueOf(c).Elem())
	c.derive()
	if m, ok := table.encode(reflect.ValueOf(c).Elem()).(map[string]any); ok {
		return m
	}
	return map[string]any{}
}

// Canonical is the one JSON text of this content: keys sorted, named things
// sorted by name, defaults written out. It is a site file itself: a folder
// whose site.yaml holds these bytes loads as an equal Site.
func (s *Site) Canonical() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s.tree()); err != nil {
		// Only a Site made in Go can hold settings that are not JSON; Validate
		// says so. Its revision is then that of the Go text.
		return fmt.Appendf(nil, "%v", s.tree())
	}
	return b.Bytes()
}

// Revision names the content.
func (s *Site) Revision() Revision {
	return Revision(fmt.Sprintf("sha256:%x", sha256.Sum256(s.Canonical())))
}

// Change is one difference between two sites.
type Change struct {
	Kind  ChangeKind `json:"kind"`
	What  string     `json:"what"`            // "machine", "network", ..., "site"
	Name  string     `json:"name,omitempty"`  // of the thing
	Field string     `json:"field,omitempty"` // "nics[52:54:00:00:00:01].address"; "" = the whole thing
	Old   string     `json:"old,omitempty"`   // JSON, or the bare text of a word
	New   string     `json:"new,omitempty"`
}

// ChangeKind says what happened to a thing or field.
type ChangeKind string

// Kinds of changes.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// String is one sentence.
func (c Change) String() string {
	name := c.What
	if c.Name != "" {
		name += " " + c.Name
	}
	switch {
	case c.Field == "":
		return fmt.Sprintf("%s %s", name, c.Kind)
	case c.Kind == Added:
		return fmt.Sprintf("%s: %s added: %s", name, c.Field, c.New)
	case c.Kind == Removed:
		return fmt.Sprintf("%s: %s removed, was %s", name, c.Field, c.Old)
	}
	return fmt.Sprintf("%s: %s changed from %s to %s", name, c.Field, c.Old, c.New)
}

// Diff lists what changes from a to b, in the order of the table and of names.
func Diff(a, b *Site) []Change {
	var out []Change
	ta, tb := a.tree(), b.tree()
	for _, f := range format().fields {
		l, ok := f.kind.(list)
		if !ok {
			diffValue(&out, Change{What: "site"}, f.key, ta[f.key], tb[f.key])
			continue
		}
		what := l.of.label()
		la, lb := keyed(ta[f.key]), keyed(tb[f.key])
		for _, name := range union(la, lb) {
			va, inA := la[name]
			vb, inB := lb[name]
			switch {
			case !inB:
				out = append(out, Change{Kind: Removed, What: what, Name: name, Old: plain(va)})
			case !inA:
				out = append(out, Change{Kind: Added, What: what, Name: name, New: plain(vb)})
			default:
				diffValue(&out, Change{What: what, Name: name}, "", va, vb)
			}
		}
	}
	return out
}

// diffValue appends the differences of one value, in the change's context.
func diffValue(out *[]Change, c Change, field string, a, b any) {
	if reflect.DeepEqual(a, b) {
		return
	}
	c.Field = field
	switch {
	case a == nil:
		c.Kind, c.New = Added, plain(b)
	case b == nil:
		c.Kind, c.Old = Removed, plain(a)
	default:
		ma, mapA := a.(map[string]any)
		mb, mapB := b.(map[string]any)
		if mapA && mapB {
			for _, k := range union(ma, mb) {
				diffValue(out, c, join(field, k), ma[k], mb[k])
			}
			return
		}
		ka, kb := keyed(a), keyed(b)
		if ka != nil && kb != nil {
			for _, k := range union(ka, kb) {
				diffValue(out, c, fmt.Sprintf("%s[%s]", field, k), ka[k], kb[k])
			}
			if slices.Equal(slices.Sorted(maps.Keys(ka)), slices.Sorted(maps.Keys(kb))) && !slices.Equal(order(a), order(b)) {
				c.Kind, c.Field, c.Old, c.New = Changed, field+" order", plain(order(a)), plain(order(b))
				*out = append(*out, c)
			}
			return
		}
		c.Kind, c.Old, c.New = Changed, plain(a), plain(b)
	}
	*out = append(*out, c)
}

// keyed makes a list of things with distinct names a map; nil for other lists.
func keyed(v any) map[string]any {
	items, ok := v.([]any)
	if !ok {
		return nil
	}
	m := make(map[string]any, len(items))
	for _, item := range items {
		k := itemKey(item)
		if _, twice := m[k]; k == "" || twice {
			return nil
		}
		m[k] = item
	}
	return m
}

// order is the keys of a list as they come.
func order(v any) []string {
	var out []string
	if items, ok := v.([]any); ok {
		for _, item := range items {
			out = append(out, itemKey(item))
		}
	}
	return out
}

func union(a, b map[string]any) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// plain is a value for people: words bare, the rest as JSON.
func plain(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	j, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(j)
}
