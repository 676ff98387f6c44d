// Package wire is what the agent and the server say to each other: JSON over
// HTTP, and the index of a disk image. See PROTOCOL.md beside it.
package wire

import "time"

// Paths of the agent's endpoint. Every request carries
// "Authorization: Bearer TOKEN" with the run's own token.
const (
	PathInventory = "/agent/v1/inventory"  // POST Inventory → 204; starts (or restarts) the agent's part of a run
	PathTask      = "/agent/v1/task"       // GET → Task; the server holds the request up to 30 s when there is nothing to do (Kind TaskWait)
	PathReport    = "/agent/v1/report"     // POST Report → 204
	PathPhoneHome = "/agent/v1/phone-home" // POST PhoneHome → 204; from the installed OS
	PathHealth    = "/agent/v1/health"     // POST lines → 204; from an installed OS with mirrored disks, with a token of its own
)

// Kernel command line keys of the agent.
const (
	ArgServer = "fettle.server" // base URL of the agent's endpoint, https://10.0.0.1:8443
	ArgToken  = "fettle.token"
	ArgMAC    = "fettle.mac" // MAC of the NIC that it booted from, to be configured by DHCP
)

// PathCA is where, in the agent's root, an extra ramdisk puts the site's CA
// certificates (PEM) that the server is verified against.
const PathCA = "/etc/fettle/ca.pem"

// Inventory is what the agent found.
type Inventory struct {
	System   System   `json:"system"`
	CPU      CPU      `json:"cpu"`
	Memory   int64    `json:"memory"` // bytes, as installed (SMBIOS) or as the kernel sees it
	Disks    []Disk   `json:"disks"`
	NICs     []NIC    `json:"nics"`
	PCI      []PCI    `json:"pci"`
	GPUs     []GPU    `json:"gpus"`
	Firmware Firmware `json:"firmware"`
	BMC      *BMC     `json:"bmc,omitempty"`
	Agent    string   `json:"agent"` // its version
	Kernel   string   `json:"kernel"`
}

// System is SMBIOS type 1.
type System struct {
	Manufacturer string `json:"manufacturer"`
	Product      string `json:"product"`
	Serial       string `json:"serial"`
	UUID         string `json:"uuid"`
}

// CPU sums up the processors.
type CPU struct {
	Arch    string `json:"arch,omitempty"` // by Debian's name: "amd64", "arm64"
	Model   string `json:"model"`
	Sockets int    `json:"sockets"`
	Cores   int    `json:"cores"`
	Threads int    `json:"threads"` // logical CPUs
}

