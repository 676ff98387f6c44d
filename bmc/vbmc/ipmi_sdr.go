package vbmc

import (
	"context"
	"encoding/binary"
	"math"
)

// scale is how a sensor's reading fits in a byte: reading = raw * m * 10^exp
// (IPMI 2.0 §36.3, linear, without B).
type scale struct {
	m          byte
	exp        int8
	sensorType byte // IPMI 2.0 table 42-3
	unit       byte // IPMI 2.0 table 43-15
	entity     byte // IPMI 2.0 table 43-13
}

// scales by Redfish ReadingType. A GPU server's supplies go beyond 5 kW.
var scales = map[string]scale{
	"Temperature": {1, 0, 0x01, 1, 0x40},
	"Rotational":  {1, 2, 0x04, 18, 0x1d},
	"Power":       {25, 0, 0x0b, 6, 0x0a},
	"Voltage":     {6, -2, 0x02, 4, 0x14},
}

func (s scale) raw(v float64) byte {
	r := math.Round(v / (float64(s.m) * math.Pow10(int(s.exp))))
	return byte(max(0, min(255, r)))
}

// sdrLimit: sensor numbers are a byte, and FFh is reserved.
const sdrLimit = 254

// ipmiSensors are the sensors that IPMI can tell, by number from 1.
func (i *ipmi) ipmiSensors(ctx context.Context) ([]Sensor, error) {
	all, err := i.s.sensors(ctx)
	if err != nil {
		return nil, err
	}
	var out []Sensor
	for _, s := range all {
		if _, ok := scales[s.Type]; ok && len(out) < sdrLimit {
			out = append(out, s)
		}
	}
	return out, nil
}

// readable are the thresholds that a sensor has (IPMI 2.0 table 43-1, byte 19):
// lower critical 02h, upper non-critical 08h, upper critical 10h.
func (s Sensor) readable() (mask byte) {
	if s.LowCritical != 0 {
		mask |= 0x02
	}
	if s.Caution != 0 {
		mask |= 0x08
	}
	if s.Critical != 0 {
		mask |= 0x10
	}
	return mask
}

// fullRecord is a Full Sensor Record (IPMI 2.0 table 43-1).
func fullRecord(number int, s Sensor) []byte {
	sc := scales[s.Type]
	name := s.Name[:min(len(s.Name), 16)]
	r := make([]byte, 48, 64)
	binary.LittleEndian.PutUint16(r, uint16(number))
	r[2], r[3] = 0x51, 0x01
	r[5], r[7] = 0x20, byte(number)
	r[8], r[9] = sc.entity, byte(number&0x7f)
	r[10], r[11] = 0x7f, 0x68 // initialised and scanned; re-arms itself, thresholds can be read
	r[12], r[13] = sc.sensorType, 0x01
	r[18] = s.readable()
	r[21] = sc.unit
	r[24] = sc.m
	r[29] = byte(sc.exp) << 4
	r[34] = 0xff
	r[37], r[38], r[40] = sc.raw(s.Critical), sc.raw(s.Caution), sc.raw(s.LowCritical)
	r[47] = 0xc0 | byte(len(name))
	r = append(r, name...)
	r[4] = byte(len(r) - 5)
	return r
}

// repositoryInfo is Get SDR Repository Info (IPMI 2.0 §33.9).
func (i *ipmi) repositoryInfo(ctx context.Context, _ *ipmiSession, _ []byte) ([]byte, error) {
	all, err := i.ipmiSensors(ctx)
	if err != nil {
		return nil, err
	}
	out := binary.LittleEndian.AppendUint16([]byte{0x51}, uint16(len(all)))
	out = append(out, 0xff, 0xff)                             // free space: not told
	return append(out, append(make([]byte, 8), 0x02)...), nil // never changed; reservations
}

func (i *ipmi) repositoryReserve(context.Context, *ipmiSession, []byte) ([]byte, error) {
	return []byte{1, 0}, nil // the records do not change
}

// sensorRecord is Get SDR (IPMI 2.0 §33.12).
func (i *ipmi) sensorRecord(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	all, err := i.ipmiSensors(ctx)
	if err != nil {
		return nil, err
	}
	number, off, n := int(binary.LittleEndian.Uint16(d[2:])), int(d[4]), int(d[5])
	switch number {
	case 0:
		number = 1
	case 0xffff:
		number = len(all)
	}
	if number < 1 || number > len(all) {
		return nil, ccAbsent
	}
	next := uint16(0xffff)
	if number < len(all) {
		next = uint16(number + 1)
	}
	r := fullRecord(number, all[number-1])
	if off >= len(r) {
		return nil, ccRange
	}
	return append(binary.LittleEndian.AppendUint16(nil, next), r[off:min(off+n, len(r))]...), nil
}

// sensorReading is Get Sensor Reading (IPMI 2.0 §35.14).
func (i *ipmi) sensorReading(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	s, err := i.sensor(ctx, d[0])
	if err != nil {
		return nil, err
	}
	if s.Absent {
		return []byte{0, 0xe0, 0xc0, 0x80}, nil // not available
	}
	sc := scales[s.Type]
	out := []byte{sc.raw(s.Reading), 0xc0, 0xc0, 0x80}
	for _, t := range []struct {
		bit     byte
		crossed bool
	}{{0x02, s.LowCritical != 0 && s.Reading <= s.LowCritical}, {0x08, s.Caution != 0 && s.Reading >= s.Caution}, {0x10, s.Critical != 0 && s.Reading >= s.Critical}} {
		if t.crossed {
			out[2] |= t.bit
		}
	}
	return out, nil
}

// sensorThresholds is Get Sensor Thresholds (IPMI 2.0 §35.9).
func (i *ipmi) sensorThresholds(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	s, err := i.sensor(ctx, d[0])
	if err != nil {
		return nil, err
	}
	sc := scales[s.Type]
	return []byte{s.readable(), 0, sc.raw(s.LowCritical), 0, sc.raw(s.Caution), sc.raw(s.Critical), 0}, nil
}

func (i *ipmi) sensor(ctx context.Context, number byte) (Sensor, error) {
	all, err := i.ipmiSensors(ctx)
	if err != nil {
		return Sensor{}, err
	}
	if number == 0 || int(number) > len(all) {
		return Sensor{}, ccAbsent
	}
	return all[number-1], nil
}

// dcmiGroup is the group extension of DCMI (DCMI 1.5 §6.1).
const dcmiGroup = 0xdc

// dcmiPower is Get Power Reading (DCMI 1.5 §6.6.1): what the supplies draw at
// present, which is all that is known.
func (i *ipmi) dcmiPower(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[0] != dcmiGroup || d[1] != 1 {
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
