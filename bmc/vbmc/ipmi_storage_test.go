package vbmc

import (
	"encoding/binary"
	"slices"
	"testing"
)

// Records of makers keep their bytes, with the BMC's time or without one.
func TestSELAdd(t *testing.T) {
	i, _, do := writeRig(t)
	add := func(cc completion, kind byte) []byte {
		return do(cc, 0x0a, 0x44, 0, 0, kind, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
	}
	at := binary.LittleEndian.AppendUint32(nil, uint32(i.s.clock().Unix()))
	for _, tc := range []struct {
		kind byte
		want []byte // behind the id
	}{
		{selSystem, slices.Concat([]byte{selSystem}, at, []byte{5, 6, 7, 8, 9, 10, 11, 12, 13})},
		{0xc5, slices.Concat([]byte{0xc5}, at, []byte{5, 6, 7, 8, 9, 10, 11, 12, 13})},
		{0xe1, []byte{0xe1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}},
	} {
		id := add(ccOK, tc.kind)
		got := do(ccOK, 0x0a, 0x43, 0, 0, id[0], id[1], 0, 0xff)
		if string(got[2:4]) != string(id) || string(got[4:]) != string(tc.want) {
			t.Errorf("record of type %02Xh reads %x; want id %x and %x", tc.kind, got, id, tc.want)
		}
	}
	add(ccField, 0x10)
	do(ccReservation, 0x0a, 0x46, 0x77, 0x77, 1, 0)
	i.s.SetTrouble(Trouble{LogFull: true}, "")
	add(ccSELFull, selSystem)
}