// Disk is a block device.
type Disk struct {
	Name       string `json:"name"` // "vda", "nvme0n1"
	Serial     string `json:"serial"`
	Model      string `json:"model"`
	Bytes      int64  `json:"bytes"`
	SectorSize int    `json:"sector_size,omitempty"` // bytes of a logical sector: 512, 4096
	Transport  string `json:"transport"`             // "nvme", "virtio", "sata", "scsi"
	Removable  bool   `json:"removable,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
}

// NIC is a network port.
type NIC struct {
	Name   string `json:"name"`
	MAC    string `json:"mac"` // lower case, colons
	Link   bool   `json:"link"`
	Mbps   int    `json:"mbps,omitempty"`
	Driver string `json:"driver,omitempty"`
	PCI    string `json:"pci,omitempty"` // address
	Addr   string `json:"addr,omitempty"`
}

// PCI is a PCI function.
type PCI struct {
	Address string `json:"address"` // 0000:01:00.0
	ID      string `json:"id"`      // vendor:device, lower case hex
	Class   string `json:"class"`   // six hex digits
	Driver  string `json:"driver,omitempty"`
}

// GPU is a PCI function of class 03xx or of a known accelerator.
type GPU struct {
	PCI     string `json:"pci"` // vendor:device
	Address string `json:"address"`
	Model   string `json:"model,omitempty"`
}

// Kinds of firmware.
const (
	FirmwareBIOS = "bios"
	FirmwareUEFI = "uefi"
)

// Firmware is how the machine was started.
type Firmware struct {
	Kind       string `json:"kind"` // FirmwareBIOS or FirmwareUEFI
	Vendor     string `json:"vendor"`
	Version    string `json:"version"`
	SecureBoot bool   `json:"secure_boot,omitempty"`
}

// BMC is what the IPMI driver tells, if there is one.
type BMC struct {
	Address string `json:"address,omitempty"`
	MAC     string `json:"mac,omitempty"`
	// From Get Device ID (IPMI 2.0 §20.1).
	Firmware string `json:"firmware,omitempty"` // "2.10"
	IPMI     string `json:"ipmi,omitempty"`     // "2.0"
	IANA     uint32 `json:"iana,omitempty"`     // enterprise number of its maker
}

// TaskKind says what the agent does next.
type TaskKind string

// Kinds of tasks.
const (
	TaskWait   TaskKind = "wait"   // ask again
	TaskDeploy TaskKind = "deploy" // Task.Deploy
	// TaskMirror is TaskDeploy with a MirrorSerial: an agent built before there
	// was one says that it cannot, where it would else leave the disk out.
	TaskMirror   TaskKind = "deploy-mirror"
	TaskReboot   TaskKind = "reboot"   // sync and reboot
	TaskPowerOff TaskKind = "poweroff" // sync and power off
	TaskHalt     TaskKind = "halt"     // sync, stay up, do nothing until the BMC acts
)

// Task is one instruction. The same ID is the same task: an agent that has
// done it reports the outcome again.
type Task struct {
	ID     string   `json:"id"`
	Kind   TaskKind `json:"kind"`
	Deploy *Deploy  `json:"deploy,omitempty"`
}

// Deploy writes an image to one disk, or to two that mirror each other.
type Deploy struct {
	DiskSerial string `json:"disk_serial"` // the agent refuses when not exactly one disk has it
	// MirrorSerial is a second disk: both get the image and can boot it, root
	// and swap are RAID 1 of both (Linux md). The image must have mdadm.
	MirrorSerial string `json:"mirror_serial,omitempty"`

	IndexURL    string `json:"index_url"`            // of an ImageIndex
	IndexDigest string `json:"index_digest"`         // "sha256:..." of the index's bytes
	DataURL     string `json:"data_url"`             // of the compressed data; ranges are asked for
	RootBytes   int64  `json:"root_bytes,omitempty"` // size of the root partition, 0 = all that is left
	SwapBytes   int64  `json:"swap_bytes,omitempty"`
	// KernelArgs go to the installed OS: the agent writes the file
	// /boot/grub/fettle-args.cfg, one line: set fettle_args="...". The image's
	// grub.cfg must do: if [ -f /boot/grub/fettle-args.cfg ]; then source
	// /boot/grub/fettle-args.cfg; fi, and end its linux lines with $fettle_args;
	// /etc/default/grub.d/50-fettle.cfg keeps them over update-grub.
	KernelArgs []string   `json:"kernel_args,omitempty"` // appended to GRUB_CMDLINE_LINUX of the installed OS
	Files      []SeedFile `json:"files"`                 // written into the root file system
}

// SeedFile is a file written into the installed root file system, e.g. the
// cloud-init seed below /var/lib/cloud/seed/nocloud/.
type SeedFile struct {
	Path    string `json:"path"` // absolute, clean
	Mode    uint32 `json:"mode"`
	Content []byte `json:"content"`
}

// Step is a part of a task.
type Step string

// Steps of a deployment, in order.
const (
	StepPartition Step = "partition"
	StepWrite     Step = "write"
	StepVerify    Step = "verify"
	StepSeed      Step = "seed"
	StepDone      Step = "done"
	StepFailed    Step = "failed"
)

// Report tells how a task goes on.
type Report struct {
	Task  string    `json:"task"`
	Step  Step      `json:"step"`
	Text  string    `json:"text,omitempty"`
	Done  int64     `json:"done,omitempty"`  // bytes
	Total int64     `json:"total,omitempty"` // bytes
	Error string    `json:"error,omitempty"` // with StepFailed: what went wrong and what to do
	Time  time.Time `json:"time"`
}

// PhoneHome is what the installed OS says on its first boot.
type PhoneHome struct {
	Hostname string   `json:"hostname"`
	SSHKeys  []string `json:"ssh_keys,omitempty"` // host keys, public
}

// ImageIndex describes a raw disk image that is stored as independent zstd
// frames, one per chunk, concatenated: the data file is also a valid .zst of
// the whole disk. All-zero chunks have Zero set; their frame is still in the
// data file, but need not be fetched.
type ImageIndex struct {
	Version   int     `json:"version"` // 1
	Size      int64   `json:"size"`    // bytes of the raw disk
	ChunkSize int64   `json:"chunk_size"`
	Data      string  `json:"data"`      // digest of the data file
	DataSize  int64   `json:"data_size"` // bytes of the data file
	RootPart  int     `json:"root_part"` // number of the root partition, the last one on the disk
	Chunks    []Chunk `json:"chunks"`
}

// Chunk is Raw bytes of the disk at index*ChunkSize.
type Chunk struct {
	Offset int64  `json:"offset"` // in the data file
	Length int64  `json:"length"` // compressed
	Raw    string `json:"raw"`    // "sha256:..." of the uncompressed bytes
	// Frame is "sha256:..." of the compressed bytes. It may be empty; where it
	// is given the agent verifies it instead of Raw before it writes, which is
	// the same guarantee over far fewer bytes.
	Frame string `json:"frame,omitempty"`
	Zero  bool   `json:"zero,omitempty"`
}
