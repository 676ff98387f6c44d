package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/agent/wire"
)

// Operations of BLKPG, <linux/blkpg.h>.
const (
	blkpgAdd = 1
	blkpgDel = 2
)

type blkpgArg struct {
	op, flags, datalen int32
	_                  int32
	data               unsafe.Pointer
}

type blkpgPartition struct {
	start, length int64
	pno           int32
	_             [64 + 64]byte // devname, volname: unused by the kernel
	_             int32
}

// BlockDisks are the machine's real disks.
type BlockDisks struct{ Roots Roots }

// List reads sysfs.
func (b BlockDisks) List() ([]wire.Disk, error) { return b.Roots.disks() }

// Open opens the disk for direct access.
func (b BlockDisks) Open(d wire.Disk) (Disk, error) {
	dev := filepath.Join(b.Roots.Dev, d.Name)
	sys := filepath.Join(b.Roots.Sys, "block", d.Name)
	if holders, err := os.ReadDir(filepath.Join(sys, "holders")); err == nil && len(holders) > 0 {
		return nil, fmt.Errorf("it is part of %s: stop that (mdadm --stop, lvchange -an) and deploy again", holders[0].Name())
	}
	// Exclusive opening fails when the disk or a partition of it is mounted or
	// held (open(2), O_EXCL on block devices). It would also keep us from
	// mounting the new root, so it is a check only.
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, errors.New("it is in use (mounted, or part of RAID or LVM): restart the machine and deploy again")
	}
	if err != nil {
		return nil, err
	}
	unix.Close(fd)
	fd, err = unix.Open(dev, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	k := &blockDisk{f: os.NewFile(uintptr(fd), dev), fd: fd, dev: dev, name: d.Name, sys: sys}
	if k.sector, err = unix.IoctlGetInt(fd, unix.BLKSSZGET); err == nil {
		k.size, err = deviceSize(fd)
	}
	if err == nil {
		var ro int
		if ro, err = unix.IoctlGetInt(fd, unix.BLKROGET); err == nil && ro != 0 {
			err = errors.New("it is read-only: remove its write protection or replace it")
		}
	}
	if err != nil {
		return nil, errors.Join(err, k.f.Close())
	}
	return k, nil
}

func deviceSize(fd int) (int64, error) {
	var n uint64
	if err := ioctl(fd, unix.BLKGETSIZE64, unsafe.Pointer(&n)); err != nil {
		return 0, err
	}
	return int64(n), nil
}

// blockDisk is a real disk, opened with O_DIRECT: what is read back comes from
// the device, a flush at the end has little left to do, and memory does not
// fill with dirty pages.
type blockDisk struct {
	f              *os.File
	fd             int
	dev, name, sys string
	size           int64
	sector         int
	noZeroOut      bool
	mu             sync.Mutex // of noZeroOut
}

func (k *blockDisk) Size() int64     { return k.size }
func (k *blockDisk) SectorSize() int { return k.sector }
func (k *blockDisk) Close() error    { return k.f.Close() }

func (k *blockDisk) ReadAt(p []byte, off int64) (int, error) {
	if aligned(p) {
		return k.f.ReadAt(p, off)
	}
	b := alignedBuffer(int64(len(p)))
	n, err := k.f.ReadAt(b, off)
	copy(p, b[:n])
	return n, err
}

func (k *blockDisk) WriteAt(p []byte, off int64) (int, error) {
	if aligned(p) {
		return k.f.WriteAt(p, off)
	}
	b := alignedBuffer(int64(len(p)))
	copy(b, p)
	return k.f.WriteAt(b, off)
}

func (k *blockDisk) Discard() error {
	r := [2]uint64{0, uint64(k.size)}
	return ioctl(k.fd, unix.BLKDISCARD, unsafe.Pointer(&r))
}

// Zero uses BLKZEROOUT, which unmaps where the device guarantees zeros and
// writes them elsewhere; where even that is refused, zeros are written here.
func (k *blockDisk) Zero(off, n int64) error {
	k.mu.Lock()
	plain := k.noZeroOut
	k.mu.Unlock()
	if !plain {
		r := [2]uint64{uint64(off), uint64(n)}
		err := ioctl(k.fd, unix.BLKZEROOUT, unsafe.Pointer(&r))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
			return err
		}
		k.mu.Lock()
		k.noZeroOut = true
		k.mu.Unlock()
	}
	b := alignedBuffer(min(n, mib))
	for n > 0 {
		w, err := k.f.WriteAt(b[:min(n, int64(len(b)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(w), n-int64(w)
	}
	return nil
}

// Sync flushes the device's own cache (fsync on a block device) and drops the
// kernel's, so that later buffered users read what is there.
func (k *blockDisk) Sync() error {
	if err := k.f.Sync(); err != nil {
		return err
	}
	return unix.IoctlSetInt(k.fd, unix.BLKFLSBUF, 0)
}

// Partitions uses BLKPG, which needs no table on the disk.
func (k *blockDisk) Partitions(ps []Partition) ([]string, error) {
	entries, err := os.ReadDir(k.sys)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(k.sys, e.Name(), "partition"))
		if err != nil {
			continue // not a partition
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return nil, fmt.Errorf("partition %s: %w", e.Name(), err)
		}
		if err := k.blkpg(blkpgDel, blkpgPartition{pno: int32(n)}); err != nil {
			return nil, fmt.Errorf("partition %s is in use: %w; restart the machine and deploy again", e.Name(), err)
		}
	}
	var paths []string
	for _, p := range ps {
		if err := k.blkpg(blkpgAdd, blkpgPartition{start: p.Start, length: p.Bytes, pno: int32(p.Number)}); err != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
		paths = append(paths, k.partition(p.Number))
	}
	return paths, k.waitFor(paths)
}

func (k *blockDisk) blkpg(op int32, p blkpgPartition) error {
	return ioctl(k.fd, unix.BLKPG, unsafe.Pointer(&blkpgArg{op: op, datalen: int32(unsafe.Sizeof(p)), data: unsafe.Pointer(&p)}))
}

// partition is the device of partition n: vda3, nvme0n1p3.
func (k *blockDisk) partition(n int) string {
	if c := k.dev[len(k.dev)-1]; c >= '0' && c <= '9' {
		return fmt.Sprintf("%sp%d", k.dev, n)
	}
	return fmt.Sprintf("%s%d", k.dev, n)
}

// waitFor waits until devtmpfs has the nodes.
func (k *blockDisk) waitFor(paths []string) error {
	for _, p := range paths {
		for try := 0; ; try++ {
			_, err := os.Stat(p)
			if err == nil {
				break
			}
			if try == 100 {
				return fmt.Errorf("the device did not appear within 10 s: %w", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

func (k *blockDisk) Reread() error {
	for try := 0; ; try++ {
		_, err := unix.IoctlRetInt(k.fd, unix.BLKRRPART)
		if err == nil || !errors.Is(err, unix.EBUSY) || try == 20 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		return nil
	}
}
