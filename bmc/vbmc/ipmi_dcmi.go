package vbmc

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// dcmiGroup is the group extension of DCMI (DCMI 1.5 §6.1).
const dcmiGroup = 0xdc

// dcmiPower is Get Power Reading (DCMI 1.5 §6.6.1): what the supplies draw at
// present, which is all that is known, over one second too.
func (i *ipmi) dcmiPower(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[0] != dcmiGroup || d[1] != 1 && d[1] != 2 {
		return nil, ccField
	}
	all, err := i.s.sensors(ctx)
	if err != nil {
		return nil, err
	}
	watts, found := 0.0, false
	for _, s := range all {
		if s.Type == "Power" && s.Context == "PowerSupply" && !s.Absent {
			watts, found = watts+s.Reading, true
		}
	}
	if !found {
		return nil, ccAbsent
	}
	le := binary.LittleEndian
	out := []byte{dcmiGroup}
	for range 4 { // now, least, most, mean
		out = le.AppendUint16(out, uint16(min(watts, math.MaxUint16)))
	}
	out = le.AppendUint32(out, uint32(i.s.now().Unix()))
	return append(le.AppendUint32(out, 1000), 0x40), nil // over one second; measuring
}

// Entities of temperatures (DCMI 1.5 table 6-15), and as IPMI numbered them
// before.
const (
	dcmiInlet = 0x40
	dcmiCPU   = 0x41
	dcmiBoard = 0x42
)

var dcmiEntities = map[byte]byte{0x37: dcmiInlet, 0x03: dcmiCPU, 0x07: dcmiBoard}

// dcmiSettings are the texts that DCMI keeps.
type dcmiSettings struct{ asset, id []byte }

// dcmiTextMax is the longest (DCMI 1.5 §6.4.2, §6.4.6), dcmiChunk how much of it
// is read and written at a time.
const (
	dcmiTextMax = 64
	dcmiChunk   = 16
)

// dcmiCapabilities is Get DCMI Capabilities Info (DCMI 1.5 §6.1.1).
func (i *ipmi) dcmiCapabilities(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[0] != dcmiGroup {
		return nil, ccField
	}
	var v []byte
	switch d[1] {
	case 1: // supported: power management where there is a limit; KCS, LAN, serial over LAN, VLAN
		power := byte(0)
		if _, ok := i.s.chassis.(PowerLimiter); ok {
			power = 1
		}
		access := byte(0x29)
		if i.s.console != nil {
			access |= 0x10
		}
		v = []byte{0, power, access}
	case 2: // the event log: its oldest entries go first; GUID and asset tag; temperatures every second
		v = []byte{byte(maxEvents & 0xff), 0x80 | byte(maxEvents>>8), 0x05, 0, 1}
	case 3: // power management is the BMC's own
		v = []byte{0x20, 0}
	case 4: // LAN channel; no second one, no serial one
		v = []byte{lanChannel, 0xff, 0xff}
	case 5: // power is measured over one second
		v = []byte{1, 1}
	default:
		return nil, ccField
	}
	return append([]byte{dcmiGroup, 1, 5, 2}, v...), nil
}

// chunk answers with a part of a text.
func chunk(text []byte, d []byte) ([]byte, error) {
	off, n := int(d[1]), int(d[2])
	if d[0] != dcmiGroup {
		return nil, ccField
	}
	if n > dcmiChunk || off > len(text) {
		return nil, ccRange
	}
	return append([]byte{dcmiGroup, byte(len(text))}, text[off:min(off+n, len(text))]...), nil
}

// setChunk writes a part of a text. What is behind it goes: clients write from
// the beginning.
func setChunk(text []byte, d []byte) ([]byte, error) {
	off, n := int(d[1]), int(d[2])
	switch {
	case d[0] != dcmiGroup:
		return nil, ccField
	case n != len(d)-3:
		return nil, ccLength
	case n > dcmiChunk || off > len(text) || off+n > dcmiTextMax:
		return nil, ccRange
	}
	return append(append([]byte(nil), text[:off]...), d[3:]...), nil
}

// dcmiText is Get Asset Tag (DCMI 1.5 §6.4.2), which Redfish's Chassis shows.
func (i *ipmi) dcmiText(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return chunk(i.s.ipmi.dcmi.asset, d)
}

// setDCMIText is Set Asset Tag (DCMI 1.5 §6.4.3).
func (i *ipmi) setDCMIText(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	text, err := setChunk(i.s.ipmi.dcmi.asset, d)
	if err == nil && len(text) == dcmiTextMax {
		err = ccRange // 63 bytes
	}
	if err != nil {
		return nil, err
	}
	i.s.ipmi.dcmi.asset = text
	return []byte{dcmiGroup, byte(len(text))}, nil
}

