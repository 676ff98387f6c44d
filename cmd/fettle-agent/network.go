package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/agent"
)

// Waits of the network.
const (
	portWait    = time.Minute      // for the port of fettle.mac to appear
	linksWait   = 5 * time.Second  // for the links of the other ports
	carrierWait = 20 * time.Second // for its link
	dhcpTimeout = 3 * time.Second  // of the first try; it doubles
	dhcpTries   = 4
	minRenew    = 5 * time.Second
)

// network is the configured port.
type network struct {
	port string
	log  *slog.Logger
	mu   sync.Mutex
	addr string
}

// mark notes the address in the inventory.
func (n *network) mark(inv *agent.Inventory) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range inv.NICs {
		if inv.NICs[i].Name == n.port {
			inv.NICs[i].Addr = strings.Split(n.addr, "/")[0]
		}
	}
}

// startNetwork configures the port with the MAC by DHCP (or, without a MAC,
// the first port that gets an answer), tries until it succeeds, and keeps the
// lease renewed until ctx ends.
func startNetwork(ctx context.Context, mac net.HardwareAddr, d *drivers, log *slog.Logger) (*network, error) {
	bringUp(log)
	for {
		ports, err := waitForPorts(ctx, mac, d)
		if err != nil {
			return nil, err
		}
		for _, p := range ports {
			n := &network{port: p.Attrs().Name, log: log}
			lease, err := n.acquire(ctx, p, mac == nil)
			if err == nil {
				err = n.apply(p, lease)
			}
			if err == nil {
				go n.keep(ctx, p, lease)
				return n, nil
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			log.Warn("no address from DHCP; check cabling, VLAN and that fettle serves this network; trying again", "port", n.port, "mac", p.Attrs().HardwareAddr, "error", err)
		}
	}
}

// bringUp brings every port up, lo too: the kernel tells only of ports that are
// up whether they have a link, and the inventory wants to know.
func bringUp(log *slog.Logger) {
	links, err := netlink.LinkList()
	if err != nil {
		log.Warn("listing network ports", "error", err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.Flags&net.FlagUp == 0 && l.Type() == "device" {
			if err := netlink.LinkSetUp(l); err != nil {
				log.Warn("bringing a port up", "port", a.Name, "error", err)
			}
		}
	}
}

// waitForLinks waits until every port has a link, for a while: after being
// brought up a port needs seconds to agree on a speed with its switch, and some
// have no cable.
func waitForLinks(ctx context.Context, wait time.Duration) {
	deadline := time.Now().Add(wait)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		links, err := netlink.LinkList()
		if err != nil {
			return
		}
		all := true
		for _, l := range links {
			a := l.Attrs()
			if a.Flags&net.FlagLoopback == 0 && l.Type() == "device" && a.RawFlags&unix.IFF_LOWER_UP == 0 {
				all = false
			}
		}
		if all {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// waitForPorts finds the ports to try.
func waitForPorts(ctx context.Context, mac net.HardwareAddr, d *drivers) ([]netlink.Link, error) {
	deadline := time.Now().Add(portWait)
	for {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("listing network ports: %w", err)
		}
		var ports []netlink.Link
		var seen []string
		for _, l := range links {
			a := l.Attrs()
			if a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 || l.Type() != "device" {
				continue
			}
			seen = append(seen, a.Name+" "+a.HardwareAddr.String())
			if mac == nil || bytes.Equal(a.HardwareAddr, mac) {
				ports = append(ports, l)
			}
		}
		if len(ports) > 0 {
			return ports, nil
		}
		if time.Now().After(deadline) {
			if mac == nil {
				return nil, errors.New("this machine shows no network port: its driver may be missing from the agent image")
			}
			return nil, fmt.Errorf("no network port has the MAC %s that the machine booted from (seen: %s): its driver may be missing from the agent image", mac, strings.Join(seen, ", "))
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
		d.load(ctx)
	}
}

// acquire brings the port up and asks for a lease; quick gives up early.
func (n *network) acquire(ctx context.Context, p netlink.Link, quick bool) (*nclient4.Lease, error) {
	if err := netlink.LinkSetUp(p); err != nil {
		return nil, fmt.Errorf("bringing %s up: %w", n.port, err)
	}
	wait, tries := carrierWait, dhcpTries
	if quick {
		wait, tries = 5*time.Second, 2
	}
	if err := waitForCarrier(ctx, n.port, wait); err != nil {
		return nil, err
	}
	return n.request(ctx, p, tries)
}

func waitForCarrier(ctx context.Context, port string, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		b, err := os.ReadFile(filepath.Join("/sys/class/net", port, "carrier"))
		if err == nil && strings.TrimSpace(string(b)) == "1" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("port %s has no link", port)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
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
	var resolv strings.Builder
	for _, s := range ack.DNS() {
		fmt.Fprintf(&resolv, "nameserver %s\n", s)
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte(resolv.String()), 0o644); err != nil {
		n.log.Warn("writing /etc/resolv.conf", "error", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addr = ip.String()
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
