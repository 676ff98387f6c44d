package vbmc

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// Console is a machine's serial port. Attach copies what the machine says to
// rw, and what rw says to the machine, until ctx ends, or rw's reader or writer.
type Console interface {
	Attach(ctx context.Context, rw io.ReadWriter) error
}

// Serial over LAN (IPMI 2.0 §15, §24, §26).
const (
	solMaxData   = 200 // of a packet
	solRetry     = 500 * time.Millisecond
	solRetries   = 7
	solTyped     = 64 // packets from the console that wait for the machine
	solSaid      = 1024
	solAlive     = time.Second // between two looks whether the session lives
	solNACK      = 0x40
	solEnds      = 0x10 // status: the BMC ends it
	solPort      = 623
	solBaud115   = 0x0a
	ccSOLActive  = completion(0x80)
	ccSOLAbsent  = completion(0x81) // payload type is disabled
	ccSOLStopped = completion(0x80) // of Deactivate Payload: it was not active
)

// sol is serial over LAN in one session. ipmi.mu guards it, but for its
// channels.
type sol struct {
	x      *ipmiSession
	to     net.Addr
	cancel context.CancelFunc

	typed  chan []byte // from the console
	rest   []byte      // of a packet that Read took in part
	said   chan []byte // by the machine
	acked  chan solAck
	lastIn byte // sequence number of the last packet taken
	tries  int
	every  time.Duration // between two of them
	took   byte
	ctx    context.Context
}

// solAck is what the console says of a packet of ours.
type solAck struct {
	seq, took byte
	nack      bool
}

