package vbmc

import (
	"context"
	"encoding/binary"
)

// Platform event filtering (IPMI 2.0 §17, §30) is there for clients that read
// and write its parameters: there are no filters, and nothing is ever done.

// pefParameters are those of IPMI 2.0 table 30-6, as a BMC comes with them.
var pefParameters = map[byte][]byte{
	0: {0}, // nothing is being set
	1: {0}, // control: off
	2: {0}, // actions: none
	3: {0}, 4: {0},
	5:  {0},                                       // event filters
	8:  {0},                                       // alert policies
	10: make([]byte, 17),                          // system GUID: that of Get System GUID
	11: {0},                                       // alert strings that are kept
	12: {0, 0, 0},                                 // key of the one that is not
	13: append([]byte{0, 1}, make([]byte, 16)...), // a block of it
}

// pefReadOnly are counts.
var pefReadOnly = map[byte]bool{5: true, 8: true, 11: true}

// pefString is the parameter of an alert string, pefBlocks how many blocks of 16
// bytes it has.
const (
	pefString = 13
	pefBlocks = 4
)

// pefParameter is Get PEF Configuration Parameters (IPMI 2.0 §30.4).
func (i *ipmi) pefParameter(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	const revision = 0x11
	p := d[0] & 0x7f
	v, ok := pefParameters[p]
	switch {
	case !ok:
		return nil, ccParameter
	case d[0]&0x80 != 0:
		return []byte{revision}, nil
	case p >= 12 && d[1] != 0, p == pefString && (d[2] == 0 || d[2] > pefBlocks):
		return nil, ccField
	}
	key := uint16(p)
	if p == pefString {
		key |= uint16(d[2]) << 8
		v = append([]byte{0, d[2]}, v[2:]...)
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if kept := i.s.ipmi.pef[key]; kept != nil {
		v = kept
	}
	return append([]byte{revision}, v...), nil
}

// setPEF is Set PEF Configuration Parameters (IPMI 2.0 §30.3).
func (i *ipmi) setPEF(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	p := d[0] & 0x7f
	v, ok := pefParameters[p]
	switch {
	case !ok:
		return nil, ccParameter
	case pefReadOnly[p]:
		return nil, ccReadOnly
	case p == pefString && len(d) > 3 && len(d) < 1+len(v): // the last block may be short
		d = append(append([]byte(nil), d...), make([]byte, 1+len(v)-len(d))...)
	}
	switch {
	case len(d) != 1+len(v):
		return nil, ccLength
	case p >= 12 && d[1] != 0, p == pefString && (d[2] == 0 || d[2] > pefBlocks):
		return nil, ccField
	}
	key := uint16(p)
	if p == pefString {
		key |= uint16(d[2]) << 8
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if kept := i.s.ipmi.pef[0]; p == 0 && d[1]&3 == 1 && kept != nil && kept[0] == 1 {
		return nil, ccInProgress
	}
	if i.s.ipmi.pef == nil {
		i.s.ipmi.pef = map[uint16][]byte{}
	}
	i.s.ipmi.pef[key] = append([]byte(nil), d[1:]...)
	return nil, nil
}

// lastProcessed is Get Last Processed Event ID (IPMI 2.0 §30.6): the last record
// of the log, and that nobody processed any.
func (i *ipmi) lastProcessed(context.Context, *ipmiSession, []byte) ([]byte, error) {
	at, id := uint32(0), uint16(0xffff)
	if log := i.systemLog(); len(log) > 0 {
		e := log[len(log)-1]
		at, id = uint32(e.at.Unix()), recordID(e)
	}
	out := binary.LittleEndian.AppendUint32(nil, at)
	out = binary.LittleEndian.AppendUint16(out, id)
	return append(out, 0, 0, 0, 0), nil
}
