package pxe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	icmpEchoReply   = 0
	icmpEchoRequest = 8
	icmpFilter      = 1                      // ICMP_FILTER of <linux/icmp.h>
	echoWait        = 300 * time.Millisecond // for an answer to each of two requests
	echoHeader      = 8
)

// echoRequest is an ICMP echo (RFC 792).
func echoRequest(id, seq uint16) []byte {
	b := make([]byte, echoHeader+8)
	b[0] = icmpEchoRequest
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	copy(b[echoHeader:], "fettle")
	binary.BigEndian.PutUint16(b[2:], ^sum16(b, 0))
	return b
}

// echoAnswers reports whether an ICMP message answers requests of id.
func echoAnswers(b []byte, id uint16) bool {
	return len(b) >= echoHeader && b[0] == icmpEchoReply && b[1] == 0 && binary.BigEndian.Uint16(b[4:]) == id
}

// echoSocket pings addresses that ARP does not reach, from the first probe on.
type echoSocket struct {
	conn  *net.IPConn
	id    uint16
	begin sync.Once
	ended chan struct{}

	mu      sync.Mutex
	seq     uint16
	waiting map[netip.Addr]map[chan struct{}]bool
	err     error // why nobody reads any more
}

// openEcho opens a socket now, because the thread's namespace is the right one.
func openEcho(id uint16) (*echoSocket, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_RAW, icmpFilter, ^(1 << icmpEchoReply))
		})
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, fmt.Errorf("opening an ICMP socket: %w%s", err, listenHint(err))
	}
	return &echoSocket{conn: conn.(*net.IPConn), id: id, ended: make(chan struct{}), waiting: map[netip.Addr]map[chan struct{}]bool{}}, nil
}

// read tells who waits for an address that it answers, until the socket is
// closed.
func (e *echoSocket) read() {
	defer close(e.ended)
	buf := make([]byte, 1500)
	for failures := 0; ; {
		k, from, err := e.conn.ReadFromIP(buf)
		if errors.Is(err, net.ErrClosed) || err != nil && failures == readErrorLimit {
			e.mu.Lock()
			e.err = err
			e.mu.Unlock()
			return
		}
		if err != nil {
			failures++
			continue
		}
		failures = 0
		addr, ok := netip.AddrFromSlice(from.IP)
		if !ok || !echoAnswers(buf[:k], e.id) {
			continue
		}
		e.mu.Lock()
		for c := range e.waiting[addr.Unmap()] {
			select {
			case c <- struct{}{}:
			default:
			}
		}
		e.mu.Unlock()
	}
}

func (e *echoSocket) wait(addr netip.Addr) (answer chan struct{}, seq uint16, stop func()) {
	answer = make(chan struct{}, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting[addr] == nil {
		e.waiting[addr] = map[chan struct{}]bool{}
	}
	e.waiting[addr][answer] = true
	e.seq += 2
	return answer, e.seq, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if delete(e.waiting[addr], answer); len(e.waiting[addr]) == 0 {
			delete(e.waiting, addr)
		}
	}
}

func (e *echoSocket) close() error {
	err := e.conn.Close()
	e.begin.Do(func() { // nobody ever read
		e.err = net.ErrClosed
		close(e.ended)
	})
	<-e.ended
	return err
}

// ProbeFar is a [FarProber] by two pings.
func (c *DHCPConn) ProbeFar(ctx context.Context, addr netip.Addr) (bool, error) {
	e := c.echo
	e.begin.Do(func() { go e.read() })
	answer, seq, stop := e.wait(addr)
	defer stop()
	for i := range uint16(2) {
		if _, err := e.conn.WriteToIP(echoRequest(e.id, seq+i), &net.IPAddr{IP: addr.AsSlice()}); err != nil {
			return false, fmt.Errorf("pinging %v: %w", addr, err)
		}
		t := time.NewTimer(echoWait)
		select {
		case <-answer:
			t.Stop()
			return true, nil
		case <-t.C:
		case <-e.ended:
			t.Stop()
			e.mu.Lock()
			defer e.mu.Unlock()
			return false, fmt.Errorf("pinging %v: %w", addr, e.err)
		case <-ctx.Done():
			t.Stop()
			return false, ctx.Err()
		}
	}
	return false, nil
}
