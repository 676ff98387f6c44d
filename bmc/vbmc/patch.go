package vbmc

import (
	"slices"
)

// setter checks a new value of a property and returns what stores it. Nothing
// is stored before every property of the request was checked.
type setter func(v any) (store func() error, err error)

// patch applies c.body to a resource (DSP0266 §7.6, "PATCH"): properties that
// cannot be written are named in the answer while the others are stored; when
// none can be written, the request fails.
func patch(c *call, get func(*call) (obj, error), set map[string]setter) ([]*message, error) {
	body, err := get(c)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(c.body))
	for k := range c.body {
		names = append(names, k)
	}
	slices.Sort(names)
	var notes []*message
	var stores []func() error
	for _, name := range names {
		f, ok := set[name]
		if !ok {
			if _, known := body[name]; known {
				notes = append(notes, msgReadOnly(name))
			} else {
				notes = append(notes, msgUnknownProperty(name))
			}
			continue
		}
		store, err := f(c.body[name])
		if err != nil {
			return nil, err
		}
		if store != nil {
			stores = append(stores, store)
		}
	}
	if len(stores) == 0 {
		if len(notes) > 0 {
			return nil, notes[0]
		}
		return nil, msgNoOperation()
	}
	for _, store := range stores {
		if err := store(); err != nil {
			return nil, err
		}
	}
	return notes, nil
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
