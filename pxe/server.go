package pxe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Config is what a [Server] is made of.
type Config struct {
	Networks []Network
	Booter   Booter
	Leases   Leases
	Files    Files
	Recorder Recorder         // may be nil
	Capture  *Capture         // may be nil
	Logger   *slog.Logger     // may be nil
	Now      func() time.Time // may be nil: time.Now
}

// Server answers DHCP, TFTP and boot HTTP. Its methods may be called
// concurrently; what it remembers of clients is shared between them, so that
// an HTTP request is known by the address that DHCP gave.
type Server struct {
	networks map[string]*Network
	order    []*Network
	booter   Booter
	leases   Leases
	files    Files
	recorder Recorder
	limit    RecordLimit // nil: everything is recorded
	log      *slog.Logger
	now      func() time.Time
	clients  *clients
	capture  *Capture

	tftp    tftpLimits
	engines tftpShared
	drops   drops
}

// New checks the configuration and makes a server. It opens nothing.
func New(c Config) (*Server, error) {
	switch {
	case c.Booter == nil:
		return nil, errors.New("pxe: Config.Booter is nil: the server needs someone to ask what a client boots")
	case c.Leases == nil:
		return nil, errors.New("pxe: Config.Leases is nil: the server needs someone to ask for addresses")
	case c.Files == nil:
		return nil, errors.New("pxe: Config.Files is nil: the server needs boot files")
	case len(c.Networks) == 0:
		return nil, errors.New("pxe: Config.Networks is empty: name at least one network to answer on")
	}
	s := &Server{
		networks: make(map[string]*Network, len(c.Networks)),
		booter:   c.Booter,
		leases:   c.Leases,
		files:    c.Files,
		recorder: c.Recorder,
		log:      c.Logger,
		now:      c.Now,
		clients:  newClients(maxClients),
		capture:  c.Capture,
	}
	if s.recorder == nil {
		s.recorder = discard{}
	}
	s.limit, _ = s.recorder.(RecordLimit)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	for _, n := range c.Networks {
		if err := n.check(); err != nil {
			return nil, err
		}
		if s.networks[n.Name] != nil {
			return nil, fmt.Errorf("pxe: two networks are named %q: give each its own name", n.Name)
		}
		s.networks[n.Name] = &n
		s.order = append(s.order, &n)
	}
	return s, nil
}

func (n Network) check() error {
	switch {
	case n.Name == "":
		return errors.New("pxe: a network has no name")
	case !n.has4():
		if err := n.checkOnly6(); err != nil {
			return err
		}
	case !n.Prefix.IsValid() || !n.Prefix.Addr().Is4():
		return fmt.Errorf("pxe: network %q: prefix %v is not an IPv4 prefix", n.Name, n.Prefix)
	case !n.Server.Is4():
		return fmt.Errorf("pxe: network %q: server address %v is not an IPv4 address", n.Name, n.Server)
	case len(n.Relays) == 0 && !n.Prefix.Contains(n.Server):
		return fmt.Errorf("pxe: network %q: server address %v is outside %v: only a network behind a relay (Relays) may be served from elsewhere", n.Name, n.Server, n.Prefix)
	case n.Gateway.IsValid() && !n.Prefix.Contains(n.Gateway):
		return fmt.Errorf("pxe: network %q: gateway %v is outside %v", n.Name, n.Gateway, n.Prefix)
	}
	switch {
	case n.Proxy && n.Probe:
		return fmt.Errorf("pxe: network %q: Probe is for addresses that this server gives, and Proxy gives none", n.Name)
	case n.Advertise < AdvertiseOff || n.Advertise > AdvertiseSLAAC:
		return fmt.Errorf("pxe: network %q: there is no way %d of advertising", n.Name, n.Advertise)
	case n.HTTPSPort < 0 || n.HTTPSPort > 65535:
		return fmt.Errorf("pxe: network %q: HTTPS port %d is not a port", n.Name, n.HTTPSPort)
	case n.HTTPPort < 0 || n.HTTPPort > 65535:
		return fmt.Errorf("pxe: network %q: HTTP port %d is not a port", n.Name, n.HTTPPort)
	}
	for _, r := range n.Routes {
		if !r.To.IsValid() || !r.To.Addr().Is4() || !r.Via.Is4() {
			return fmt.Errorf("pxe: network %q: the route to %v through %v is not an IPv4 route", n.Name, r.To, r.Via)
		}
	}
	for _, o := range n.Options {
		if o.Number == 0 || o.Number == optEnd || len(o.Value) == 0 {
			return fmt.Errorf("pxe: network %q: option %d of %d bytes cannot be sent", n.Name, o.Number, len(o.Value))
		}
	}
	return n.check6()
}

