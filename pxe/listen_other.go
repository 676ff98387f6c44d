//go:build !linux

package pxe

import (
	"context"
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

// DHCP6Conn is a DHCPv6 server's socket on one interface.
type DHCP6Conn struct{ net.PacketConn }

// ListenDHCP6 needs Linux.
func ListenDHCP6(ifname string) (*DHCP6Conn, error) {
	return nil, errors.New("DHCPv6 on interface " + ifname + " needs Linux: use a lab on this system")
}

// ListenAdvertise needs Linux.
func ListenAdvertise(ifname string) (AdvertiseConn, error) {
	return nil, errors.New("router advertisements on interface " + ifname + " need Linux: use a lab on this system")
}

// FindServers needs Linux.
func FindServers(_ context.Context, ifname string) ([]FoundServer, error) {
	return nil, errors.New("asking for DHCP servers on interface " + ifname + " needs Linux")
}
