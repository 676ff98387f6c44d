//go:build !linux

package load

import (
	"io"
	"net"
)

func discard(conn net.Conn, n int64) (int64, error) { return io.CopyN(io.Discard, conn, n) }
