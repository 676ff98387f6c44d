package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// A GUID partition table as the UEFI specification 2.10 §5.3 lays it out:
// sector 0 a protective MBR (with the BIOS boot code), sector 1 the header,
// then the entries; a copy of both at the disk's end.

const (
	gptSector    = 512 // disk images are made for 512-byte sectors
	gptHeaderLen = 92
	gptAlign     = 2048 // sectors, 1 MiB
	gptSignature = "EFI PART"
)

// guidSwap is the type of a Linux swap partition,
// 0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, as stored (§5.3.3, appendix A).
var guidSwap = [16]byte{0x6d, 0xfd, 0x57, 0x06, 0xab, 0xa4, 0xc4, 0x43, 0x84, 0xe5, 0x09, 0x33, 0xc8, 0x4b, 0x4f, 0x4f}

// Partition is one entry: sectors First to Last, inclusive.
type Partition struct {
	Number      int
	First, Last int64
}

// Bytes is the partition's size.
func (p Partition) Bytes() int64 { return (p.Last - p.First + 1) * gptSector }

// table is a partition table being edited: everything before the first
// partition.
type table struct {
	head      []byte // sectors 0 to the first partition
	original  []byte // as the image has them
	entrySize int64
	entries   []byte // a slice of head
	lastLBA   int64  // last usable
	diskLBAs  int64
}

// parseTable reads the table from the beginning of a disk image of size bytes.
func parseTable(start []byte, size int64) (*table, error) {
	if len(start) < 34*gptSector {
		return nil, errors.New("the image's first chunk is too short for a partition table: build the image again")
	}
	h := start[gptSector : 2*gptSector]
	if string(h[:8]) != gptSignature {
		return nil, errors.New("the image has no GUID partition table: build it again with one")
	}
	hlen := int64(binary.LittleEndian.Uint32(h[12:]))
	if hlen < gptHeaderLen || hlen > gptSector {
		return nil, fmt.Errorf("the image's partition table has a header of %d bytes: build the image again", hlen)
	}
	if crcHeader(h[:hlen]) != binary.LittleEndian.Uint32(h[16:]) {
		return nil, errors.New("the image's partition table has a wrong checksum in its header: build the image again")
	}
	lba := int64(binary.LittleEndian.Uint64(h[72:]))
	n := int64(binary.LittleEndian.Uint32(h[80:]))
	esize := int64(binary.LittleEndian.Uint32(h[84:]))
	if lba < 2 || lba > 1<<20 || n < 1 || n > 1024 || esize < 128 || esize > 4096 || esize%8 != 0 || lba*gptSector+n*esize > int64(len(start)) {
		return nil, fmt.Errorf("the image's partition table says %d entries of %d bytes at sector %d: build the image again", n, esize, lba)
	}
	raw := start[lba*gptSector : lba*gptSector+n*esize]
	if crc32.ChecksumIEEE(raw) != binary.LittleEndian.Uint32(h[88:]) {
		return nil, errors.New("the image's partition table has a wrong checksum over its entries: build the image again")
	}
	t := &table{entrySize: esize, entries: raw, diskLBAs: size / gptSector, lastLBA: int64(binary.LittleEndian.Uint64(h[48:]))}
	first := int64(len(start)) / gptSector
	for _, p := range t.partitions() {
		if p.First < lba || p.Last < p.First || p.Last >= t.diskLBAs {
			return nil, fmt.Errorf("the image's partition %d lies outside of the image: build the image again", p.Number)
		}
		first = min(first, p.First)
	}
	end := lba*gptSector + n*esize
	if first*gptSector < end {
		return nil, errors.New("the image's first partition overlaps the partition table: build the image again")
	}
	t.original = bytes.Clone(start[:first*gptSector])
	t.head = bytes.Clone(t.original)
	t.entries = t.head[lba*gptSector : end]
	return t, nil
}

// crcHeader is the checksum of a header with its own field as zero (§5.3.2).
func crcHeader(h []byte) uint32 {
	c := bytes.Clone(h)
	clear(c[16:20])
	return crc32.ChecksumIEEE(c)
}

func (t *table) entry(number int) []byte {
	o := int64(number-1) * t.entrySize
	return t.entries[o : o+t.entrySize]
}

func (t *table) count() int { return int(int64(len(t.entries)) / t.entrySize) }

// partitions are the entries in use, by number.
func (t *table) partitions() []Partition {
	var ps []Partition
	for i := 1; i <= t.count(); i++ {
		e := t.entry(i)
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		ps = append(ps, Partition{i, int64(binary.LittleEndian.Uint64(e[32:])), int64(binary.LittleEndian.Uint64(e[40:]))})
	}
	return ps
}

