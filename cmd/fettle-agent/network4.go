package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// configure4 gives the port an address by DHCP, and keeps it until ctx ends.
func (n *network) configure4(ctx context.Context, p netlink.Link, quick bool) error {
	lease, err := n.request(ctx, p, tries(quick))
	if err != nil {
		return err
	}
	if err := n.apply(p, lease); err != nil {
		return err
	}
	go n.keep(ctx, p, lease)
	return nil
}

// request is one DISCOVER to ACK (RFC 2131 §3.1).
func (n *network) request(ctx context.Context, p netlink.Link, tries int) (*nclient4.Lease, error) {
	c, err := nclient4.New(n.port, nclient4.WithHWAddr(p.Attrs().HardwareAddr), nclient4.WithTimeout(dhcpTimeout), nclient4.WithRetry(tries))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Request(ctx, modifiers()...)
}

func modifiers() []dhcpv4.Modifier {
	return []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("fettle-agent")),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionDomainName, dhcpv4.OptionInterfaceMTU),
	}
}

// apply configures the port; what is there already is replaced.
func (n *network) apply(p netlink.Link, l *nclient4.Lease) error {
	ack := l.ACK
	mask := ack.SubnetMask()
	if mask == nil || ack.YourIPAddr.To4() == nil {
		return errors.New("the DHCP server gave no address or subnet mask")
	}
	// Option 26 (RFC 2132 §5.1); 576 is the least that IP allows here.
	if b := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(b) == 2 {
		if mtu := int(b[0])<<8 | int(b[1]); mtu >= 576 && mtu != p.Attrs().MTU {
			if err := netlink.LinkSetMTU(p, mtu); err != nil {
				n.log.Warn("setting the MTU", "port", n.port, "mtu", mtu, "error", err)
			}
		}
	}
	ip := &net.IPNet{IP: ack.YourIPAddr.To4(), Mask: mask}
	old, err := netlink.AddrList(p, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("listing addresses of %s: %w", n.port, err)
	}
	for _, a := range old {
		if !a.IP.Equal(ip.IP) {
			if err := netlink.AddrDel(p, &a); err != nil {
				n.log.Warn("removing an old address", "port", n.port, "address", a.IPNet, "error", err)
			}
		}
	}
	if err := netlink.AddrReplace(p, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("giving %s the address %s: %w", n.port, ip, err)
	}
	if gw := ack.Router(); len(gw) > 0 && gw[0].To4() != nil {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: p.Attrs().Index, Gw: gw[0].To4(), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
			n.log.Warn("setting the default route", "gateway", gw[0], "error", err)
		}
	}
	n.resolve(ack.DNS())
	n.has(ip.String())
	return nil
}

// keep renews at half of the lease (RFC 2131 §4.4.5), and asks anew when that
// fails. The address stays until another is given: the only server that could
// give it away is the one that this machine talks to.
func (n *network) keep(ctx context.Context, p netlink.Link, l *nclient4.Lease) {
	for {
		t := l.ACK.IPAddressLeaseTime(time.Hour) / 2
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(t, minRenew)):
		}
		next, err := n.renew(ctx, p, l)
		if err != nil {
			n.log.Warn("renewing the address; asking anew", "port", n.port, "error", err)
			next, err = n.request(ctx, p, dhcpTries)
		}
		if err != nil {
			n.log.Warn("no answer from DHCP; keeping the address", "port", n.port, "error", err)
			continue
		}
		l = next
		if err := n.apply(p, l); err != nil {
			n.log.Error("configuring the network", "error", err)
		}
	}
}

func (n *network) renew(ctx context.Context, p netlink.Link, l *nclient4.Lease) (*nclient4.Lease, error) {
	c, err := nclient4.New(n.port, nclient4.WithHWAddr(p.Attrs().HardwareAddr), nclient4.WithTimeout(dhcpTimeout), nclient4.WithRetry(2))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Renew(ctx, l)
}
