package vbmc

import (
	"context"
	"errors"
	"fmt"
)

// bootParameters are the boot options that are not the chassis' (IPMI 2.0
// table 28-14).
type bootParameters struct {
	progress, clearing byte
	ack                [2]byte
	cause              byte // of the last restart, in the high half
}

// ipmiTargets are the boot device selectors.
var ipmiTargets = map[byte]BootTarget{0: BootNone, 1: BootPxe, 2: BootHdd, 3: BootHdd, 5: BootCd, 6: BootBiosSetup}

// setBootOption is Set System Boot Options (IPMI 2.0 §28.12). The boot flags
// are the chassis' override, the same that Redfish shows.
func (i *ipmi) setBootOption(ctx context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	p, v := d[0]&0x7f, d[1:]
	need := map[byte]int{0: 1, 3: 1, 4: 2, 5: 5}[p]
	switch {
	case need == 0:
		return nil, ccParameter
	case len(v) == 0: // only marks the parameter valid or not
		return nil, nil
	case len(v) < need:
		return nil, ccLength
	}
	switch p {
	case 0:
		if v[0]&3 == 1 && i.flags.progress == 1 {
			return nil, completion(0x81)
		}
		i.flags.progress = v[0] & 3
	case 3:
		i.flags.clearing = v[0] & 0x1f
	case 4:
		i.flags.ack[1] = i.flags.ack[1]&^v[0] | v[1]&v[0]
	case 5:
		return nil, i.setBootFlags(ctx, x, v)
	}
	return nil, nil
}

func (i *ipmi) setBootFlags(ctx context.Context, x *ipmiSession, v []byte) error {
	b := Boot{Target: BootNone, Enabled: "Disabled", Mode: "Legacy"}
	if v[0]&0x20 != 0 {
		b.Mode = "UEFI"
	}
	t, ok := ipmiTargets[v[1]>>2&0xf]
	if !ok {
		return ccField
	}
	if v[0]&0x80 != 0 && t != BootNone {
		b.Target, b.Enabled = t, "Once"
		if v[0]&0x40 != 0 {
			b.Enabled = "Continuous"
		}
	}
	err := i.s.chassis.SetBoot(ctx, b)
	if errors.Is(err, ErrUnsupported) {
		return ccField
	}
	if err != nil {
		return fmt.Errorf("setting the boot override: %w", err)
	}
	i.s.logEvent("system", "OK", fmt.Sprintf("Boot override %s %s %s by %s over IPMI.", b.Enabled, b.Target, b.Mode, x.user))
	return nil
}

// bootOption is Get System Boot Options (IPMI 2.0 §28.13).
func (i *ipmi) bootOption(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	p := d[0] & 0x7f
	head := []byte{1, p}
	switch p {
	case 0:
		return append(head, i.flags.progress), nil
	case 3:
		return append(head, i.flags.clearing), nil
	case 4:
		return append(head, i.flags.ack[:]...), nil
	case 5:
		v, err := i.bootFlags(ctx)
		return append(head, v...), err
	}
	return nil, ccParameter
}

func (i *ipmi) bootFlags(ctx context.Context) ([]byte, error) {
	b, err := i.s.chassis.Boot(ctx)
	if errors.Is(err, ErrUnsupported) {
		return nil, ccParameter
	}
	if err != nil {
		return nil, fmt.Errorf("reading the boot override: %w", err)
	}
	v := make([]byte, 5)
	if b.Mode == "UEFI" {
		v[0] |= 0x20
	}
	if b.Enabled == "Disabled" || b.Enabled == "" || b.Target == BootNone {
		return v, nil
	}
	v[0] |= 0x80
	if b.Enabled == "Continuous" {
		v[0] |= 0x40
	}
	for n, t := range ipmiTargets {
		if t == b.Target && n != 3 { // 3 is the disk in safe mode; HTTP boot has no number
			v[1] = n << 2
		}
	}
	return v, nil
}
