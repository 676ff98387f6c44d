package images

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Offsets in GRUB's BIOS images, from its include/grub/i386/pc/boot.h and
// include/grub/offsets.h.
const (
	grubKernelSector = 0x5c  // boot.img: 8 bytes, where core.img begins
	grubBootDrive    = 0x64  // boot.img: 1 byte, 0xff = the drive that the BIOS says
	grubDriveCheck   = 0x66  // boot.img: a jump, made two NOPs on a hard disk
	grubBlockList    = 0x1f4 // first sector of core.img: start (8), length (2), segment (2)
	grubKernelSeg    = 0x820 // where the second sector is loaded to
	mbrCodeEnd       = 0x1b8 // the disk signature and the partition table follow
)

// rwAt is a disk.
type rwAt interface {
	io.ReaderAt
	io.WriterAt
}

// embedGRUB makes a disk start from BIOS: boot.img into the boot sector, whose
// partition table stays, and core.img into the BIOS boot partition at first,
// of count sectors. It does what grub-bios-setup does, without a block device.
func embedGRUB(disk rwAt, bootImg, core []byte, first, count int64) error {
	if len(bootImg) != sector || bootImg[510] != 0x55 || bootImg[511] != 0xaa {
		return fmt.Errorf("GRUB's boot.img has %d bytes or no signature; want a boot sector of %d", len(bootImg), sector)
	}
	if len(core) < 2*sector {
		return fmt.Errorf("GRUB's core.img has only %d bytes", len(core))
	}
	sectors := (int64(len(core)) + sector - 1) / sector
	if sectors > count {
		return fmt.Errorf("GRUB's core.img needs %d sectors; the BIOS boot partition has %d", sectors, count)
	}
	var mbr [sector]byte
	if _, err := disk.ReadAt(mbr[:], 0); err != nil {
		return fmt.Errorf("reading the boot sector: %w", err)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return errors.New("the disk has no partition table yet")
	}
	copy(mbr[:mbrCodeEnd], bootImg)
	binary.LittleEndian.PutUint64(mbr[grubKernelSector:], uint64(first))
	mbr[grubBootDrive] = 0xff
	mbr[grubDriveCheck], mbr[grubDriveCheck+1] = 0x90, 0x90
	padded := make([]byte, sectors*sector)
	copy(padded, core)
	// The block list grows downwards; grub-mkimage left one entry for all that
	// follows the first sector.
	if seg := binary.LittleEndian.Uint16(padded[grubBlockList+10:]); seg != grubKernelSeg {
		return fmt.Errorf("GRUB's core.img loads to segment %#x; want %#x: an unknown version of GRUB", seg, grubKernelSeg)
	}
	binary.LittleEndian.PutUint64(padded[grubBlockList:], uint64(first+1))
	binary.LittleEndian.PutUint16(padded[grubBlockList+8:], uint16(sectors-1))
	if _, err := disk.WriteAt(padded, first*sector); err != nil {
		return fmt.Errorf("writing GRUB: %w", err)
	}
	if _, err := disk.WriteAt(mbr[:], 0); err != nil {
		return fmt.Errorf("writing the boot sector: %w", err)
	}
	return nil
}
