package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Waits of IPv6.
const (
	// linkLocalWait is for the link-local address: the kernel first looks
	// whether anybody else has it (duplicate address detection, RFC 4862 §5.4).
	linkLocalWait = 10 * time.Second
	// autoWait is for an address that the kernel makes from an advertisement,
	// after DHCPv6 gave none: it asks for a router three times, 4 s apart
	// (RFC 4861 §6.3.7).
	autoWait = 10 * time.Second
	addrLook = 100 * time.Millisecond
	// routeWait is for an advertisement that says how to reach the server:
	// DHCPv6 may answer sooner than a router, which takes up to half a second
	// (RFC 4861 §10) and is asked again after four (§6.3.7).
	routeWait = 6 * time.Second
)

// lease6 is an address that DHCPv6 gave. Its reply names the server.
type lease6 struct {
	reply *dhcpv6.Message
	na    *dhcpv6.OptIANA
	addr  *dhcpv6.OptIAAddress
}

// configure6 gives the port an address by DHCPv6, or one that the kernel made
// itself from a router's advertisement (RFC 4862) where DHCPv6 gives none.
func (n *network) configure6(ctx context.Context, p netlink.Link, server netip.Addr, quick bool) error {
	linkLocal := func(a netlink.Addr) bool { return a.Scope == unix.RT_SCOPE_LINK }
	if _, err := awaitAddr(ctx, p, linkLocalWait, linkLocal); err != nil {
		return fmt.Errorf("port %s has no link-local address: %w", n.port, err)
	}
	lease, err := n.solicit(ctx, p, tries(quick))
	if err == nil {
		if err := n.take6(ctx, p, lease, server); err != nil {
			return err
		}
		go n.keep6(ctx, p, lease, server)
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	ip, autoErr := awaitAddr(ctx, p, autoWait, func(a netlink.Addr) bool { return a.Scope == unix.RT_SCOPE_UNIVERSE })
	if autoErr != nil {
		return fmt.Errorf("by DHCPv6: %w; from a router's advertisement: %w", err, autoErr)
	}
	n.has(ip.String())
	return nil
}

// take6 configures the port with a lease whose address nobody else has. Another
// machine's is declined (RFC 8415 §18.2.10.1).
func (n *network) take6(ctx context.Context, p netlink.Link, l *lease6, server netip.Addr) error {
	if err := n.apply6(ctx, p, l, server); err != nil {
		return err
	}
	given := func(a netlink.Addr) bool { return a.IP.Equal(l.addr.IPv6Addr) }
	_, err := awaitAddr(ctx, p, linkLocalWait, given)
	if errors.Is(err, errDuplicate) {
		if _, e := n.about(ctx, l, dhcpv6.MessageTypeDecline); e != nil {
			n.log.Warn("declining the address", "port", n.port, "error", e)
		}
	}
	return err
}

// errDuplicate says that another machine has an address.
var errDuplicate = errors.New("another machine on the link has it")

// awaitAddr waits until the port has an IPv6 address of the kind that is wanted,
// and nobody else has it.
func awaitAddr(ctx context.Context, p netlink.Link, wait time.Duration, want func(netlink.Addr) bool) (*net.IPNet, error) {
	deadline := time.Now().Add(wait)
	for {
		addrs, err := netlink.AddrList(p, unix.AF_INET6)
		if err != nil {
			return nil, fmt.Errorf("listing addresses of %s: %w", p.Attrs().Name, err)
		}
		for _, a := range addrs {
			if !want(a) {
				continue
			}
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				return nil, fmt.Errorf("address %s: %w", a.IP, errDuplicate)
			}
			if a.Flags&unix.IFA_F_TENTATIVE == 0 {
				return a.IPNet, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("none came in %s", wait)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(addrLook):
		}
	}
}

// client6 is a DHCPv6 client on the port's link-local address.
func (n *network) client6(tries int) (*nclient6.Client, error) {
	return nclient6.New(n.port, nclient6.WithTimeout(dhcpTimeout), nclient6.WithRetry(tries))
}

// leaseOf reads a REPLY.
func leaseOf(reply *dhcpv6.Message) (*lease6, error) {
	if s := reply.Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		return nil, fmt.Errorf("the DHCPv6 server answered %s %s", s.StatusCode, s.StatusMessage)
	}
	na := reply.Options.OneIANA()
	if na == nil {
		return nil, errors.New("the DHCPv6 server gave no address")
	}
	if s := na.Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		return nil, fmt.Errorf("the DHCPv6 server gave no address: %s %s", s.StatusCode, s.StatusMessage)
	}
	a := na.Options.OneAddress()
	if a == nil || a.IPv6Addr.To4() != nil || a.ValidLifetime <= 0 {
		return nil, errors.New("the DHCPv6 server gave no address")
	}
	return &lease6{reply, na, a}, nil
}

// solicit is one SOLICIT to REPLY (RFC 8415 §18.2.1, §18.2.2).
func (n *network) solicit(ctx context.Context, p netlink.Link, tries int) (*lease6, error) {
	c, err := n.client6(tries)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	offer, err := c.Solicit(ctx, dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: p.Attrs().HardwareAddr}))
	if err != nil {
		return nil, err
	}
	if _, err := leaseOf(offer); err != nil {
		return nil, err // §18.2.9: such an ADVERTISE is passed over
	}
	reply, err := c.Request(ctx, offer)
	if err != nil {
		return nil, err
	}
	return leaseOf(reply)
}

