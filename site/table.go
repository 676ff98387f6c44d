package site

import (
	"sync"
)

// format is the table of the site's format, made once: it never changes.
var format = sync.OnceValue(tables)

// tables makes the description of the whole format, the site's object first.
func tables() *object {
	name := func(of string) field {
		return field{key: "name", goName: "Name", kind: kindName(), required: true, doc: "what others call this " + of + " by"}
	}
	account := `^[a-z_][a-z0-9_-]*$`
	addrs := list{of: kindAddr()}
	debianPackage := matching("Debian package name", `^[a-z0-9][a-z0-9+.-]+$`, 128, "see Debian Policy 5.6.7")
	debianPackages := list{of: debianPackage}
	words := list{of: matching("word", `^[A-Za-z0-9][A-Za-z0-9._/+-]*$`, 128, "use letters, digits and . _ / + -")}

	unknownMachines := oneOf("choice", Inspect, Ignore)
	afterInspection := oneOf("choice", AfterWait, AfterPowerOff, AfterRestart)
	pool := &object{name: "pool", doc: "An inclusive range of addresses for clients without a reservation.", fields: []field{
		{key: "from", goName: "From", kind: kindAddr(), required: true, doc: "first address"},
		{key: "to", goName: "To", kind: kindAddr(), required: true, doc: "last address, itself included"},
	}}
	route := &object{name: "route", doc: "A static route that machines are told of by DHCP (option 121).", fields: []field{
		{key: "to", goName: "To", kind: kindDestination(), required: true, doc: "where to, such as 10.8.0.0/16; 0.0.0.0/0 is everywhere"},
		{key: "via", goName: "Via", kind: kindAddr(), required: true, doc: "the router, on this network"},
	}}
	option := &object{name: "DHCP option", doc: "A DHCP option that has no key of its own here.", fields: []field{
		{key: "number", goName: "Number", kind: integer{"option number", 1, 254}, required: true, doc: "IANA's number; those that fettle sets itself are refused"},
		{key: "type", goName: "Type", kind: oneOf("type", OptionText, OptionAddress, OptionNumber8, OptionNumber16, OptionNumber32, OptionHex), required: true, doc: "how value is written: text; address (one or more, with commas); number of 8, 16 or 32 bits; hex (bytes)"},
		{key: "value", goName: "Value", kind: numeric(kindText("text")), required: true, doc: "what is sent"},
		{key: "always", goName: "Always", kind: truth{}, doc: "send it to clients that do not ask for it too"},
	}}
	pool6 := &object{name: "IPv6 pool", doc: "An inclusive range of IPv6 addresses for clients without a reservation.", fields: []field{
		{key: "from", goName: "From", kind: kindAddr6(), required: true, doc: "first address"},
		{key: "to", goName: "To", kind: kindAddr6(), required: true, doc: "last address, itself included"},
	}}
	ipv6 := &object{name: "IPv6 side of a network", optional: true, doc: "A network's IPv6 subnet, beside its IPv4 one or alone: DHCPv6, and booting over IPv6.", fields: []field{
		{key: "prefix", goName: "Prefix", kind: kindPrefix6(), required: true, doc: "the subnet, such as 2001:db8:0:1::/64"},
		{key: "server", goName: "Server", kind: kindAddr6(), doc: "fettle's own address; a boot network must have one"},
		{key: "gateway", goName: "Gateway", kind: kindAddr6(), doc: "default router; DHCPv6 cannot tell machines of it, router advertisements do: the router's own, or fettle's where it is fettle's server"},
		{key: "dns", goName: "DNS", kind: list{of: kindAddr6()}, doc: "name servers for machines"},
		{key: "pools", goName: "Pools", kind: list{of: pool6, sorted: true}, doc: "addresses for clients without a reservation; reserved addresses inside a pool are skipped"},
		{key: "relays", goName: "Relays", kind: list{of: kindAddr6()}, doc: "the network is behind these DHCPv6 relay agents: the link-address that they write, or the address that they send from; server is then fettle's address on another boot network"},
	}}
	network := &object{name: "network", doc: "One IPv4 subnet on one VLAN, and an IPv6 one beside it; a boot network may have IPv6 alone.", fields: []field{
		name("network"),
		{key: "purpose", goName: "Purpose", kind: oneOf("purpose", PurposeBoot, PurposeBMC, PurposeData), required: true, doc: "boot: machines PXE-boot from it; bmc: BMCs live on it; data: only for installed machines"},
		{key: "prefix", goName: "Prefix", kind: kindPrefix(), derived: "none: the network has IPv6 alone", doc: "the subnet, such as 10.0.0.0/24; only a boot network with ipv6 can do without"},
		{key: "vlan", goName: "VLAN", kind: integer{"802.1Q VLAN id", 0, 4094}, doc: "0 or unsaid: untagged"},
		{key: "server", goName: "Server", kind: kindAddr(), doc: "fettle's own address; a boot network with a prefix must have one"},
		{key: "gateway", goName: "Gateway", kind: kindAddr(), doc: "default router for machines"},
		{key: "dns", goName: "DNS", kind: addrs, doc: "name servers for machines"},
		{key: "ntp", goName: "NTP", kind: addrs, doc: "time servers for machines"},
		{key: "domain", goName: "Domain", kind: kindDomain(), derived: "the site's", doc: "DNS domain of machines on it"},
		{key: "mtu", goName: "MTU", kind: integer{"bytes", 576, 9216}, def: "1500", doc: "largest packet"},
		{key: "lease", goName: "Lease", kind: kindDuration(), def: "1h0m0s", doc: "how long an address is lent"},
		{key: "pools", goName: "Pools", kind: list{of: pool, sorted: true}, doc: "addresses for clients without a reservation; reserved addresses inside a pool are skipped"},
		{key: "search", goName: "Search", kind: list{of: kindDomain()}, doc: "DNS search list of machines"},
		{key: "routes", goName: "Routes", kind: list{of: route}, doc: "static routes of machines"},
		{key: "options", goName: "Options", kind: list{of: option}, doc: "further DHCP options"},
		{key: "proxy", goName: "Proxy", kind: truth{}, doc: "another DHCP server gives addresses there; fettle gives boot files alone (ProxyDHCP)"},
		{key: "relays", goName: "Relays", kind: addrs, doc: "the network is behind these DHCP relay agents: their addresses on it, or as they write them in giaddr; server is then fettle's address on another boot network"},
		{key: "reply-delay", goName: "ReplyDelay", kind: kindDelay(), derived: "none", doc: "hold back DHCP replies, for boot ROMs that miss one that comes at once"},
		{key: "native-drivers", goName: "NativeDrivers", kind: truth{}, doc: "give UEFI machines iPXE with its own NIC drivers (ipxe.efi) instead of the firmware's (snponly.efi)"},
		{key: "probe", goName: "Probe", kind: truth{}, doc: "ask by ARP, or behind relays by ping, whether an address of a pool is in use before it is given"},
		{key: "boot-ways", goName: "BootWays", kind: list{of: oneOf("way of booting", BootPXE, BootHTTP)}, derived: "both", doc: "ways in which firmware may boot there: pxe (a loader by TFTP), http (UEFI HTTP boot); iPXE goes on, whichever way it came"},
		{key: "unknown-machines", goName: "UnknownMachines", kind: unknownMachines, derived: "policy.unknown-machines", doc: "what happens there to a MAC address that the site does not know"},
		{key: "after-inspection", goName: "AfterInspection", kind: afterInspection, derived: "policy.after-inspection", doc: "what an unknown machine does there when it was inspected"},
		{key: "ipv6", goName: "IPv6", kind: ipv6, derived: "none", doc: "its IPv6 side"},
		{key: "advertise", goName: "Advertise", kind: oneOf("advertisement", AdvertiseManaged, AdvertiseOther, AdvertiseSLAAC, AdvertiseNone, AdvertiseOff), derived: "none without ipv6, managed with it, and silence where another router is heard", doc: "what fettle answers machines that look for an IPv6 router: managed (addresses by DHCPv6), other (own addresses, the rest by DHCPv6), slaac (own addresses), none (there is nothing to wait for, which saves iPXE 16 s; not where another router is heard), off (nothing: a router does; iPXE asks DHCPv6 only when a router says managed or other)"},
	}}
	rack := &object{name: "rack", doc: "A place for machines.", fields: []field{
		name("rack"),
		{key: "location", goName: "Location", kind: kindText("text"), doc: "room, row: for people"},
		{key: "units", goName: "Units", kind: integer{"units", 1, 100}, def: "42", doc: "height in U"},
	}}
	bmc := &object{name: "BMC", optional: true, doc: "A machine's management controller.", fields: []field{
		{key: "address", goName: "Address", kind: kindAddr(), required: true, doc: "where it answers"},
		{key: "port", goName: "Port", kind: integer{"TCP or UDP port", 1, 65535}, derived: "the protocol's own", doc: "where it listens"},
		{key: "mac", goName: "MAC", kind: kindMAC(), doc: "its Ethernet address, to give it its address by DHCP"},
		{key: "network", goName: "Network", kind: kindReference("network"), derived: "the bmc network that the address is on", doc: "network of purpose bmc that the address is on"},
		{key: "protocol", goName: "Protocol", kind: oneOf("BMC protocol", Redfish, IPMI), def: "redfish", doc: "how it is spoken to"},
		{key: "secret", goName: "Secret", kind: kindReference("secret"), required: true, doc: `name of the secret that holds "user:password"`},
		{key: "fingerprint", goName: "Fingerprint", kind: matching("fingerprint", `^[0-9a-f]{64}$`, 64, "write the SHA-256 of the BMC's certificate as 64 lower-case hex digits"), derived: "none: its certificate is signed by the site's CA", doc: "SHA-256 of its certificate, which is then trusted whoever signed it"},
		{key: "system", goName: "System", kind: numeric(kindText("computer system")), derived: "the only one that looks like a machine", doc: "which of the BMC's computer systems this machine is, where one BMC has several nodes: the last part of its URI, its name, serial number or UUID"},
		{key: "twin", goName: "Twin", kind: kindText("twin"), derived: "a generic server's", doc: "how its virtual BMC looks in a lab: dgx-h100, hgx-h100, or a file of fettle bmc record in the site folder"},
	}}
	nic := &object{name: "NIC", doc: "One network port of a machine.", fields: []field{
		{key: "mac", goName: "MAC", kind: kindMAC(), required: true, doc: "Ethernet address"},
		{key: "network", goName: "Network", kind: kindReference("network"), derived: "none: an unused port", doc: "what it is plugged into"},
		{key: "address", goName: "Address", kind: kindAddr(), derived: "from a pool", doc: "the port's reserved address"},
		{key: "ipv6", goName: "IPv6", kind: kindAddr6(), derived: "from a pool", doc: "the port's reserved IPv6 address"},
		{key: "boot", goName: "Boot", kind: truth{}, doc: "this port network-boots; exactly one of a machine does"},
	}}
	disk := &object{name: "disk", doc: "A block device that the machine must have.", fields: []field{
		{key: "serial", goName: "Serial", kind: numeric(kindText("serial number")), doc: "serial number as the disk reports it"},
		{key: "model", goName: "Model", kind: numeric(kindText("text")), doc: "part of the model's name"},
		{key: "size", goName: "Size", kind: kindBytes(), doc: "at least this much"},
		{key: "sector-size", goName: "SectorSize", kind: oneNumber{512, 4096}, derived: "either; in a lab 512", doc: "bytes of its logical sectors; a BIOS cannot boot from a disk with sectors of 4096 (4K native)"},
	}}
	gpu := &object{name: "GPU", doc: "A group of like GPUs.", fields: []field{
		{key: "model", goName: "Model", kind: kindText("text"), doc: "for people, such as NVIDIA H100 SXM5 80GB"},
		{key: "pci", goName: "PCI", kind: matching("PCI id", `^[0-9a-f]{4}:[0-9a-f]{4}$`, 9, "write vendor:device in lower-case hex, such as 10de:2330"), required: true, doc: "vendor:device as lspci -n shows it"},
		{key: "count", goName: "Count", kind: integer{"GPUs", 1, 64}, def: "1", doc: "how many"},
	}}
	onDifference := oneOf("choice", Stop, Warn)
	machine := &object{name: "machine", doc: "One server as it should be.", fields: []field{
		name("machine"),
		{key: "rack", goName: "Rack", kind: kindReference("rack"), doc: "where it stands"},
		{key: "unit", goName: "Unit", kind: integer{"unit", 1, 100}, doc: "its lowest U, counted from 1"},
		{key: "height", goName: "Height", kind: integer{"units", 1, 50}, def: "1", doc: "in U"},
		{key: "serial", goName: "Serial", kind: numeric(kindText("serial number")), required: true, doc: "serial number of the chassis label (SMBIOS type 1)"},
		{key: "uuid", goName: "UUID", kind: kindUUID(), derived: "from the serial (RFC 4122 version 5)", doc: "SMBIOS type 1 UUID"},
		{key: "arch", goName: "Arch", kind: oneOf("architecture", AMD64, ARM64), def: AMD64, doc: "its processors, by Debian's name; its profile's image must be of the same"},
		{key: "firmware", goName: "Firmware", kind: oneOf("firmware", BIOS, UEFI), required: true, doc: "how it boots; arm64: uefi"},
		{key: "secure-boot", goName: "SecureBoot", kind: truth{}, doc: "its firmware has Secure Boot on: it boots by PXE with signed loaders alone (shim, GRUB), and an inventory that says otherwise is a difference"},
		{key: "loader", goName: "Loader", kind: oneOf("loader", LoaderSNP, LoaderIPXE, LoaderUKI), derived: "uki with https-boot, else as the network's native-drivers says", doc: "what UEFI firmware is given to boot with: iPXE over the firmware's own NIC driver; iPXE with drivers of its own; or the kernel itself, as one EFI program"},
		{key: "https-boot", goName: "HTTPSBoot", kind: truth{}, doc: "the site's CA (ca.pem) is enrolled in its firmware's TLS settings: UEFI HTTP boot gets https addresses"},
		{key: "cpus", goName: "CPUs", kind: integer{"logical CPUs", 1, 65536}, doc: "expected"},
		{key: "memory", goName: "Memory", kind: kindBytes(), doc: "expected"},
		{key: "bmc", goName: "BMC", kind: bmc, doc: "its management controller"},
		{key: "nics", goName: "NICs", kind: list{of: nic}, required: true, doc: "its network ports"},
		{key: "disks", goName: "Disks", kind: list{of: disk}, doc: "its disks, the system's first"},
		{key: "gpus", goName: "GPUs", kind: list{of: gpu}, doc: "its GPUs"},
		{key: "profile", goName: "Profile", kind: kindReference("profile"), doc: "what it becomes; unsaid: it is only inspected"},
		{key: "owner", goName: "Owner", kind: kindText("text"), doc: "whose it is: for people and for selecting"},
		{key: "purpose", goName: "Purpose", kind: kindText("text"), doc: "what it is for: for people and for selecting"},
		{key: "on-difference", goName: "OnDifference", kind: onDifference, derived: "policy.on-difference", doc: "what a run does when the machine is not as written here"},
	}}
	layout := &object{name: "layout", doc: "Which disk the image goes to.", fields: []field{
		{key: "disk", goName: "Disk", kind: numeric(kindText("serial number, first or smallest")), def: "first", doc: "first (the machine's first listed disk), smallest, or a serial number"},
		{key: "raid", goName: "RAID", kind: oneNumber{1}, derived: "none", doc: "1: a second disk mirrors it (Linux md), and either boots alone: with first the second listed disk, with smallest the next smallest, with a serial number the first other one listed with its size"},
		{key: "root", goName: "Root", kind: kindBytes(), derived: "the whole disk", doc: "size of the root file system"},
		{key: "swap", goName: "Swap", kind: kindBytes(), derived: "none", doc: "size of a swap partition"},
	}}
	user := &object{name: "user", doc: "An account on the installed OS.", fields: []field{
		{key: "name", goName: "Name", kind: matching("user name", account, 32, "use lower-case letters, digits, _ and -, at most 32"), required: true, doc: "login name"},
		{key: "groups", goName: "Groups", kind: list{of: matching("group name", account, 32, "use lower-case letters, digits, _ and -, at most 32")}, doc: "further groups"},
		{key: "shell", goName: "Shell", kind: matching("path", `^/[A-Za-z0-9._/+-]+$`, 128, "write an absolute path"), def: "/bin/bash", doc: "login shell"},
		{key: "sudo", goName: "Sudo", kind: truth{}, doc: "may become root without a password"},
		{key: "ssh-keys", goName: "SSHKeys", kind: list{of: kindSSHKey()}, doc: "authorized_keys lines"},
	}}
	profile := &object{name: "profile", doc: "What a machine becomes.", fields: []field{
		name("profile"),
		{key: "image", goName: "Image", kind: kindReference("image"), required: true, doc: "what is written to its disk"},
		{key: "layout", goName: "Layout", kind: layout, doc: "where to"},
		{key: "kernel-args", goName: "KernelArgs", kind: list{of: matching("kernel argument", `^[A-Za-z0-9._,:=/@%+~^*()\[\]-]+$`, 512, "one argument an item, without spaces or quotes")}, doc: "arguments of the installed kernel"},
		{key: "users", goName: "Users", kind: list{of: user, sorted: true}, doc: "accounts"},
		{key: "packages", goName: "Packages", kind: debianPackages, doc: "Debian packages beyond the image's own"},
		{key: "bios", goName: "BIOS", kind: open{}, doc: "firmware settings, by the BMC's names"},
		{key: "gpu", goName: "GPU", kind: open{}, doc: "GPU settings"},
	}}
	image := &object{name: "image", doc: "An OS image.", fields: []field{
		name("image"),
		{key: "os", goName: "OS", kind: oneOf("operating system", OSDebian, OSUbuntu, OSHost), required: true, doc: "what it is; host: the distribution and release of the machine that builds it"},
		{key: "suite", goName: "Suite", kind: matching("suite", `^[a-z][a-z0-9.-]*$`, 64, "write a code name, such as bookworm"), derived: "with os: host, the machine's own", doc: "release, such as bookworm or noble; required but with os: host"},
		{key: "components", goName: "Components", kind: words, derived: "main; os: ubuntu: main and universe; os: host: those of the machine's own sources", doc: "parts of the archive"},
		{key: "arch", goName: "Arch", kind: oneOf("architecture", AMD64, ARM64), def: AMD64, doc: "Debian architecture: that of the machines that it is for"},
		{key: "kernel", goName: "Kernel", kind: debianPackage, derived: "linux-image-amd64 or linux-image-arm64; Ubuntu: linux-image-generic", doc: "the package that leads to the newest kernel, such as linux-image-virtual"},
		{key: "packages", goName: "Packages", kind: debianPackages, doc: "packages of every machine with this image"},
		{key: "mirrors", goName: "Mirrors", kind: list{of: kindReference("mirror")}, derived: "this machine's own apt sources", doc: "apt mirrors of this site that it is built from; together they have its suite"},
		{key: "size", goName: "Size", kind: kindBytes(), def: "3GiB", doc: "size of the disk image before it grows"},
	}}
	address := kindURL()
	mirrorFile := &object{name: "file", doc: "A file to be mirrored; its digest is the reason to trust it.", fields: []field{
		{key: "url", goName: "URL", kind: address, required: true, doc: "where it is"},
		{key: "sha256", goName: "SHA256", kind: matching("digest", `^[0-9a-f]{64}$`, 64, "write 64 lower-case hex digits"), required: true, doc: "its digest"},
		{key: "path", goName: "Path", kind: kindText("path"), doc: "where it is served; unsaid: the last part of its address"},
		{key: "also", goName: "Also", kind: list{of: address}, doc: "other addresses of the same bytes"},
	}}
	mirrorPath := matching("path", `^[A-Za-z0-9._/+-]+$`, 256, "write a path")
	patterns := list{of: kindText("pattern")}
	mirrorChecked := &object{name: "checksums", doc: "Files that a signed list of SHA256 digests vouches for.", fields: []field{
		{key: "url", goName: "URL", kind: address, required: true, doc: "where the list is, such as .../SHA256SUMS; its files are beside it"},
		{key: "signature", goName: "Signature", kind: address, doc: "where its detached OpenPGP signature is; unsaid: the list itself is clear-signed"},
		{key: "files", goName: "Files", kind: patterns, doc: "names or patterns of the files to take; unsaid: all"},
		{key: "path", goName: "Path", kind: kindText("path"), doc: "folder in which they are served"},
	}}
	mirrorModel := &object{name: "model", doc: "One commit of a model repository, Hugging Face style.", fields: []field{
		{key: "repo", goName: "Repo", kind: matching("repository", `^(datasets/)?[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$`, 200, "write OWNER/NAME"), required: true, doc: "its repository: OWNER/NAME, or datasets/OWNER/NAME"},
		{key: "revision", goName: "Revision", kind: matching("revision", `^[0-9a-f]{40}$`, 40, "write the commit, 40 hex digits: branches move"), required: true, doc: "the commit"},
		{key: "files", goName: "Files", kind: patterns, doc: "names or patterns of the files to take; unsaid: all"},
	}}
	mirror := &object{name: "mirror", doc: "A package source to be mirrored.", fields: []field{
		name("mirror"),
		{key: "format", goName: "Format", kind: oneOf("format", "apt", "oci", "pypi", "files", "rpm", "npm", "go", "helm"), required: true, doc: "what kind of source"},
		{key: "suites", goName: "Suites", kind: words, doc: "apt: suites; rpm: a word for the release, such as el9: mirrors of the same are resolved together"},
		{key: "components", goName: "Components", kind: words, doc: "apt: components"},
		{key: "archs", goName: "Archs", kind: words, doc: "architectures, by Debian's names"},
		{key: "packages", goName: "Packages", kind: list{of: kindText("text")}, doc: "what to take, with what it depends on; unsaid: all; helm: NAME, the newest, or NAME:VERSION, which may be a pattern"},
		{key: "urls", goName: "URLs", kind: list{of: address}, doc: "where it is; unsaid: what this machine itself is configured to use (apt, npm, go, pypi); oci: registries that are spoken to over plain HTTP; helm: repositories"},
		{key: "keyrings", goName: "Keyrings", kind: list{of: mirrorPath}, doc: "apt, rpm, files: files of OpenPGP keys, relative to the site folder; apt needs them with urls; npm: the registry's keys, as it lists them at -/npm/v1/keys, one of which must have signed each package; oci: cosign public keys, one of which must have signed each image"},
		{key: "recommends", goName: "Recommends", kind: truth{}, doc: "apt, rpm: what packages recommend comes too"},
		{key: "sources", goName: "Sources", kind: truth{}, doc: "apt: the source packages of what is taken come too"},
		{key: "installer", goName: "Installer", kind: truth{}, doc: "apt: the Debian installer's packages (udebs) and netboot files come too, and, with packages, the base system and what it installs by itself"},
		{key: "udebs", goName: "Udebs", kind: list{of: kindText("pattern")}, doc: "apt: with installer and packages: the installer's packages that come, names or patterns; unsaid: all"},
		{key: "bootstrap", goName: "Bootstrap", kind: truth{}, doc: "apt: what debootstrap installs first comes too"},
		{key: "resign", goName: "Resign", kind: truth{}, doc: "apt, rpm: sign a whole mirror with the site's key; apt: without an end of validity"},
		{key: "files", goName: "Files", kind: list{of: mirrorFile}, doc: "files: each by address and digest"},
		{key: "images", goName: "Images", kind: list{of: matching("image", `^[a-z0-9][a-z0-9.-]*(:[0-9]+)?/[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9._*?\[\]-]+)?(@sha(256|512):[0-9a-f]+)?$`, 512, "write REGISTRY/REPOSITORY:TAG, or @sha256:… instead of a tag or behind it")}, doc: "oci: images, charts and other artifacts: REGISTRY/REPOSITORY:TAG (the tag may be a pattern), @DIGEST instead of a tag, or both: then the tag must be that"},
		{key: "moving", goName: "Moving", kind: list{of: kindText("pattern")}, doc: "oci: tags, or patterns of tags, that may become another image at upstream; another tag that does is refused"},
		{key: "secret", goName: "Secret", kind: kindReference("secret"), doc: "name of the secret with USER:PASSWORD for upstream, sent over https only; unsaid: nothing is sent, or for oci what docker login left on this machine"},
		{key: "lockfiles", goName: "Lockfiles", kind: list{of: mirrorPath}, doc: "what is wanted, relative to the site folder; npm: package-lock.json files; go: go.mod or go.sum files; pypi: requirements with hashes"},
		{key: "python", goName: "Python", kind: list{of: matching("version", `^3\.[0-9]{1,2}$`, 5, "write a version such as 3.11")}, doc: "pypi: versions of Python that install; unsaid: wheels for any"},
		{key: "omit", goName: "Omit", kind: list{of: oneOf("kind of dependency", "dev", "optional")}, doc: "npm: kinds of dependencies that are left out"},
		{key: "signed", goName: "Signed", kind: oneOf("choice", "index", "packages"), doc: "rpm: what upstream signs, index when unsaid; packages: its index has no signature, each package's own is verified"},
		{key: "metalink", goName: "Metalink", kind: address, doc: "rpm: instead of urls: the https address of a metalink (Fedora, EPEL), which lists copies of the repository and has the digest of its repomd.xml"},
		{key: "checksums", goName: "Checksums", kind: list{of: mirrorChecked}, doc: "files: by signed lists of digests"},
		{key: "models", goName: "Models", kind: list{of: mirrorModel}, doc: "files: commits of model repositories below urls"},
	}}
	secret := &object{name: "secret", doc: "The name of an entry of the secrets file; its value is never here.", fields: []field{
		name("secret"),
		{key: "description", goName: "Description", kind: kindText("text"), doc: "what it is for"},
	}}
	packagePolicy := &object{name: "packages", doc: "What may be mirrored and carried over a gap. Patterns such as nmap* or debian:nmap are of a name, or of a mirror and a name.", fields: []field{
		{key: "allow", goName: "Allow", kind: patterns, doc: "only these; unsaid: all"},
		{key: "deny", goName: "Deny", kind: patterns, doc: "never these"},
		{key: "allow-licences", goName: "AllowLicences", kind: patterns, doc: "only these licences, such as GPL-2*; unsaid: all; one that is not known is refused, unless the word unknown is listed"},
		{key: "deny-licences", goName: "DenyLicences", kind: patterns, doc: "never these licences; the word unknown: nothing whose licence is not known"},
		{key: "max-age", goName: "MaxAge", kind: kindAge(), doc: "how old a signed index may be, such as 14d"},
		{key: "only-signed", goName: "OnlySigned", kind: truth{}, doc: "only what a signature vouches for, not a digest alone"},
	}}
	bundle := &object{name: "bundle", doc: "How bundles for the other side of a gap are made.", fields: []field{
		{key: "volume-size", goName: "VolumeSize", kind: kindBytes(), derived: "one volume", doc: "size of the media"},
		{key: "recipients", goName: "Recipients", kind: list{of: matching("age public key", `^age1[a-z0-9]+$`, 4096, "fettle bundle identity prints it on the other side")}, doc: "age public keys that volumes are encrypted to; unsaid: not encrypted"},
		{key: "parity", goName: "Parity", kind: integer{"parity", 0, 128}, doc: "how many volumes of a set may be lost"},
		{key: "sign", goName: "Sign", kind: list{of: oneOf("signature", "openpgp", "cosign")}, doc: "further signatures of SHA256SUMS"},
	}}
	policy := &object{name: "policy", doc: "Site-wide choices.", fields: []field{
		{key: "on-difference", goName: "OnDifference", kind: onDifference, def: "stop", doc: "stop: a run on a machine that is not as written here fails and names the difference; warn: it is recorded"},
		{key: "unknown-machines", goName: "UnknownMachines", kind: unknownMachines, def: "inspect", doc: "what happens to a MAC address that the site does not know: inspect: it gets an address from a pool and, where it boots, the agent, which reads what it is and writes nothing; ignore: no answer"},
		{key: "after-inspection", goName: "AfterInspection", kind: afterInspection, def: "wait", doc: "what an unknown machine does when it was inspected, once: wait: nothing, in the agent; power-off; restart: into its own disk"},
		{key: "packages", goName: "Packages", kind: packagePolicy, doc: "what may be mirrored and carried over a gap"},
	}}
	all := func(o *object) list { return list{of: o, sorted: true} }
	return &object{name: "site", doc: "A whole site.", fields: []field{
		name("site"),
		{key: "domain", goName: "Domain", kind: kindDomain(), required: true, doc: "DNS domain of the machines"},
		{key: "networks", goName: "Networks", kind: all(network), doc: "where addresses come from"},
		{key: "racks", goName: "Racks", kind: all(rack), doc: "where machines stand"},
		{key: "machines", goName: "Machines", kind: all(machine), doc: "what is racked"},
		{key: "profiles", goName: "Profiles", kind: all(profile), doc: "what machines become"},
		{key: "images", goName: "Images", kind: all(image), doc: "what profiles write to disks"},
		{key: "mirrors", goName: "Mirrors", kind: all(mirror), doc: "where packages come from"},
		{key: "secrets", goName: "Secrets", kind: all(secret), doc: "names of secrets"},
		{key: "policy", goName: "Policy", kind: policy, doc: "site-wide choices"},
		{key: "bundle", goName: "Bundle", kind: bundle, doc: "how bundles for the other side of a gap are made"},
	}}
}

// partKeys are what a file other than site.yaml may hold.
func partKeys() []string {
	return []string{"networks", "racks", "machines", "profiles", "images", "mirrors", "secrets"}
}
