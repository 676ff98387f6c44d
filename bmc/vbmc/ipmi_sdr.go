package vbmc

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
)

// scale is how a sensor's reading fits in a byte: reading = raw * m * 10^exp
// (IPMI 2.0 §36.3, linear, without B).
type scale struct {
	m          byte
	exp        int8
	sensorType byte // IPMI 2.0 table 42-3
	unit       byte // IPMI 2.0 table 43-15
	entity     byte // IPMI 2.0 table 43-13; that of a temperature is by its place
}

// scales by Redfish ReadingType. A GPU server's supplies go beyond 5 kW.
var scales = map[string]scale{
	"Temperature": {1, 0, 0x01, 1, 0},
	"Rotational":  {1, 2, 0x04, 18, 0x1d},
	"Power":       {25, 0, 0x0b, 6, 0x0a},
	"Voltage":     {6, -2, 0x02, 4, 0x14},
}

func (s scale) raw(v float64) byte {
	r := math.Round(v / (float64(s.m) * math.Pow10(int(s.exp))))
	return byte(max(0, min(255, r)))
}

// value is what a raw reading means.
func (s scale) value(raw byte) float64 {
	return float64(raw) * float64(s.m) * math.Pow10(int(s.exp))
}

// entityOf is where a sensor is: DCMI asks for the entities of temperatures
// (DCMI 1.5 table 6-15).
func entityOf(s Sensor) byte {
	if s.Type != "Temperature" {
		return scales[s.Type].entity
	}
	switch s.Context {
	case "Intake":
		return dcmiInlet
	case "CPU":
		return dcmiCPU
	case "GPU":
		return 0x0b // add-in card
	}
	return dcmiBoard
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

// fullRecord is a Full Sensor Record (IPMI 2.0 table 43-1) of one of all sensors.
func fullRecord(number int, all []Sensor) []byte {
	s := all[number-1]
	instance := byte(0)
	for _, o := range all[:number] {
		if entityOf(o) == entityOf(s) {
			instance++
		}
	}
	sc := scales[s.Type]
	name := s.Name[:min(len(s.Name), 16)]
	r := make([]byte, 48, 64)
	binary.LittleEndian.PutUint16(r, uint16(number))
	r[2], r[3] = 0x51, 0x01
	r[5], r[7] = 0x20, byte(number)
	r[8], r[9] = entityOf(s), min(instance, 0x5f)
	r[10], r[11] = 0x7f, 0x4b // initialised and scanned; re-arms itself, thresholds can be read and set, no hysteresis, no events
	r[12], r[13] = sc.sensorType, 0x01
	r[18], r[19] = s.readable(), s.readable()
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
	r := fullRecord(number, all)
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

// setThresholds is Set Sensor Thresholds (IPMI 2.0 §35.8): those that the sensor
// has. Redfish shows them too.
func (i *ipmi) setThresholds(ctx context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	s, err := i.sensor(ctx, d[0])
	if err != nil {
		return nil, err
	}
	mask := d[1]
	if mask&^s.readable() != 0 {
		return nil, ccField
	}
	sc := scales[s.Type]
	for _, t := range []struct {
		bit, raw byte
		to       *float64
	}{{0x02, d[3], &s.LowCritical}, {0x08, d[5], &s.Caution}, {0x10, d[6], &s.Critical}} {
		if mask&t.bit == 0 {
			continue
		}
		if t.raw == 0 { // 0 is none, here as in Redfish
			return nil, ccRange
		}
		*t.to = sc.value(t.raw)
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if i.s.ipmi.limits == nil {
		i.s.ipmi.limits = map[string]Sensor{}
	}
	i.s.ipmi.limits[s.ID] = s
	i.s.record("manager", "OK", fmt.Sprintf("Thresholds of sensor %s set by %s over IPMI.", s.Name, x.user))
	return nil, nil
}

// limited puts the thresholds that were set in place of the chassis' own.
func (s *Server) limited(all []Sensor) []Sensor {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ipmi.limits) == 0 {
		return all
	}
	out := append([]Sensor(nil), all...)
	for n := range out {
		if l, ok := s.ipmi.limits[out[n].ID]; ok {
			out[n].LowCritical, out[n].Caution, out[n].Critical = l.LowCritical, l.Caution, l.Critical
		}
	}
	return out
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
