// Package lanplus is RMCP+ on the wire (IPMI 2.0 §13), as a console and a BMC
// both need it: packets, cipher suites, what seals a session's packets, and the
// window that refuses those that were seen.
//
// A Suite is how a session's packets are signed and encrypted. Keys are what a
// session that is open holds; its two ends have the same but for whose id is
// whose. Who may log in, and what commands mean, is not known here.
package lanplus

import (
	"encoding/binary"

	"github.com/bougou/go-ipmi/pkg/types"
)

// Header bytes (IPMI 2.0 §13.1.3, §13.6, table 13-8).
const (
	Version   = 0x06 // of RMCP
	ClassASF  = 0x06
	ClassIPMI = 0x07
	Format    = 0x06 // authentication type of RMCP+

	rmcpHeader    = 4
	sessionHeader = 12
	nextHeader    = 0x07
	aesBlock      = 16
)

// Payload types (IPMI 2.0 table 13-16), and the flags beside them. The answer to
// a message of the session set-up is one more.
const (
	IPMI  = 0x00
	SOL   = 0x01
	Open  = 0x10 // RMCP+ Open Session Request
	RAKP1 = 0x12
	RAKP3 = 0x14

	Encrypted = 0x80
	Authentic = 0x40
)

// Suite is a cipher suite (IPMI 2.0 table 22-20).
type Suite struct {
	ID        byte
	Auth      types.AuthAlg
	Integrity types.IntegrityAlg
	Crypt     types.CryptAlg
}

// Suite17 and Suite3 authenticate, check integrity and encrypt; suites that
// leave one of these out, and 0, which leaves out all, are not here.
var (
	Suite17 = Suite{17, types.AuthAlg_HMAC_SHA256, types.IntegrityAlg_HMAC_SHA256_128, types.CryptAlg_AES_CBC_128}
	Suite3  = Suite{3, types.AuthAlg_HMAC_SHA1, types.IntegrityAlg_HMAC_SHA1_96, types.CryptAlg_AES_CBC_128}
)

// Algorithms are the suite's numbers, in the order of Open Session's payloads
// (IPMI 2.0 §13.17).
func (s Suite) Algorithms() [3]byte {
	return [3]byte{byte(s.Auth), byte(s.Integrity), byte(s.Crypt)}
}

// Payloads are the algorithms as Open Session asks for them, and as it is
// answered (IPMI 2.0 tables 13-9, 13-10).
func (s Suite) Payloads() []byte {
	out := make([]byte, 0, 24)
	for n, alg := range s.Algorithms() {
		out = append(out, byte(n), 0, 0, 8, alg, 0, 0, 0)
	}
	return out
}

// Checksum is the two's complement of a sum (IPMI 2.0 §13.8).
func Checksum(b []byte) (c byte) {
	for _, x := range b {
		c -= x
	}
	return c
}

// Packet is an RMCP+ packet without a trailer (IPMI 2.0 table 13-8). kind is the
// payload type with its flags.
func Packet(kind byte, session, seq uint32, body []byte) []byte {
	p := make([]byte, 0, rmcpHeader+sessionHeader+len(body)+32) // a trailer may follow
	p = append(p, Version, 0, 0xff, ClassIPMI, Format, kind)
	p = binary.LittleEndian.AppendUint32(p, session)
	p = binary.LittleEndian.AppendUint32(p, seq)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(body)))
	return append(p, body...)
}

// Parts are what a packet is made of; they are parts of it, not copies.
type Parts struct {
	Kind         byte // payload type with its flags
	Session, Seq uint32
	Body         []byte
	Trailer      []byte
}

// Unpack takes an RMCP+ packet apart.
func Unpack(p []byte) (Parts, bool) {
	if len(p) < rmcpHeader+sessionHeader || p[0] != Version || p[3] != ClassIPMI || p[4] != Format {
		return Parts{}, false
	}
	n := int(binary.LittleEndian.Uint16(p[14:]))
	rest := p[rmcpHeader+sessionHeader:]
	if n > len(rest) {
		return Parts{}, false
	}
	return Parts{p[5], binary.LittleEndian.Uint32(p[6:]), binary.LittleEndian.Uint32(p[10:]), rest[:n], rest[n:]}, true
}

// Message is an IPMI message over LAN with its checksums (IPMI 2.0 table 13-8):
// to and from are addresses, the two others the network function and a sequence
// number, each with its LUN.
func Message(to, netFn, from, seq, cmd byte, data ...byte) []byte {
	m := make([]byte, 0, 7+len(data))
	m = append(m, to, netFn, 0, from, seq, cmd)
	m[2] = Checksum(m[:2])
	m = append(m, data...)
	return append(m, Checksum(m[3:]))
}

// Valid tells whether m is a message whose checksums are right.
func Valid(m []byte) bool {
	return len(m) >= 7 && Checksum(m[:3]) == 0 && Checksum(m[3:]) == 0
}
