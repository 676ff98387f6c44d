package vbmc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// The machine's own IPMI interface (IPMI 2.0 §5, §9: KCS) as QEMU's
// ipmi-bmc-extern carries it: the serial protocol of OpenIPMI's lanserv, type
// "VM". A message is its number, network function and LUN, command, data and a
// checksum of all that, closed by A0h; a command is its code and data, closed by
// A1h. These two and AAh, the escape, are sent as AAh and the byte with bit 4
// set.
const (
	vmMessage  = 0xa0
	vmCommand  = 0xa1
	vmEscape   = 0xaa
	vmEscaped  = 0x10
	vmMaxBytes = 302 // a message of QEMU's, MAX_IPMI_MSG_SIZE, its number and checksum
)

// Commands of that protocol.
const (
	vmReset      = 0x04 // from QEMU: the machine was reset
	vmEnableIRQ  = 0x05
	vmDisableIRQ = 0x06
)

// vmReader takes the stream of QEMU apart.
type vmReader struct {
	buf     []byte
	escaped bool
	tooLong bool
}

// next takes one byte. At the end of a message or a command it gives it, with
// the byte that closed it; what is longer than any message is passed over.
func (r *vmReader) next(b byte) (frame []byte, end byte) {
	switch {
	case b == vmMessage || b == vmCommand:
		frame = r.buf
		if r.escaped || r.tooLong {
			frame = nil
		}
		r.buf, r.escaped, r.tooLong = r.buf[:0:0], false, false
		if len(frame) == 0 {
			return nil, 0
		}
		return frame, b
	case b == vmEscape:
		r.escaped = true
		return nil, 0
	case r.escaped:
		b, r.escaped = b&^vmEscaped, false
	}
	if len(r.buf) >= vmMaxBytes {
		r.tooLong = true
		return nil, 0
	}
	r.buf = append(r.buf, b)
	return nil, 0
}

// vmFrame escapes b and closes it with end.
func vmFrame(b []byte, end byte) []byte {
	out := make([]byte, 0, len(b)+8)
	for _, c := range b {
		switch c {
		case vmMessage, vmCommand, vmEscape:
			out = append(out, vmEscape, c|vmEscaped)
		default:
			out = append(out, c)
		}
	}
	return append(out, end)
}

// ServeSystemInterface answers IPMI on the machine's own interface, for which
// QEMU's ipmi-bmc-extern connects to l, until ctx ends. It needs no login there
// and may do everything (IPMI 2.0 §6.12.1): who can connect to l must be the
// machine alone. One QEMU at a time is served: a new one is the machine started
// again. It closes l.
func (s *Server) ServeSystemInterface(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	i := &ipmi{s: s, life: ctx, sessions: map[uint32]*ipmiSession{}}
	if err := i.identity(ctx); err != nil {
		return errors.Join(fmt.Errorf("serving the machine's own IPMI interface: %w", err), l.Close())
	}
	s.serving(nil)
	defer s.served(nil)
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	last := func() {}
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // it came too late
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("serving the machine's own IPMI interface: %w", err)
		}
		last()
		life, end := context.WithCancel(ctx)
		last = end
		wg.Go(func() {
			defer end()
			defer conn.Close()
			defer context.AfterFunc(life, func() { _ = conn.Close() })()
			i.system(life, conn)
		})
	}
}

// vmWrite is how long QEMU may take to read an answer.
const vmWrite = 5 * time.Second

// system serves one connection of QEMU's.
func (i *ipmi) system(ctx context.Context, conn net.Conn) {
	x := systemSession()
	var in vmReader
	buf := make([]byte, 512)
	for {
		n, err := conn.Read(buf)
		for _, b := range buf[:n] {
			frame, end := in.next(b)
			if frame == nil {
				continue
			}
			if !i.s.suffer(ctx) {
				return
			}
			if end == vmCommand {
				i.vmCommand(frame)
				continue
			}
			out := i.vmMessage(ctx, x, frame)
			if out == nil {
				continue
			}
			if err := conn.SetWriteDeadline(time.Now().Add(vmWrite)); err != nil {
				return
			}
			if _, err := conn.Write(out); err != nil {
				i.s.log.DebugContext(ctx, "virtual BMC: the machine did not take an IPMI answer", "err", err)
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				i.s.log.DebugContext(ctx, "virtual BMC: the machine's own IPMI interface ended", "err", err)
			}
			return
		}
	}
}

// systemSession is who sends what comes from the machine itself.
func systemSession() *ipmiSession {
	return &ipmiSession{user: "the machine itself", active: true, max: privAdmin, priv: privAdmin}
}

// vmMessage answers one message; nil for what is none.
func (i *ipmi) vmMessage(ctx context.Context, x *ipmiSession, m []byte) []byte {
	if len(m) < 4 || lanplus.Checksum(m) != 0 || m[1]>>2&1 != 0 {
		return nil
	}
	r := request{netFn: m[1] >> 2, lun: m[1] & 3, cmd: m[2], data: m[3 : len(m)-1]}
	i.mu.Lock()
	full := i.obey(ctx, x, r)
	i.mu.Unlock()
	// Behind the header of a LAN message: command, completion code, data.
	out := append([]byte{m[0], (r.netFn|1)<<2 | r.lun}, full[5:len(full)-1]...)
	out = vmFrame(append(out, lanplus.Checksum(out)), vmMessage)
	if r.netFn == 0x06 && r.cmd == 0x2e {
		out = append(out, vmFrame([]byte{i.irq()}, vmCommand)...)
	}
	return out
}

// irq is what QEMU is told after Set BMC Global Enables (IPMI 2.0 §22.1). It is
// the last of what is written: QEMU 7.2 drops what it reads together with a
// command, and behind it.
func (i *ipmi) irq() byte {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if i.s.ipmi.enables&(enableReceiveIRQ|enableEventIRQ) != 0 {
		return vmEnableIRQ
	}
	return vmDisableIRQ
}

// vmCommand hears what QEMU tells. Power and reset are the chassis', so that
// its capabilities are of no use here.
func (i *ipmi) vmCommand(c []byte) {
	if c[0] == vmReset {
		i.s.mu.Lock()
		defer i.s.mu.Unlock()
		i.s.stopWatchdog() // IPMI 2.0 §27.2
		i.s.ipmi.enables &^= enableReceiveIRQ | enableEventIRQ
	}
}
