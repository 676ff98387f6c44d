package bmc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// libDevices are bmclib's names of boot devices.
var libDevices = map[Device]string{BootDisk: "disk", BootPXE: "pxe", BootHTTP: "uefi_http", BootCD: "cdrom", BootSetup: "bios", BootNone: "none"}

// redfishTargets are Redfish's (DSP0268, ComputerSystem.BootSource), by
// bmclib's.
var redfishTargets = map[string]string{"disk": "Hdd", "pxe": "Pxe", "uefi_http": "UefiHttp", "cdrom": "Cd", "bios": "BiosSetup", "none": "None"}

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
	err = c.wait(octx, doing, min(readBackWait, c.t.Timeout/2), func(ctx context.Context) (bool, error) {
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
	})
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
	b := s.Boot
	if b == nil {
		return false, d.t.fail(doing, fmt.Errorf("%w: the system %s has no boot override", ErrUnsupported, s.ID))
	}
	target := redfishTargets[device]
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
			return false, d.t.fail(doing, fmt.Errorf("%w: as %s it offers only %s, not %s", ErrUnsupported, x.name, strings.Join(x.allowed, ", "), v))
		}
	}
	if err := d.change(ctx, localPath(s.ID), map[string]any{"Boot": boot}); err != nil {
		return false, d.t.own(ctx, doing, err)
	}
	return true, nil
}

func (d *redfishDriver) nextBoot(ctx context.Context) (NextBoot, bool, error) {
	s, _, err := d.system(ctx)
	if err != nil || s.Boot == nil {
		return NextBoot{Device: BootNone}, false, err
	}
	return s.Boot.nextBoot(), s.Boot.Mode != "", nil
}

// nextBoot is the override in our words; a target that we have no word for
// keeps the BMC's, in lower case.
func (b bootOverride) nextBoot() NextBoot {
	nb := NextBoot{Device: BootNone, UEFI: b.Mode == "UEFI"}
	if b.Enabled == "Disabled" || b.Enabled == "" || b.Target == "None" || b.Target == "" {
		return nb
	}
	nb.Device, nb.Permanent = Device(strings.ToLower(string(b.Target))), b.Enabled == "Continuous"
	for dev, lib := range libDevices {
		if redfishTargets[lib] == string(b.Target) {
			nb.Device = dev
		}
	}
	return nb
}