// networkOf finds the network that an address is on: nil if none.
func (s *Server) networkOf(a netip.Addr) *Network {
	for _, n := range s.order {
		if n.holds(a) {
			return n
		}
	}
	return nil
}

// serves reports whether a is one of our own addresses (option 54).
func (s *Server) serves(a netip.Addr) bool {
	for _, n := range s.order {
		if n.Server == a {
			return true
		}
	}
	return false
}

// LoaderNames are the boot loaders that the server may name to a client, below
// "loaders/" in [Files], and those that they ask for themselves. Debian's
// package ipxe brings the first three; shim-signed, grub-efi-amd64-signed and
// systemd-boot-efi the next, and their arm64 packages the others.
func LoaderNames() []string {
	return []string{loaderBIOS, loaderSNP, loaderNative, loaderShim, loaderGRUB, loaderStub, loaderShimAA64, loaderGRUBAA64, loaderStubAA64}
}

type discard struct{}

func (discard) Record(Exchange) {}

// maxClients bounds what is remembered of clients.
const maxClients = 16384

// stage is how far a client's boot came, as the wire showed it.
type stage int

const (
	stageNone stage = iota
	stageOffered
	stageAddress // an ACK with boot information
	stageLoader  // loader fetched
	stageIPXE    // DHCP as iPXE
	stageScript
	stageKernel
	stageDisk // told to boot from disk
)

// seen is what is remembered of a client.
type seen struct {
	client    Client
	asked     int           // DISCOVERs since its last REQUEST
	addrs     [2]netip.Addr // the latest IPv4 and IPv6 address
	owns      [2]bool       // it is known by that: nobody else had it since
	stage     stage
	stageAt   time.Time
	stage6    bool       // it came there by IPv6
	iaid      [4]byte    // of the association that holds its IPv6 address
	what      string     // what the stage was about: a file name
	probed    netip.Addr // an address that answered no probe
	probedAt  time.Time
	refused   string // the other server whose offer it took
	distrusts bool   // it fetched a loader that nobody signed and did not start it
	refuses   bool   // it did not let iPXE start a kernel that it does not know the signature of
	prev, nx  *seen  // a ring by last use; the newest after the root
	key       uint64
}

// clients remembers clients by MAC and by address; the least recently seen is
// forgotten first.
type clients struct {
	mu     sync.Mutex
	max    int
	byMAC  map[uint64]*seen // by macKey
	byAddr addrIndex
	root   seen
}

func newClients(max int) *clients {
	c := &clients{max: max, byMAC: map[uint64]*seen{}, byAddr: addrIndex{four: map[uint32]*seen{}, six: map[netip.Addr]*seen{}}}
	c.root.prev, c.root.nx = &c.root, &c.root
	return c
}

// update finds or makes the entry of mac and calls f with it under the lock.
func (c *clients) update(mac net.HardwareAddr, f func(*seen)) {
	if len(mac) != 6 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := macKey(mac)
	if e := c.root.nx; e != &c.root && e.key == key { // twice for one packet
		f(e)
		c.known(e)
		return
	}
	e := c.byMAC[key]
	if e == nil {
		if len(c.byMAC) >= c.max {
			e = c.root.prev // its room is used again
			c.forget(e)
		} else {
			e = new(seen)
		}
		*e = seen{key: key}
		c.byMAC[key] = e
	} else {
		e.prev.nx, e.nx.prev = e.nx, e.prev
	}
	e.prev, e.nx = &c.root, c.root.nx
	e.prev.nx, e.nx.prev = e, e
	f(e)
	c.known(e)
}

