package bmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
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

// decode reads resources, leniently; they are JSON objects already.
func decode[T any](raw []json.RawMessage) ([]T, error) {
	out := make([]T, 0, len(raw))
	for _, r := range raw {
		var v T
		if err := unmarshal(r, &v); err != nil {
			var typ *json.UnmarshalTypeError
			if errors.As(err, &typ) {
				continue // a member that is no object
			}
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

const hostRank = 8 // the least of a machine

// isHost is how much a system looks like the machine itself: one that can be
// reset, be told what to boot, and has firmware settings. An HGX baseboard
// beside it has little of this, whatever its firmware pretends.
func (s computerSystem) isHost() int {
	n := 0
	if s.Actions.Reset != nil && s.Actions.Reset.Target != "" {
		n += hostRank
	}
	if s.Boot != nil && (len(s.Boot.TargetAllowed) > 0 || s.Boot.Target != "") {
		n += 4
	}
	if s.Bios.path() != "" {
		n += 2
	}
	if s.SystemType == "Physical" {
		n++
	}
	if strings.HasPrefix(path.Base(strings.TrimRight(s.ID, "/")), "HGX_") {
		n -= hostRank
	}
	return n
}

// host picks the machine itself among systems; want is its name there, when
// somebody said so. Where several nodes share a BMC and look the same, none is
// taken rather than another's machine.
func host(all []computerSystem, want string) (computerSystem, error) {
	var best []computerSystem
	var names []string
	for _, s := range all {
		if s.ID == "" {
			continue
		}
		names = append(names, path.Base(localPath(s.ID)))
		if want != "" && s.called(want) {
			best = append(best, s)
		}
	}
	if want == "" {
		best = likeliest(all)
	}
	switch {
	case len(best) == 1:
		return best[0], nil
	case len(best) > 1:
		return computerSystem{}, fmt.Errorf("%w: %s: say which one this machine is by bmc: system: in the site file", errWhichSystem, strings.Join(names, ", "))
	case want != "" && len(names) > 0:
		return computerSystem{}, fmt.Errorf("the BMC has no computer system %q (bmc: system: in the site file): it has %s", want, strings.Join(names, ", "))
	}
	return computerSystem{}, errNoSystem
}

// likeliest are those that look most like a machine.
func likeliest(all []computerSystem) (best []computerSystem) {
	for _, s := range all {
		switch {
		case s.ID == "":
		case len(best) == 0 || s.isHost() > best[0].isHost():
			best = []computerSystem{s}
		case s.isHost() == best[0].isHost() && !slices.ContainsFunc(best, func(o computerSystem) bool { return localPath(o.ID) == localPath(s.ID) }):
			best = append(best, s)
		}
	}
	return best
}

var (
	errNoSystem    = errors.New("the BMC shows no computer system")
	errWhichSystem = errors.New("the BMC manages several computer systems that look the same")
)

// called tells that a system has that name: the last part of its URI, its name,
// or what identifies it.
func (s computerSystem) called(want string) bool {
	for _, name := range []string{path.Base(localPath(s.ID)), string(s.Name), string(s.HostName), string(s.SerialNumber), string(s.UUID), string(s.SKU)} {
		if name != "" && strings.EqualFold(name, want) {
			return true
		}
	}
	return false
}

// system reads the machine itself; the first time it is found by links.
func (d *redfishDriver) system(ctx context.Context) (computerSystem, string, error) {
	d.mu.Lock()
	at := d.sysPath
	d.mu.Unlock()
	if at != "" {
		var s computerSystem
		a, err := d.get(ctx, at, &s)
		s.ID = at
		return s, a.etag(), err
	}
	all, missing, err := d.systems(ctx)
	if err != nil {
		return computerSystem{}, "", err
	}
	s, err := d.chosen(all, missing)
	return s, "", err
}

// chosen is the host among systems; from now on it is found by its path.
func (d *redfishDriver) chosen(all []computerSystem, missing []string) (computerSystem, error) {
	s, err := d.host(all)
	if errors.Is(err, errNoSystem) {
		why := "it names none"
		if len(missing) > 0 {
			why = strings.Join(missing, "; ")
		}
		return s, fmt.Errorf("%w (%s): its Redfish service may still be starting", err, why)
	}
	if err == nil {
		d.mu.Lock()
		d.sysPath = localPath(s.ID)
		d.mu.Unlock()
	}
	return s, err
}

func (d *redfishDriver) host(all []computerSystem) (computerSystem, error) {
	return host(all, d.t.System)
}

func (d *redfishDriver) status(ctx context.Context) (Status, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return Status{}, err
	}
	return d.statusOf(ctx, s)
}

func (d *redfishDriver) statusOf(ctx context.Context, s computerSystem) (st Status, err error) {
	st = d.facts(s)
	st.Power, st.Health = parsePower(string(s.PowerState)), s.Status.text()
	if st.Boot, _, err = d.boot(ctx, s); err != nil {
		return st, err
	}
	switch {
	case s.LocationIndicatorActive.set:
		st.Identify = s.LocationIndicatorActive.on
	case s.IndicatorLED != "":
		st.Identify = lit(string(s.IndicatorLED), st.Vendor)
	}
	if !s.LocationIndicatorActive.set && s.IndicatorLED == "" || s.PowerState == "" {
		var ch chassis
		if err := d.optional(ctx, s.Links.Chassis.first(), &ch); err != nil {
			return st, err
		}
		st.Identify = st.Identify || ch.LocationIndicatorActive.on || lit(string(ch.IndicatorLED), st.Vendor)
		if s.PowerState == "" {
			st.Power = parsePower(string(ch.PowerState))
		}
	}
	if st.Serial == "" || st.Model == "" || st.Vendor == "" {
		f, err := d.enclosure(ctx, s)
		if err != nil {
			return st, err
		}
		st.fill(f)
	}
	p, err := d.managerOf(ctx, s)
	if errors.Is(err, ErrUnsupported) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	var m manager
	err = d.optional(ctx, p, &m)
	st.Firmware = m.FirmwareVersion.known()
	return st, err
}

// facts are what a system says of itself.
func (d *redfishDriver) facts(s computerSystem) Status {
	st := Status{Vendor: s.Manufacturer.known(), Model: s.Model.known(), Serial: s.SerialNumber.known(), SKU: s.SKU.known(),
		UUID: strings.ToLower(s.UUID.known()), BIOS: s.BiosVersion.known()}
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
	if err != nil && d.fatal(ctx, err) {
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
	if best.vendor == "" {
		best.vendor = d.root.Vendor.known()
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
		if err := d.optional(ctx, p, &c); err != nil {
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
		err := d.change(ctx, p.path, want)
		if want["IndicatorLED"] == "Blinking" && notTaken(err) { // iLO: the light is Lit or Off
			err = d.change(ctx, p.path, map[string]any{"IndicatorLED": "Lit"})
		}
		if err != nil {
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
// it in between, once more (DSP0266 §7.6, If-Match). A BMC that wants a tag and
// shows none takes any (AMI's answer 428 without: RFC 6585 §3).
func (d *redfishDriver) change(ctx context.Context, path string, v any) error {
	for try := 0; ; try++ {
		a, err := d.do(ctx, http.MethodGet, path, nil, nil)
		if err != nil {
			return err
		}
		hdr := map[string]string{}
		if tag := a.etag(); tag != "" {
			hdr["If-Match"] = tag
		}
		_, err = d.do(ctx, http.MethodPatch, path, v, hdr)
		switch s := statusOf(err); {
		case s == http.StatusPreconditionFailed && try == 0:
			continue
		case s == http.StatusPreconditionRequired, s == http.StatusPreconditionFailed && a.header.Get("ETag") == "":
			_, err = d.do(ctx, http.MethodPatch, path, v, map[string]string{"If-Match": "*"})
		}
		return err
	}
}

// post sends an action; AMI's firmware wants If-Match there, too.
func (d *redfishDriver) post(ctx context.Context, path string, v any) (answer, error) {
	a, err := d.do(ctx, http.MethodPost, path, v, nil)
	if statusOf(err) == http.StatusPreconditionRequired {
		return d.do(ctx, http.MethodPost, path, v, map[string]string{"If-Match": "*"})
	}
	return a, err
}

// etag is the answer's tag: in its header, or in the resource alone.
func (a answer) etag() string {
	if tag := a.header.Get("ETag"); tag != "" {
		return tag
	}
	var o struct {
		Tag text `json:"@odata.etag"`
	}
	if unmarshal(a.body, &o) != nil {
		return ""
	}
	return string(o.Tag)
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
