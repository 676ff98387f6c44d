// Package site says what should be: a folder of YAML files in git, parsed
// into a [Site], validated, diffed and named by a canonical [Revision].
//
// A Site has Networks (where addresses come from), Racks (where machines
// stand), Machines (what is racked: BMC, NICs, disks, GPUs), Profiles (what a
// machine becomes), Images (what a profile writes to disk), Mirrors (where
// packages come from) and names of Secrets. The package knows no status, opens
// no socket and never holds the value of a secret.
package site

import (
	"net/netip"
	"time"
)

// MAC is a 48-bit Ethernet address that is comparable, so that it can be a map
// key; its text form is lower case with colons.
type MAC [6]byte

// Site is a whole parsed and validated site folder.
type Site struct {
	Name     string
	Domain   string // DNS domain of the machines, e.g. "dc1.example.org"
	Dir      string // the folder it was read from; not part of the revision
	Networks []Network
	Racks    []Rack
	Machines []Machine
	Profiles []Profile
	Images   []Image
	Mirrors  []Mirror
	Secrets  []SecretName // names that machines refer to; values are in the secrets file
	Policy   Policy
	Bundle   Bundle
}

// NetworkPurpose says what a network is for.
type NetworkPurpose string

// Purposes of a network.
const (
	PurposeBoot NetworkPurpose = "boot" // machines PXE-boot from it
	PurposeBMC  NetworkPurpose = "bmc"  // BMCs live on it
	PurposeData NetworkPurpose = "data" // neither: configured on the installed OS only
)

// Network is one IPv4 subnet on one VLAN, with an IPv6 one beside it; a boot
// network may have IPv6 alone.
type Network struct {
	Name    string
	Purpose NetworkPurpose
	Prefix  netip.Prefix // masked; invalid: IPv6 alone
	VLAN    int          // 802.1Q id 1..4094, 0 = untagged
	Server  netip.Addr   // fettle's own address on this network
	Gateway netip.Addr   // invalid when there is none
	DNS     []netip.Addr
	NTP     []netip.Addr
	Domain  string // default: the site's
	MTU     int    // default 1500
	Lease   time.Duration
	Pools   []Pool

	Search        []string // DNS search list
	Routes        []Route  // static routes for machines
	Options       []DHCPOption
	Proxy         bool          // addresses are somebody else's DHCP server's
	Relays        []netip.Addr  // DHCP relay agents that it is behind
	ReplyDelay    time.Duration // of DHCP, for ROMs that miss an instant answer
	NativeDrivers bool          // UEFI: iPXE with its own NIC drivers
	Probe         bool          // ask the wire before a pool's address is given
	BootWays      []BootWay     // ways in which firmware may boot; none: all
	// UnknownMachines and AfterInspection override the Policy's when not "".
	UnknownMachines UnknownMachines
	AfterInspection AfterInspection

	IPv6 IPv6 // the zero value: the network has none
	// Advertise is what machines that look for an IPv6 router are told; "" is
	// AdvertiseNone without IPv6, AdvertiseManaged with it, and silence where
	// another router is heard.
	Advertise Advertise
}

// Only6 reports whether the network has no IPv4.
func (n Network) Only6() bool { return !n.Prefix.IsValid() && n.IPv6.Prefix.IsValid() }

// Here is fettle's own address on the network: of IPv4, where it has that.
func (n Network) Here() netip.Addr {
	if n.Only6() {
		return n.IPv6.Server
	}
	return n.Server
}

// BootWay is a way in which firmware boots from the network.
type BootWay string

// Ways of booting.
const (
	BootPXE  BootWay = "pxe"
	BootHTTP BootWay = "http"
)

// IPv6 is a network's IPv6 side, beside IPv4 or alone.
type IPv6 struct {
	Prefix  netip.Prefix // masked
	Server  netip.Addr   // fettle's own address
	Gateway netip.Addr   // invalid when there is none, or a link-local one
	DNS     []netip.Addr
	Pools   []Pool
	Relays  []netip.Addr // DHCPv6 relay agents that the network is behind
}

// Advertise is what fettle says in router advertisements (RFC 4861).
type Advertise string

// Router advertisements.
const (
	AdvertiseManaged Advertise = "managed" // addresses by DHCPv6
	AdvertiseOther   Advertise = "other"   // own addresses, the rest by DHCPv6
	AdvertiseSLAAC   Advertise = "slaac"   // own addresses, no DHCPv6
	AdvertiseNone    Advertise = "none"    // no router, no DHCPv6: nothing to wait for
	AdvertiseOff     Advertise = "off"     // silence
)

// Route is a static route that machines are told of by DHCP.
type Route struct {
	To  netip.Prefix // masked
	Via netip.Addr
}

// DHCPOption is a DHCP option that fettle has no key for. Value is written as
// its Type says.
type DHCPOption struct {
	Number int
	Type   OptionType
	Value  string
	Always bool // also to clients that do not ask for it
}

