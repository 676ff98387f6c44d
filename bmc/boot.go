package bmc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// libDevices are bmclib's names of boot devices.
var libDevices = map[Device]string{BootDisk: "disk", BootPXE: "pxe", BootHTTP: "uefi_http", BootCD: "cdrom", BootSetup: "bios", BootNone: "none"}

// redfishTargets are Redfish's (DSP0268, ComputerSystem.BootSource), by
// bmclib's.
var redfishTargets = map[string]string{"disk": "Hdd", "pxe": "Pxe", "uefi_http": "UefiHttp", "cdrom": "Cd", "bios": "BiosSetup", "none": "None"}

// otherTargets are the names by which BMCs offer the same where they lack the
// plain one: Supermicro's virtual CD is a USB device, and its X10 says UEFI in the
// name because it has no mode.
var otherTargets = map[string][]string{"Cd": {"UsbCd", "CD/DVD", "UefiUsbCd", "UefiCd"}, "Hdd": {"UefiHdd"}, "Pxe": {"UefiPxe"}}

// SetNextBoot sets the boot override, and reads it back: a BMC that accepts it
// and changes nothing is an error.
func (c *Client) SetNextBoot(ctx context.Context, nb NextBoot) error {
	doing := "setting the next boot to " + nb.String()
	dev, ok := libDevices[nb.Device]
	if !ok {
		return c.t.fail(doing, fmt.Errorf("there is no boot device %q", nb.Device))
	}
	octx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	if _, err := c.lib.SetBootDevice(octx, dev, nb.Permanent, nb.UEFI); err != nil {
		return c.t.own(octx, doing, err)
	}
	var now NextBoot
	follows := func(ctx context.Context) (bool, error) {
		var modeKnown bool
		var err error
		now, modeKnown, err = c.drv.nextBoot(ctx)
		if err != nil {
			return false, c.t.own(ctx, doing, err)
		}
		if nb.Device == BootNone {
			return now.Device == BootNone, nil
		}
		return now.Device == nb.Device && now.Permanent == nb.Permanent && (!modeKnown || now.UEFI == nb.UEFI), nil
	}
	wait := min(readBackWait, c.t.Timeout/2)
	err = c.wait(octx, doing, wait/2, follows)
	if d, ok := c.drv.(*redfishDriver); ok && errors.Is(err, errNothing) {
		// It was accepted and is not there: where the system has a settings
		// resource, that is the place (AMI).
		var sent bool
		if sent, err = d.bootLater(octx, dev, nb); err != nil {
			return c.t.own(octx, doing, err)
		}
		if err = errNothing; sent {
			err = c.wait(octx, doing, wait/2, follows)
		}
	}
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: the next boot still reads %s", errNothing, now))
	}
	return err
}

// String is a NextBoot for people: "pxe once, UEFI".
func (nb NextBoot) String() string {
	if nb.Device == BootNone || nb.Device == "" {
		return string(BootNone)
	}
	s := string(nb.Device) + " once"
	if nb.Permanent {
		s = string(nb.Device) + " permanently"
	}
	if nb.UEFI {
		return s + ", UEFI"
	}
	return s + ", legacy"
}

// BootDeviceSet sets the override, for bmclib.
func (d *redfishDriver) BootDeviceSet(ctx context.Context, device string, permanent, uefi bool) (bool, error) {
	doing := "setting the next boot to " + device
	s, _, err := d.system(ctx)
	if err != nil {
		return false, d.t.own(ctx, doing, err)
	}
	set, err := s.bootSettings(device, permanent, uefi)
	if err != nil {
		return false, d.t.fail(doing, err)
	}
	err = d.change(ctx, localPath(s.ID), map[string]any{"Boot": set})
	if notTaken(err) && set["BootSourceOverrideMode"] != "" && set["BootSourceOverrideMode"] == string(s.Boot.Mode) {
		// Some do not let the mode be written (iLO), even with what it is.
		set2 := maps.Clone(set)
		delete(set2, "BootSourceOverrideMode")
		if d.change(ctx, localPath(s.ID), map[string]any{"Boot": set2}) == nil {
			err = nil
		}
	}
	if at := s.Settings.Object.path(); notTaken(err) && at != "" {
		if d.change(ctx, at, map[string]any{"Boot": set}) == nil { // AMI, DGX
			err = nil
		}
	}
	if err != nil {
		return false, d.t.own(ctx, doing, err)
	}
	return true, nil
}

// notTaken tells that the BMC did not take what was sent as it was.
func notTaken(err error) bool {
	s := statusOf(err)
	return s >= 400 && s < 500 && s != http.StatusUnauthorized && s != http.StatusForbidden
}

