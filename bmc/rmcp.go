package bmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"
)

// Addresses of an IPMI message (IPMI 2.0 §5.4, §13.8).
const (
	bmcAddr     = 0x20
	consoleAddr = 0x81 // software id of a remote console
)

// Network functions of requests (IPMI 2.0 §5.1).
const (
	netChassis = 0x00
	netSensor  = 0x04
	netApp     = 0x06
	netStorage = 0x0a
)

// Header bytes (IPMI 2.0 §13.1.3, §13.6).
const (
	rmcpVersion     = 0x06
	rmcpIPMI        = 0x07
	authRMCPPlus    = 0x06
	payloadIPMI     = 0x00
	payloadOpen     = 0x10 // RMCP+ Open Session Request; the response is 11h
	payloadRAKP1    = 0x12
	payloadRAKP3    = 0x14
	flagEncrypted   = 0x80
	flagAuthentic   = 0x40
	nextHeader      = 0x07
	rmcpHeader      = 4
	sessionHeader   = 12
	aesBlock        = 16
	maxDatagram     = 2048
	firstRetry      = time.Second
	lastRetry       = 5 * time.Second
	maxPassword20   = 20 // IPMI 2.0 §22.30
	maxIPMIUserName = 16
)

// rmcp is one RMCP+ session (IPMI 2.0 §13): every answer in it must be
// encrypted, carry its integrity check, and be the one that was asked for.
// One command is under way at a time.
type rmcp struct {
	mu   sync.Mutex
	conn net.Conn

	console, bmc uint32 // session ids
	auth         types.AuthAlg
	integrity    types.IntegrityAlg
	k1, k2       []byte
	active       bool

	tag  byte   // of session set-up messages
	rq   byte   // of commands, 6 bits
	seq  uint32 // of packets sent
	seen replayWindow
}

// ccError is a completion code other than 00h (IPMI 2.0 §5.2).
type ccError struct {
	netFn, cmd, code byte
}

func (e *ccError) Error() string {
	return fmt.Sprintf("it answered command %02Xh of network function %02Xh with completion code %02Xh (%s)", e.cmd, e.netFn, e.code, completion(e.code))
}

// Unwrap is ErrUnsupported for the codes that mean so.
func (e *ccError) Unwrap() error {
	switch e.code {
	case 0xc1, 0xc2, 0x80: // no such command; not for this LUN; no such parameter
		return ErrUnsupported
	}
	return nil
}

// completion is what a code means (IPMI 2.0 table 5-2).
func completion(code byte) string {
	switch code {
	case 0x80:
		return "parameter not supported"
	case 0xc0:
		return "busy"
	case 0xc1:
		return "no such command"
	case 0xc3:
		return "timed out"
	case 0xc7, 0xc6, 0xc8:
		return "wrong length of the request"
	case 0xc9, 0xcc:
		return "invalid value in the request"
	case 0xcb:
		return "not present"
	case 0xd4:
		return "insufficient privilege"
	case 0xd5:
		return "not possible in the present state"
	}
	return "see IPMI 2.0 table 5-2"
}

// replayWindow refuses sequence numbers that were seen (IPMI 2.0 §6.12.13).
type replayWindow struct {
	top  uint32
	bits uint32 // bit n: top-n was seen
}

