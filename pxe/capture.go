package pxe

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Packet is a datagram of DHCP or TFTP, or the head of a message of boot HTTP,
// as it crossed the server.
type Packet struct {
	Time     time.Time
	MAC      net.HardwareAddr // the client's, nil if it is not known
	From, To netip.AddrPort
	Sent     bool // by the server
	TCP      bool // a message of boot HTTP
	Data     []byte
	Size     int // length on the wire: Data may hold the start alone
}

const (
	captureQueue = 4096 // packets that wait for a slow reader
	captureHead  = 64   // bytes kept of a TFTP DATA packet
)

// Capture hands the server's boot conversation to whoever listens, as pcapng.
// It needs no raw sockets and sees what a mirror port would not: the packets
// of a lab's fabric, each with its machine's MAC. A nil *Capture is silent.
type Capture struct {
	active atomic.Int32
	mu     sync.Mutex
	to     map[*captureStream]bool
}

// NewCapture makes a Capture, for [Config].
func NewCapture() *Capture { return &Capture{to: map[*captureStream]bool{}} }

type captureStream struct {
	macs    []net.HardwareAddr // nil: everybody's
	packets chan Packet
	lost    atomic.Int64
}

// listens reports whether anybody does.
func (c *Capture) listens() bool { return c != nil && c.active.Load() > 0 }

// packet hands p to the listeners. It does not block; p.Data is copied.
func (c *Capture) packet(p Packet) {
	if !c.listens() {
		return
	}
	if p.Size == 0 {
		p.Size = len(p.Data)
	}
	p.Data = bytes.Clone(p.Data)
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.to {
		if s.macs != nil && !slices.ContainsFunc(s.macs, func(m net.HardwareAddr) bool { return bytes.Equal(m, p.MAC) }) {
			continue
		}
		select {
		case s.packets <- p:
		default:
			s.lost.Add(1)
		}
	}
}

// Stream writes packets to w as pcapng until ctx ends, which is no error, or w
// fails: those of some machines, or of all when no MAC is given. The file's
// header is written at once. Packets that w is too slow for are counted in the
// file.
func (c *Capture) Stream(ctx context.Context, w io.Writer, macs ...net.HardwareAddr) error {
	s := &captureStream{macs: macs, packets: make(chan Packet, captureQueue)}
	c.mu.Lock()
	c.to[s] = true
	c.mu.Unlock()
	c.active.Add(1)
	defer func() {
		c.active.Add(-1)
		c.mu.Lock()
		delete(c.to, s)
		c.mu.Unlock()
	}()
	b := bufio.NewWriter(w)
	if err := writeCaptureHeader(b); err != nil {
		return fmt.Errorf("writing a capture: %w", err)
	}
	for {
		if len(s.packets) == 0 {
			if err := b.Flush(); err != nil {
				return fmt.Errorf("writing a capture: %w", err)
			}
		}
		select {
		case p := <-s.packets:
			if err := writeCapturePacket(b, p, s.lost.Swap(0)); err != nil {
				return fmt.Errorf("writing a capture: %w", err)
			}
		case <-ctx.Done():
			// What was seen before the end belongs to it.
			for len(s.packets) > 0 {
				if err := writeCapturePacket(b, <-s.packets, s.lost.Swap(0)); err != nil {
					return fmt.Errorf("writing a capture: %w", err)
				}
			}
			if err := b.Flush(); err != nil {
				return fmt.Errorf("writing a capture: %w", err)
			}
			return nil
		}
	}
}

// WriteCapture writes packets as a pcapng file.
func WriteCapture(w io.Writer, packets []Packet) error {
	b := bufio.NewWriter(w)
	if err := writeCaptureHeader(b); err != nil {
		return err
	}
	for _, p := range packets {
		if err := writeCapturePacket(b, p, 0); err != nil {
			return err
		}
	}
	return b.Flush()
}

// tapConn shows the packets of one TFTP transfer.
type tapConn struct {
	net.PacketConn
	s      *Server
	mac    net.HardwareAddr
	local  netip.AddrPort
	secret bool // nothing of the data is kept
}

// tap shows a transfer's packets to the capture, if anybody listens.
func (s *Server) tap(conn net.PacketConn, peer, local netip.Addr) net.PacketConn {
	if !s.capture.listens() {
		return conn
	}
	t := &tapConn{PacketConn: conn, s: s, mac: s.macAt(peer)}
	if ap, ok := addrPortOf(conn.LocalAddr()); ok {
		t.local = ap
		if ap.Addr().IsUnspecified() {
			t.local = netip.AddrPortFrom(local, ap.Port())
		}
	}
	return t
}

func (s *Server) macAt(a netip.Addr) net.HardwareAddr {
	c, _ := s.clients.at(a)
	return c.MAC
}

func (t *tapConn) ReadFrom(b []byte) (int, net.Addr, error) {
	k, from, err := t.PacketConn.ReadFrom(b)
	if err == nil {
		ap, _ := addrPortOf(from)
		t.s.capture.packet(Packet{Time: t.s.now(), MAC: t.mac, From: ap, To: t.local, Data: b[:k]})
	}
	return k, from, err
}

func (t *tapConn) WriteTo(b []byte, to net.Addr) (int, error) {
	ap, _ := addrPortOf(to)
	p := Packet{Time: t.s.now(), MAC: t.mac, From: t.local, To: ap, Sent: true, Data: b, Size: len(b)}
	keep := captureHead
	if t.secret {
		keep = 4 // opcode and block
	}
	if len(b) > keep && b[1] == tftpData {
		p.Data = b[:keep]
	}
	t.s.capture.packet(p)
	return t.PacketConn.WriteTo(b, to)
}
