package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/fettle-dev/fettle/bmc"
)

// listenSSDP hears searches for Redfish services on an interface, whose first
// IPv4 address it tells.
func listenSSDP(name string) (net.PacketConn, netip.Addr, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("--ssdp %s: %w", name, err)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("--ssdp %s: %w", name, err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() {
			continue
		}
		conn, err := net.ListenMulticastUDP("udp4", ifi, net.UDPAddrFromAddrPort(bmc.SSDPGroup))
		if err != nil {
			return nil, netip.Addr{}, fmt.Errorf("--ssdp %s: %w", name, err)
		}
		return conn, p.Addr(), nil
	}
	return nil, netip.Addr{}, fmt.Errorf("--ssdp %s: the interface has no IPv4 address", name)
}

// rootURL is the service root of who listens at an address, for those on a
// network where this machine is at.
func rootURL(listens string, at netip.Addr) string {
	if ap, err := netip.ParseAddrPort(listens); err == nil && ap.Addr().IsUnspecified() {
		listens = netip.AddrPortFrom(at, ap.Port()).String()
	}
	return "https://" + strings.TrimSuffix(listens, ":443") + "/redfish/v1/"
}
