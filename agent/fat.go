package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Fields of a FAT boot sector, as offsets (Microsoft's FAT specification 1.03,
// "Boot Sector and BPB").
const (
	fatSectorSize  = 11 // BPB_BytsPerSec, 2 bytes
	fatPerCluster  = 13 // BPB_SecPerClus, 1
	fatReserved    = 14 // BPB_RsvdSecCnt, 2
	fatRootEntries = 17 // BPB_RootEntCnt, 2; 0 in FAT32
	fatTotal16     = 19 // BPB_TotSec16, 2
	fatSize16      = 22 // BPB_FATSz16, 2; 0 in FAT32
	fatHidden      = 28 // BPB_HiddSec, 4
	fatTotal32     = 32 // BPB_TotSec32, 4
	fatSize32      = 36 // BPB_FATSz32, 4
	fatInfo        = 48 // BPB_FSInfo, 2
	fatBackup      = 50 // BPB_BkBootSec, 2
	fatSignature   = 510
	fatDirEntry    = 32
	fatMaxReserved = mib
)

// fatBoot is a boot sector that may be counted again in larger sectors.
type fatBoot []byte

func (b fatBoot) u16(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
func (b fatBoot) u32(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
func (b fatBoot) fat32() bool      { return b.u16(fatSize16) == 0 }

// check tells whether b is a FAT boot sector whose file system can be counted
// in sectors of n bytes: its clusters, file allocation tables and root folder
// must be whole sectors. It gives the size of the reserved area that b begins,
// 0 when it counts in such sectors already.
func (b fatBoot) check(n int64) (reserved int64, err error) {
	if len(b) < gptSector || b[fatSignature] != 0x55 || b[fatSignature+1] != 0xaa {
		return 0, errors.New("it has no FAT file system")
	}
	old := b.u16(fatSectorSize)
	if old == n {
		return 0, nil
	}
	if old != gptSector || b[fatPerCluster] == 0 || bits.OnesCount8(b[fatPerCluster]) != 1 || b.u16(fatReserved) == 0 {
		return 0, fmt.Errorf("its FAT file system has sectors of %d bytes, %d a cluster", old, b[fatPerCluster])
	}
	size := b.u16(fatSize16)
	if b.fat32() {
		size = b.u32(fatSize32)
	}
	reserved = b.u16(fatReserved) * old
	for _, x := range []struct {
		what  string
		bytes int64
	}{
		{"clusters", int64(b[fatPerCluster]) * old}, {"a reserved area", reserved},
		{"file allocation tables", size * old}, {"a root folder", b.u16(fatRootEntries) * fatDirEntry},
	} {
		if x.bytes%n != 0 {
			return 0, fmt.Errorf("its FAT file system has %s of %d bytes, which is no multiple of %d", x.what, x.bytes, n)
		}
	}
	if reserved > fatMaxReserved || b.fat32() && reserved < 4*n {
		return 0, fmt.Errorf("its FAT file system has a reserved area of %d bytes, too small or too large for sectors of %d", reserved, n)
	}
	return reserved, nil
}

// fatSectors gives the reserved area of a FAT file system anew, with what
// counts sectors counting those of n bytes. The tables, folders and files
// behind it, which count clusters, stay as they are. check must have passed.
func fatSectors(area []byte, n int64) []byte {
	old := fatBoot(area)
	was := old.u16(fatSectorSize)
	by := n / was
	out := make([]byte, len(area))
	b := out[:n]
	copy(b, area[:gptSector])
	le := binary.LittleEndian
	le.PutUint16(b[fatSectorSize:], uint16(n))
	b[fatPerCluster] = byte(int64(old[fatPerCluster]) / by)
	le.PutUint16(b[fatReserved:], uint16(old.u16(fatReserved)/by))
	le.PutUint16(b[fatTotal16:], uint16(old.u16(fatTotal16)/by))
	le.PutUint32(b[fatTotal32:], uint32(old.u32(fatTotal32)/by))
	le.PutUint32(b[fatHidden:], uint32(old.u32(fatHidden)/by))
	le.PutUint16(b[fatSize16:], uint16(old.u16(fatSize16)/by))
	if !old.fat32() {
		return out
	}
	le.PutUint32(b[fatSize32:], uint32(old.u32(fatSize32)/by))
	// FSInfo has free clusters and no sectors. It lies behind the boot sector,
	// and a copy of both from sector 6 on, or from 2 where that is too far.
	sectors := int64(len(out)) / n
	info, backup := int64(0), int64(0)
	if at := old.u16(fatInfo); at > 0 && (at+1)*was <= int64(len(area)) {
		info = 1
		copy(out[n:], area[at*was:(at+1)*was])
	}
	if old.u16(fatBackup) > 0 {
		backup = 2
		if sectors >= 8 {
			backup = 6
		}
	}
	le.PutUint16(b[fatInfo:], uint16(info))
	le.PutUint16(b[fatBackup:], uint16(backup))
	if backup > 0 {
		copy(out[backup*n:], out[:2*n])
	}
	return out
}