// Pool is an inclusive range of addresses for clients without a reservation.
type Pool struct{ From, To netip.Addr }

// Rack is a place for machines. Units is its height in U.
type Rack struct {
	Name     string
	Location string
	Units    int
}

// Firmware is how a machine boots.
type Firmware string

// Kinds of firmware.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Loader is the boot loader that a machine's UEFI firmware is given.
type Loader string

// Boot loaders of UEFI machines.
const (
	LoaderSNP  Loader = "snponly" // iPXE over the firmware's own NIC driver
	LoaderIPXE Loader = "ipxe"    // iPXE with NIC drivers of its own
	LoaderUKI  Loader = "uki"     // none: kernel and ramdisks are one EFI program
)

// Architectures of machines and images, by Debian's names.
const (
	AMD64 = "amd64"
	ARM64 = "arm64"
)

// Machine is one server as it should be.
type Machine struct {
	Name     string
	Rack     string // name of a Rack, may be empty
	Unit     int    // lowest U, 1-based; 0 = unsaid
	Height   int    // in U; default 1
	Serial   string // SMBIOS type 1 serial number
	UUID     string // SMBIOS type 1 UUID, RFC 4122 text; derived from the serial when unsaid
	Arch     string // AMD64 or ARM64, default AMD64
	Firmware Firmware
	// SecureBoot says that its firmware starts signed programs alone.
	SecureBoot bool
	Loader     Loader // "" = uki with HTTPSBoot, else the network's choice
	// HTTPSBoot says that its firmware trusts the site's CA, and boots by HTTPS.
	HTTPSBoot bool
	CPUs      int   // logical CPUs expected, 0 = unsaid
	Memory    Bytes // memory expected, 0 = unsaid
	BMC       BMC
	NICs      []NIC
	Disks     []Disk
	GPUs      []GPU
	Profile   string // name of a Profile
	Owner     string
	Purpose   string
	// OnDifference overrides Policy.OnDifference for this machine when not "".
	OnDifference OnDifference
	Pos          Pos // where it was declared
}

// BMCProtocol is how a BMC is spoken to.
type BMCProtocol string

// BMC protocols.
const (
	Redfish BMCProtocol = "redfish"
	IPMI    BMCProtocol = "ipmi"
)

// BMC is a machine's management controller.
type BMC struct {
	Address  netip.Addr
	Port     int // 0 = the protocol's own
	MAC      MAC
	Network  string // name of the Network that Address is on
	Protocol BMCProtocol
	Secret   string // name of the secret that holds "user:password"
	// Fingerprint is the SHA-256 of its certificate in lower-case hex, trusted
	// whoever signed it; "" = the site's CA signed it.
	Fingerprint string
	// System is which of the BMC's computer systems the machine is, where one BMC
	// has several nodes; "" = the only one that looks like a machine.
	System string
	// Twin is how its virtual BMC looks in a lab: the name of a personality, or
	// a file in the site folder; "" = a generic server.
	Twin string
}

// NIC is one network port.
type NIC struct {
	MAC     MAC
	Network string     // name of a Network, may be empty for an unused port
	Address netip.Addr // static reservation; invalid = from the pool
	IPv6    netip.Addr // the same of IPv6
	Boot    bool       // this port network-boots; exactly one per machine
}

// Disk is one block device that the machine must have.
type Disk struct {
	Serial string
	Model  string // substring match, "" = any
	Size   Bytes  // at least this much, 0 = any
	// SectorSize is that of its logical sectors in bytes, 512 or 4096; 0 = any.
	SectorSize int
}

// GPU is a group of like GPUs.
type GPU struct {
	Model string // for people, e.g. "NVIDIA H100 SXM5 80GB"
	PCI   string // "vendor:device" in lower case hex, e.g. "10de:2330"
	Count int
}

// Profile is what a machine becomes.
type Profile struct {
	Name       string
	Image      string // name of an Image
	Layout     Layout
	KernelArgs []string
	Users      []User
	Packages   []string // Debian packages beyond the image's own; baked at image build
	BIOS       map[string]any
	GPU        map[string]any
}

// Layout says which disk the image goes to and what becomes of the rest.
type Layout struct {
	// Disk selects the target: a serial number, "first" (the machine's first
	// listed disk), or "smallest".
	Disk string
	// RAID is 1 for a system disk that a second one mirrors; see
	// [Machine.Targets].
	RAID int
	// Root is the size of the root file system; 0 = grow to the whole disk.
	Root Bytes
	// Swap is the size of a swap partition made behind root; 0 = none.
	Swap Bytes
}

// User is an account on the installed OS.
type User struct {
	Name    string
	Groups  []string
	Shell   string
	Sudo    bool
	SSHKeys []string // authorized_keys lines
}

// What an image's OS can be.
const (
	OSDebian = "debian"
	OSUbuntu = "ubuntu"
	OSHost   = "host" // the distribution and release of the machine that builds the image
)

