package bmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// systems reads every system of the service.
func (d *redfishDriver) systems(ctx context.Context) ([]computerSystem, []string, error) {
	path := d.root.Systems.path()
	if path == "" {
		return nil, nil, fmt.Errorf("%w: its service root names no systems", ErrUnsupported)
	}
	raw, missing, err := d.members(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	out, err := decode[computerSystem](raw)
	return out, missing, err
}

// decode reads resources.
func decode[T any](raw []json.RawMessage) ([]T, error) {
	out := make([]T, len(raw))
	for i, r := range raw {
		if err := json.Unmarshal(r, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// host picks the machine itself among systems: the one that can be reset and
// told what to boot; an HGX baseboard beside it can not.
func host(all []computerSystem) (computerSystem, bool) {
	score := func(s computerSystem) int {
		n := 0
		if s.Actions.Reset != nil && s.Actions.Reset.Target != "" {
			n += 4
		}
		if s.Boot != nil && len(s.Boot.TargetAllowed) > 0 || s.Boot != nil && s.Boot.Target != "" {
			n += 2
		}
		if s.SystemType == "Physical" {
			n++
		}
		return n
	}
	var best computerSystem
	for _, s := range all {
		if best.ID == "" || score(s) > score(best) {
			best = s
		}
	}
	return best, best.ID != ""
}

// system reads the machine itself; the first time it is found by links.
func (d *redfishDriver) system(ctx context.Context) (computerSystem, string, error) {
	d.mu.Lock()
	path := d.sysPath
	d.mu.Unlock()
	if path != "" {
		var s computerSystem
		a, err := d.get(ctx, path, &s)
		tag := a.header.Get("ETag")
		if tag == "" {
			var o struct {
				Tag string `json:"@odata.etag"`
			}
			if json.Unmarshal(a.body, &o) == nil {
				tag = o.Tag
			}
		}
		return s, tag, err
	}
	all, missing, err := d.systems(ctx)
	if err != nil {
		return computerSystem{}, "", err
	}
	s, ok := host(all)
	if !ok {
		why := "it names none"
		if len(missing) > 0 {
			why = strings.Join(missing, "; ")
		}
		return s, "", fmt.Errorf("the BMC shows no computer system (%s): its Redfish service may still be starting", why)
	}
	d.mu.Lock()
	d.sysPath = localPath(s.ID)
	d.mu.Unlock()
	return s, "", nil
}

func (d *redfishDriver) status(ctx context.Context) (Status, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return Status{}, err
	}
	st := d.facts(s)
	st.Power, st.Health = parsePower(string(s.PowerState)), s.Status.text()
	if s.Boot != nil {
		st.Boot = s.Boot.nextBoot()
	} else {
		st.Boot = NextBoot{Device: BootNone}
	}
	var ch chassis
	switch {
	case s.LocationIndicatorActive.set:
		st.Identify = s.LocationIndicatorActive.on
	case s.IndicatorLED != "":
		st.Identify = lit(string(s.IndicatorLED), st.Vendor)
	case s.Links.Chassis.first() != "":
		if _, err := d.get(ctx, s.Links.Chassis.first(), &ch); err != nil {
			return st, err
		}
		st.Identify = ch.LocationIndicatorActive.on || lit(string(ch.IndicatorLED), st.Vendor)
	}
	if st.Serial == "" || st.Model == "" {
		f, err := d.enclosure(ctx, s)
		if err != nil {
			return st, err
		}
		st.fill(f)
	}
	if p := s.Links.ManagedBy.first(); p != "" {
		var m manager
		if _, err := d.get(ctx, p, &m); err != nil {
			return st, err
		}
		st.Firmware = m.FirmwareVersion.known()
	}
	return st, nil
}

// facts are what a system says of itself.
func (d *redfishDriver) facts(s computerSystem) Status {
	st := Status{Vendor: s.Manufacturer.known(), Model: s.Model.known(), Serial: s.SerialNumber.known(), SKU: s.SKU.known(),
		UUID: strings.ToLower(s.UUID.known()), BIOS: s.BiosVersion.known()}
	if st.Vendor == "" {
		st.Vendor = d.root.Vendor.known()
	}
	return st
}

// chassisFacts are what the machine's enclosure says where the system is silent.
type chassisFacts struct{ vendor, model, serial, sku string }

func (st *Status) fill(f chassisFacts) {
	for _, x := range []struct {
		to   *string
		from string
	}{{&st.Vendor, f.vendor}, {&st.Model, f.model}, {&st.Serial, f.serial}, {&st.SKU, f.sku}} {
		if *x.to == "" {
			*x.to = x.from
		}
	}
}

// enclosure finds the chassis that the system stands in: among those that name
// the system, an enclosure rather than a component in it. It is read once.
func (d *redfishDriver) enclosure(ctx context.Context, s computerSystem) (chassisFacts, error) {
	d.mu.Lock()
	known := d.serial
	d.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	all, err := d.chassis(ctx)
	if err != nil {
		return chassisFacts{}, err
	}
	var best chassisFacts
	rank := -1
	for _, c := range all {
		if c.SerialNumber.known() == "" || !slices.ContainsFunc(c.Links.ComputerSystems, func(r ref) bool { return r.path() == localPath(s.ID) }) {
			continue
		}
		n := 1
		switch c.ChassisType {
		case "RackMount", "Shelf", "Sled", "Blade", "StandAlone", "Enclosure", "Drawer":
			n = 3
		case "Component", "Module", "Card", "Zone":
			n = 0
		}
		if slices.ContainsFunc(s.Links.Chassis, func(r ref) bool { return r.path() == localPath(c.ID) }) {
			n++
		}
		if n > rank {
			rank, best = n, chassisFacts{c.Manufacturer.known(), c.Model.known(), c.SerialNumber.known(), c.SKU.known()}
		}
	}
	if best.model == "" {
		best.model = d.root.Product.known()
	}
	d.mu.Lock()
	d.serial = &best
	d.mu.Unlock()
	return best, nil
}

// chassis reads every chassis.
func (d *redfishDriver) chassis(ctx context.Context) ([]chassis, error) {
	path := d.root.Chassis.path()
	if path == "" {
		return nil, nil
	}
	raw, _, err := d.members(ctx, path)
	if err != nil {
		return nil, err
	}
	return decode[chassis](raw)
}

// identify switches the light where the BMC has it: on the system, or on its
// chassis; then reads it back.
func (d *redfishDriver) identify(ctx context.Context, on bool) error {
	s, _, err := d.system(ctx)
	if err != nil {
		return err
	}
	type place struct {
		path string
		loc  flag
		led  text
	}
	places := []place{{localPath(s.ID), s.LocationIndicatorActive, s.IndicatorLED}}
	if p := s.Links.Chassis.first(); p != "" && !s.LocationIndicatorActive.set && s.IndicatorLED == "" {
		var c chassis
		if _, err := d.get(ctx, p, &c); err != nil {
			return err
		}
		places = append(places, place{p, c.LocationIndicatorActive, c.IndicatorLED})
	}
	vendor := d.facts(s).Vendor
	for _, p := range places {
		var want map[string]any
		switch {
		case p.loc.set:
			want = map[string]any{"LocationIndicatorActive": on}
		case p.led != "":
			want = map[string]any{"IndicatorLED": indicatorFor(on, vendor)}
		default:
			continue
		}
		if err := d.change(ctx, p.path, want); err != nil {
			return err
		}
		var c chassis // both resources have the two properties
		if _, err := d.get(ctx, p.path, &c); err != nil {
			return err
		}
		now := c.LocationIndicatorActive.on
		if !p.loc.set {
			now = lit(string(c.IndicatorLED), vendor)
		}
		if now != on {
			return fmt.Errorf("%w: the light still reads %s", errNothing, onOff(now))
		}
		return nil
	}
	return fmt.Errorf("%w: neither the system nor its chassis has an identify light", ErrUnsupported)
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// change patches a resource under its current ETag; when somebody else changed
// it in between, once more (DSP0266 §7.6, If-Match).
func (d *redfishDriver) change(ctx context.Context, path string, v any) error {
	for try := 0; ; try++ {
		a, err := d.do(ctx, http.MethodGet, path, nil, nil)
		if err != nil {
			return err
		}
		hdr := map[string]string{}
		if tag := a.header.Get("ETag"); tag != "" {
			hdr["If-Match"] = tag
		}
		_, err = d.do(ctx, http.MethodPatch, path, v, hdr)
		if statusOf(err) == http.StatusPreconditionFailed && try == 0 {
			continue
		}
		return err
	}
}

// parsePower normalises what Redfish and ipmitool call power states.
func parsePower(s string) Power {
	s = strings.ToLower(strings.TrimSpace(s))
	switch {
	case s == "on" || strings.HasSuffix(s, "power is on"):
		return On
	case s == "off" || strings.HasSuffix(s, "power is off"):
		return Off
	}
	return PowerUnknown // also PoweringOn and PoweringOff
}

var errNothing = errors.New("the BMC accepted it and changed nothing")
