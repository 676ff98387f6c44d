package pxe

import (
	"encoding/binary"
	"errors"
	"net"
)

// packet is a DHCP packet (RFC 2131 §2) without a copy of its bytes. It is
// used again and again: reading one allocates nothing, but where an option
// comes in pieces.
type packet struct {
	raw  []byte
	at   [256]uint8 // by code: one more than the place in vals; 0: not there
	set  []byte     // the codes that are there
	vals [][]byte   // and their values
}

// Why a packet is dropped unread; each is counted.
var (
	errTooLong  = errors.New("malformed packet: longer than any client sends")
	errTooShort = errors.New("malformed packet: shorter than a header")
	errNoCookie = errors.New("malformed packet: no magic cookie, so this is not DHCP")
	errOptions  = errors.New("malformed packet: an option runs past its end")
	errReply    = errors.New("a reply, not a request")
	errHardware = errors.New("hardware address of another length than Ethernet's 6")
	errNoType   = errors.New("no message type (option 53): plain BOOTP is not served")
)

// read takes b, which must stay as it is while p is used.
func (p *packet) read(b []byte) error {
	for _, code := range p.set {
		p.at[code] = 0
	}
	p.raw, p.set, p.vals = b, p.set[:0], p.vals[:0]
	if len(b) < dhcpHeader {
		return errTooShort
	}
	if [4]byte(b[236:240]) != dhcpCookie {
		return errNoCookie
	}
	return p.options(b[dhcpHeader:])
}

// dhcpCookie begins the options (RFC 2131 §3).
var dhcpCookie = [4]byte{99, 130, 83, 99}

// options takes options in; the values of repeated ones are joined (RFC 3396
// §5). They end with 255, or with the packet (quirkNoEnd).
func (p *packet) options(b []byte) error {
	for len(b) > 0 && b[0] != optEnd {
		code := b[0]
		if code == 0 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return errOptions
		}
		n := 2 + int(b[1])
		p.option(code, b[2:n:n])
		b = b[n:]
	}
	return nil
}

func (p *packet) option(code byte, v []byte) {
	if p.at[code] == 0 { // codes are 1 to 254
		p.set, p.vals = append(p.set, code), append(p.vals, v)
		p.at[code] = uint8(len(p.vals)) //nolint:gosec // as many as there are codes
		return
	}
	was := &p.vals[p.at[code]-1]
	*was = append(*was, v...) // it has no spare room: a copy
}

// unfold takes in the options in the file and sname fields (option 52,
// RFC 2131 §4.1; order of RFC 3396 §5).
func (p *packet) unfold() error {
	o := p.opt(optOverload)
	if len(o) != 1 {
		return nil
	}
	which := o[0]
	if which&1 != 0 {
		if err := p.options(p.raw[108:236]); err != nil {
			return err
		}
	}
	if which&2 != 0 {
		return p.options(p.raw[44:108])
	}
	return nil
}

// opt is an option's value, nil if it is not there.
func (p *packet) opt(code uint8) []byte {
	if i := p.at[code]; i != 0 {
		return p.vals[i-1]
	}
	return nil
}

func (p *packet) op() byte        { return p.raw[0] }
func (p *packet) hwLen() byte     { return p.raw[2] }
func (p *packet) xid() []byte     { return p.raw[4:8] }
func (p *packet) flags() uint16   { return binary.BigEndian.Uint16(p.raw[10:]) }
func (p *packet) broadcast() bool { return p.flags()&0x8000 != 0 }

// chaddr is the client's MAC.
func (p *packet) chaddr() net.HardwareAddr { return net.HardwareAddr(p.raw[28:34:34]) }