// Image is an OS image to be built or imported.
type Image struct {
	Name       string
	OS         string // OSDebian, OSUbuntu or OSHost
	Suite      string // e.g. "bookworm"; none with OSHost
	Components []string
	Arch       string // AMD64 or ARM64, default AMD64
	Kernel     string // package that leads to the kernel; "" = the distribution's general one
	Packages   []string
	Mirrors    []string // apt mirrors of this site that it is built from; none: the machine's own apt sources
	Size       Bytes    // size of the raw disk image; default 3 GiB
}

// Mirror is a package source to be mirrored.
type Mirror struct {
	Name       string
	Format     string // "apt", "oci", "pypi", "files", ...
	Suites     []string
	Components []string
	Archs      []string
	Packages   []string     // what to take with its dependencies; none: all
	URLs       []string     // apt: archives; none: this machine's own apt sources
	Keyrings   []string     // apt: files of OpenPGP keys, relative to the site folder
	Recommends bool         // apt: what packages recommend comes too
	Sources    bool         // apt: source packages too
	Installer  bool         // apt: udebs and netboot files of the Debian installer
	Udebs      []string     // apt: those of the installer's packages that are wanted; none: all
	Bootstrap  bool         // apt: what debootstrap installs
	Resign     bool         // apt: sign a whole mirror with the site's key
	Files      []MirrorFile // files: each by address and digest

	Images []string // oci: REGISTRY/REPOSITORY:TAG, @DIGEST, or both
	Moving []string // oci: tags that may mean another image than they did
	Secret string   // oci: name of the secret with USER:PASSWORD for upstream; "" = none

	Lockfiles []string          // npm, go, pypi: what is wanted, relative to the site folder
	Python    []string          // pypi: e.g. "3.11"
	Omit      []string          // npm: "dev", "optional"
	Signed    string            // rpm: "index" (or ""), "packages"
	Metalink  string            // rpm: instead of URLs: where they are listed, with the index's digest
	Checksums []MirrorChecksums // files: by signed lists of digests
	Models    []MirrorModel     // files: commits of model repositories
}

// MirrorChecksums is files that a signed list of digests vouches for.
type MirrorChecksums struct {
	URL       string
	Signature string   // "" = the list is clear-signed
	Files     []string // patterns; none: all
	Path      string
}

// MirrorModel is one commit of a model repository.
type MirrorModel struct {
	Repo     string
	Revision string
	Files    []string // patterns; none: all
}

// MirrorFile is one file to be mirrored.
type MirrorFile struct {
	URL    string
	SHA256 string // 64 hex digits
	Path   string // where it is served; "" = the last part of its address
	Also   []string
}

// SecretName names one entry of the secrets file and says what it is for.
type SecretName struct {
	Name        string
	Description string
}

// OnDifference says what a run does when a machine differs from the site file.
type OnDifference string

// What to do about differences.
const (
	Stop OnDifference = "stop" // fail the run and name the difference (default)
	Warn OnDifference = "warn" // record the difference and go on
)

// UnknownMachines says what happens to a MAC that the site does not know.
type UnknownMachines string

// What to do with unknown machines.
const (
	Inspect UnknownMachines = "inspect"
	Ignore  UnknownMachines = "ignore"
)

// AfterInspection says what an unknown machine does when it was inspected.
type AfterInspection string

// What inspected unknown machines do.
const (
	AfterWait     AfterInspection = "wait"      // stay in the agent, which does nothing more
	AfterPowerOff AfterInspection = "power-off" // switch off
	AfterRestart  AfterInspection = "restart"   // restart, into their own disk
)

// Policy holds site-wide choices.
type Policy struct {
	OnDifference    OnDifference
	UnknownMachines UnknownMachines
	AfterInspection AfterInspection
	Packages        PackagePolicy
}

// PackagePolicy says what may be mirrored and carried over a gap. Patterns are
// those of path.Match, of NAME or MIRROR:NAME.
type PackagePolicy struct {
	Allow         []string      // none: everything
	Deny          []string      // wins over Allow
	AllowLicences []string      // none: every licence
	DenyLicences  []string      // wins over AllowLicences
	MaxAge        time.Duration // of a signed index; 0: any
	OnlySigned    bool
}

// Bundle says how bundles for the other side of a gap are made.
type Bundle struct {
	VolumeSize Bytes    // 0: one volume
	Recipients []string // age public keys; none: not encrypted
	Parity     int      // volumes that may be lost
	Sign       []string // signatures beside the site's own: "openpgp", "cosign"
}

// Bytes is a size in bytes; text forms are "512MiB", "1.92TB", "64G" (=GiB).
type Bytes int64

// Pos is a place in a site file, File relative to the site folder.
type Pos struct {
	File         string
	Line, Column int
}

// Revision names the content of a site: "sha256:" and 64 hex digits over the
// canonical form. Comments, key order and file layout do not change it.
type Revision string
