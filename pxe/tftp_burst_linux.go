package pxe

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Limits of one call with UDP_SEGMENT (udp(7)).
const (
	burstSegments = 64
	burstBytes    = 65000 // of an IPv4 datagram's 65507
)

// sendBurst sends as many of blocks as one call takes: all have the length of
// the first, but for the last, which may be shorter.
func sendBurst(fd int, blocks [][]byte) (int, error) {
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
	for range 3 { // the first may report what became of a packet before
		_, err := unix.SendmsgBuffers(fd, blocks[:n], oob, nil, unix.MSG_DONTWAIT)
		switch {
		case err == nil, errors.Is(err, unix.EAGAIN): // see send
			return n, nil
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EINTR):
		default:
			return 0, os.NewSyscallError("sendmsg", err)
		}
	}
	return n, nil
}