// layout is what grow made of the table.
type layout struct {
	parts []Partition // all of them
	root  int         // partition numbers
	swap  int         // 0 = none
}

// grow fits the table to a disk of diskBytes: the root partition, which must
// be the last, gets rootBytes or all that is left, and swapBytes of swap come
// behind it.
func (t *table) grow(diskBytes int64, root int, rootBytes, swapBytes int64) (layout, error) {
	entrySectors := (int64(len(t.entries)) + gptSector - 1) / gptSector
	t.diskLBAs = diskBytes / gptSector
	t.lastLBA = t.diskLBAs - entrySectors - 2 // entries and header behind it
	var r *Partition
	parts := t.partitions()
	for i := range parts {
		if parts[i].Number == root {
			r = &parts[i]
		}
	}
	if r == nil {
		return layout{}, fmt.Errorf("the image has no partition %d, its index says that this is root: build the image again", root)
	}
	for _, p := range parts {
		if p.First > r.First {
			return layout{}, fmt.Errorf("the image's partition %d lies behind root (%d), which therefore cannot grow: build the image again", p.Number, root)
		}
	}
	swap := roundUp(swapBytes/gptSector+min(1, swapBytes%gptSector), gptAlign)
	end := (t.lastLBA + 1 - swap) / gptAlign * gptAlign
	if rootBytes > 0 {
		end = min(end, r.First+roundUp((rootBytes+gptSector-1)/gptSector, gptAlign))
		if got := (end - r.First) * gptSector; got < rootBytes {
			return layout{}, fmt.Errorf("the disk is too small: root of %s and swap of %s do not fit on its %s: change the profile's layout or choose another disk", size(rootBytes), size(swapBytes), size(diskBytes))
		}
	}
	if end-1 < r.Last {
		if rootBytes > 0 && end < t.lastLBA-swap-gptAlign {
			return layout{}, fmt.Errorf("the profile wants a root partition of %s, but the image's is %s already: give the profile a larger root", size(rootBytes), size(r.Bytes()))
		}
		return layout{}, fmt.Errorf("the disk is too small: the image's root of %s and swap of %s do not fit on its %s: choose another disk or a smaller image", size(r.Bytes()), size(swapBytes), size(diskBytes))
	}
	r.Last = end - 1
	binary.LittleEndian.PutUint64(t.entry(root)[40:], uint64(r.Last))
	l := layout{root: root}
	if swap > 0 {
		for i := 1; i <= t.count() && l.swap == 0; i++ {
			if bytes.Equal(t.entry(i)[:16], make([]byte, 16)) {
				l.swap = i
			}
		}
		if l.swap == 0 {
			return layout{}, errors.New("the image's partition table is full: no entry is left for swap")
		}
		e := t.entry(l.swap)
		clear(e)
		copy(e, guidSwap[:])
		rand.Read(e[16:32])       // never fails (crypto/rand)
		e[23] = e[23]&0x0f | 0x40 // version 4: the stored third field is little-endian
		e[24] = e[24]&0x3f | 0x80
		binary.LittleEndian.PutUint64(e[32:], uint64(end))
		binary.LittleEndian.PutUint64(e[40:], uint64(end+swap-1))
		for i, u := range utf16.Encode([]rune("swap")) {
			binary.LittleEndian.PutUint16(e[56+2*i:], u)
		}
	}
	l.parts = t.partitions()
	return l, nil
}

// encode gives the head (from sector 0) and the tail (the copy at the disk's
// end, from byte tailAt) with sizes and checksums right.
func (t *table) encode() (head, tail []byte, tailAt int64) {
	entrySectors := (int64(len(t.entries)) + gptSector - 1) / gptSector
	h := t.head[gptSector : 2*gptSector]
	le := binary.LittleEndian
	last := t.diskLBAs - 1
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], uint64(last))
	le.PutUint64(h[48:], uint64(t.lastLBA))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(t.entries))
	hlen := le.Uint32(h[12:])
	le.PutUint32(h[16:], crcHeader(h[:hlen]))
	// Protective MBR: the entry of type EE spans the disk (§5.2.3).
	for o := 446; o < 510; o += 16 {
		if t.head[o+4] == 0xee {
			le.PutUint32(t.head[o+12:], uint32(min(last+1-int64(le.Uint32(t.head[o+8:])), 0xffffffff)))
		}
	}
	tail = make([]byte, (entrySectors+1)*gptSector)
	copy(tail, t.entries)
	b := tail[entrySectors*gptSector:]
	copy(b, h)
	le.PutUint64(b[24:], uint64(last))
	le.PutUint64(b[32:], 1)
	le.PutUint64(b[72:], uint64(last-entrySectors))
	le.PutUint32(b[16:], crcHeader(b[:hlen]))
	return t.head, tail, (last - entrySectors) * gptSector
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// size prints bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
