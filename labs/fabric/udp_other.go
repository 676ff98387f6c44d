//go:build !linux

package fabric

import (
	"errors"
	"net"
)

func setBuffers(c *net.UDPConn, n int) error {
	return errors.Join(c.SetReadBuffer(n), c.SetWriteBuffer(n))
}
