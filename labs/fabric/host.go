package fabric

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nic        = 1 // the stack's only interface
	defaultMTU = 1500
	minMTU     = 1280 // RFC 8200 §5
	maxMTU     = 9216
)

// HostConfig says what a host is.
type HostConfig struct {
	// Name is the name of the host's port; unique in the switch.
	Name string
	// VLAN is the host's VLAN; 0 is the untagged network.
	VLAN int
	// MAC is nil for a locally administered address made from Name and VLAN.
	MAC net.HardwareAddr
	// Addrs are the host's addresses. The first IPv4 address is the source of
	// broadcasts. An IPv6 link-local address is added (RFC 4291 §2.5.6).
	Addrs []netip.Prefix
	// MTU is 1500 if zero.
	MTU int
	// RouterAdvertisements makes the host answer router solicitations, with word
	// that there is no IPv6 here. Where there is, see [Host.ListenRouters].
	RouterAdvertisements bool
}

// Host is an IP stack plugged into the switch: ARP, ICMP, IPv4, IPv6, TCP and
// UDP. It reaches its own networks only; it has no default route. Methods may
// be called concurrently.
type Host struct {
	s    *Switch
	name string
	mac  net.HardwareAddr
	mtu  int
	nic  *hostNIC
	ip   *stack.Stack

	close sync.Once
	err   error
	gone  chan struct{} // closed by Close

	mu     sync.Mutex
	routes map[netip.Prefix]bool
}

// NewHost plugs a host into the switch.
func (s *Switch) NewHost(c HostConfig) (*Host, error) {
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		return nil, fmt.Errorf("host %s: MTU %d is not in %d to %d", c.Name, c.MTU, minMTU, maxMTU)
	}
	if c.MAC == nil {
		c.MAC = macOf(c.Name, c.VLAN)
	}
	if len(c.MAC) != 6 || c.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("host %s: %s is not the address of a station", c.Name, c.MAC)
	}
	h := &Host{s: s, name: c.Name, mac: c.MAC, mtu: c.MTU, gone: make(chan struct{}), routes: map[netip.Prefix]bool{}}
	h.ip = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol, arp.NewProtocol,
			// No duplicate address detection: the site file gives addresses.
			ipv6.NewProtocolWithOptions(ipv6.Options{AutoGenLinkLocal: true}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: true,
	})
	if err := h.start(c); err != nil {
		return nil, errors.Join(fmt.Errorf("host %s: %w", c.Name, err), h.Close())
	}
	return h, nil
}

func (h *Host) start(c HostConfig) error {
	if err := tune(h.ip); err != nil {
		return err
	}
	n := newHostNIC(h)
	port, err := h.s.attach(PortConfig{Name: c.Name, VLAN: c.VLAN}, hostCable{n}, false)
	if err != nil {
		return err
	}
	n.port, h.nic = port, n
	if !h.s.table.add(stationKey(c.VLAN, macKey(c.MAC)), port, true) {
		return fmt.Errorf("another host on VLAN %d has the address %s", c.VLAN, c.MAC)
	}
	if err := h.ip.CreateNIC(nic, n); err != nil {
		return fmt.Errorf("making its interface: %s", err)
	}
	if c.RouterAdvertisements {
		n.advertise.Store(true)
	}
	h.ip.AddRoute(tcpip.Route{Destination: subnet(netip.MustParsePrefix("fe80::/64")), NIC: nic})
	for _, a := range c.Addrs {
		if err := h.AddAddr(a); err != nil {
			return err
		}
	}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.s.closed {
		return ErrClosed
	}
	h.s.hosts = append(h.s.hosts, h)
	return nil
}

// macOf makes a locally administered address (IEEE 802 §8.2) that is the same
// each time, so that machines' ARP caches survive the lab's daemon.
func macOf(name string, vlan int) net.HardwareAddr {
	f := fnv.New64a()
	fmt.Fprintf(f, "%d/%s", vlan, name)
	m := net.HardwareAddr(f.Sum(nil)[2:])
	m[0] = m[0]&^1 | 2
	return m
}

// MAC is the host's Ethernet address.
func (h *Host) MAC() net.HardwareAddr { return append(net.HardwareAddr(nil), h.mac...) }

// Port is the switch's side of the host's cable.
func (h *Host) Port() *Port { return h.nic.port }

// AddAddr gives the host one more address, and a route to the address's network
// if it has none yet. Adding an address that it has is an error.
func (h *Host) AddAddr(p netip.Prefix) error {
	if !p.IsValid() || p.Addr().IsMulticast() || p.Addr().IsUnspecified() {
		return fmt.Errorf("host %s: %s is not an address with a prefix length", h.name, p)
	}
	p = netip.PrefixFrom(p.Addr().Unmap().WithZone(""), p.Bits())
	err := h.ip.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol:          protocol(p.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()},
	}, stack.AddressProperties{})
	if err != nil {
		return fmt.Errorf("host %s: adding the address %s: %s", h.name, p, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := p.Masked(); !h.routes[n] {
		h.routes[n] = true
		h.ip.AddRoute(tcpip.Route{Destination: subnet(n), NIC: nic, SourceHint: address(p.Addr())})
	}
	return nil
}

// Close aborts the host's connections, closes its sockets, unplugs it and waits
// for its goroutines. It may be called twice.
func (h *Host) Close() error {
	h.close.Do(func() {
		close(h.gone)
		h.ip.Close()
		if h.nic != nil {
			h.err = h.nic.port.Close()
		}
		h.ip.Wait()
		h.s.mu.Lock()
		defer h.s.mu.Unlock()
		for i, o := range h.s.hosts {
			if o == h {
				h.s.hosts = append(h.s.hosts[:i:i], h.s.hosts[i+1:]...)
				break
			}
		}
	})
	return h.err
}

// Buffers of TCP. The send buffer bounds what is under way on a connection:
// QEMU's socket holds some 90 frames, and bursts far beyond that are lost, with
// their retransmissions. Measured in FABRIC.md.
const (
	tcpSendBuffer       = 256 << 10
	tcpMaxSendBuffer    = 256 << 10
	tcpReceiveBuffer    = 1 << 20
	tcpMaxReceiveBuffer = 8 << 20
)

func tune(s *stack.Stack) error {
	sack, moderate, cubic := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.CongestionControlOption("cubic")
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &cubic,
		&tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpSendBuffer, Max: tcpMaxSendBuffer},
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpReceiveBuffer, Max: tcpMaxReceiveBuffer},
	} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("setting TCP's %T: %s", o, err)
		}
	}
	return nil
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() || a.Is4In6() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.Unmap().AsSlice()) }

func subnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()}.Subnet()
}
