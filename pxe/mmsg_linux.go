package pxe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var _ Batcher = (*DHCPConn)(nil)

// mmsg is a batch for the kernel: recvmmsg(2) and sendmmsg(2).
type mmsg struct {
	mu   sync.Mutex // one caller at a time: the room is shared
	hdrs [dhcpBatch]mmsghdr
	iovs [dhcpBatch]unix.Iovec
	addr [dhcpBatch]unix.RawSockaddrInet4

	// Of sending: the datagrams of each header, and how long they are (udp(7),
	// UDP_SEGMENT). One relay's answers go through the kernel together.
	count [dhcpBatch]int
	size  [dhcpBatch]segmentSize
	whole bool // this wire takes none together
}

// segmentSize is a control message of UDP_SEGMENT.
type segmentSize struct {
	hdr  unix.Cmsghdr
	size uint16
	_    [6]byte
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [(unsafe.Sizeof(uintptr(0)) - 4) % 8]byte
}

// prepare points the headers at datagrams.
func (m *mmsg) prepare(ds []Datagram) int {
	n := min(len(ds), dhcpBatch)
	for i := range n {
		m.iovs[i] = unix.Iovec{}
		if len(ds[i].Data) > 0 {
			m.iovs[i].Base = &ds[i].Data[0]
		}
		m.iovs[i].SetLen(len(ds[i].Data))
		h := &m.hdrs[i].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&m.addr[i])), Namelen: unix.SizeofSockaddrInet4, Iov: &m.iovs[i]}
		h.SetIovlen(1)
		m.hdrs[i].len = 0
	}
	return n
}

// call makes one system call, again while it is interrupted.
func (m *mmsg) call(trap, fd uintptr, n int) (int, error) {
	for {
		k, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&m.hdrs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(k), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// ReadBatch reads the datagrams that wait, and waits for the first.
func (c *DHCPConn) ReadBatch(to []Datagram) (int, error) {
	m := &c.in
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.prepare(to)
	var k int
	var err error
	if rerr := c.udp.Read(func(fd uintptr) bool {
		k, err = m.call(unix.SYS_RECVMMSG, fd, n)
		return !errors.Is(err, syscall.EAGAIN)
	}); rerr != nil {
		return 0, rerr
	}
	if err != nil {
		return 0, fmt.Errorf("recvmmsg on %s: %w", c.ifname, err)
	}
	for i := range k {
		a := &m.addr[i]
		to[i].Data = to[i].Data[:m.hdrs[i].len]
		to[i].Peer = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a.Port))[:]))
	}
	return k, nil
}

// gather points the headers at datagrams that are to be sent: those that follow
// one another to one peer, and are as long, share one, if the wire takes that.
// It returns the number of headers.
func (m *mmsg) gather(ds []Datagram) (n int) {
	for i := 0; i < len(ds); n++ {
		first := ds[i]
		k := 1
		for !m.whole && i+k < len(ds) && ds[i+k].Peer == first.Peer && len(ds[i+k].Data) == len(first.Data) && (k+1)*len(first.Data) <= burstBytes {
			k++
		}
		for j := i; j < i+k; j++ {
			m.iovs[j] = unix.Iovec{Base: unsafe.SliceData(ds[j].Data)}
			m.iovs[j].SetLen(len(ds[j].Data))
		}
		a := &m.addr[n]
		*a = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: first.Peer.Addr().As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&a.Port))[:], first.Peer.Port())
		h := &m.hdrs[n].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(a)), Namelen: unix.SizeofSockaddrInet4, Iov: &m.iovs[i]}
		h.SetIovlen(k)
		if k > 1 {
			c := &m.size[n]
			c.hdr.Level, c.hdr.Type, c.size = unix.SOL_UDP, unix.UDP_SEGMENT, uint16(len(first.Data)) //nolint:gosec // below burstBytes
			c.hdr.SetLen(unix.CmsgLen(2))
			h.Control = (*byte)(unsafe.Pointer(c))
			h.SetControllen(unix.CmsgSpace(2))
		}
		m.count[n] = k
		i += k
	}
	return n
}

// WriteBatch sends datagrams.
func (c *DHCPConn) WriteBatch(from []Datagram) (int, error) {
	m := &c.outgoing
	m.mu.Lock()
	defer m.mu.Unlock()
	from = from[:min(len(from), dhcpBatch)]
	for {
		n := m.gather(from)
		var k int
		var err error
		if werr := c.udp.Write(func(fd uintptr) bool {
			k, err = m.call(unix.SYS_SENDMMSG, fd, n)
			return !errors.Is(err, syscall.EAGAIN)
		}); werr != nil {
			return 0, werr
		}
		switch {
		case err == nil:
			sent := 0
			for _, together := range m.count[:k] {
				sent += together
			}
			return sent, nil
		case m.count[0] > 1:
			// A device that computes no checksums (EIO), or a packet that it must
			// send in pieces (EINVAL): each for itself, then.
			m.whole = errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL)
			from = from[:1]
		default:
			return 0, fmt.Errorf("sendmmsg on %s: %w", c.ifname, err)
		}
	}
}