// known makes a client be found by the address that it has now.
func (c *clients) known(e *seen) {
	e.client.MAC = nil // it is the entry's key
	a := e.client.Addr
	if !a.IsValid() {
		return
	}
	// A machine has an address of each family at once: iPXE asks for both.
	family := familyOf(a)
	if e.owns[family] {
		if e.addrs[family] == a {
			return
		}
		c.byAddr.drop(e.addrs[family])
	}
	if former := c.byAddr.at(a); former != nil {
		former.owns[family] = false
		if former.client.Addr == a { // or its next packet would take it back
			former.client.Addr = netip.Addr{}
		}
	}
	e.addrs[family], e.owns[family] = a, true
	c.byAddr.set(a, e)
}

// addrIndex finds clients by address: numbers are what maps are quickest with.
type addrIndex struct {
	four map[uint32]*seen
	six  map[netip.Addr]*seen
}

func addrKey(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func (x addrIndex) at(a netip.Addr) *seen {
	if a.Is4() {
		return x.four[addrKey(a)]
	}
	return x.six[a]
}

func (x addrIndex) set(a netip.Addr, e *seen) {
	if a.Is4() {
		x.four[addrKey(a)] = e
		return
	}
	x.six[a] = e
}

func (x addrIndex) drop(a netip.Addr) {
	if a.Is4() {
		delete(x.four, addrKey(a))
		return
	}
	delete(x.six, a)
}

// macKey is a MAC as a number, which maps are quickest with.
func macKey(mac net.HardwareAddr) uint64 {
	return uint64(mac[0])<<40 | uint64(mac[1])<<32 | uint64(mac[2])<<24 | uint64(mac[3])<<16 | uint64(mac[4])<<8 | uint64(mac[5])
}

// known is the client as it was seen last. An entry keeps no MAC: thousands of
// small objects are what the collector is slowest with.
func (e *seen) known() Client {
	c := e.client
	k := e.key
	c.MAC = net.HardwareAddr{byte(k >> 40), byte(k >> 32), byte(k >> 24), byte(k >> 16), byte(k >> 8), byte(k)}
	return c
}

// familyOf is an index: 0 for IPv4, 1 for IPv6.
func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (c *clients) forget(e *seen) {
	e.prev.nx, e.nx.prev = e.nx, e.prev
	delete(c.byMAC, e.key)
	for f, a := range e.addrs {
		if e.owns[f] {
			c.byAddr.drop(a)
		}
	}
}

// at finds the client that was given an address, or made it from its hardware
// address (SLAAC, RFC 4862).
func (c *clients) at(a netip.Addr) (Client, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byAddr.at(a)
	if mac := eui64MAC(a); e == nil && mac != nil {
		e = c.byMAC[macKey(mac)]
	}
	if e == nil {
		return Client{}, false
	}
	found := e.known()
	found.Addr, found.IPv6 = a, a.Is6()
	return found, true
}

// addrOf is the address of a's family that a client was given.
func (c *clients) addrOf(mac net.HardwareAddr, a netip.Addr) netip.Addr {
	if len(mac) != 6 {
		return netip.Addr{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byMAC[macKey(mac)]; e != nil {
		return e.addrs[familyOf(a)]
	}
	return netip.Addr{}
}

// holds tells whether a client was given an address, and nobody else since.
func (c *clients) holds(mac net.HardwareAddr, a netip.Addr) bool {
	if len(mac) != 6 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byMAC[macKey(mac)]
	return e != nil && e.owns[familyOf(a)] && e.addrs[familyOf(a)] == a
}

// distrusts tells whether a client fetched an unsigned loader and never started
// it, or refused a kernel.
func (c *clients) distrusts(mac net.HardwareAddr) bool {
	return c.is(mac, func(e *seen) bool { return e.distrusts || e.refuses })
}

// refuses tells whether a client's firmware did not let iPXE start a kernel.
func (c *clients) refuses(mac net.HardwareAddr) bool {
	return c.is(mac, func(e *seen) bool { return e.refuses })
}

func (c *clients) is(mac net.HardwareAddr, what func(*seen) bool) bool {
	if len(mac) != 6 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byMAC[macKey(mac)]
	return e != nil && what(e)
}

// of finds a client by its MAC.
func (c *clients) of(mac net.HardwareAddr) (Client, bool) {
	if len(mac) != 6 {
		return Client{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byMAC[macKey(mac)]; e != nil {
		return e.known(), true
	}
	return Client{}, false
}
