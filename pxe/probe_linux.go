package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	etherARP   = 0x0806
	arpRequest = 1
	arpLength  = 28
	arpWait    = 200 * time.Millisecond // for an answer to each of two requests
)

// arpProbe is the request of RFC 5227 §1.1: the sender's address is 0, so that
// nobody's ARP cache is changed.
func arpProbe(from net.HardwareAddr, addr netip.Addr) []byte {
	b := make([]byte, etherHeader+arpLength)
	copy(b, []byte{255, 255, 255, 255, 255, 255})
	copy(b[6:], from)
	binary.BigEndian.PutUint16(b[12:], etherARP)
	arp := b[etherHeader:]
	copy(arp, []byte{0, 1, 8, 0, 6, 4, 0, arpRequest})
	copy(arp[8:], from)
	a4 := addr.As4()
	copy(arp[24:], a4[:])
	return b
}

// arpSender reads whose address an ARP packet, request or reply, says that its
// sender has (RFC 5227 §2.1.1).
func arpSender(frame []byte) (addr netip.Addr, by net.HardwareAddr, ok bool) {
	if len(frame) < etherHeader+arpLength || binary.BigEndian.Uint16(frame[12:]) != etherARP {
		return addr, nil, false
	}
	arp := frame[etherHeader:]
	if !bytes.Equal(arp[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return addr, nil, false
	}
	return netip.AddrFrom4([4]byte(arp[14:18])), bytes.Clone(arp[8:14]), true
}

// arpSocket hears ARP on one interface, from the first probe on.
type arpSocket struct {
	file  *os.File
	begin sync.Once
	ended chan struct{} // closed when nobody reads any more

	mu      sync.Mutex
	waiting map[netip.Addr][]chan net.HardwareAddr
	err     error // why nobody reads any more
}

// openARP opens a socket now, because the interface's namespace may be this
// thread's alone.
func openARP(index int, ifname string) (*arpSocket, error) {
	const protocol = 0x0608 // ARP in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket on %s: %w%s", ifname, err, listenHint(err))
	}
	a := &arpSocket{file: os.NewFile(uintptr(fd), "arp:"+ifname), ended: make(chan struct{}), waiting: map[netip.Addr][]chan net.HardwareAddr{}}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: protocol}); err != nil {
		a.file.Close()
		return nil, fmt.Errorf("binding a packet socket to %s: %w", ifname, err)
	}
	return a, nil
}

// read hands senders to who waits for them, until the socket is closed.
func (a *arpSocket) read(own net.HardwareAddr) {
	defer close(a.ended)
	buf := make([]byte, 2048)
	for failures := 0; ; {
		k, err := a.file.Read(buf)
		if errors.Is(err, os.ErrClosed) || err != nil && failures == readErrorLimit {
			a.mu.Lock()
			a.err = err
			a.mu.Unlock()
			return
		}
		if err != nil { // the interface was down, and may be up again
			failures++
			continue
		}
		failures = 0
		addr, by, ok := arpSender(buf[:k])
		if !ok || bytes.Equal(by, own) {
			continue
		}
		a.mu.Lock()
		for _, c := range a.waiting[addr] {
			select {
			case c <- by:
			default:
			}
		}
		a.mu.Unlock()
	}
}

func (a *arpSocket) wait(addr netip.Addr) (answer chan net.HardwareAddr, stop func()) {
	answer = make(chan net.HardwareAddr, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting[addr] = append(a.waiting[addr], answer)
	return answer, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		rest := slices.DeleteFunc(a.waiting[addr], func(c chan net.HardwareAddr) bool { return c == answer })
		if a.waiting[addr] = rest; len(rest) == 0 {
			delete(a.waiting, addr)
		}
	}
}

func (a *arpSocket) close() error {
	err := a.file.Close()
	a.begin.Do(func() { // nobody ever read
		a.err = os.ErrClosed
		close(a.ended)
	})
	<-a.ended
	return err
}

// Probe is a [Prober] by ARP on the socket's interface.
func (c *DHCPConn) Probe(ctx context.Context, addr netip.Addr) (net.HardwareAddr, bool, error) {
	c.arp.begin.Do(func() { go c.arp.read(c.mac) })
	answer, stop := c.arp.wait(addr)
	defer stop()
	for range 2 {
		if _, err := c.arp.file.Write(arpProbe(c.mac, addr)); err != nil {
			return nil, false, fmt.Errorf("probing %v on %s: %w", addr, c.ifname, err)
		}
		t := time.NewTimer(arpWait)
		select {
		case by := <-answer:
			t.Stop()
			return by, true, nil
		case <-t.C:
		case <-c.arp.ended:
			t.Stop()
			c.arp.mu.Lock()
			defer c.arp.mu.Unlock()
			return nil, false, fmt.Errorf("probing %v on %s: %w", addr, c.ifname, c.arp.err)
		case <-ctx.Done():
			t.Stop()
			return nil, false, ctx.Err()
		}
	}
	return nil, false, nil
}
