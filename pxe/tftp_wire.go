package pxe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// tftpMaxAnswer bounds what a client sends in a transfer: ACKs, and an ERROR.
const tftpMaxAnswer = 516

// tftpCarrier carries a transfer's packets to its client and back.
type tftpCarrier interface {
	tftpWire
	// run runs a transfer that sends by it until its end, or ctx's.
	run(ctx context.Context, t *sender) error
}

// tftpShared are the engines of all sockets that TFTP is served on, while it is.
type tftpShared struct {
	mu      sync.Mutex
	users   int
	engines *tftpEngines
}

func (s *tftpShared) take(now func() time.Time) (*tftpEngines, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		var err error
		if s.engines, err = newTFTPEngines(now); err != nil {
			return nil, err
		}
	}
	s.users++
	return s.engines, nil
}

// give ends the engines with the last who took them.
func (s *tftpShared) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		s.engines.close()
	}
}

// carrier finds the best carrier for a connection.
func (s *tftpEngines) carrier(conn net.PacketConn, to netip.AddrPort) tftpCarrier {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return &packetWire{conn: conn, to: to, addr: net.UDPAddrFromAddrPort(to)}
	}
	if w := s.carry(udp, to); w != nil {
		return w
	}
	return &packetWire{conn: conn, udp: udp, to: to}
}

// packetWire is a transfer over any packet connection.
type packetWire struct {
	conn net.PacketConn
	udp  *net.UDPConn // conn, where it spares an address for every packet; else nil
	to   netip.AddrPort
	addr net.Addr
}

func (w *packetWire) send(b []byte) error {
	if w.udp != nil {
		_, err := w.udp.WriteToUDPAddrPort(b, w.to)
		return err
	}
	_, err := w.conn.WriteTo(b, w.addr)
	return err
}

func (w *packetWire) burst(blocks [][]byte) (int, error) { return 1, w.send(blocks[0]) }

func (w *packetWire) receive(b []byte) (int, netip.AddrPort, error) {
	if w.udp != nil {
		k, from, err := w.udp.ReadFromUDPAddrPort(b)
		return k, netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port()), err
	}
	k, from, err := w.conn.ReadFrom(b)
	ap, _ := addrPortOf(from)
	return k, ap, err
}

func (w *packetWire) run(ctx context.Context, t *sender) error {
	defer context.AfterFunc(ctx, func() { w.conn.Close() })()
	t.mayWait = true
	buf := make([]byte, tftpMaxAnswer)
	err := t.start()
	for err == nil && !t.done {
		// A socket's deadline is wall time, whatever clock the logic has. What
		// strangers send puts it off by nothing.
		if err := w.conn.SetReadDeadline(time.Now().Add(t.due.Sub(t.now()))); err != nil {
			return err
		}
		k, from, rerr := w.receive(buf)
		switch {
		case errors.Is(rerr, os.ErrDeadlineExceeded):
			err = t.expired()
		case rerr != nil:
			return rerr
		case from == w.to: // else it is not this transfer's TID (RFC 1350 §4)
			err = t.packet(buf[:k])
		}
	}
	return err
}
