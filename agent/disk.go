package agent

import (
	"context"
	"fmt"
	"io"
	"strings"
	"unsafe"

	"github.com/fettle-dev/fettle/agent/wire"
)

// Disks are the block devices of the machine.
type Disks interface {
	// List finds them anew on each call.
	List() ([]wire.Disk, error)
	// Open opens one for writing, and fails when anything on it is in use.
	Open(d wire.Disk) (Disk, error)
}

// Disk is an open block device, or a file that stands in for one. ReadAt,
// WriteAt and Zero may be called concurrently for ranges that do not overlap;
// offsets and lengths are multiples of SectorSize.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	SectorSize() int
	// Discard tells the device that nothing on it is needed. It promises
	// nothing about what is read afterwards, and may do nothing.
	Discard() error
	// Zero makes a range read as zeros.
	Zero(off, n int64) error
	// Sync makes all that was written durable, and makes later reads come from
	// the medium and not from a cache.
	Sync() error
	// Partitions makes the system see exactly these partitions, whatever the
	// table on the disk says, and gives the paths of their devices in order.
	Partitions(ps []Partition) ([]string, error)
	// Reread makes the system read the table from the disk.
	Reread() error
	Close() error
}

// FileSystems is what is done to the partitions of a written disk.
type FileSystems interface {
	// Grow checks the ext4 file system on dev and grows it to dev's size.
	Grow(ctx context.Context, dev string) error
	// Swap makes dev a swap space with a label.
	Swap(ctx context.Context, dev, label string) error
	// Mirror makes a RAID 1 of partitions whose bytes are alike up to where
	// their file system ends, and gives its device. stop must be called once.
	Mirror(ctx context.Context, name string, devs []string) (dev string, stop func() error, err error)
	// Mount mounts dev's ext4 file system; unmount must be called once and
	// reports whether everything reached the disk.
	Mount(ctx context.Context, dev string) (dir string, unmount func() error, err error)
}

// alignment of memory and offsets that O_DIRECT wants (open(2), NOTES).
const alignment = 4096

// alignedBuffer is n bytes at an address that O_DIRECT takes, with slack
// behind them for the zstd decoder.
func alignedBuffer(n int64) []byte {
	b := make([]byte, n+2*alignment)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(&b[0])) % alignment); r != 0 {
		skip = alignment - r
	}
	return b[skip : skip+int(n) : len(b)]
}

func aligned(b []byte) bool {
	return len(b) == 0 || uintptr(unsafe.Pointer(&b[0]))%alignment == 0
}

// chooseDisk finds the one disk with a serial number.
func chooseDisk(disks []wire.Disk, serial string) (wire.Disk, error) {
	if serial == "" {
		return wire.Disk{}, fmt.Errorf("the task names no disk serial: set the profile's layout.disk or the machine's disks in the site file")
	}
	var found, rest []string
	var hit wire.Disk
	for _, d := range disks {
		if d.Serial == serial {
			found, hit = append(found, d.Name), d
		}
		rest = append(rest, fmt.Sprintf("%s (serial %q, %s)", d.Name, d.Serial, size(d.Bytes)))
	}
	switch {
	case len(found) == 0 && len(rest) == 0:
		return wire.Disk{}, fmt.Errorf("no disk has serial %s: this machine shows no disks at all; check cabling, RAID mode and the controller's driver", serial)
	case len(found) == 0:
		return wire.Disk{}, fmt.Errorf("no disk has serial %s: this machine has %s; correct the site file or the hardware", serial, strings.Join(rest, ", "))
	case len(found) > 1:
		return wire.Disk{}, fmt.Errorf("disks %s all have serial %s (multipath, or a broken controller): detach all but one path and deploy again", strings.Join(found, " and "), serial)
	case hit.ReadOnly:
		return wire.Disk{}, fmt.Errorf("disk %s (serial %s) is read-only: remove its write protection or replace it", hit.Name, serial)
	}
	return hit, nil
}
