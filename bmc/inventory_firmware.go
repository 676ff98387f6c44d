package bmc

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// firmware are the versions of everything that the BMC can name one of.
func (r *reader) firmware() (out []Firmware) {
	if r.err != nil || r.root.UpdateService.path() == "" {
		return nil
	}
	var us struct{ FirmwareInventory ref }
	if !r.one(r.root.UpdateService, &us) {
		return nil
	}
	for _, f := range list[softwareInventory](r, us.FirmwareInventory) {
		if x := f.firmware(); x.Version != "" && !f.of(r.others) {
			out = append(out, x)
		}
	}
	return out
}

// others are the paths of systems that are other machines than main: nodes that
// share its BMC.
func others(all []computerSystem, main computerSystem) (out []string) {
	for _, s := range all {
		if p := localPath(s.ID); s.isHost() >= hostRank && p != localPath(main.ID) && p != "" {
			out = append(out, strings.TrimRight(p, "/"))
		}
	}
	return out
}

// of tells that it is the firmware of one of these systems and of nothing else.
func (s softwareInventory) of(systems []string) bool {
	for _, r := range s.RelatedItem {
		if !slices.ContainsFunc(systems, func(p string) bool { return r.path() == p || strings.HasPrefix(r.path(), p+"/") }) {
			return false
		}
	}
	return len(s.RelatedItem) > 0 && len(systems) > 0
}

// softwareInventory is what we use of SoftwareInventory (DSP0268).
type softwareInventory struct {
	ID            text `json:"Id"`
	Name, Version text
	RelatedItem   refs
}

// firmware is it in our words. OpenBMC calls every one of them Software
// Inventory, and tells which it is in the id alone.
func (s softwareInventory) firmware() Firmware {
	f := Firmware{ID: string(s.ID), Name: s.Name.known(), Version: s.Version.known()}
	if f.Name == "" || f.Name == "Software Inventory" || f.Name == "Firmware Inventory" {
		f.Name = f.ID
	}
	return f
}

// firmware reads the versions alone.
func (d *redfishDriver) firmware(ctx context.Context) ([]Firmware, error) {
	if d.root.UpdateService.path() == "" {
		return nil, fmt.Errorf("%w: its Redfish service has no UpdateService", ErrUnsupported)
	}
	r := &reader{redfishDriver: d, ctx: ctx}
	if d.t.System != "" { // there may be others
		all, missing, err := d.systems(ctx)
		if err != nil {
			return nil, err
		}
		main, err := d.chosen(all, missing)
		if err != nil {
			return nil, err
		}
		r.others = others(all, main)
	}
	out := r.firmware()
	if r.err == nil && len(out) == 0 && len(r.missing) > 0 {
		return nil, fmt.Errorf("none of its firmware versions can be read: %s", r.missing[0])
	}
	if out == nil {
		out = []Firmware{}
	}
	return out, r.err
}
