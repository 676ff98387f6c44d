//go:build !linux

package pxe

import (
	"errors"
	"net"
	"net/netip"
)

func connect(*net.UDPConn, netip.AddrPort) error { return errors.ErrUnsupported }

func sendBurst(*net.UDPConn, [][]byte) (int, error) { return 0, errors.ErrUnsupported }
