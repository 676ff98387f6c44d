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
// then the entries; a copy of both at the disk's end. It counts in the disk's
// own sectors, so that of an image, which counts in gptSector, is made over for
// a disk with larger ones.

const (
	gptSector    = 512 // of disk images
	gptHeaderLen = 92
	gptAlign     = mib
	gptSignature = "EFI PART"
	mbrCode      = 446 // bytes of boot code before the protective MBR's entries (§5.2.3)
)

// guidESP is the type of an EFI system partition,
// C12A7328-F81F-11D2-BA4B-00A0C93EC93B (§5.3.3, table 5.7).
var guidESP = [16]byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

// guidSwap is the type of a Linux swap partition,
// 0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, as stored (§5.3.3, appendix A).
var guidSwap = [16]byte{0x6d, 0xfd, 0x57, 0x06, 0xab, 0xa4, 0xc4, 0x43, 0x84, 0xe5, 0x09, 0x33, 0xc8, 0x4b, 0x4f, 0x4f}

// Partition is one entry, in bytes whatever the disk's sectors.
type Partition struct {
	Number       int
	Start, Bytes int64
	kind         [16]byte
}

// End is the first byte behind the partition.
func (p Partition) End() int64 { return p.Start + p.Bytes }

// table is a partition table being edited: everything before the first
// partition.
type table struct {
	sector    int64
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
	t := &table{sector: gptSector, entrySize: esize, entries: raw, diskLBAs: size / gptSector, lastLBA: int64(binary.LittleEndian.Uint64(h[48:]))}
	first := int64(len(start)) / gptSector * gptSector
	for i := 1; i <= t.count(); i++ {
		e := t.entry(i)
		from, to := int64(binary.LittleEndian.Uint64(e[32:])), int64(binary.LittleEndian.Uint64(e[40:]))
		if !allZero(e[:16]) && (from < lba || to < from || to >= t.diskLBAs) {
			return nil, fmt.Errorf("the image's partition %d lies outside of the image: build the image again", i)
		}
	}
	for _, p := range t.partitions() {
		first = min(first, p.Start)
	}
	end := lba*gptSector + n*esize
	if first < end {
		return nil, errors.New("the image's first partition overlaps the partition table: build the image again")
	}
	t.original = bytes.Clone(start[:first])
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
		if allZero(e[:16]) {
			continue
		}
		from, to := int64(binary.LittleEndian.Uint64(e[32:])), int64(binary.LittleEndian.Uint64(e[40:]))
		ps = append(ps, Partition{i, from * t.sector, (to - from + 1) * t.sector, [16]byte(e)})
	}
	return ps
}

// useSectors makes the table of an image that of a disk with larger sectors:
// the same partitions at the same bytes, but a last one that is not whole
// sectors long is rounded up. Boot code is left out: it is a BIOS's, and finds
// what it loads by sectors of the image's size.
func (t *table) useSectors(n int64) error {
	if n == t.sector {
		return nil
	}
	le := binary.LittleEndian
	old := t.head[t.sector : 2*t.sector]
	head := make([]byte, len(t.head))
	if 2*n+int64(len(t.entries)) > int64(len(head)) {
		return fmt.Errorf("the image's first partition begins at byte %d, which leaves no room for the partition table of a disk with sectors of %d bytes: build the image again, or choose another disk", len(head), n)
	}
	copy(head[mbrCode:], t.head[mbrCode:gptSector])
	copy(head[n:], old[:le.Uint32(old[12:])])
	usable := max(2*n+roundUp(int64(len(t.entries)), n), roundUp(int64(le.Uint64(old[40:]))*t.sector, n))
	le.PutUint64(head[n+40:], uint64(min(usable, int64(len(head)))/n))
	le.PutUint64(head[n+72:], 2)
	parts := t.partitions()
	entries := head[2*n : 2*n+int64(len(t.entries))]
	copy(entries, t.entries)
	t.head, t.entries, t.sector = head, entries, n
	for _, p := range parts {
		if p.Start%n != 0 {
			return fmt.Errorf("the image's partition %d begins at byte %d, which is no multiple of the disk's sectors of %d bytes: build the image again with partitions at whole MiB, or choose another disk", p.Number, p.Start, n)
		}
		e := t.entry(p.Number)
		le.PutUint64(e[32:], uint64(p.Start/n))
		le.PutUint64(e[40:], uint64(roundUp(p.End(), n)/n-1))
	}
	return nil
}

