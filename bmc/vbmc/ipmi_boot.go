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
	partition          [2]byte // service partition: selector, scan
	ack                byte
	initiator          [9]byte
	mailbox            [mailboxBlocks][16]byte
	rest               [4]byte // of the boot flags: what is beside the device
	cause              byte    // of the last restart
}

// mailboxBlocks are as many as IPMI asks for at least.
const mailboxBlocks = 5

// ipmiTargets are the boot device selectors.
var ipmiTargets = map[byte]BootTarget{0: BootNone, 1: BootPxe, 2: BootHdd, 3: BootHdd, 5: BootCd, 6: BootBiosSetup}

// bootOptionLen is what each parameter needs.
var bootOptionLen = map[byte]int{0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 5, 6: 9, 7: 17}

// setBootOption is Set System Boot Options (IPMI 2.0 §28.12). The boot flags
// are the chassis' override, the same that Redfish shows.
func (i *ipmi) setBootOption(ctx context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	p, v := d[0]&0x7f, d[1:]
	need, ok := bootOptionLen[p]
	switch {
	case !ok:
		return nil, ccParameter
	case len(v) == 0: // only marks the parameter valid or not
		return nil, nil
	case p == 7 && len(v) > 1 && len(v) < need: // a part of a block
		v = append(append([]byte(nil), v...), make([]byte, need-len(v))...)
	case len(v) < need:
		return nil, ccLength
	}
	if p == 5 {
		return nil, i.setBootFlags(ctx, x, v)
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	b := &i.s.ipmi.boot
	switch p {
	case 0:
		if v[0]&3 == 1 && b.progress == 1 {
			return nil, ccInProgress
		}
		b.progress = v[0] & 1 // there is nothing to be committed
	case 1, 2:
		b.partition[p-1] = v[0]
	case 3:
		b.clearing = v[0] & 0x1f
	case 4:
		b.ack = b.ack&^v[0] | v[1]&v[0]
	case 6:
		copy(b.initiator[:], v)
	case 7:
		if int(v[0]) >= mailboxBlocks {
			return nil, ccRange
		}
		copy(b.mailbox[v[0]][:], v[1:])
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
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.ipmi.boot.rest = [4]byte{v[1] &^ 0x3c, v[2], v[3], v[4]}
	i.s.record("system", "OK", fmt.Sprintf("Boot override %s %s %s by %s over IPMI.", b.Enabled, b.Target, b.Mode, x.user))
	return nil
}

// bootOption is Get System Boot Options (IPMI 2.0 §28.13).
func (i *ipmi) bootOption(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	p := d[0] & 0x7f
	head := []byte{1, p}
	if p == 5 {
		v, err := i.bootFlags(ctx)
		if err != nil {
			return nil, err
		}
		return append(head, v...), nil
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	b := i.s.ipmi.boot
	switch p {
	case 0:
		return append(head, b.progress), nil
	case 1, 2:
		return append(head, b.partition[p-1]), nil
	case 3:
		return append(head, b.clearing), nil
	case 4:
		return append(head, 0, b.ack), nil
	case 6:
		return append(head, b.initiator[:]...), nil
	case 7:
		if int(d[1]) >= mailboxBlocks {
			return nil, ccRange
		}
		return append(append(head, d[1]), b.mailbox[d[1]][:]...), nil
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
	i.s.mu.Lock()
	rest := i.s.ipmi.boot.rest
	i.s.mu.Unlock()
	v := append([]byte{0}, rest[:]...)
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
			v[1] |= n << 2
		}
	}
	return v, nil
}