// assetTag is what Redfish shows of it; null: there is none.
func (s *Server) assetTag() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return nullable(strings.ToValidUTF8(string(s.ipmi.dcmi.asset), "\uFFFD"))
}

// setAssetTag is a PATCH of Chassis.AssetTag.
func (s *Server) setAssetTag(v any) (func() error, error) {
	t, ok := v.(string)
	if !ok && v != nil {
		return nil, msgPropertyType("AssetTag", v)
	}
	if len(t) >= dcmiTextMax {
		return nil, msgPropertyFormat("AssetTag", v)
	}
	return func() error { s.mu.Lock(); defer s.mu.Unlock(); s.ipmi.dcmi.asset = []byte(t); return nil }, nil
}

// dcmiID is Get Management Controller Identifier String (DCMI 1.5 §6.4.6), with
// the zero that ends it. Unless it was set, it is the BMC's host name.
func (i *ipmi) dcmiID(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	text, err := i.controllerID(ctx)
	if err != nil {
		return nil, err
	}
	return chunk(text, d)
}

func (i *ipmi) controllerID(ctx context.Context) ([]byte, error) {
	l, err := i.s.lan(ctx)
	if err != nil {
		return nil, err
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if text := i.s.ipmi.dcmi.id; text != nil {
		return text, nil
	}
	name := cmp.Or(l.HostName, fmt.Sprintf("DCMI%x", i.guid[:6]))
	return append([]byte(name[:min(len(name), dcmiTextMax-1)]), 0), nil
}

// setDCMIID is Set Management Controller Identifier String (DCMI 1.5 §6.4.7).
func (i *ipmi) setDCMIID(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	text, err := i.controllerID(ctx)
	if err != nil {
		return nil, err
	}
	if text, err = setChunk(text, d); err != nil {
		return nil, err
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.ipmi.dcmi.id = text
	return []byte{dcmiGroup, byte(len(text))}, nil
}

// dcmiTemps are the temperatures of an entity, by number of the sensor.
func (i *ipmi) dcmiTemps(ctx context.Context, d []byte) (numbers []int, all []Sensor, err error) {
	if d[0] != dcmiGroup || d[1] != 0x01 {
		return nil, nil, ccField
	}
	entity := d[2]
	if e, old := dcmiEntities[entity]; old {
		entity = e
	}
	if all, err = i.ipmiSensors(ctx); err != nil {
		return nil, nil, err
	}
	for n, s := range all {
		if s.Type == "Temperature" && entityOf(s) == entity {
			numbers = append(numbers, n+1)
		}
	}
	return numbers, all, nil
}

// page are those of numbers that a request asks for: one instance, or all from
// one on, a few at a time.
func page(numbers []int, instance, from byte, most int) (out []int, first int) {
	at := max(int(from), 1)
	if instance != 0 {
		at, most = int(instance), 1
	}
	at = min(at, len(numbers)+1)
	return numbers[at-1 : min(at-1+most, len(numbers))], at
}

// dcmiSensors is Get DCMI Sensor Info (DCMI 1.5 §6.5.2): which records.
func (i *ipmi) dcmiSensors(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	numbers, _, err := i.dcmiTemps(ctx, d)
	if err != nil {
		return nil, err
	}
	some, _ := page(numbers, d[3], d[4], 8)
	out := []byte{dcmiGroup, byte(len(numbers)), byte(len(some))}
	for _, n := range some {
		out = binary.LittleEndian.AppendUint16(out, uint16(n))
	}
	return out, nil
}

// dcmiTemperatures is Get Temperature Readings (DCMI 1.5 §6.7.3).
func (i *ipmi) dcmiTemperatures(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	numbers, all, err := i.dcmiTemps(ctx, d)
	if err != nil {
		return nil, err
	}
	some, first := page(numbers, d[3], d[4], 8)
	out := []byte{dcmiGroup, byte(len(numbers)), byte(len(some))}
	for k, n := range some {
		out = append(out, byte(max(0, min(127, math.Round(all[n-1].Reading)))), byte(first+k))
	}
	return out, nil
}

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
	i.s.mu.Lock()
	i.s.ipmi.wanted = watts
	i.s.mu.Unlock()
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
	i.s.mu.Lock()
	wanted := i.s.ipmi.wanted
	i.s.mu.Unlock()
	switch {
	case d[1] == 0:
		return []byte{dcmiGroup}, i.setLimit(ctx, l, 0)
	case d[1] == 1 && wanted > 0:
		return []byte{dcmiGroup}, i.setLimit(ctx, l, wanted)
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
