// Package pxe is a network boot server: DHCP, TFTP, boot HTTP and iPXE
// scripts. It asks a [Booter] what a [Client] should boot and a [Leases] for
// addresses, and tells a [Recorder] what it saw on the wire. It knows nothing
// of sites, profiles or disk images, and it opens no sockets: it is given
// them.
package pxe

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// Arch is a client system architecture type (RFC 4578 §2.1, option 93, and the
// IANA registry "Processor Architecture Types").
type Arch uint16

// Client is a machine that asked for an address or a boot file, as the wire
// showed it.
type Client struct {
	MAC         net.HardwareAddr
	Network     string // Network.Name it asked on
	Addr        netip.Addr
	Arch        Arch
	ArchKnown   bool
	UUID        string // option 97, RFC 4578 §2.3; may be wrong, never trust alone
	VendorClass string // option 60
	UserClass   string // option 77
	Hostname    string // option 12
	PXE         bool   // option 60 says PXEClient
	HTTP        bool   // option 60 says HTTPClient
	IPXE        bool   // it is iPXE already
	UEFI        bool
	Relay       Relay // how its packet came here
	// IPv6 says that it asked by DHCPv6: the address that it wants or has is
	// an IPv6 one.
	IPv6 bool
}

// Relay is the DHCP relay agent that brought a packet, and what it says of the
// switch port that the client is plugged into (option 82, RFC 3046).
type Relay struct {
	Agent   netip.Addr // giaddr; invalid: no relay
	Circuit string     // Agent Circuit ID, such as "vlan 10, 1/7" or "Ethernet7"
	Remote  string     // Agent Remote ID, mostly the switch's MAC address or name
}

// Way is a way in which firmware boots from the network.
type Way string

// Ways of booting.
const (
	WayPXE  Way = "pxe"  // a loader by TFTP: option 60 says PXEClient
	WayHTTP Way = "http" // UEFI HTTP boot: option 60 says HTTPClient
)

// Action is what a client is told to do.
type Action int

// Actions.
const (
	Ignore     Action = iota // no boot information; an address is still given if Leases has one
	BootDisk                 // leave the network, go on with the firmware's next device
	BootKernel               // load Kernel and Initrds
)

// Loader is a kind of boot loader.
type Loader int

// Loaders. Firmware for which there is no loader of the kind gets the default.
const (
	// LoaderDefault is snponly.efi, or as the network's NativeDrivers says; and
	// LoaderSigned for firmware that fetched one of these and started again, or
	// did not let iPXE start a kernel.
	LoaderDefault Loader = iota
	LoaderSNP            // snponly.efi: iPXE over the firmware's own NIC driver
	LoaderNative         // ipxe.efi: iPXE with NIC drivers of its own
	LoaderSigned         // shim and a signed GRUB, for Secure Boot; UEFI iPXE starts them too
	LoaderUnified        // none: kernel and ramdisks in one EFI program (unified kernel image)
)

// Decision is a Booter's answer.
type Decision struct {
	Action  Action
	Kernel  string   // name below Files, e.g. "agent/sha256-ab12/vmlinuz"
	Initrds []string // names below Files
	Cmdline string   // kernel arguments
	Reason  string   // one sentence: why; recorded on the machine's timeline
	Loader  Loader   // what firmware is given to load the kernel with
	// HTTPS says that the machine's firmware trusts the certificate of this
	// server, and gets an https URL when it asks by HTTP boot. Firmware does
	// not say so itself.
	HTTPS bool
}

// Booter decides what a client boots. It may be called many times per boot and
// concurrently, and must be quick: it is on the path of every OFFER.
type Booter interface {
	Boot(ctx context.Context, c Client) (Decision, error)
}

// Lease is an address for a client.
type Lease struct {
	Addr     netip.Addr
	Hostname string
	Duration time.Duration
	// Unproven says that the address is from a pool and was not this client's
	// before: somebody else may use it without asking.
	Unproven bool
}

// ErrNoLease means that this server has no address for the client: stay silent.
var ErrNoLease = errors.New("no address for this client")

// ErrWrongAddress means that the client asked for an address that it must not
// use: NAK.
var ErrWrongAddress = errors.New("address is not this client's")

// Leases gives addresses. Methods may be called concurrently.
type Leases interface {
	// Offer finds an address; want is the client's wish and may be invalid.
	Offer(ctx context.Context, c Client, want netip.Addr) (Lease, error)
	// Commit makes addr the client's, durably, before it returns.
	Commit(ctx context.Context, c Client, addr netip.Addr) (Lease, error)
	Release(ctx context.Context, c Client, addr netip.Addr) error
	// Decline takes an address out of use for a while. It fails with
	// [ErrWrongAddress] when the client was not given it.
	Decline(ctx context.Context, c Client, addr netip.Addr) error
}

// QuickLeases is an optional extra of [Leases] that answers from memory and
// stores many commits at a time, so that no goroutine need wait for each.
type QuickLeases interface {
	// Quick reports whether that is so: Offer does not wait then.
	Quick() bool
	// CommitSoon is Commit that does not wait. It returns true when w is told
	// once, by any goroutine and perhaps before it returns, that addr is the
	// client's, durably, or why it is not; false when nothing was done and
	// Commit must be asked.
	CommitSoon(c Client, addr netip.Addr, w Waiter) bool
}

// Waiter is told what became of a commit. Committed must return at once.
type Waiter interface {
	Committed(l Lease, err error)
}

// Identifier is an optional extra of [Leases]: it finds the port by which a
// machine is on a network from its SMBIOS UUID. DHCPv6 knows machines by
// identifiers that may hold no hardware address (DUID-UUID, RFC 6355).
type Identifier interface {
	// MACOf is nil for a machine that nobody knows.
	MACOf(ctx context.Context, network, uuid string) net.HardwareAddr
}

