package vbmc

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// BootOrderer is a Chassis that boots by a list: ids of its NICs and drives.
type BootOrderer interface {
	BootOrder(ctx context.Context) ([]string, error)
	SetBootOrder(ctx context.Context, order []string) error
}

// BootSwitcher is a BootOrderer whose options can be disabled: those are passed
// over when it boots.
type BootSwitcher interface {
	BootOrderer
	DisabledBootOptions(ctx context.Context) ([]string, error)
	SetBootOption(ctx context.Context, id string, enabled bool) error
}

const bootOptionsPath = systemPath + "/BootOptions"

// bootEntry is an option of the firmware.
type bootEntry struct {
	reference string // BootNNNN
	id        string // of the NIC or drive
	title     string
	uefi      string // device path (UEFI 2.10 §10.3), as far as it is known
	alias     BootTarget
	related   string
}

// bootEntries are what the firmware could boot: NICs first, then drives.
func bootEntries(in Info) []bootEntry {
	var out []bootEntry
	for i, n := range in.NICs {
		id := idOf(n.ID, i)
		out = append(out, bootEntry{id: id, title: "PXE " + id + " " + n.MAC, uefi: "MAC(" + noColons(n.MAC) + ",0x1)/IPv4(0.0.0.0)", alias: BootPxe,
			related: systemPath + "/EthernetInterfaces/" + id})
	}
	for i, d := range in.Drives {
		id := idOf(d.ID, i)
		out = append(out, bootEntry{id: id, title: "Disk " + id + " " + d.Serial, alias: BootHdd, related: systemPath + "/Storage/1/Drives/" + id})
	}
	for i := range out {
		out[i].reference = fmt.Sprintf("Boot%04X", i+1)
	}
	return out
}

func noColons(mac string) string {
	var b []byte
	for i := range len(mac) {
		if mac[i] != ':' {
			b = append(b, mac[i])
		}
	}
	return string(b)
}

func (s *Server) bootOptionRoutes() []*resource {
	entries := func(c *call) ([]bootEntry, error) {
		in, err := s.info(c)
		return bootEntries(in), err
	}
	return []*resource{
		{pattern: bootOptionsPath, get: func(c *call) (obj, error) {
			all, err := entries(c)
			if err != nil {
				return nil, err
			}
			paths := make([]string, len(all))
			for i, e := range all {
				paths[i] = bootOptionsPath + "/" + e.reference
			}
			return collection(bootOptionsPath, "BootOptionCollection", "Boot Options", paths...), nil
		}},
		{pattern: bootOptionsPath + "/{option}", priv: privComponents, get: s.bootOption, patch: s.patchBootOption},
	}
}

// bootOptionEntry is the option that a request names.
func (s *Server) bootOptionEntry(c *call) (bootEntry, error) {
	in, err := s.info(c)
	if err != nil {
		return bootEntry{}, err
	}
	for _, e := range bootEntries(in) {
		if e.reference == c.vars["option"] {
			return e, nil
		}
	}
	return bootEntry{}, msgNotFound(c.path)
}

func (s *Server) bootOption(c *call) (obj, error) {
	e, err := s.bootOptionEntry(c)
	if err != nil {
		return nil, err
	}
	enabled := true
	if b, ok := s.chassis.(BootSwitcher); ok {
		off, err := b.DisabledBootOptions(c.ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the boot options: %w", err)
		}
		enabled = !slices.Contains(off, e.id)
	}
	return obj{"@odata.id": c.path, "@odata.type": "#BootOption.v1_0_6.BootOption", "Id": e.reference, "Name": e.title, "DisplayName": e.title,
		"BootOptionReference": e.reference, "BootOptionEnabled": enabled, "Alias": e.alias, "UefiDevicePath": nullable(e.uefi),
		"RelatedItem": links(e.related), "RelatedItem@odata.count": 1}, nil
}

