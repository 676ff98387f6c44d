package bmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// Serial over LAN (IPMI 2.0 §15, §24).
const (
	cmdActivate   = 0x48
	cmdDeactivate = 0x49
	solHeader     = 4
	solNACK       = 0x40
	solEnds       = 0x10
	solRetry      = time.Second
	solRetries    = 8
	solKeepAlive  = 20 * time.Second
	solMaxTyped   = 64 // bytes of a packet: some BMCs take no more
)

// ErrConsoleBusy means that somebody else has the machine's serial console.
var ErrConsoleBusy = errors.New("somebody else has the serial console")

// Console joins rw with the machine's serial port by IPMI's serial over LAN,
// until ctx ends, rw's reader does, or the BMC ends it. take ends a session
// that somebody else has. A BMC that is spoken to by Redfish is asked by IPMI
// at the same address: open it with that protocol.
func (c *Client) Console(ctx context.Context, rw io.ReadWriter, take bool) error {
	const doing = "the serial console"
	d, ok := c.drv.(*ipmiDriver)
	if !ok {
		return c.t.fail(doing, fmt.Errorf("%w by Redfish: open the BMC with the protocol ipmi", ErrUnsupported))
	}
	octx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	if take {
		_, err := d.s.command(octx, netApp, cmdDeactivate, lanplus.SOL, 1, 0, 0, 0, 0)
		var cc *ccError
		if err != nil && !errors.As(err, &cc) { // it was not active
			return c.t.own(octx, doing, d.explain(octx, err))
		}
	}
	// Encrypted and authenticated, no test mode, serial alerts deferred.
	b, err := d.s.command(octx, netApp, cmdActivate, lanplus.SOL, 1, 0xc0, 0, 0, 0)
	var cc *ccError
	switch {
	case errors.As(err, &cc) && cc.code == 0x80:
		return c.t.fail(doing, fmt.Errorf("%w: --take ends that session", ErrConsoleBusy))
	case errors.As(err, &cc) && cc.code == 0x81:
		return c.t.fail(doing, fmt.Errorf("%w: serial over LAN is disabled in the BMC", ErrUnsupported))
	case err != nil:
		return c.t.own(octx, doing, d.explain(octx, err))
	case len(b) < 8:
		return c.t.fail(doing, fmt.Errorf("its answer has %d bytes instead of 12", len(b)))
	}
	size := int(binary.LittleEndian.Uint16(b[4:])) - solHeader
	err = d.s.converse(ctx, rw, min(max(size, 1), solMaxTyped))
	if errors.Is(err, errConsoleEnded) {
		return nil // deactivating it now would end that of whoever took it
	}
	// The port is given back, whatever happened.
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
	defer stop()
	if _, derr := d.s.command(end, netApp, cmdDeactivate, lanplus.SOL, 1, 0, 0, 0, 0); derr != nil && err == nil {
		var cc *ccError
		if !errors.As(derr, &cc) {
			err = d.explain(end, derr)
		}
	}
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return c.t.own(ctx, doing, err)
}

// errConsoleEnded: the BMC ended it.
var errConsoleEnded = errors.New("the BMC ended the serial console")

// converse is the conversation once the payload is active. It has the session
// to itself.
func (r *rmcp) converse(ctx context.Context, rw io.ReadWriter, size int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := r.conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	// Two readers feed this loop; the one of the connection ends with its
	// deadline, that of rw with rw.
	packets := make(chan []byte)
	failed := make(chan error, 2)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, maxDatagram)
		for {
			n, err := r.conn.Read(buf)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
					failed <- fmt.Errorf("reading from the BMC: %w", err)
				}
				return
			}
			select {
			case packets <- append([]byte(nil), buf[:n]...):
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		_ = r.conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
		<-read
	}()
	typed := make(chan []byte)
	go func() { // ends with rw's reader
		for {
			b := make([]byte, size)
			n, err := rw.Read(b)
			if n > 0 {
				select {
				case typed <- b[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				select {
				case failed <- err:
				case <-ctx.Done():
				}
				return
			}
		}
	}()
	send := func(m []byte) error {
		p, err := r.Seal(lanplus.SOL, m)
		if err != nil {
			return err
		}
		if _, err := r.conn.Write(p); err != nil {
			return fmt.Errorf("sending to the BMC: %w", err)
		}
		return nil
	}
	var (
		seq, lastIn, took byte
		waiting           []byte // sent, and not acknowledged
		tries             int
	)
	retry := time.NewTimer(solRetry)
	defer retry.Stop()
	alive := time.NewTicker(solKeepAlive)
	defer alive.Stop()
	sendTyped := func() error {
		retry.Reset(solRetry)
		return send(append([]byte{seq, 0, 0, 0}, waiting...))
	}
	for {
		in := typed
		if len(waiting) > 0 {
			in = nil // one packet at a time (§15.10)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case waiting = <-in:
			seq, tries = seq%15+1, 0
			if err := sendTyped(); err != nil {
				return err
			}
		case <-retry.C:
			if len(waiting) == 0 {
				continue
			}
			if tries++; tries > solRetries {
				return fmt.Errorf("what was typed is not acknowledged: the BMC or the way to it is gone: %w", os.ErrDeadlineExceeded)
			}
			if err := sendTyped(); err != nil {
				return err
			}
		case <-alive.C:
			if err := r.poke(); err != nil {
				return err
			}
		case p := <-packets:
			payload, m, ok := r.Open(p)
			if !ok || payload != lanplus.SOL || len(m) < solHeader {
				continue
			}
			if a := m[1] & 0xf; a != 0 && a == seq && len(waiting) > 0 {
				switch n := min(int(m[2]), len(waiting)); {
				case m[3]&solNACK != 0 && n == 0: // sent again by the timer
				default:
					if waiting = waiting[n:]; len(waiting) > 0 { // taken in part
						seq, tries = seq%15+1, 0
						if err := sendTyped(); err != nil {
							return err
						}
					}
				}
			}
			if s := m[0] & 0xf; s != 0 {
				if s != lastIn { // else: sent again
					if _, err := rw.Write(m[solHeader:]); err != nil {
						return err
					}
					lastIn, took = s, byte(len(m)-solHeader)
				}
				if err := send([]byte{0, s, took, 0}); err != nil {
					return err
				}
			}
			if m[3]&solEnds != 0 && m[1]&0xf == 0 {
				return errConsoleEnded
			}
		}
	}
}

// poke keeps the session alive: Get Device ID, whose answer is not waited for.
func (r *rmcp) poke() error {
	r.rq = (r.rq + 1) & 0x3f
	p, err := r.Seal(lanplus.IPMI, lanplus.Message(bmcAddr, netApp<<2, consoleAddr, r.rq<<2, 0x01))
	if err != nil {
		return err
	}
	_, err = r.conn.Write(p)
	return err
}
