//go:build !linux

package load

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// Interface needs Linux.
type Interface struct{}

var errLinux = errors.New("playing machines needs Linux")

// OpenInterface needs Linux.
func OpenInterface(context.Context, string, netip.Prefix) (*Interface, error) { return nil, errLinux }

// Close does nothing.
func (*Interface) Close(context.Context) error { return nil }

// DHCP needs Linux.
func (*Interface) DHCP(context.Context) (net.PacketConn, error) { return nil, errLinux }

// ListenPacket needs Linux.
func (*Interface) ListenPacket(context.Context, netip.Addr) (net.PacketConn, error) {
	return nil, errLinux
}

// Dial needs Linux.
func (*Interface) Dial(context.Context, netip.Addr, string) (net.Conn, error) { return nil, errLinux }
