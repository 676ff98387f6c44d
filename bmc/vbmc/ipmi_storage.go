package vbmc

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
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

// Record types (IPMI 2.0 §32).
const (
	selSystem  = 0x02
	selTimed   = 0xc0 // and up: of a maker, with a time
	selUntimed = 0xe0 // and up: of a maker, without
)

// selRecord is an event as a record of the log (IPMI 2.0 §32.1 to §32.3).
func selRecord(e event) []byte {
	r := binary.LittleEndian.AppendUint16(nil, recordID(e))
	kind := byte(selSystem)
	if e.raw != nil {
		kind = e.raw[0]
	}
	r = append(r, kind)
	if kind >= selUntimed {
		return append(r, e.raw[1:]...)
	}
	r = binary.LittleEndian.AppendUint32(r, uint32(e.at.Unix()))
	if e.raw != nil {
		return append(r, e.raw[1:]...)
	}
	r = append(r, 0x20, 0, 0x04) // from the BMC; format of IPMI 1.5 and later
	return append(r, e.sel[:]...)
}

// selAllocation is Get SEL Allocation Info (IPMI 2.0 §31.3): units of a record.
func (i *ipmi) selAllocation(context.Context, *ipmiSession, []byte) ([]byte, error) {
	free := uint16(maxEvents - len(i.systemLog()))
	out := binary.LittleEndian.AppendUint16(nil, maxEvents)
	out = binary.LittleEndian.AppendUint16(out, 16)
	out = binary.LittleEndian.AppendUint16(out, free)
	return append(binary.LittleEndian.AppendUint16(out, free), 1), nil
}

// selAdd is Add SEL Entry (IPMI 2.0 §31.6): the BMC gives it its id, and its
// time where the type has one.
func (i *ipmi) selAdd(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	kind := d[2]
	raw := []byte{kind}
	var text string
	switch {
	case len(d) != 16:
		return nil, ccLength
	case kind == selSystem:
		raw = append(raw, d[7:]...)
		text = fmt.Sprintf("Event of sensor %02Xh (type %02Xh, event type %02Xh, data %X) added by %s over IPMI.", d[11], d[10], d[12], d[13:16], x.user)
	case kind >= selUntimed:
		raw = append(raw, d[3:]...)
		text = fmt.Sprintf("Record of type %02Xh (%X) added by %s over IPMI.", kind, d[3:], x.user)
	case kind >= selTimed:
		raw = append(raw, d[7:]...)
		text = fmt.Sprintf("Record of type %02Xh (maker %X, %X) added by %s over IPMI.", kind, d[7:10], d[10:], x.user)
	default:
		return nil, ccField
	}
	return i.add(raw, text)
}

// platformEvent is Platform Event Message (IPMI 2.0 §29.3): the machine itself
// says who it is first.
func (i *ipmi) platformEvent(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	from := byte(0x41) // software that manages systems, over LAN
	if i.conn == nil {
		if len(d) < 8 {
			return nil, ccLength
		}
		from, d = d[0], d[1:]
	}
	raw := append([]byte{selSystem, from, 0}, d[:7]...)
	_, err := i.add(raw, fmt.Sprintf("Event of sensor %02Xh (type %02Xh, event type %02Xh, data %X) sent by %s over IPMI.", d[2], d[1], d[3], d[4:7], x.user))
	return nil, err
}

// ccSELFull: there is no room in the log.
const ccSELFull = completion(0xc4)

// add logs a record and answers with its id.
func (i *ipmi) add(raw []byte, text string) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	before := i.s.eventSeq
	i.s.recordRaw("system", "OK", text, selEvent(nil), raw)
	if i.s.eventSeq == before {
		return nil, ccSELFull
	}
	log := i.s.events["system"]
	return binary.LittleEndian.AppendUint16(nil, recordID(log[len(log)-1])), nil
}

// selDelete is Delete SEL Entry (IPMI 2.0 §31.8).
func (i *ipmi) selDelete(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	id := binary.LittleEndian.Uint16(d[2:])
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if r := binary.LittleEndian.Uint16(d); r != i.s.ipmi.reserved {
		return nil, ccReservation
	}
	at := findRecord(i.s.events["system"], id)
	if at < 0 {
		return nil, ccAbsent
	}
	e := i.s.events["system"][at]
	i.s.events["system"] = slices.Delete(slices.Clone(i.s.events["system"]), at, at+1)
	i.s.record("manager", "OK", fmt.Sprintf("Entry %d of the system's log removed by %s over IPMI.", e.id, x.user))
	return binary.LittleEndian.AppendUint16(nil, recordID(e)), nil
}

// findRecord is where the record is: 0 means the first, FFFFh the last; -1: it
// is not there.
func findRecord(log []event, id uint16) int {
	switch {
	case len(log) == 0:
		return -1
	case id == 0:
		return 0
	case id == 0xffff:
		return len(log) - 1
	}
	return slices.IndexFunc(log, func(e event) bool { return recordID(e) == id })
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
	support := byte(0x0b) // reservations, allocation, deleting
	if i.s.trouble.LogFull && len(log) >= maxEvents {
		support |= 0x80 // overflow: events were lost
	}
	return append(binary.LittleEndian.AppendUint32(out, erased), support), nil
}

func (i *ipmi) selReserve(context.Context, *ipmiSession, []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	r := &i.s.ipmi.reserved
	if *r++; *r == 0 {
		*r = 1
	}
	return binary.LittleEndian.AppendUint16(nil, *r), nil
}

// reservation is the one in force.
func (i *ipmi) reservation() uint16 {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return i.s.ipmi.reserved
}

// selEntry is Get SEL Entry (IPMI 2.0 §31.5).
func (i *ipmi) selEntry(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	le := binary.LittleEndian
	id, off, n := le.Uint16(d[2:]), int(d[4]), int(d[5])
	if off != 0 && le.Uint16(d) != i.reservation() {
		return nil, ccReservation
	}
	log := i.systemLog()
	at := findRecord(log, id)
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
	if binary.LittleEndian.Uint16(d) != i.reservation() {
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
	area = append(area, lanplus.Checksum(area))
	head := []byte{1, 0, 0, 0, 1, 0, 0}
	return append(append(head, lanplus.Checksum(head)), area...), nil
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
