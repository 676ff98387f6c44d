package bmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// errFRU: the FRU data are none, or broken.
var errFRU = errors.New("no FRU data")

// product is what we read of a FRU's product area.
type product struct{ maker, name, serial string }

// fruChunk is how much of a FRU is read at once: what the smallest buffers of
// BMCs hold.
const fruChunk = 16

// product reads the product area of FRU 0 (FRU Information Storage Definition
// 1.0 §8, §12).
func (d *ipmiDriver) product(ctx context.Context) (product, error) {
	info, err := d.command(ctx, "reading the FRU", netStorage, 0x10, 3, 0)
	if err != nil {
		return product{}, err
	}
	if info[2]&1 != 0 {
		return product{}, fmt.Errorf("%w: it is accessed by words", errFRU)
	}
	size := int(binary.LittleEndian.Uint16(info))
	head, err := d.readFRU(ctx, 0, min(size, 8))
	if err != nil {
		return product{}, err
	}
	if len(head) < 8 || head[0]&0xf != 1 || lanplus.Checksum(head) != 0 || head[4] == 0 {
		return product{}, errFRU
	}
	off := int(head[4]) * 8
	first, err := d.readFRU(ctx, off, min(size-off, fruChunk))
	if err != nil {
		return product{}, err
	}
	if len(first) < 8 {
		return product{}, errFRU
	}
	rest, err := d.readFRU(ctx, off+len(first), min(size-off, int(first[1])*8)-len(first))
	if err != nil {
		return product{}, err
	}
	return parseProduct(append(first, rest...))
}

// readFRU is Read FRU Data (IPMI 2.0 §34.2), n bytes from off.
func (d *ipmiDriver) readFRU(ctx context.Context, off, n int) ([]byte, error) {
	var all []byte
	for len(all) < n {
		at := off + len(all)
		b, err := d.command(ctx, "reading the FRU", netStorage, 0x11, 2, 0, byte(at), byte(at>>8), byte(min(fruChunk, n-len(all))))
		if err != nil {
			return nil, err
		}
		got := min(int(b[0]), len(b)-1, n-len(all))
		if got == 0 {
			return nil, fmt.Errorf("%w: it ends at byte %d", errFRU, at)
		}
		all = append(all, b[1:1+got]...)
	}
	return all, nil
}

// parseProduct reads a product info area: maker, name, part number, version,
// serial number are its first fields.
func parseProduct(b []byte) (product, error) {
	if len(b) < 4 || b[0]&0xf != 1 || lanplus.Checksum(b) != 0 {
		return product{}, fmt.Errorf("%w: its product area is broken", errFRU)
	}
	var fields [5]string
	b = b[3:]
	for i := range fields {
		if len(b) == 0 || b[0] == 0xc1 { // the end
			break
		}
		n := int(b[0] & 0x3f)
		if n >= len(b) {
			return product{}, fmt.Errorf("%w: a field is longer than its area", errFRU)
		}
		fields[i] = fruText(b[0]>>6, b[1:1+n])
		b = b[1+n:]
	}
	return product{fields[0], fields[1], fields[4]}, nil
}

// fruText decodes a field by its type code (FRU definition §13).
func fruText(kind byte, b []byte) string {
	var s strings.Builder
	switch kind {
	case 1: // BCD plus
		for _, x := range b {
			for _, d := range []byte{x >> 4, x & 0xf} {
				s.WriteByte("0123456789 -.???"[d])
			}
		}
	case 2: // 6-bit ASCII, packed
		for i := range len(b) * 8 / 6 {
			bit := i * 6
			v := uint16(b[bit/8])
			if bit/8+1 < len(b) {
				v |= uint16(b[bit/8+1]) << 8
			}
			s.WriteByte(byte(v>>(bit%8)&0x3f) + ' ')
		}
	default: // 8-bit text; where BMCs say binary, they mean text as well
		for _, x := range b {
			if x >= ' ' && x < 0x7f {
				s.WriteByte(x)
			}
		}
	}
	return strings.TrimSpace(s.String())
}
