package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

// hostStack is this machine's own network stack: each boot network is on a
// named interface that has the network's server address.
type hostStack struct {
	interfaces map[string]string // by network
}

// newHostStack finds, for every boot network of s, the interface that has its
// server address; named gives some by hand (NETWORK=INTERFACE).
func newHostStack(nets []site.Network, named map[string]string) (*hostStack, error) {
	h := &hostStack{interfaces: map[string]string{}}
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	for _, n := range nets {
		want := named[n.Name]
		found := ""
		for _, i := range ifs {
			addrs, err := i.Addrs()
			if err != nil {
				return nil, fmt.Errorf("addresses of interface %s: %w", i.Name, err)
			}
			has := slices.ContainsFunc(addrs, func(a net.Addr) bool {
				p, err := netip.ParsePrefix(a.String())
				return err == nil && p.Addr() == n.Here()
			})
			if has && (want == "" || want == i.Name) {
				found = i.Name
			}
		}
		if err := h.has6(n, found); err != nil {
			return nil, err
		}
		if found == "" {
			if want != "" && !slices.ContainsFunc(ifs, func(i net.Interface) bool { return i.Name == want }) {
				return nil, fail(exitMissing, fmt.Errorf("network %s: there is no interface %s on this machine: ip -brief link shows those there are", n.Name, want))
			}
			bits := n.Prefix.Bits()
			if n.Only6() {
				bits = n.IPv6.Prefix.Bits()
			}
			missing, dev := fmt.Sprintf("no interface of this machine has its server address %s", n.Here()), "INTERFACE"
			if want != "" {
				missing, dev = fmt.Sprintf("interface %s does not have its server address %s", want, n.Here()), want
			}
			return nil, fail(exitMissing, fmt.Errorf("network %s: %s: ip addr add %s/%d dev %s", n.Name, missing, n.Here(), bits, dev))
		}
		h.interfaces[n.Name] = found
	}
	return h, nil
}

// has6 checks that the interface of a network has its IPv6 server address too.
func (h *hostStack) has6(n site.Network, ifname string) error {
	six := n.IPv6
	if ifname == "" || !six.Server.IsValid() || behindRelay(n) {
		return nil
	}
	i, err := net.InterfaceByName(ifname)
	if err != nil {
		return fmt.Errorf("interface %s: %w", ifname, err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		return fmt.Errorf("addresses of interface %s: %w", ifname, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == six.Server {
			return nil
		}
	}
	return fail(exitMissing, fmt.Errorf("network %s: interface %s does not have its IPv6 server address %s: ip addr add %s/%d dev %s", n.Name, ifname, six.Server, six.Server, six.Prefix.Bits(), ifname))
}

func (h *hostStack) DHCP6(_ context.Context, n site.Network) (net.PacketConn, error) {
	c, err := pxe.ListenDHCP6(h.interfaces[n.Name])
	if err != nil {
		return nil, fail(exitMissing, err) // it says what to do
	}
	return c, nil
}

func (h *hostStack) Advertise(_ context.Context, n site.Network) (pxe.AdvertiseConn, error) {
	c, err := pxe.ListenAdvertise(h.interfaces[n.Name])
	if err != nil {
		return nil, fail(exitMissing, err)
	}
	return c, nil
}

// family is "udp4" or "tcp6": a socket of one address family.
func family(network string, a netip.Addr) string {
	if a.Is6() {
		return network + "6"
	}
	return network + "4"
}

func (h *hostStack) DHCP(_ context.Context, n site.Network) (net.PacketConn, error) {
	c, err := pxe.ListenDHCP(h.interfaces[n.Name])
	if err != nil {
		return nil, fail(exitMissing, err) // it says what to do
	}
	return c, nil
}

func (h *hostStack) ListenPacket(ctx context.Context, _ site.Network, at netip.AddrPort) (net.PacketConn, error) {
	var lc net.ListenConfig
	c, err := lc.ListenPacket(ctx, family("udp", at.Addr()), at.String())
	return c, portTaken(err)
}

func (h *hostStack) Listen(ctx context.Context, _ site.Network, at netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, family("tcp", at.Addr()), at.String())
	return l, portTaken(err)
}

func (h *hostStack) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// listenFailed says what to do about an ADDRESS:PORT of a flag at which nothing
// can listen.
func listenFailed(flag, at string, err error) error {
	var wrong *net.AddrError
	var unknown *net.DNSError
	switch {
	case errors.As(err, &wrong), errors.As(err, &unknown):
		return usage("%s is ADDRESS:PORT, such as 192.0.2.10:8480, not %q", flag, at)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		host, _, _ := net.SplitHostPort(at) // it was parsed
		return fail(exitMissing, fmt.Errorf("%s: no interface of this machine has the address %s: ip -brief address shows those there are", flag, host))
	}
	return portTaken(fmt.Errorf("%s: %w", flag, err))
}

// portTaken says what to do about a port that is not to be had.
func portTaken(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fail(exitMissing, fmt.Errorf("%w: another program has that port: ss -lnptu shows which, stop it", err))
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fail(exitMissing, fmt.Errorf("%w: ports below 1024 need root, or setcap cap_net_bind_service,cap_net_raw,cap_net_admin+ep FETTLE-BINARY", err))
	}
	return err
}
