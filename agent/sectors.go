package agent

import (
	"context"
	"errors"
	"fmt"
)

// bigSector is the size of the sectors of "4K native" disks, the only ones
// beside gptSector that servers are sold with.
const bigSector = 4096

// checkSectors refuses disks whose sectors nothing could be done with.
func (d *deployment) checkSectors() error {
	n := d.sector()
	for _, k := range d.targets[1:] {
		if m := int64(k.disk.SectorSize()); m != n {
			return fmt.Errorf("disk %s has sectors of %d bytes and cannot mirror disk %s, which has %d: format one like the other (nvme format, sg_format), or choose other disks", k, m, d.targets[0], n)
		}
	}
	switch {
	case n == gptSector:
		return nil
	case n != bigSector:
		return fmt.Errorf("disk %s has sectors of %d bytes; images can be written to disks with sectors of %d or %d: format the disk so (nvme format, sg_format) or choose another", d.name(), n, gptSector, bigSector)
	case !d.uefi:
		return fmt.Errorf("disk %s has sectors of %d bytes, and a BIOS cannot boot from such a disk: switch the machine to UEFI (firmware: uefi in the site file), format the disk to sectors of %d bytes (nvme format, sg_format), or choose another", d.name(), n, gptSector)
	case d.src.idx.Size%n != 0:
		return fmt.Errorf("disk %s has sectors of %d bytes, and the image's size of %d bytes is no multiple of that: make the image again with a size of whole MiB, or choose another disk", d.name(), n, d.src.idx.Size)
	}
	return nil
}

func (d *deployment) sector() int64 { return int64(d.targets[0].disk.SectorSize()) }

// fitSectors makes what counts in sectors count in those of the disk: the
// partition table, and the boot sectors of EFI system partitions, which are
// written after the read-back. Everything else of the image, the FAT's tables
// and files and the root file system (blocks of 4096 bytes), is the same on
// either kind of disk.
func (d *deployment) fitSectors(ctx context.Context, t *table) error {
	n := d.sector()
	if n == gptSector {
		return nil
	}
	if err := t.useSectors(n); err != nil {
		return fmt.Errorf("disk %s has sectors of %d bytes: %w", d.name(), n, err)
	}
	found := false
	for _, p := range t.partitions() {
		if p.kind != guidESP {
			continue
		}
		found = true
		boot, err := d.imageBytes(ctx, p.Start, gptSector)
		if err != nil {
			return err
		}
		reserved, err := fatBoot(boot).check(n)
		if err == nil && reserved > p.Bytes {
			err = errors.New("its FAT file system is larger than the partition")
		}
		if err != nil {
			return fmt.Errorf("disk %s has sectors of %d bytes, and firmware could not read the image's EFI system partition (%d) there: %w: build the image again (an imported one: with mkfs.vfat -F 32 -s 8 on at least 260 MiB), or choose a disk with sectors of %d bytes", d.name(), n, p.Number, err, gptSector)
		}
		if reserved == 0 {
			continue
		}
		area, err := d.imageBytes(ctx, p.Start, reserved)
		if err != nil {
			return err
		}
		d.patches = append(d.patches, patch{fatSectors(area, n), p.Start})
	}
	if !found {
		return fmt.Errorf("disk %s has sectors of %d bytes, from which only UEFI boots, and the image has no EFI system partition: choose another image, or a disk with sectors of %d bytes", d.name(), n, gptSector)
	}
	return nil
}

// imageBytes gives verified bytes of the image.
func (d *deployment) imageBytes(ctx context.Context, off, n int64) ([]byte, error) {
	idx := d.src.idx
	out := make([]byte, 0, n)
	buf := alignedBuffer(idx.ChunkSize)
	for at := off; at < off+n; {
		i := int(at / idx.ChunkSize)
		if i >= len(idx.Chunks) {
			return nil, fmt.Errorf("the image ends at byte %d, within a partition: build the image again", idx.Size)
		}
		data, err := d.src.one(ctx, i)
		if err != nil {
			return nil, err
		}
		raw, err := d.decode(ctx, i, data, buf)
		if err != nil {
			return nil, err
		}
		raw = raw[at-int64(i)*idx.ChunkSize:]
		raw = raw[:min(int64(len(raw)), off+n-at)]
		out, at = append(out, raw...), at+int64(len(raw))
	}
	return out, nil
}
