package lanplus

import (
	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"
)

// Keys are one end of an open session.
type Keys struct {
	Own, Peer uint32 // session ids: of this end, and of the other
	Integrity types.IntegrityAlg
	K1, K2    []byte // IPMI 2.0 §13.32

	seq  uint32 // of packets sent
	seen Window
}

// Seal encrypts and signs a message of a payload type to the other end (IPMI 2.0
// §13.28.4, §13.29). Each packet has a sequence number of its own.
func (k *Keys) Seal(payload byte, msg []byte) ([]byte, error) {
	body, err := crypto.EncryptAESPayload(msg, k.K2, crypto.RandomBytes(aesBlock))
	if err != nil {
		return nil, err
	}
	k.seq++
	p := Packet(payload|Encrypted|Authentic, k.Peer, k.seq, body)
	pad := types.IntegrityPadLen(sessionHeader, len(body))
	for range pad {
		p = append(p, 0xff)
	}
	p = append(p, byte(pad), nextHeader)
	code, err := crypto.SessionIntegrityAuthCode(k.Integrity, p[rmcpHeader:], k.K1, "")
	return append(p, code...), err
}

// Open checks and decrypts a packet from the other end. What is not signed and
// encrypted, is for another session, was changed, or came before, is none.
func (k *Keys) Open(p []byte) (payload byte, msg []byte, ok bool) {
	u, ok := Unpack(p)
	n, known := crypto.IntegrityAuthCodeLen(k.Integrity)
	if !ok || !known || u.Kind&(Encrypted|Authentic) != Encrypted|Authentic || u.Session != k.Own || len(u.Trailer) < 2+n {
		return 0, nil, false
	}
	signed := p[rmcpHeader : len(p)-n]
	want, err := crypto.SessionIntegrityAuthCode(k.Integrity, signed, k.K1, "")
	if err != nil || !crypto.Equal(want, p[len(p)-n:]) || signed[len(signed)-1] != nextHeader {
		return 0, nil, false
	}
	if !k.seen.Accept(u.Seq) || len(u.Body) < 2*aesBlock || len(u.Body)%aesBlock != 0 {
		return 0, nil, false
	}
	msg, err = crypto.DecryptAESPayload(u.Body, k.K2)
	return u.Kind &^ (Encrypted | Authentic), msg, err == nil
}

// Window refuses sequence numbers that were seen (IPMI 2.0 §6.12.13).
type Window struct {
	top  uint32
	bits uint32 // bit n: top-n was seen
}

// Accept tells whether n is new, and remembers it.
func (w *Window) Accept(n uint32) bool {
	switch d := int32(n - w.top); {
	case n == 0:
		return false
	case w.bits == 0 || d >= 32:
		w.top, w.bits = n, 1
	case d > 0:
		w.top, w.bits = n, w.bits<<d|1
	case d <= -32 || w.bits&(1<<-d) != 0:
		return false
	default:
		w.bits |= 1 << -d
	}
	return true
}