// patchBootOption writes BootOptionEnabled, which is all that DSP0268 lets a
// client write of a BootOption: Alias and the rest are read-only.
func (s *Server) patchBootOption(c *call) ([]*message, error) {
	set := map[string]setter{}
	if b, ok := s.chassis.(BootSwitcher); ok {
		e, err := s.bootOptionEntry(c)
		if err != nil {
			return nil, err
		}
		set["BootOptionEnabled"] = boolSetter("BootOptionEnabled", func(on bool) error {
			err := b.SetBootOption(c.ctx, e.id, on)
			if errors.Is(err, ErrUnsupported) {
				return msgReadOnly("BootOptionEnabled")
			}
			if err != nil {
				return fmt.Errorf("setting the boot option %s: %w", e.reference, err)
			}
			s.logEvent("system", "OK", fmt.Sprintf("Boot option %s enabled: %v, by %s.", e.reference, on, c.who.name))
			return nil
		})
	}
	return patch(c, s.bootOption, set)
}

// bootOrder is Boot.BootOrder: references of all options, in the chassis' order.
func (s *Server) bootOrder(ctx context.Context, in Info) ([]string, error) {
	all := bootEntries(in)
	var first []string
	if b, ok := s.chassis.(BootOrderer); ok {
		var err error
		if first, err = b.BootOrder(ctx); err != nil {
			return nil, fmt.Errorf("reading the boot order: %w", err)
		}
	}
	rank := func(e bootEntry) int {
		if i := slices.Index(first, e.id); i >= 0 {
			return i
		}
		return len(first)
	}
	slices.SortStableFunc(all, func(a, b bootEntry) int { return rank(a) - rank(b) })
	refs := make([]string, len(all))
	for i, e := range all {
		refs[i] = e.reference
	}
	return refs, nil
}

// orderSetter checks a new Boot.BootOrder: every option once.
func (s *Server) orderSetter(c *call, v any) (func() error, error) {
	const full = "Boot/BootOrder"
	list, ok := v.([]any)
	if !ok {
		return nil, msgPropertyType(full, v)
	}
	b, ok := s.chassis.(BootOrderer)
	if !ok || s.tree != nil { // a tree has options of its own
		return nil, msgReadOnly(full)
	}
	in, err := s.info(c)
	if err != nil {
		return nil, err
	}
	all := bootEntries(in)
	var order []string
	for _, x := range list {
		t, _ := x.(string)
		i := slices.IndexFunc(all, func(e bootEntry) bool { return e.reference == t })
		if i < 0 || slices.Contains(order, all[i].id) {
			return nil, msgNotInList(full, x)
		}
		order = append(order, all[i].id)
	}
	return func() error {
		err := b.SetBootOrder(c.ctx, order)
		if errors.Is(err, ErrUnsupported) {
			return msgReadOnly(full)
		}
		if err != nil {
			return fmt.Errorf("setting the boot order: %w", err)
		}
		s.logEvent("system", "OK", fmt.Sprintf("Boot order changed by %s.", c.who.name))
		return nil
	}, nil
}

// BootOrder is the order of NICs and drives that was set, by their ids.
func (m *Memory) BootOrder(ctx context.Context) ([]string, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	return slices.Clone(m.order), nil
}

// SetBootOrder sets it.
func (m *Memory) SetBootOrder(ctx context.Context, order []string) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if !m.fault.Lie {
		m.order = slices.Clone(order)
	}
	return nil
}

// DisabledBootOptions are the ids of NICs and drives that are passed over.
func (m *Memory) DisabledBootOptions(ctx context.Context) ([]string, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	return slices.Clone(m.unbootable), nil
}

// SetBootOption enables or disables one.
func (m *Memory) SetBootOption(ctx context.Context, id string, enabled bool) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.fault.Lie {
		return nil
	}
	m.unbootable = slices.DeleteFunc(slices.Clone(m.unbootable), func(x string) bool { return x == id })
	if !enabled {
		m.unbootable = append(m.unbootable, id)
	}
	return nil
}
