package vbmc

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
)

// The power limit of DCMI (DCMI 1.5 §6.6.2 to §6.6.4). It is the one that
// Redfish shows; an inactive one is kept here until it is made active.

// ccNoLimit: no limit is active.
const ccNoLimit = completion(0x80)

func (i *ipmi) limiter(d []byte) (PowerLimiter, error) {
	l, ok := i.s.chassis.(PowerLimiter)
	if d[0] != dcmiGroup {
		return nil, ccField
	}
	if !ok {
		return nil, ccInvalid
	}
	return l, nil
}

func (i *ipmi) dcmiLimit(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	l, err := i.limiter(d)
	if err != nil {
		return nil, err
	}
	now, err := l.PowerLimit(ctx)
	if err != nil {
		return nil, err
	}
	if now.Watts == 0 {
		return nil, ccNoLimit
	}
	le := binary.LittleEndian
	out := []byte{dcmiGroup, 0, 0, 0} // no action beyond the limit
	out = le.AppendUint16(out, uint16(min(now.Watts, math.MaxUint16)))
	out = le.AppendUint32(out, 1000)
	return le.AppendUint16(append(out, 0, 0), 1), nil
}

func (i *ipmi) setDCMILimit(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	l, err := i.limiter(d)
	if err != nil {
		return nil, err
	}
	now, err := l.PowerLimit(ctx)
	if err != nil {
		return nil, err
	}
	watts := float64(binary.LittleEndian.Uint16(d[5:]))
	if watts < now.Min || watts > now.Max {
		return nil, completion(0x84) // power limit out of range
	}
	i.wanted = watts
	if now.Watts > 0 { // it is active: at once
		return []byte{dcmiGroup}, i.setLimit(ctx, l, watts)
	}
	return []byte{dcmiGroup}, nil
}

func (i *ipmi) useDCMILimit(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	l, err := i.limiter(d)
	if err != nil {
		return nil, err
	}
	switch {
	case d[1] == 0:
		return []byte{dcmiGroup}, i.setLimit(ctx, l, 0)
	case d[1] == 1 && i.wanted > 0:
		return []byte{dcmiGroup}, i.setLimit(ctx, l, i.wanted)
	}
	return nil, ccField
}

func (i *ipmi) setLimit(ctx context.Context, l PowerLimiter, watts float64) error {
	err := l.SetPowerLimit(ctx, watts)
	if errors.Is(err, ErrUnsupported) {
		return ccInvalid
	}
	return err
}
