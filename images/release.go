// Package images builds, imports and keeps what machines boot and what is
// written to their disks: the agent's kernel and ramdisk, OS disk images, boot
// loaders. It knows nothing of who boots them or when.
//
// A [Release] is one built or imported thing: a name, files with digests, and
// the digest of everything that it was made from. A [Store] keeps releases and
// their files. A [Builder] makes them: from Debian packages that apt resolved,
// fetched and verified, never from anything else. A [DiskSpec] says what OS
// image is wanted. See IMAGES.md for the formats and the decisions.
package images

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/site"
)

// Kind is a kind of release.
type Kind string

// Kinds.
const (
	KindAgent   Kind = "agent"   // files: vmlinuz, initrd
	KindDisk    Kind = "disk"    // files: index.json (wire.ImageIndex), disk.zst
	KindLoaders Kind = "loaders" // files: undionly.kpxe, snponly.efi, ipxe.efi, ...
)

// Names of releases that are not images of the site, and of files in releases.
const (
	NameAgent   = "agent"
	NameLoaders = "loaders"

	amd64, arm64 = site.AMD64, site.ARM64

	FileKernel = "vmlinuz"    // KindAgent
	FileInitrd = "initrd"     // KindAgent
	FileIndex  = "index.json" // KindDisk
	FileData   = "disk.zst"   // KindDisk

	FileUndionly = "undionly.kpxe"     // KindLoaders: iPXE for BIOS
	FileSnponly  = "snponly.efi"       // KindLoaders: iPXE for UEFI, over the NIC that booted
	FileIPXE     = "ipxe.efi"          // KindLoaders: iPXE for UEFI, with its own drivers
	FileShim     = "shimx64.efi"       // KindLoaders: Microsoft-signed, loads grubx64.efi
	FileGRUB     = "grubx64.efi"       // KindLoaders: Debian-signed GRUB that boots from the network
	FileStub     = "linuxx64.efi.stub" // KindLoaders: what a unified kernel image begins with
	FileMokMgr   = "mmx64.efi"         // KindLoaders: shim's key manager

	FileShimARM64   = "shimaa64.efi" // the same for arm64
	FileGRUBARM64   = "grubaa64.efi"
	FileStubARM64   = "linuxaa64.efi.stub"
	FileMokMgrARM64 = "mmaa64.efi"
)

// AgentName is the agent's release for an architecture: "agent" for amd64,
// "agent-arm64".
func AgentName(arch string) string { return archName(NameAgent, arch) }

// LoadersName is the same for the boot loaders.
func LoadersName(arch string) string { return archName(NameLoaders, arch) }

func archName(name, arch string) string {
	if arch == amd64 {
		return name
	}
	return name + "-" + arch
}

// Release is one built or imported thing, immutable.
type Release struct {
	Name    string            `json:"name"` // "agent", "loaders", or the site image's name
	Kind    Kind              `json:"kind"`
	Arch    string            `json:"arch"`
	Inputs  blob.Digest       `json:"inputs"` // digest of all that it was built from: the cache key
	Created time.Time         `json:"created"`
	Files   []File            `json:"files"`
	Facts   map[string]string `json:"facts,omitempty"` // kernel version, suite, package count, ...
}

// File is one file of a release.
type File struct {
	Name   string      `json:"name"`
	Digest blob.Digest `json:"digest"`
	Size   int64       `json:"size"`
}

// File finds a file of the release by its name.
func (r Release) File(name string) (File, bool) {
	for _, f := range r.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// Size is the sum of the sizes of the release's files.
func (r Release) Size() int64 {
	var n int64
	for _, f := range r.Files {
		n += f.Size
	}
	return n
}

var (
	validName = regexp.MustCompile(`^[a-z0-9][a-z0-9+._-]{0,126}$`)
	validFile = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._-]{0,126}$`)
)

// CheckName tells whether name can be the name of a release.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("image name %q: use lower case letters, digits and . _ + - only, beginning with a letter or digit", name)
	}
	return nil
}

// check tells whether r may be kept.
func (r Release) check() error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if err := r.Inputs.Validate(); err != nil {
		return fmt.Errorf("release %s: inputs: %w", r.Name, err)
	}
	if len(r.Files) == 0 {
		return fmt.Errorf("release %s has no files", r.Name)
	}
	seen := map[string]bool{}
	for _, f := range r.Files {
		if !validFile.MatchString(f.Name) || seen[f.Name] {
			return fmt.Errorf("release %s: file name %q is malformed or given twice", r.Name, f.Name)
		}
		seen[f.Name] = true
		if err := f.Digest.Validate(); err != nil {
			return fmt.Errorf("release %s: file %s: %w", r.Name, f.Name, err)
		}
	}
	need := map[Kind][]string{KindAgent: {FileKernel, FileInitrd}, KindDisk: {FileIndex, FileData}, KindLoaders: {}}
	names, ok := need[r.Kind]
	if !ok {
		return fmt.Errorf("release %s is of unknown kind %q", r.Name, r.Kind)
	}
	for _, n := range names {
		if !seen[n] {
			return fmt.Errorf("release %s of kind %s has no file %s", r.Name, r.Kind, n)
		}
	}
	return nil
}

// ErrDamaged says that a stored file is missing, truncated or altered.
var ErrDamaged = errors.New("damaged image")
