package load

import (
	"errors"
	"io"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// discard takes n bytes off a connection. The kernel throws them away
// (tcp(7), MSG_TRUNC), so that the clients cost little beside the server that
// they measure.
func discard(conn net.Conn, n int64) (int64, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return io.CopyN(io.Discard, conn, n)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	var room [1]byte
	var got int64
	for got < n {
		var k int
		var rerr error
		if err := raw.Read(func(fd uintptr) bool {
			k, rerr = truncate(fd, &room[0], min(n-got, 1<<20))
			return !errors.Is(rerr, syscall.EAGAIN)
		}); err != nil {
			return got, err
		}
		if rerr != nil {
			return got, rerr
		}
		if k == 0 {
			return got, io.ErrUnexpectedEOF
		}
		got += int64(k)
	}
	return got, nil
}

// truncate is recvfrom(2) with MSG_TRUNC: nothing is written to room.
func truncate(fd uintptr, room *byte, n int64) (int, error) {
	for {
		k, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(room)), uintptr(n), unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(k), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
