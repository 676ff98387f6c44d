//go:build !linux

package pxe

import (
	"errors"
	"net"
	"net/netip"
)

// DHCPConn is a DHCP server's socket on one interface.
type DHCPConn struct{ net.PacketConn }

// ListenDHCP needs Linux.
func ListenDHCP(ifname string) (*DHCPConn, error) {
	return nil, errors.New("DHCP on interface " + ifname + " needs Linux: use a lab on this system")
}

// SendFrame needs Linux.
func (c *DHCPConn) SendFrame(net.HardwareAddr, netip.AddrPort, netip.AddrPort, []byte) error {
	return errors.New("sending frames needs Linux")
}
