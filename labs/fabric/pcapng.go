package fabric

import (
	"encoding/binary"
	"io"
	"time"
)

// Block types and options of draft-ietf-opsawg-pcapng.
const (
	blockSection   = 0x0A0D0D0A // §4.1
	blockInterface = 1          // §4.2
	blockPacket    = 6          // §4.3, enhanced
	blockStats     = 5          // §4.6

	byteOrderMagic = 0x1A2B3C4D
	linkEthernet   = 1 // LINKTYPE_ETHERNET

	optEnd      = 0
	optIfName   = 2 // if_name
	optTsResol  = 9 // if_tsresol
	optFlags    = 2 // epb_flags
	optIfDrop   = 5 // isb_ifdrop
	nanoseconds = 9 // if_tsresol: 10^-9 s
)

// pcapngWriter writes one section, little-endian, timestamps in nanoseconds.
type pcapngWriter struct {
	w io.Writer
	b []byte // the block being built
}

func (p *pcapngWriter) begin(kind uint32) {
	p.b = binary.LittleEndian.AppendUint32(p.b[:0], kind)
	p.u32(0) // the length, filled in by end
}

func (p *pcapngWriter) u16(v uint16) { p.b = binary.LittleEndian.AppendUint16(p.b, v) }
func (p *pcapngWriter) u32(v uint32) { p.b = binary.LittleEndian.AppendUint32(p.b, v) }
func (p *pcapngWriter) u64(v uint64) { p.b = binary.LittleEndian.AppendUint64(p.b, v) }

// padded appends v and zeros up to a multiple of four (§3.1).
func (p *pcapngWriter) padded(v []byte) {
	p.b = append(p.b, v...)
	for range -len(v) & 3 {
		p.b = append(p.b, 0)
	}
}

func (p *pcapngWriter) option(code uint16, v []byte) {
	p.u16(code)
	p.u16(uint16(len(v)))
	p.padded(v)
}

func (p *pcapngWriter) end() error {
	n := uint32(len(p.b) + 4)
	p.u32(n)
	binary.LittleEndian.PutUint32(p.b[4:], n)
	_, err := p.w.Write(p.b)
	return err
}

func (p *pcapngWriter) section() error {
	p.begin(blockSection)
	p.u32(byteOrderMagic)
	p.u16(1) // version 1.0
	p.u16(0)
	p.u64(1<<64 - 1) // length of the section: not known
	return p.end()
}

func (p *pcapngWriter) iface(name string) error {
	if len(name) > 255 {
		name = name[:255]
	}
	p.begin(blockInterface)
	p.u16(linkEthernet)
	p.u16(0)
	p.u32(0) // no snapshot limit
	p.option(optIfName, []byte(name))
	p.option(optTsResol, []byte{nanoseconds})
	p.option(optEnd, nil)
	return p.end()
}

func (p *pcapngWriter) packet(iface uint32, t time.Time, d direction, frame []byte) error {
	p.begin(blockPacket)
	p.u32(iface)
	p.time(t)
	p.u32(uint32(len(frame)))
	p.u32(uint32(len(frame)))
	p.padded(frame)
	p.option(optFlags, binary.LittleEndian.AppendUint32(nil, uint32(d)))
	p.option(optEnd, nil)
	return p.end()
}

func (p *pcapngWriter) stats(iface uint32, t time.Time, dropped uint64) error {
	p.begin(blockStats)
	p.u32(iface)
	p.time(t)
	p.option(optIfDrop, binary.LittleEndian.AppendUint64(nil, dropped))
	p.option(optEnd, nil)
	return p.end()
}

func (p *pcapngWriter) time(t time.Time) {
	ns := uint64(t.UnixNano())
	p.u32(uint32(ns >> 32))
	p.u32(uint32(ns))
}
