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
		{pattern: bootOptionsPath + "/{option}", get: func(c *call) (obj, error) {
			all, err := entries(c)
			if err != nil {
				return nil, err
			}
			for _, e := range all {
				if e.reference == c.vars["option"] {
					return obj{"@odata.id": c.path, "@odata.type": "#BootOption.v1_0_6.BootOption", "Id": e.reference, "Name": e.title, "DisplayName": e.title,
						"BootOptionReference": e.reference, "BootOptionEnabled": true, "Alias": e.alias, "UefiDevicePath": nullable(e.uefi),
						"RelatedItem": links(e.related), "RelatedItem@odata.count": 1}, nil
				}
			}
			return nil, msgNotFound(c.path)
		}},
	}
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
