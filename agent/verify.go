package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/fettle-dev/fettle/agent/wire"
)

// hold keeps what would make a disk bootable out of chunk i until finish: the
// head, and the header of the backup table where the image fills a whole disk
// (firmware falls back to it, UEFI 2.10 §5.3.2).
func (d *deployment) hold(i int, raw []byte) {
	if i == 0 {
		clear(raw[:len(d.targets[0].table.head)])
	}
	if i == len(d.src.idx.Chunks)-1 && d.fills() {
		last := raw[len(raw)-gptSector:]
		copy(d.lastSector[:], last)
		clear(last)
	}
}

// fills tells whether the image fills a whole disk.
func (d *deployment) fills() bool {
	return slices.ContainsFunc(d.targets, func(k *target) bool { return k.disk.Size() == d.src.idx.Size })
}

// release checks that what is held reads as zeros, and puts it into raw.
func (d *deployment) release(i int, raw []byte) bool {
	good := true
	if i == 0 {
		head := raw[:len(d.targets[0].table.head)]
		good = allZero(head)
		copy(head, d.targets[0].table.original)
	}
	if i == len(d.src.idx.Chunks)-1 && d.fills() {
		last := raw[len(raw)-gptSector:]
		good = good && allZero(last)
		copy(last, d.lastSector[:])
	}
	return good
}

// verify reads the image back from the medium.
func (d *deployment) verify(ctx context.Context) error {
	idx := d.src.idx
	total := idx.Size * int64(len(d.targets))
	d.report(wire.StepVerify, "reading disk "+d.name()+" back", 0, total)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan int)
	progress := d.meter(wire.StepVerify, total)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(todo)
		for i := range idx.Chunks {
			select {
			case todo <- i:
			case <-ctx.Done():
				return
			}
		}
	})
	for range d.workers {
		wg.Go(func() {
			buf := alignedBuffer(idx.ChunkSize)
			for i := range todo {
				for _, k := range d.targets {
					n, err := d.check(k, i, buf)
					if err != nil {
						cancel(err)
						return
					}
					progress(n)
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// check reads chunk i of a disk back.
func (d *deployment) check(k *target, i int, buf []byte) (int64, error) {
	idx := d.src.idx
	off := int64(i) * idx.ChunkSize
	raw := buf[:idx.RawLen(i)]
	if _, err := k.disk.ReadAt(raw, off); err != nil {
		return 0, k.fail("reading back", off, err)
	}
	good := d.release(i, raw)
	if idx.Chunks[i].Zero {
		good = good && allZero(raw)
	} else {
		good = good && xxhash.Sum64(raw) == d.sums[i]
	}
	if !good {
		return 0, fmt.Errorf("disk %s gives back other bytes than were written at %d to %d: the disk, its controller or memory is faulty; replace it before this machine is used", k, off, off+int64(len(raw)))
	}
	return int64(len(raw)), nil
}

// patch is bytes that the disk gets in place of the image's.
type patch struct {
	b   []byte
	off int64
}

// finish writes the partition table and the boot code: only now does the disk
// boot.
func (d *deployment) finish(context.Context) error {
	d.report(wire.StepSeed, "writing the partition table", 0, 0)
	for _, k := range d.targets {
		if err := k.disk.Sync(); err != nil {
			return k.fail("flushing", 0, err)
		}
	}
	for _, k := range d.targets {
		if err := d.finishDisk(k); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployment) finishDisk(k *target) error {
	head, tail, tailAt := k.table.encode()
	for _, w := range append(slices.Clone(d.patches), patch{tail, tailAt}, patch{head, 0}) {
		if _, err := k.disk.WriteAt(w.b, w.off); err != nil {
			return k.fail("writing the partition table to", w.off, err)
		}
		if err := k.disk.Sync(); err != nil {
			return k.fail("flushing", w.off, err)
		}
		back := alignedBuffer(int64(len(w.b)))
		if _, err := k.disk.ReadAt(back, w.off); err != nil {
			return k.fail("reading back", w.off, err)
		}
		if !bytes.Equal(back, w.b) {
			return fmt.Errorf("disk %s gives back another partition table or boot sector than was written: replace it before this machine is used", k)
		}
	}
	if err := k.disk.Reread(); err != nil {
		return fmt.Errorf("the kernel does not take the new partition table of disk %s: %w", k, err)
	}
	return nil
}

// allZero compares eight bytes at a time: vector instructions, which
// bytes.Equal uses, are several times slower under emulation.
func allZero(b []byte) bool {
	for len(b) >= 64 {
		var x uint64
		for i := 0; i < 64; i += 8 {
			x |= binary.LittleEndian.Uint64(b[i : i+8 : 64])
		}
		if x != 0 {
			return false
		}
		b = b[64:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
