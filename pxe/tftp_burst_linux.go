package pxe

import (
	"encoding/binary"
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits of one call with UDP_SEGMENT (udp(7)).
const (
	burstSegments = 64
	burstBytes    = 65000 // of an IPv4 datagram's 65507
)

// sendBurst sends as many of blocks as one call takes: all have the length of
// the first, but for the last, which may be shorter.
func sendBurst(raw syscall.RawConn, blocks [][]byte) (int, error) {
	size := len(blocks[0])
	n := min(len(blocks), burstSegments, max(burstBytes/size, 1))
	var room [24]byte // CmsgSpace(2)
	oob := room[:unix.CmsgSpace(2)]
	binary.NativeEndian.PutUint64(oob, uint64(unix.CmsgLen(2)))
	if unix.SizeofCmsghdr == 12 { // 32 bits
		binary.NativeEndian.PutUint32(oob, uint32(unix.CmsgLen(2)))
	}
	at := unix.CmsgLen(0)
	binary.NativeEndian.PutUint32(oob[unix.SizeofCmsghdr-8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(oob[unix.SizeofCmsghdr-4:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(oob[at:], uint16(size))
	var serr error
	if err := raw.Write(func(fd uintptr) bool {
		for range 2 { // the first may report what became of a packet before
			_, serr = unix.SendmsgBuffers(int(fd), blocks[:n], oob, nil, 0)
			if !errors.Is(serr, syscall.ECONNREFUSED) && !errors.Is(serr, syscall.EINTR) {
				break
			}
		}
		return !errors.Is(serr, syscall.EAGAIN)
	}); err != nil {
		return 0, err
	}
	if errors.Is(serr, syscall.ECONNREFUSED) {
		return n, nil
	}
	return n, serr
}
