package fabric

import (
	"net"

	"golang.org/x/sys/unix"
)

// setBuffers asks for n bytes in each direction, beyond the system's limit if
// this process may (socket(7), SO_RCVBUFFORCE).
func setBuffers(c *net.UDPConn, n int) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = rc.Control(func(fd uintptr) {
		for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[0], n) != nil {
				if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[1], n); err != nil {
					set = err
				}
			}
		}
	})
	if err != nil {
		return err
	}
	return set
}
