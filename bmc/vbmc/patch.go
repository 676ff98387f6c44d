package vbmc

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// setter checks a new value of a property and returns what stores it. Nothing
// is stored before every property of the request was checked.
type setter func(v any) (store func() error, err error)

// patch applies c.body to a resource (DSP0266 §7.6, "PATCH"): properties that
// cannot be written are named in the answer while the others are stored; when
// none can be written, the request fails. Setters are by the property's path,
// "VLAN/VLANId": of an object that is given only what stands in it changes.
// agree, if given, look at all of it before anything is stored.
func patch(c *call, get func(*call) (obj, error), set map[string]setter, agree ...func() error) ([]*message, error) {
	body, err := get(c)
	if err != nil {
		return nil, err
	}
	p := patching{set: set}
	if err := p.object("", c.body, body); err != nil {
		return nil, err
	}
	if len(p.stores) == 0 {
		if len(p.notes) > 0 {
			return nil, p.notes[0]
		}
		return nil, msgNoOperation()
	}
	for _, ok := range agree {
		if err := ok(); err != nil {
			return nil, err
		}
	}
	for _, store := range p.stores {
		if err := store(); err != nil {
			return nil, err
		}
	}
	return p.notes, nil
}

// patching is a request whose properties are being checked.
type patching struct {
	set    map[string]setter
	notes  []*message
	stores []func() error
}

// object checks the properties of an object at a path, which ends in a slash
// unless it is the resource itself; now is what it holds.
func (p *patching) object(at string, in, now obj) error {
	for _, name := range slices.Sorted(maps.Keys(in)) {
		full, v := at+name, in[name]
		f, ok := p.set[full]
		switch {
		case ok:
			store, err := f(v)
			if err != nil {
				return err
			}
			if store != nil {
				p.stores = append(p.stores, store)
			}
		case p.holds(full):
			if err := p.below(full, v, now[name]); err != nil {
				return err
			}
		case strings.HasPrefix(name, "@odata."): // DSP0266 §7.6: of an update these are ignored
		default:
			if _, known := now[name]; known {
				p.notes = append(p.notes, msgReadOnly(full))
			} else {
				p.notes = append(p.notes, msgUnknownProperty(full))
			}
		}
	}
	return nil
}

// below checks an object within the resource, or an array whose objects change
// and neither come nor go.
func (p *patching) below(full string, v, now any) error {
	if have, ok := now.([]obj); ok {
		l, ok := v.([]any)
		if !ok {
			return msgPropertyType(full, v)
		}
		for i, x := range l {
			in, ok := x.(obj)
			if !ok {
				return msgPropertyType(full, x)
			}
			if i >= len(have) {
				return about(full, "ArraySizeTooLong", full, jsonText(len(have)))
			}
			if err := p.object(full+"/"+strconv.Itoa(i)+"/", in, have[i]); err != nil {
				return err
			}
		}
		return nil
	}
	in, ok := v.(obj)
	if !ok {
		return msgPropertyType(full, v)
	}
	have, _ := now.(obj)
	return p.object(full+"/", in, have)
}

// holds tells whether something in the object at a path can be written.
func (p *patching) holds(full string) bool {
	for name := range p.set {
		if strings.HasPrefix(name, full+"/") {
			return true
		}
	}
	return false
}

// patchedObjects is an array of objects after a PATCH (DSP0266 §7.6.2): null
// removes an element, {} leaves it as it is, an object changes what stands in
// it, and what lies beyond the end goes.
func patchedObjects(full string, now []obj, v any, most int) ([]obj, error) {
	l, ok := v.([]any)
	if !ok {
		return nil, msgPropertyType(full, v)
	}
	out := []obj{}
	for i, x := range l {
		if x == nil {
			continue
		}
		in, ok := x.(obj)
		if !ok || len(in) == 0 && i >= len(now) {
			return nil, msgPropertyType(full, x)
		}
		o := obj{}
		if i < len(now) {
			maps.Copy(o, now[i])
		}
		maps.Copy(o, in)
		out = append(out, o)
	}
	if len(out) > most {
		return nil, about(full, "ArraySizeTooLong", full, jsonText(most))
	}
	return out, nil
}

// boolSetter writes a boolean property.
func boolSetter(name string, set func(bool) error) setter {
	return func(v any) (func() error, error) {
		b, ok := v.(bool)
		if !ok {
			return nil, msgPropertyType(name, v)
		}
		return func() error { return set(b) }, nil
	}
}
