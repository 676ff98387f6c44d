package fabric

import "encoding/binary"

const (
	headerLen = 14 // destination, source, EtherType (IEEE 802.3 §3.1.1)
	tagLen    = 4  // IEEE 802.1Q §9.3
	minFrame  = 60 // IEEE 802.3 §3.2.7, without the frame check sequence
	maxFrame  = 1 << 16

	etherTypeVLAN = 0x8100 // IEEE 802.1Q §9.4
	maxVLAN       = 4094   // 4095 is reserved (IEEE 802.1Q table 9-2)
)

// meta is what the switch needs to know of a frame.
type meta struct {
	dst, src uint64 // 48 bits each
	tagged   bool
	tci      uint16 // tag control information, if tagged
}

func (m meta) vid() int { return int(m.tci & 0x0fff) }

// group reports whether a is a group address: multicast or broadcast
// (IEEE 802 §8.2, the I/G bit).
func group(a uint64) bool { return a&(1<<40) != 0 }

// reserved reports whether a is one of 01-80-C2-00-00-00 to 0F, which a bridge
// must not forward (IEEE 802.1Q §8.6.3).
func reserved(a uint64) bool { return a&^0xf == 0x0180c2000000 }

func macKey(b []byte) uint64 {
	_ = b[5]
	return uint64(b[0])<<40 | uint64(b[1])<<32 | uint64(b[2])<<24 | uint64(b[3])<<16 | uint64(b[4])<<8 | uint64(b[5])
}

// parseFrame reads the header of b and its 802.1Q tag if it has one. It
// refuses frames that no station may send.
func parseFrame(b []byte) (meta, bool) {
	if len(b) < headerLen {
		return meta{}, false
	}
	m := meta{dst: macKey(b), src: macKey(b[6:])}
	if group(m.src) || m.src == 0 {
		return meta{}, false
	}
	if binary.BigEndian.Uint16(b[12:]) == etherTypeVLAN {
		if len(b) < headerLen+tagLen {
			return meta{}, false
		}
		m.tagged, m.tci = true, binary.BigEndian.Uint16(b[14:])
		if m.vid() > maxVLAN {
			return meta{}, false
		}
	}
	return m, true
}

// appendTagged appends the untagged frame b with a tag.
func appendTagged(to, b []byte, tci uint16) []byte {
	to = append(to, b[:12]...)
	to = append(to, etherTypeVLAN>>8, etherTypeVLAN&0xff, byte(tci>>8), byte(tci))
	return append(to, b[12:]...)
}

// appendUntagged appends the tagged frame b without its tag, padded to the
// least length of a frame.
func appendUntagged(to, b []byte) []byte {
	start := len(to)
	to = append(to, b[:12]...)
	return pad(append(to, b[16:]...), start)
}

// pad fills the frame that begins at start with zeros to its least length.
func pad(b []byte, start int) []byte {
	for len(b)-start < minFrame {
		b = append(b, 0)
	}
	return b
}
