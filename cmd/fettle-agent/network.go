package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

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

// has notes the port's address, with its prefix length.
func (n *network) has(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addr = addr
}

// resolve names the name servers.
func (n *network) resolve(servers []net.IP) {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte(b.String()), 0o644); err != nil {
		n.log.Warn("writing /etc/resolv.conf", "error", err)
	}
}

// startNetwork configures the port with the MAC (or, without a MAC, the first
// port that gets an answer) in the address family of the server: IPv6 when its
// address is one, else IPv4 by DHCP. It tries until it succeeds, and keeps the
// lease renewed until ctx ends.
func startNetwork(ctx context.Context, mac net.HardwareAddr, server netip.Addr, d *drivers, log *slog.Logger) (*network, error) {
	bringUp(log)
	for {
		ports, err := waitForPorts(ctx, mac, d)
		if err != nil {
			return nil, err
		}
		for _, p := range ports {
			n := &network{port: p.Attrs().Name, log: log}
			if err = n.up(ctx, p, mac == nil); err == nil {
				if server.Is6() {
					err = n.configure6(ctx, p, server, mac == nil)
				} else {
					err = n.configure4(ctx, p, mac == nil)
				}
			}
			if err == nil {
				return n, nil
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			log.Warn("no address; check cabling, VLAN and that fettle serves this network; trying again", "port", n.port, "mac", p.Attrs().HardwareAddr, "error", err)
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

// up brings the port up and waits for its link; quick gives up early.
func (n *network) up(ctx context.Context, p netlink.Link, quick bool) error {
	if err := netlink.LinkSetUp(p); err != nil {
		return fmt.Errorf("bringing %s up: %w", n.port, err)
	}
	wait := carrierWait
	if quick {
		wait = 5 * time.Second
	}
	return waitForCarrier(ctx, n.port, wait)
}

// tries is how often a port is asked for: one of many, or the one.
func tries(quick bool) int {
	if quick {
		return 2
	}
	return dhcpTries
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