// accept tells whether n is new, and remembers it.
func (w *replayWindow) accept(n uint32) bool {
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

// checksum is the two's complement of a sum (IPMI 2.0 §13.8).
func checksum(b []byte) (c byte) {
	for _, x := range b {
		c -= x
	}
	return c
}

// command sends one IPMI command and returns the data behind the completion
// code, which is 00h.
func (r *rmcp) command(ctx context.Context, netFn, cmd byte, data ...byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.active {
		return nil, errors.New("the IPMI session is not open")
	}
	r.rq = (r.rq + 1) & 0x3f
	msg := append([]byte{bmcAddr, netFn << 2, 0, consoleAddr, r.rq << 2, cmd}, data...)
	msg[2] = checksum(msg[:2])
	msg = append(msg, checksum(msg[3:]))
	var got []byte
	err := r.exchange(ctx, func() ([]byte, error) { return r.seal(msg) }, func(p []byte) bool {
		// The addresses are not looked at: the packet is signed, and go-ipmi's
		// server puts its own address in place of ours.
		m, ok := r.open(p)
		if !ok || len(m) < 8 || checksum(m[:3]) != 0 || checksum(m[3:]) != 0 || m[1]>>2 != netFn|1 || m[4]>>2 != r.rq || m[5] != cmd {
			return false
		}
		got = m[6 : len(m)-1]
		return true
	})
	if err != nil {
		return nil, err
	}
	if got[0] != 0 {
		return nil, &ccError{netFn, cmd, got[0]}
	}
	return got[1:], nil
}

// seal encrypts and signs a message of the session (IPMI 2.0 §13.28.4, §13.29).
func (r *rmcp) seal(msg []byte) ([]byte, error) { return r.sealAs(payloadIPMI, msg) }

// sealAs is seal for a payload type.
func (r *rmcp) sealAs(payload byte, msg []byte) ([]byte, error) {
	body, err := crypto.EncryptAESPayload(msg, r.k2, crypto.RandomBytes(aesBlock))
	if err != nil {
		return nil, err
	}
	r.seq++
	p := packet(payload|flagEncrypted|flagAuthentic, r.bmc, r.seq, body)
	pad := types.IntegrityPadLen(sessionHeader, len(body))
	for range pad {
		p = append(p, 0xff)
	}
	p = append(p, byte(pad), nextHeader)
	code, err := crypto.SessionIntegrityAuthCode(r.integrity, p[rmcpHeader:], r.k1, "")
	return append(p, code...), err
}

// open checks and decrypts a message of the session.
func (r *rmcp) open(p []byte) ([]byte, bool) { return r.openAs(payloadIPMI, p) }

// openAs is open for a payload type.
func (r *rmcp) openAs(payload byte, p []byte) ([]byte, bool) {
	kind, id, seq, body, rest, ok := unpack(p)
	n, known := crypto.IntegrityAuthCodeLen(r.integrity)
	if !ok || !known || kind != payload|flagEncrypted|flagAuthentic || id != r.console || len(rest) < 2+n {
		return nil, false
	}
	signed := p[rmcpHeader : len(p)-n]
	want, err := crypto.SessionIntegrityAuthCode(r.integrity, signed, r.k1, "")
	if err != nil || !crypto.Equal(want, p[len(p)-n:]) || signed[len(signed)-1] != nextHeader {
		return nil, false
	}
	if !r.seen.accept(seq) || len(body) < 2*aesBlock || len(body)%aesBlock != 0 {
		return nil, false
	}
	msg, err := crypto.DecryptAESPayload(body, r.k2)
	return msg, err == nil
}

// packet is an RMCP+ packet without a trailer (IPMI 2.0 table 13-8).
func packet(kind byte, session, seq uint32, body []byte) []byte {
	p := []byte{rmcpVersion, 0, 0xff, rmcpIPMI, authRMCPPlus, kind}
	p = binary.LittleEndian.AppendUint32(p, session)
	p = binary.LittleEndian.AppendUint32(p, seq)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(body)))
	return append(p, body...)
}

// unpack takes an RMCP+ packet apart; rest is its trailer.
func unpack(p []byte) (kind byte, session, seq uint32, body, rest []byte, ok bool) {
	if len(p) < rmcpHeader+sessionHeader || p[0] != rmcpVersion || p[3] != rmcpIPMI || p[4] != authRMCPPlus {
		return 0, 0, 0, nil, nil, false
	}
	n := int(binary.LittleEndian.Uint16(p[14:]))
	rest = p[rmcpHeader+sessionHeader:]
	if n > len(rest) {
		return 0, 0, 0, nil, nil, false
	}
	return p[5], binary.LittleEndian.Uint32(p[6:]), binary.LittleEndian.Uint32(p[10:]), rest[:n], rest[n:], true
}

// exchange sends what next makes until want takes an answer: again after 1, 2,
// 4, 5, 5 ... seconds, until ctx ends. next is called for each sending, so that
// no two packets have the same sequence number.
func (r *rmcp) exchange(ctx context.Context, next func() ([]byte, error), want func([]byte) bool) error {
	stop := context.AfterFunc(ctx, func() { _ = r.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxDatagram)
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		out, err := next()
		if err != nil {
			return err
		}
		if err := r.conn.SetReadDeadline(time.Now().Add(pause)); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil { // after the deadline was set: AfterFunc's may be gone
			return err
		}
		if _, err := r.conn.Write(out); err != nil {
			return fmt.Errorf("sending to the BMC: %w", err)
		}
		for {
			n, err := r.conn.Read(buf)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return fmt.Errorf("reading from the BMC: %w", err)
			}
			if want(buf[:n]) {
				return nil
			}
		}
	}
}
