package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Interface is the wire of machines that this machine's kernel plays: DHCP on
// one interface, and connections from any address of a prefix that the kernel
// takes for its own meanwhile. It needs root.
type Interface struct {
	name     string
	machines netip.Prefix
}

// OpenInterface makes the kernel answer for the addresses in machines, until
// Close. name is the interface that the server is reached by.
func OpenInterface(ctx context.Context, name string, machines netip.Prefix) (*Interface, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w: see `ip link` for the names", name, err)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	here := false
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		here = here || err == nil && p.Addr().Is4()
	}
	if !here {
		return nil, fmt.Errorf("interface %s has no IPv4 address: give it one that is neither the pool's nor a machine's: ip addr add ADDRESS/BITS dev %s", name, name)
	}
	w := &Interface{name: name, machines: machines.Masked()}
	// A route of type local: the kernel takes packets to these addresses and
	// answers ARP for them, and leaves no address on any interface.
	if err := w.route(ctx, "add"); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Interface) route(ctx context.Context, do string) error {
	out, err := exec.CommandContext(ctx, "ip", "route", do, "local", w.machines.String(), "dev", "lo").CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("the program ip is not on this machine: install iproute2")
	case err != nil:
		return fmt.Errorf("taking the addresses %v on for the time of the test (ip route %s local): %s: needs root", w.machines, do, strings.TrimSpace(string(out)))
	}
	return nil
}

// Close gives the addresses back.
func (w *Interface) Close(ctx context.Context) error { return w.route(ctx, "del") }

// DHCP opens port 68 on the interface.
func (w *Interface) DHCP(ctx context.Context) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, w.name),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) != nil && err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
			}
		})
		return errors.Join(cerr, err)
	}}
	c, err := lc.ListenPacket(ctx, "udp4", "0.0.0.0:68")
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("port 68 on %s is taken by this machine's own DHCP client: stop it for the test: %w", w.name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening port 68 on %s: %w", w.name, err)
	}
	return c, nil
}

// ListenPacket opens a UDP port at an address of the machines'.
func (w *Interface) ListenPacket(ctx context.Context, from netip.Addr) (net.PacketConn, error) {
	var lc net.ListenConfig
	return lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(from, 0).String())
}

// Dial opens a TCP connection from an address of the machines'.
func (w *Interface) Dial(ctx context.Context, from netip.Addr, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	return d.DialContext(ctx, "tcp4", addr)
}
