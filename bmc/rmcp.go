package bmc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
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

// Bounds of the protocol.
const (
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

	lanplus.Keys
	active bool

	tag byte // of session set-up messages
	rq  byte // of commands, 6 bits
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

// command sends one IPMI command and returns the data behind the completion
// code, which is 00h.
func (r *rmcp) command(ctx context.Context, netFn, cmd byte, data ...byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.active {
		return nil, errors.New("the IPMI session is not open")
	}
	r.rq = (r.rq + 1) & 0x3f
	msg := lanplus.Message(bmcAddr, netFn<<2, consoleAddr, r.rq<<2, cmd, data...)
	var got []byte
	err := r.exchange(ctx, func() ([]byte, error) { return r.Seal(lanplus.IPMI, msg) }, func(p []byte) bool {
		// The addresses are not looked at: the packet is signed, and go-ipmi's
		// server puts its own address in place of ours.
		payload, m, ok := r.Open(p)
		if !ok || payload != lanplus.IPMI || len(m) < 8 || !lanplus.Valid(m) || m[1]>>2 != netFn|1 || m[4]>>2 != r.rq || m[5] != cmd {
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
