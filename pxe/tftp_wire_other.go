//go:build !linux

package pxe

import (
	"io"
	"net"
	"net/netip"
	"time"
)

// tftpEngines need Linux: elsewhere each transfer waits for itself.
type tftpEngines struct{}

func newTFTPEngines(func() time.Time) (*tftpEngines, error) { return nil, nil }

func (*tftpEngines) close() error { return nil }

func (*tftpEngines) carry(*net.UDPConn, netip.AddrPort) tftpCarrier { return nil }

func sourceOf(f io.ReadSeekCloser) tftpSource { return waitingSource{f} }
