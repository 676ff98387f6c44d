// Package images builds, imports and keeps what machines boot and what is
// written to their disks: the agent's kernel and ramdisk, OS disk images, boot
// loaders. It knows nothing of who boots them or when.
package images

import (
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Kind is a kind of release.
type Kind string

// Kinds.
const (
	KindAgent   Kind = "agent"   // files: vmlinuz, initrd
	KindDisk    Kind = "disk"    // files: index.json (wire.ImageIndex), disk.zst
	KindLoaders Kind = "loaders" // files: undionly.kpxe, snponly.efi, ipxe.efi, ...
)

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

// To be implemented in this package (signatures are relied on by others):
//
//	func OpenStore(dir string) (*Store, error)            // dir/blobs (blob.Store) and dir/releases
//	func (s *Store) List(ctx) ([]Release, error)
//	func (s *Store) Latest(ctx, name string) (Release, bool, error)
//	func (s *Store) Open(ctx, Release, file string) (*blob.Reader, error) // io.ReadSeekCloser, Size()
//	func (s *Store) Verify(ctx, Release) error; Remove(ctx, Release) error; Import(...)
//	type Builder struct { Store *Store; Cache dir; Log io.Writer; Progress func(Progress); Apt AptConfig (from the machine's own sources) ... }
//	func (b *Builder) Agent(ctx) (Release, bool cached, error)
//	func (b *Builder) Loaders(ctx) (Release, bool cached, error)
//	func (b *Builder) Disk(ctx, DiskSpec) (Release, bool cached, error)
//	func SpecFor(s *site.Site, p site.Profile) (DiskSpec, error) // image plus the profile's packages; Name is "IMAGE" or "IMAGE+<hash of packages>"
//
// A disk image's grub.cfg must source /boot/grub/fettle-args.cfg when it exists
// (it says: set fettle_args="...") and end its linux lines with $fettle_args:
// the agent writes that file (see wire.Deploy.KernelArgs). Root is partition 3,
// the last; the agent grows it and may add a swap partition behind it.