// File is an open boot file.
type File struct {
	io.ReadSeekCloser
	Size    int64
	ModTime time.Time
	Type    string // MIME type, may be empty

	config string // what it is, of the server's own making: "GRUB configuration"
}

// Files finds boot files by slash-separated name; loaders are below
// "loaders/": undionly.kpxe, ipxe.efi, snponly.efi. A missing name is
// fs.ErrNotExist.
type Files interface {
	Open(ctx context.Context, name string) (*File, error)
}

// Network is one network that the server answers on.
type Network struct {
	Name     string
	Prefix   netip.Prefix
	Server   netip.Addr // our address there
	Gateway  netip.Addr
	DNS      []netip.Addr
	NTP      []netip.Addr
	Domain   string
	Search   []string // DNS search list
	Routes   []Route
	Options  []Option // further ones
	MTU      int
	HTTPPort int // boot HTTP at http://Server:HTTPPort/boot/; default 80
	// HTTPSPort is where the same is served with TLS: 0 = nowhere.
	HTTPSPort int

	// Proxy leaves addresses to somebody else's DHCP server on the network and
	// gives boot information alone (ProxyDHCP, PXE 2.1 §2.2.3); Leases is not
	// asked.
	Proxy bool

	// Relays are the relay agents (giaddr) whose clients are answered.
	// Packets of any other relay are dropped and recorded.
	Relays []netip.Addr
	// NativeDrivers gives UEFI machines ipxe.efi, which brings its own NIC
	// drivers, instead of snponly.efi, which uses the firmware's.
	NativeDrivers bool
	// ReplyDelay holds back every DHCP reply: some ROMs miss an answer that
	// comes at once.
	ReplyDelay time.Duration
	// Probe asks the wire for an address from a pool before it is offered, if
	// the DHCP socket is a [Prober].
	Probe bool
	// Ways are those in which firmware may boot there; none named: all. What is
	// iPXE already goes on, whichever way it came.
	Ways []Way

	// IPv6 is the network's IPv6 side, beside IPv4.
	IPv6 Network6
	// Advertise is what [Server.ServeAdvertisements] says.
	Advertise Advertise
	// AdvertiseAlone makes that an answer to who asks, and silence while
	// another router is heard, as [AdvertiseNothing] always is.
	AdvertiseAlone bool
}

// Route is a static route (RFC 3442).
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Option is a DHCP option that the server does not know.
type Option struct {
	Number byte
	Value  []byte
	Always bool // also to clients that do not ask for it (option 55)
}

// BaseURL is where the network's clients find the boot HTTP server, with the
// address as a literal because firmware has no resolver:
// "http://192.0.2.1/boot" or "http://192.0.2.1:8080/boot".
func (n Network) BaseURL() string {
	host := n.Server.String()
	if n.HTTPPort != 0 && n.HTTPPort != 80 {
		host = netip.AddrPortFrom(n.Server, uint16(n.HTTPPort)).String()
	}
	return "http://" + host + "/boot"
}

// Exchange is something seen on the wire, for a machine's timeline.
type Exchange struct {
	Time    time.Time
	MAC     net.HardwareAddr // nil when only Addr is known
	Addr    netip.Addr
	Network string
	Kind    string // "dhcp.discover", "dhcp.offer", "dhcp.ack", "dhcp.nak", "tftp.read", "http.get", "script", ...
	Name    string // file name, if any: of DHCP, the boot file that is named
	Client  string // of DHCP: what asks, in words, such as "PXE firmware (UEFI x64)"
	Asker   Asker  // of DHCP: what else it said of itself
	Bytes   int64
	Took    time.Duration
	Text    string // one sentence
	Err     error
}

// Asker is what a DHCP packet says of its sender beyond its address.
type Asker struct {
	VendorClass string // option 60
	Hostname    string // option 12
	UUID        string // option 97
	Relay       Relay
}

// Recorder is told of every exchange. It must not block.
type Recorder interface {
	Record(e Exchange)
}

// RecordLimit is an optional extra of a Recorder that does not keep everything:
// what it does not want of a client is not put into words, which would be a
// good part of the work in a flood. Record may still be called.
type RecordLimit interface {
	// Wants reports whether an exchange with a client would be kept at that
	// time; one that is not wanted has been counted.
	Wants(mac net.HardwareAddr, addr netip.Addr, now time.Time) bool
}

// Prober is an optional extra of a DHCP socket: it asks whether an address is
// in use (ARP probe, RFC 5227 §2.1.1), and by whom. It waits for an answer for
// well under a second.
type Prober interface {
	Probe(ctx context.Context, addr netip.Addr) (by net.HardwareAddr, inUse bool, err error)
}

// Neighbor is the source of a datagram with the hardware address that sent it:
// a DHCPv6 socket's ReadFrom may return one.
type Neighbor struct {
	net.UDPAddr
	MAC net.HardwareAddr
}

// FarProber is an optional extra of a [Prober]: it asks an address behind
// routers, which ARP does not reach, by ICMP echo (RFC 2131 §3.1, step 2). A
// host that drops pings is not found.
type FarProber interface {
	ProbeFar(ctx context.Context, addr netip.Addr) (inUse bool, err error)
}

// FrameSender is an optional extra of a DHCP socket: it sends a UDP datagram
// to a client that has no address yet and cannot answer ARP (RFC 2131 §4.1).
// Without it the server broadcasts instead.
type FrameSender interface {
	SendFrame(to net.HardwareAddr, src, dst netip.AddrPort, payload []byte) error
}
