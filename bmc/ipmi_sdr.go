package bmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"
)

// Bounds of what is read of a BMC.
const (
	maxRecords = 4096 // of sensors and of events
	sdrHeader  = 5
	sdrChunk   = 22
)

// records walks a repository: get reads one record and names the next.
func records(ctx context.Context, get func(ctx context.Context, id uint16) (next uint16, err error)) error {
	id := uint16(0)
	for range maxRecords {
		next, err := get(ctx, id)
		if err != nil || next == 0xffff || next == id {
			return err
		}
		id = next
	}
	return fmt.Errorf("the BMC lists more than %d records: it may be going in circles", maxRecords)
}

// sdr reads one Sensor Data Record by parts (IPMI 2.0 §33.12): whole ones are
// longer than the buffers of many BMCs.
func (d *ipmiDriver) sdr(ctx context.Context, id uint16) (rec []byte, next uint16, err error) {
	const doing = "reading the sensors"
	le := binary.LittleEndian
	res, err := d.command(ctx, doing, netStorage, 0x22, 2)
	if err != nil {
		return nil, 0, err
	}
	part := func(off, n int) ([]byte, error) {
		req := le.AppendUint16(append([]byte(nil), res[:2]...), id)
		b, err := d.command(ctx, doing, netStorage, 0x23, 2, append(req, byte(off), byte(n))...)
		if err != nil {
			return nil, err
		}
		next = le.Uint16(b)
		if len(b) == 2 || len(b)-2 > n {
			return nil, d.t.fail(doing, fmt.Errorf("it answered %d bytes of sensor record %d where %d were asked for", len(b)-2, id, n))
		}
		return b[2:], nil
	}
	size := sdrHeader
	for len(rec) < size {
		b, err := part(len(rec), min(sdrChunk, size-len(rec)))
		if err != nil {
			return nil, 0, err
		}
		if rec = append(rec, b...); len(rec) >= sdrHeader {
			size = sdrHeader + int(rec[4])
		}
	}
	return rec, next, nil
}

// fullSensor parses a full sensor record; nil for records of other types.
func fullSensor(rec []byte) (full *types.SDRFull, err error) {
	defer func() { // the library slices without looking
		if p := recover(); p != nil {
			full, err = nil, fmt.Errorf("a sensor record of the BMC is broken: %v", p)
		}
	}()
	s, err := types.ParseSDR(rec, 0)
	if err != nil {
		return nil, err
	}
	if s.Full == nil || len(rec) < 48 {
		return nil, nil
	}
	return s.Full, nil
}

// sensors reads every full sensor record and its reading.
func (d *ipmiDriver) sensors(ctx context.Context) (Readings, error) {
	var out Readings
	err := records(ctx, func(ctx context.Context, id uint16) (uint16, error) {
		rec, next, err := d.sdr(ctx, id)
		if err != nil {
			return 0, err
		}
		full, err := fullSensor(rec)
		if err != nil {
			out.Missing = append(out.Missing, fmt.Sprintf("sensor record %d: %v", id, err))
			return next, nil
		}
		if full == nil {
			return next, nil
		}
		// Get Sensor Reading (IPMI 2.0 §35.14).
		b, err := d.command(ctx, "reading the sensors", netSensor, 0x2d, 2, byte(full.SensorNumber))
		if err != nil && !refused(err) {
			return 0, err
		}
		out.Sensors = append(out.Sensors, ipmiSensor(full, rec[18], b))
		return next, nil
	})
	var cc *ccError
	if errors.As(err, &cc) && cc.code == 0xcb && cc.cmd == 0x23 { // an empty repository
		err = nil
	}
	return out, err
}