// bootLater sends the override to the settings resource of the system: AMI's
// firmware has it there until the machine boots, DGX too. It tells whether there
// is one.
func (d *redfishDriver) bootLater(ctx context.Context, device string, nb NextBoot) (bool, error) {
	s, _, err := d.system(ctx)
	if err != nil || s.Settings.Object.path() == "" {
		return false, err
	}
	set, err := s.bootSettings(device, nb.Permanent, nb.UEFI)
	if err != nil {
		return false, err
	}
	if err := d.change(ctx, s.Settings.Object.path(), map[string]any{"Boot": set}); err != nil {
		if notTaken(err) {
			return false, nil
		}
		return false, err
	}
	return true, nil
}

// bootSettings are the properties of Boot that ask for a device; what the system
// does not offer is an error.
func (s computerSystem) bootSettings(device string, permanent, uefi bool) (map[string]string, error) {
	b := s.Boot
	if b == nil {
		return nil, fmt.Errorf("%w: the system %s has no boot override", ErrUnsupported, s.ID)
	}
	target := redfishTargets[device]
	names := append([]string{target}, otherTargets[target]...)
	if b.Mode == "" { // the name says it, where both are offered
		inName := func(s string) int {
			if strings.HasPrefix(s, "Uefi") == (uefi && target != "UefiHttp") {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(names, func(x, y string) int { return inName(x) - inName(y) })
	}
	if i := slices.IndexFunc(names, func(n string) bool { return slices.Contains(b.TargetAllowed, n) }); i >= 0 {
		target = names[i]
	}
	enabled := "Once"
	switch {
	case target == "None":
		enabled = "Disabled"
	case permanent:
		enabled = "Continuous"
	}
	boot := map[string]string{"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": enabled}
	if target != "None" && b.Mode != "" { // a BMC without the property has one mode only
		boot["BootSourceOverrideMode"] = "Legacy"
		if uefi {
			boot["BootSourceOverrideMode"] = "UEFI"
		}
	}
	for _, x := range []struct {
		name    string
		allowed texts
	}{{"BootSourceOverrideTarget", b.TargetAllowed}, {"BootSourceOverrideEnabled", b.EnabledAllowed}, {"BootSourceOverrideMode", b.ModeAllowed}} {
		if v := boot[x.name]; v != "" && len(x.allowed) > 0 && !slices.Contains(x.allowed, v) {
			if target == "None" { // a list of what to boot need not list nothing
				delete(boot, x.name)
				continue
			}
			return nil, fmt.Errorf("%w: as %s it offers only %s, not %s", ErrUnsupported, x.name, strings.Join(x.allowed, ", "), v)
		}
	}
	return boot, nil
}

func (d *redfishDriver) nextBoot(ctx context.Context) (NextBoot, bool, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return NextBoot{Device: BootNone}, false, err
	}
	return d.boot(ctx, s)
}

// boot is the override of a system, or the one that waits in its settings
// resource where it has one (AMI).
func (d *redfishDriver) boot(ctx context.Context, s computerSystem) (nb NextBoot, modeKnown bool, err error) {
	nb = NextBoot{Device: BootNone}
	if s.Boot != nil {
		nb, modeKnown = s.Boot.nextBoot(), s.Boot.Mode != ""
	}
	if p := s.Settings.Object.path(); p != "" && nb.Device == BootNone {
		var next computerSystem
		if err := d.optional(ctx, p, &next); err != nil {
			return nb, modeKnown, err
		}
		if next.Boot != nil && next.Boot.nextBoot().Device != BootNone {
			nb, modeKnown = next.Boot.nextBoot(), next.Boot.Mode != ""
		}
	}
	return nb, modeKnown, nil
}

// nextBoot is the override in our words; a target that we have no word for
// keeps the BMC's, in lower case.
func (b bootOverride) nextBoot() NextBoot {
	nb := NextBoot{Device: BootNone, UEFI: strings.EqualFold(string(b.Mode), "UEFI")}
	if b.Enabled == "Disabled" || b.Enabled == "" || b.Target == "None" || b.Target == "" {
		return nb
	}
	nb.Device, nb.Permanent = Device(strings.ToLower(string(b.Target))), b.Enabled == "Continuous"
	for dev, lib := range libDevices {
		if plain := redfishTargets[lib]; plain == string(b.Target) || slices.Contains(otherTargets[plain], string(b.Target)) {
			nb.Device = dev
		}
	}
	return nb
}