// about sends the server what becomes of its lease: RENEW (RFC 8415 §18.2.4) or
// DECLINE (§18.2.8).
func (n *network) about(ctx context.Context, l *lease6, kind dhcpv6.MessageType) (*dhcpv6.Message, error) {
	c, err := n.client6(2)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, err := dhcpv6.NewMessage()
	if err != nil {
		return nil, err
	}
	m.MessageType = kind
	for _, o := range []dhcpv6.Option{l.reply.GetOneOption(dhcpv6.OptionClientID), l.reply.GetOneOption(dhcpv6.OptionServerID)} {
		if o == nil {
			return nil, errors.New("the DHCPv6 server's REPLY does not say who it is from and for")
		}
		m.AddOption(o)
	}
	m.AddOption(l.na)
	m.AddOption(dhcpv6.OptElapsedTime(0))
	m.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer))
	return c.SendAndRead(ctx, c.RemoteAddr(), m, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
}

// apply6 configures the port; an address that an earlier lease gave goes. What
// is on the link is for a router's advertisement to say (RFC 5942 §4), which
// the kernel hears; where none says how to reach the server, it is looked for
// on the link.
func (n *network) apply6(ctx context.Context, p netlink.Link, l *lease6, server netip.Addr) error {
	ip := &net.IPNet{IP: l.addr.IPv6Addr, Mask: net.CIDRMask(128, 128)}
	old, err := netlink.AddrList(p, unix.AF_INET6)
	if err != nil {
		return fmt.Errorf("listing addresses of %s: %w", n.port, err)
	}
	for _, a := range old {
		if ones, _ := a.Mask.Size(); ones == 128 && a.Scope == unix.RT_SCOPE_UNIVERSE && !a.IP.Equal(ip.IP) {
			if err := netlink.AddrDel(p, &a); err != nil {
				n.log.Warn("removing an old address", "port", n.port, "address", a.IPNet, "error", err)
			}
		}
	}
	if err := netlink.AddrReplace(p, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("giving %s the address %s: %w", n.port, ip, err)
	}
	if routed, err := awaitRoute(ctx, p, server, routeWait); err != nil {
		return err
	} else if !routed {
		if err := routeBy(p, server, nil); err != nil {
			return fmt.Errorf("no router tells how to reach %s, and it cannot be looked for on %s: %w", server, n.port, err)
		}
	}
	n.resolve(l.reply.Options.DNS())
	n.has(ip.String())
	return nil
}

// routeBy makes the server be reached by a port, through a router or on its link.
func routeBy(p netlink.Link, server netip.Addr, router net.IP) error {
	at := &net.IPNet{IP: server.AsSlice(), Mask: net.CIDRMask(128, 128)}
	return netlink.RouteReplace(&netlink.Route{LinkIndex: p.Attrs().Index, Dst: at, Gw: router})
}

// awaitRoute waits until some router or prefix on the port's link tells how to
// reach the server, and tells whether one did. A route to the server alone, of an
// earlier lease, counts too. Routers on other ports, which are up for their
// links, speak as well: where the kernel likes the way by one of them better,
// the server gets a route of its own by the port that has the address.
func awaitRoute(ctx context.Context, p netlink.Link, server netip.Addr, wait time.Duration) (bool, error) {
	deadline := time.Now().Add(wait)
	index := p.Attrs().Index
	for {
		best, err := netlink.RouteGet(server.AsSlice())
		if err == nil && slices.ContainsFunc(best, func(r netlink.Route) bool { return r.LinkIndex == index }) {
			return true, nil
		}
		if err == nil {
			own, err := netlink.RouteGetWithOptions(server.AsSlice(), &netlink.RouteGetOptions{OifIndex: index})
			if i := slices.IndexFunc(own, func(r netlink.Route) bool { return r.LinkIndex == index }); err == nil && i >= 0 {
				if err := routeBy(p, server, own[i].Gw); err != nil {
					return false, fmt.Errorf("reaching %s by %s and not by another port: %w", server, p.Attrs().Name, err)
				}
				return true, nil
			}
		}
		if time.Now().After(deadline) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(addrLook):
		}
	}
}

// keep6 renews at T1 (RFC 8415 §18.2.4), and asks anew when that fails or the
// answer names an address that another machine has; see keep.
func (n *network) keep6(ctx context.Context, p netlink.Link, l *lease6, server netip.Addr) {
	for {
		t := l.na.T1
		if t <= 0 {
			t = l.addr.PreferredLifetime / 2 // the client's to choose (§21.4)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(t, minRenew)):
		}
		reply, err := n.about(ctx, l, dhcpv6.MessageTypeRenew)
		var next *lease6
		if err == nil {
			next, err = leaseOf(reply)
		}
		if err != nil {
			n.log.Warn("renewing the address; asking anew", "port", n.port, "error", err)
			next, err = n.solicit(ctx, p, dhcpTries)
		}
		if err != nil {
			n.log.Warn("no answer from DHCPv6; keeping the address", "port", n.port, "error", err)
			continue
		}
		l = next
		err = n.take6(ctx, p, l, server)
		if errors.Is(err, errDuplicate) {
			n.log.Warn("the new address is another machine's; asking anew", "port", n.port, "error", err)
			if next, err = n.solicit(ctx, p, dhcpTries); err == nil {
				l = next
				err = n.take6(ctx, p, l, server)
			}
		}
		if err != nil {
			n.log.Error("configuring the network", "error", err)
		}
	}
}