// Read gives the machine what was typed.
func (o *sol) Read(p []byte) (int, error) {
	if len(o.rest) == 0 {
		select {
		case <-o.ctx.Done():
			return 0, io.EOF
		case o.rest = <-o.typed:
		}
	}
	n := copy(p, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// Write takes what the machine says. What a slow console cannot take is
// dropped: the machine never waits.
func (o *sol) Write(p []byte) (int, error) {
	select {
	case <-o.ctx.Done():
		return 0, io.ErrClosedPipe
	case o.said <- append([]byte(nil), p...):
	default:
	}
	return len(p), nil
}

// activatePayload (IPMI 2.0 §24.1).
func (i *ipmi) activatePayload(ctx context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	if d[0]&0x3f != lanplus.SOL || d[1]&0xf != 1 {
		return nil, ccField
	}
	if i.conn == nil {
		return nil, ccField // the machine has no session to send it in
	}
	i.s.mu.Lock()
	off, level := i.s.ipmi.sol.value(1, 1) == 0 || x.who != nil && x.who.noSOL, i.s.ipmi.sol.value(2, 0)&0xf
	tries, every := i.s.ipmi.sol.patience()
	i.s.mu.Unlock()
	switch {
	case i.s.console == nil || off:
		return nil, ccSOLAbsent
	case x.priv < level:
		return nil, ccPrivilege
	}
	if i.sol != nil && i.alive(i.sol) {
		return nil, ccSOLActive
	}
	life, cancel := context.WithCancel(i.life)
	o := &sol{x: x, to: i.from, cancel: cancel, ctx: life, typed: make(chan []byte, solTyped), said: make(chan []byte, solSaid), acked: make(chan solAck, 4), tries: tries, every: every}
	i.s.mu.Lock()
	busy := i.s.solOwner != nil
	if !busy {
		i.s.solOwner = o
	}
	i.s.mu.Unlock()
	if busy { // by the other address of this BMC
		cancel()
		return nil, ccSOLActive
	}
	i.sol = o
	i.work.Go(func() {
		defer cancel()
		defer i.s.freeSOL(o)
		i.work.Go(func() {
			defer cancel()
			if err := i.s.console.Attach(life, o); err != nil && life.Err() == nil {
				i.s.log.DebugContext(life, "virtual BMC: the serial console ended", "err", err)
			}
		})
		i.sendSOL(o)
	})
	i.s.logEvent("manager", "OK", "Serial over LAN activated by "+x.user+".")
	out := make([]byte, 4, 12)
	le := binary.LittleEndian
	out = le.AppendUint16(out, solMaxData+4)
	out = le.AppendUint16(out, solMaxData+4)
	out = le.AppendUint16(out, i.port())
	return append(out, 0xff, 0xff), nil // no VLAN
}

// port is where this service is: ipmitool refuses a console that is elsewhere.
func (i *ipmi) port() uint16 {
	if a := i.local(); a != nil {
		return uint16(a.Port)
	}
	return solPort
}

// alive tells whether the session of o is open still. i.mu is held.
func (i *ipmi) alive(o *sol) bool { return o.ctx.Err() == nil && i.sessions[o.x.Own] == o.x }

// sendSOL sends what the machine says, a packet at a time, until the session
// ends or the console no longer acknowledges.
func (i *ipmi) sendSOL(o *sol) {
	seq := byte(0)
	tick := time.NewTicker(solAlive)
	defer tick.Stop()
	var data []byte
	for {
		if len(data) == 0 {
			select {
			case <-o.ctx.Done():
				i.transmit(o, []byte{0, 0, 0, solEnds})
				return
			case <-tick.C:
				i.mu.Lock()
				alive := i.alive(o)
				i.mu.Unlock()
				if !alive {
					return
				}
				continue
			case data = <-o.said:
			}
		}
		for len(data) < solMaxData { // what else is there
			select {
			case more := <-o.said:
				data = append(data, more...)
				continue
			default:
			}
			break
		}
		part := data[:min(len(data), solMaxData)]
		seq = seq%15 + 1
		took, ok := i.deliver(o, seq, part)
		if !ok {
			return
		}
		data = data[took:]
	}
}

// deliver sends one packet until it is acknowledged.
func (i *ipmi) deliver(o *sol, seq byte, part []byte) (took int, ok bool) {
	for range o.tries {
		if !i.transmit(o, append([]byte{seq, 0, 0, 0}, part...)) {
			return 0, false
		}
		timer := time.NewTimer(o.every)
	wait:
		for {
			select {
			case <-o.ctx.Done():
				timer.Stop()
				i.transmit(o, []byte{0, 0, 0, solEnds})
				return 0, false
			case a := <-o.acked:
				if a.seq != seq {
					continue
				}
				timer.Stop()
				if a.nack && a.took == 0 {
					break wait
				}
				return min(int(a.took), len(part)), true
			case <-timer.C:
				break wait
			}
		}
	}
	return 0, false
}

// transmit sends a packet of the payload; false when the session is gone.
func (i *ipmi) transmit(o *sol, m []byte) bool {
	i.mu.Lock()
	if i.sessions[o.x.Own] != o.x {
		i.mu.Unlock()
		return false
	}
	p := o.x.seal(lanplus.SOL, m)
	i.mu.Unlock()
	if p == nil {
		return false
	}
	_, err := i.conn.WriteTo(p, o.to)
	return err == nil
}

// solPacket takes a packet of the console (IPMI 2.0 table 15-2); the answer is
// its acknowledgement, nil for none.
func (i *ipmi) solPacket(x *ipmiSession, m []byte) []byte {
	o := i.sol
	if o == nil || o.x != x || len(m) < 4 || !i.alive(o) {
		return nil
	}
	if m[1]&0xf != 0 {
		select {
		case o.acked <- solAck{m[1] & 0xf, m[2], m[3]&solNACK != 0}:
		default: // the packet is sent again
		}
	}
	seq := m[0] & 0xf
	if seq == 0 {
		return nil
	}
	if seq != o.lastIn { // else: sent again
		o.took, o.lastIn = byte(len(m)-4), seq
		if len(m) > 4 {
			select {
			case o.typed <- append([]byte(nil), m[4:]...):
			default:
				o.lastIn = 0
				return []byte{0, seq, 0, solNACK}
			}
		}
	}
	return []byte{0, seq, o.took, 0}
}

// deactivatePayload (IPMI 2.0 §24.2): by anybody who may.
func (i *ipmi) deactivatePayload(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[0]&0x3f != lanplus.SOL {
		return nil, ccField
	}
	if i.sol == nil || !i.alive(i.sol) {
		return nil, ccSOLStopped
	}
	i.sol.cancel()
	i.s.freeSOL(i.sol) // whoever deactivated it may activate it at once
	return nil, nil
}

// freeSOL lets the next one have the console, if o has it.
func (s *Server) freeSOL(o *sol) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.solOwner == o {
		s.solOwner = nil
	}
}

// payloadStatus is Get Payload Activation Status (IPMI 2.0 §24.4).
func (i *ipmi) payloadStatus(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[0]&0x3f != lanplus.SOL {
		return nil, ccField
	}
	active := byte(0)
	if i.sol != nil && i.alive(i.sol) {
		active = 1
	}
	return []byte{1, active, 0}, nil
}

// payloadSupport is Get Channel Payload Support (IPMI 2.0 §24.8).
func (i *ipmi) payloadSupport(context.Context, *ipmiSession, []byte) ([]byte, error) {
	types := byte(0x01)
	if i.s.console != nil {
		types |= 1 << lanplus.SOL
	}
	return []byte{types, 0, 0x3f, 0, 0, 0, 0, 0}, nil
}

// payloadVersion is Get Channel Payload Version (IPMI 2.0 §24.9): 1.0.
func (i *ipmi) payloadVersion(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[1] > lanplus.SOL {
		return nil, ccSOLActive // payload type not available on this channel
	}
	return []byte{0x10}, nil
}

// solParameters are those that were written (IPMI 2.0 table 26-5).
type solParameters struct {
	progress byte
	kept     [7]struct {
		v   [2]byte
		set bool
	}
}

// solDefaults are what a BMC comes with, by number.
var solDefaults = [...][]byte{
	{0}, {1},
	{0xc0 | privOperator}, // encrypted and authenticated always
	{1, 1},                // sent at once
	{solRetries, byte(solRetry / (10 * time.Millisecond))},
	{solBaud115}, {solBaud115},
}

// value is byte n of a parameter. Server.mu is held.
func (p *solParameters) value(number, n int) byte {
	n = min(n, len(solDefaults[number])-1)
	if k := p.kept[number]; k.set {
		return k.v[n]
	}
	return solDefaults[number][n]
}

// patience is how often a packet is sent, and how far apart. Server.mu is held.
func (p *solParameters) patience() (tries int, every time.Duration) {
	return max(1, int(p.value(4, 0)&7)), max(1, time.Duration(p.value(4, 1))) * 10 * time.Millisecond
}

// solParameter is Get SOL Configuration Parameters (IPMI 2.0 §26.3).
func (i *ipmi) solParameter(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if !i.isLAN(d[0]) {
		return nil, ccField
	}
	if d[0]&0x80 != 0 {
		return []byte{lanRevision}, nil
	}
	out, p := []byte{lanRevision}, int(d[1])
	switch p {
	case 7:
		return append(out, lanChannel), nil
	case 8:
		return binary.LittleEndian.AppendUint16(out, i.port()), nil
	}
	if p >= len(solDefaults) {
		return nil, ccParameter
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	st := &i.s.ipmi.sol
	switch {
	case p == 0:
		return append(out, st.progress), nil
	case p == 1 && i.s.console == nil:
		return append(out, 0), nil
	}
	for n := range solDefaults[p] {
		out = append(out, st.value(p, n))
	}
	return out, nil
}

// setSOLParameter is Set SOL Configuration Parameters (IPMI 2.0 §26.2). The rate
// is kept and of no effect; encryption cannot be left out.
func (i *ipmi) setSOLParameter(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	p, v := int(d[1]), d[2:]
	switch {
	case !i.isLAN(d[0]):
		return nil, ccField
	case p == 7 && v[0]&0xf == lanChannel:
		return nil, nil
	case p == 8 && len(v) >= 2 && binary.LittleEndian.Uint16(v) == i.port():
		return nil, nil
	case p == 7 || p == 8:
		return nil, ccReadOnly
	case p >= len(solDefaults):
		return nil, ccParameter
	case len(v) < len(solDefaults[p]):
		return nil, ccLength
	case p == 2 && (v[0]&0xc0 != 0xc0 || v[0]&0xf < privUser || v[0]&0xf > privAdmin):
		return nil, ccField
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	st := &i.s.ipmi.sol
	if p == 0 {
		if v[0]&3 == 1 && st.progress == 1 {
			return nil, ccInProgress
		}
		st.progress = v[0] & 1
		return nil, nil
	}
	copy(st.kept[p].v[:], v[:len(solDefaults[p])])
	st.kept[p].set = true
	return nil, nil
}
