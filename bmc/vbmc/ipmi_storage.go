package vbmc

import (
	"context"
	"encoding/binary"
	"time"
)

// selEvent is an event as the log of IPMI tells it; without anything it is
// "system reconfigured" (IPMI 2.0 table 42-3, type 12h).
func selEvent(b []byte) (e [6]byte) {
	e = [6]byte{0x12, 0, 0x6f, 0, 0xff, 0xff}
	if len(b) >= 2 {
		e[0], e[3] = b[0], b[1]
		copy(e[4:], b[2:])
	}
	return e
}

// selRecord is an event as a System Event Record (IPMI 2.0 §32.1).
func selRecord(e event) []byte {
	r := binary.LittleEndian.AppendUint16(nil, recordID(e))
	r = append(r, 0x02)
	r = binary.LittleEndian.AppendUint32(r, uint32(e.at.Unix()))
	r = append(r, 0x20, 0, 0x04) // from the BMC; format of IPMI 1.5 and later
	return append(r, e.sel[:]...)
}

// recordID is never 0 or FFFFh, which mean the first and the last.
func recordID(e event) uint16 { return uint16((e.id-1)%0xfffe + 1) }

// systemLog is a copy of the system's event log.
func (i *ipmi) systemLog() []event {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return append([]event(nil), i.s.events["system"]...)
}

// selInfo is Get SEL Info (IPMI 2.0 §31.2).
func (i *ipmi) selInfo(context.Context, *ipmiSession, []byte) ([]byte, error) {
	log := i.systemLog()
	out := binary.LittleEndian.AppendUint16([]byte{0x51}, uint16(len(log)))
	out = binary.LittleEndian.AppendUint16(out, uint16((maxEvents-len(log))*16))
	added := uint32(0)
	if len(log) > 0 {
		added = uint32(log[len(log)-1].at.Unix())
	}
	out = binary.LittleEndian.AppendUint32(out, added)
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	erased := uint32(0)
	if !i.s.cleared.IsZero() {
		erased = uint32(i.s.cleared.Unix())
	}
	support := byte(0x02) // reservations
	if i.s.trouble.LogFull && len(log) >= maxEvents {
		support |= 0x80 // overflow: events were lost
	}
	return append(binary.LittleEndian.AppendUint32(out, erased), support), nil
}

func (i *ipmi) selReserve(context.Context, *ipmiSession, []byte) ([]byte, error) {
	if i.reserved++; i.reserved == 0 {
		i.reserved = 1
	}
	return binary.LittleEndian.AppendUint16(nil, i.reserved), nil
}

// selEntry is Get SEL Entry (IPMI 2.0 §31.5).
func (i *ipmi) selEntry(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	le := binary.LittleEndian
	id, off, n := le.Uint16(d[2:]), int(d[4]), int(d[5])
	if r := le.Uint16(d); off != 0 && r != i.reserved {
		return nil, ccReservation
	}
	log := i.systemLog()
	at := -1
	switch {
	case len(log) == 0:
		return nil, ccAbsent
	case id == 0:
		at = 0
	case id == 0xffff:
		at = len(log) - 1
	default:
		for k, e := range log {
			if recordID(e) == id {
				at = k
			}
		}
	}
	if at < 0 {
		return nil, ccAbsent
	}
	next := uint16(0xffff)
	if at+1 < len(log) {
		next = recordID(log[at+1])
	}
	rec := selRecord(log[at])
	if off >= len(rec) {
		return nil, ccRange
	}
	return append(le.AppendUint16(nil, next), rec[off:min(off+n, len(rec))]...), nil
}

// selClear is Clear SEL (IPMI 2.0 §31.9): done at once.
func (i *ipmi) selClear(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	if string(d[2:5]) != "CLR" {
		return nil, ccField
	}
	if binary.LittleEndian.Uint16(d) != i.reserved {
		return nil, ccReservation
	}
	switch d[5] {
	case 0xaa:
		i.s.mu.Lock()
		defer i.s.mu.Unlock()
		i.s.clear("system", x.user)
	case 0x00:
	default:
		return nil, ccField
	}
	return []byte{1}, nil
}

func (i *ipmi) selTime(context.Context, *ipmiSession, []byte) ([]byte, error) {
	return binary.LittleEndian.AppendUint32(nil, uint32(i.s.clock().Unix())), nil
}

// setSELTime is Set SEL Time (IPMI 2.0 §31.11): the BMC has one clock.
func (i *ipmi) setSELTime(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	at := time.Unix(int64(binary.LittleEndian.Uint32(d)), 0)
	i.s.clockSkew.Store(int64(at.Sub(i.s.now())))
	return nil, nil
}

// fru is the data of FRU 0: a product area with what the chassis is (FRU
// Information Storage Definition 1.0).
func (i *ipmi) fru(ctx context.Context) ([]byte, error) {
	in, err := i.s.chassis.Info(ctx)
	if err != nil {
		return nil, err
	}
	area := []byte{1, 0, 25} // language: English
	for _, f := range []string{in.Manufacturer, in.Model, in.SKU, "", in.Serial, "", ""} {
		f = f[:min(len(f), 63)]
		if len(f) == 1 { // C1h would be the end
			f += " "
		}
		area = append(append(area, 0xc0|byte(len(f))), f...)
	}
	area = append(area, 0xc1)
	for len(area)%8 != 7 {
		area = append(area, 0)
	}
	area[1] = byte((len(area) + 1) / 8)
	area = append(area, checksum(area))
	head := []byte{1, 0, 0, 0, 1, 0, 0}
	return append(append(head, checksum(head)), area...), nil
}

func (i *ipmi) fruInfo(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[0] != 0 {
		return nil, ccAbsent
	}
	b, err := i.fru(ctx)
	if err != nil {
		return nil, err
	}
	return append(binary.LittleEndian.AppendUint16(nil, uint16(len(b))), 0), nil
}

// fruRead is Read FRU Data (IPMI 2.0 §34.2).
func (i *ipmi) fruRead(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[0] != 0 {
		return nil, ccAbsent
	}
	b, err := i.fru(ctx)
	if err != nil {
		return nil, err
	}
	off, n := int(binary.LittleEndian.Uint16(d[1:])), int(d[3])
	if off >= len(b) {
		return nil, ccRange
	}
	b = b[off:min(off+n, len(b))]
	return append([]byte{byte(len(b))}, b...), nil
}