// ipmiSensor joins a record and a reading; a reading of nil is none. readable
// is the record's mask of readable thresholds, byte 19 of IPMI 2.0 table 43-1:
// go-ipmi takes it from byte 20, which is the mask of settable ones (ipmitool
// reads byte 19, too).
func ipmiSensor(full *types.SDRFull, readable byte, b []byte) Sensor {
	s := Sensor{ID: strconv.Itoa(int(full.SensorNumber)), Name: strings.TrimRight(string(full.IDStringBytes), " \x00"), Unit: ipmiUnit(full.SensorUnit)}
	s.Kind = kindOf("", s.Unit, "", s.Name)
	value := func(raw byte) *float64 {
		v := full.ConvertReading(raw)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		return &v
	}
	if readable&0x02 != 0 {
		s.Low = value(full.LCR_Raw)
	}
	if readable&0x10 != 0 {
		s.High = value(full.UCR_Raw)
	}
	if len(b) < 2 || b[1]&0x20 != 0 || b[1]&0x40 == 0 { // not available, or not scanned
		return s
	}
	s.Reading, s.Health = value(b[0]), "OK"
	if len(b) > 2 && full.SensorEventReadingType.IsThreshold() {
		switch {
		case b[2]&0x36 != 0: // critical or worse
			s.Health = "Critical"
		case b[2]&0x09 != 0:
			s.Health = "Warning"
		}
	}
	return s
}

func ipmiUnit(u types.SensorUnit) string {
	if u.Percentage {
		return "%"
	}
	switch u.BaseUnit {
	case 1:
		return "°C"
	case 4:
		return "V"
	case 5:
		return "A"
	case 6:
		return "W"
	case 18:
		return "RPM"
	case 0:
		return ""
	default:
		return u.BaseUnit.String()
	}
}

// eventLog is Get SEL Entry (IPMI 2.0 §31.5), from the first to the last.
func (d *ipmiDriver) eventLog(ctx context.Context) ([]LogEntry, error) {
	const doing = "reading the event log"
	info, err := d.command(ctx, doing, netStorage, 0x40, 14)
	if err != nil {
		return nil, err
	}
	var out []LogEntry
	if binary.LittleEndian.Uint16(info[1:]) == 0 {
		return out, nil
	}
	err = records(ctx, func(ctx context.Context, id uint16) (uint16, error) {
		b, err := d.command(ctx, doing, netStorage, 0x43, 18, 0, 0, byte(id), byte(id>>8), 0, 0xff)
		if err != nil {
			return 0, err
		}
		out = append(out, selEntry(b[2:18]))
		return binary.LittleEndian.Uint16(b), nil
	})
	var cc *ccError
	if errors.As(err, &cc) && cc.code == 0xcb { // it was cleared meanwhile
		err = nil
	}
	return out, err
}

// firstYear: before it, a time of the log counts from the BMC's start (IPMI
// 2.0 §37).
const firstYear = 0x20000000

// selEntry reads a record of 16 bytes.
func selEntry(b []byte) (e LogEntry) {
	e.ID = strconv.Itoa(int(binary.LittleEndian.Uint16(b)))
	e.Message = fmt.Sprintf("record of type %02Xh: %X", b[2], b[3:])
	if at := binary.LittleEndian.Uint32(b[3:]); b[2] < 0xe0 && at >= firstYear && at != 0xffffffff {
		e.Time = time.Unix(int64(at), 0).UTC()
	}
	defer func() { _ = recover() }() // the library's tables: the bytes are told then
	s, err := types.ParseSEL(b)
	if err != nil || s.Standard == nil {
		return e
	}
	st := s.Standard
	e.Sensor = st.SensorType.String()
	if st.SensorNumber != 0 {
		e.Sensor += fmt.Sprintf(" #%d", st.SensorNumber)
	}
	msg := st.EventString()
	if st.EventDir {
		msg += " (ended)"
	}
	e.Message, e.Severity = msg, severity(string(st.EventSeverity()))
	return e
}

// severity is go-ipmi's word in Redfish's.
func severity(s string) string {
	switch strings.ToLower(s) {
	case "critical", "non-recoverable":
		return "Critical"
	case "warning", "degraded":
		return "Warning"
	case "ok", "info", "monitor":
		return "OK"
	}
	return ""
}

// clearLog is Clear SEL (IPMI 2.0 §31.9).
func (d *ipmiDriver) clearLog(ctx context.Context) error {
	const doing = "clearing the event log"
	res, err := d.command(ctx, doing, netStorage, 0x42, 2)
	if err != nil {
		return err
	}
	_, err = d.command(ctx, doing, netStorage, 0x47, 1, res[0], res[1], 'C', 'L', 'R', 0xaa)
	return err
}