// partition is one of them, zeros where there is none.
func (t *table) partition(number int) Partition {
	for _, p := range t.partitions() {
		if p.Number == number {
			return p
		}
	}
	return Partition{}
}

// twin is the table of a disk that mirrors this one: the same partitions with
// GUIDs of their own, which must be unique (§5.3.2, §5.3.3).
func (t *table) twin() *table {
	c := *t
	c.head = bytes.Clone(t.head)
	at := 2 * t.sector
	if t.sector == gptSector {
		at = int64(binary.LittleEndian.Uint64(t.head[gptSector+72:])) * gptSector
	}
	c.entries = c.head[at : at+int64(len(t.entries))]
	newGUID(c.head[t.sector+56:])
	for _, p := range c.partitions() {
		newGUID(c.entry(p.Number)[16:])
	}
	return &c
}

// newGUID writes a random GUID as stored.
func newGUID(b []byte) {
	rand.Read(b[:16])       // never fails (crypto/rand)
	b[7] = b[7]&0x0f | 0x40 // version 4: the stored third field is little-endian
	b[8] = b[8]&0x3f | 0x80
}

// fit makes the table that of a disk of some bytes, its copy at the very end.
func (t *table) fit(diskBytes int64) {
	entrySectors := (int64(len(t.entries)) + t.sector - 1) / t.sector
	t.diskLBAs = diskBytes / t.sector
	t.lastLBA = t.diskLBAs - entrySectors - 2 // entries and header behind it
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
	t.fit(diskBytes)
	usable := (t.lastLBA + 1) * t.sector
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
		if p.Start > r.Start {
			return layout{}, fmt.Errorf("the image's partition %d lies behind root (%d), which therefore cannot grow: build the image again", p.Number, root)
		}
	}
	swap := roundUp(swapBytes, gptAlign)
	end := (usable - swap) / gptAlign * gptAlign
	if rootBytes > 0 {
		end = min(end, r.Start+roundUp(rootBytes, gptAlign))
		if end-r.Start < rootBytes {
			return layout{}, fmt.Errorf("the disk is too small: root of %s and swap of %s do not fit on its %s: change the profile's layout or choose another disk", size(rootBytes), size(swapBytes), size(diskBytes))
		}
	}
	if end < r.End() {
		if rootBytes > 0 && end < usable-swap-gptAlign {
			return layout{}, fmt.Errorf("the profile wants a root partition of %s, but the image's is %s already: give the profile a larger root", size(rootBytes), size(r.Bytes))
		}
		return layout{}, fmt.Errorf("the disk is too small: the image's root of %s and swap of %s do not fit on its %s: choose another disk or a smaller image", size(r.Bytes), size(swapBytes), size(diskBytes))
	}
	binary.LittleEndian.PutUint64(t.entry(root)[40:], uint64(end/t.sector-1))
	l := layout{root: root}
	if swap > 0 {
		for i := 1; i <= t.count() && l.swap == 0; i++ {
			if allZero(t.entry(i)[:16]) {
				l.swap = i
			}
		}
		if l.swap == 0 {
			return layout{}, errors.New("the image's partition table is full: no entry is left for swap")
		}
		e := t.entry(l.swap)
		clear(e)
		copy(e, guidSwap[:])
		newGUID(e[16:])
		binary.LittleEndian.PutUint64(e[32:], uint64(end/t.sector))
		binary.LittleEndian.PutUint64(e[40:], uint64((end+swap)/t.sector-1))
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
	entrySectors := (int64(len(t.entries)) + t.sector - 1) / t.sector
	h := t.head[t.sector : 2*t.sector]
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
	tail = make([]byte, (entrySectors+1)*t.sector)
	copy(tail, t.entries)
	b := tail[entrySectors*t.sector:]
	copy(b, h)
	le.PutUint64(b[24:], uint64(last))
	le.PutUint64(b[32:], 1)
	le.PutUint64(b[72:], uint64(last-entrySectors))
	le.PutUint32(b[16:], crcHeader(b[:hlen]))
	return t.head, tail, (last - entrySectors) * t.sector
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
