package agent

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestGrow lets sfdisk make tables and judge what grow made of them.
func TestGrow(t *testing.T) {
	needTool(t, "sfdisk", "sgdisk")
	for _, c := range []struct {
		name              string
		layout            string
		root              int
		disk, rootB, swap int64
		want              string // part of the error
		check             func(t *testing.T, l layout)
	}{
		{"to the end", "size=4096\ntype=L\n", 2, 100 * mib, 0, 0, "", func(t *testing.T, l layout) {
			if got, want := l.parts[1].End(), int64(99*mib); got != want {
				t.Errorf("root ends at %d; want %d", got, want)
			}
		}},
		{"with swap", "size=4096\ntype=L\n", 2, 100 * mib, 0, 10*mib + 1, "", func(t *testing.T, l layout) {
			if got, want := l.parts[2].Bytes, int64(11*mib); l.swap != 3 || got != want {
				t.Errorf("swap is partition %d of %d bytes; want 3 of %d", l.swap, got, want)
			}
		}},
		{"root of a size", "size=4096\ntype=L\n", 2, 100 * mib, 50 * mib, 10 * mib, "", func(t *testing.T, l layout) {
			if got, want := l.parts[1].Bytes, int64(50*mib); got != want {
				t.Errorf("root has %d bytes; want %d", got, want)
			}
		}},
		{"no growth", "size=4096\nsize=16MiB,type=L\n", 2, 20 * mib, 0, 0, "", nil},
		{"a hole in the numbers", "1: size=4096\n5: type=L\n", 5, 60 * mib, 0, mib, "", func(t *testing.T, l layout) {
			if l.swap != 2 {
				t.Errorf("swap is partition %d; want the first free number, 2", l.swap)
			}
		}},
		{"root is not last", "start=2048,size=4096,type=L\ntype=U\n", 1, 60 * mib, 0, 0, "partition 2 lies behind root", nil},
		{"no such root", "type=L\n", 3, 60 * mib, 0, 0, "no partition 3", nil},
		{"a disk too small", "type=L\n", 1, 20 * mib, 0, 10 * mib, "too small", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			must(t, os.WriteFile(img, nil, 0o600))
			must(t, os.Truncate(img, 20*mib))
			tool(t, "label: gpt\n"+c.layout, "sfdisk", "-q", img)
			raw, err := os.ReadFile(img)
			must(t, err)
			tab, err := parseTable(raw[:mib], int64(len(raw)))
			must(t, err)
			l, err := tab.grow(c.disk, c.root, c.rootB, c.swap)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("grow = %v; want an error with %q", err, c.want)
				}
				return
			}
			must(t, err)
			head, tail, at := tab.encode()
			f, err := os.OpenFile(img, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			must(t, f.Truncate(c.disk))
			_, err = f.WriteAt(make([]byte, 33*512), 20*mib-33*512) // the image's own copy
			must(t, err)
			_, err = f.WriteAt(head, 0)
			must(t, err)
			_, err = f.WriteAt(tail, at)
			must(t, err)
			if out := tool(t, "", "sfdisk", "--verify", img); !strings.Contains(out, "No errors detected") {
				t.Errorf("sfdisk --verify = %s; want no errors", out)
			}
			if out := tool(t, "", "sgdisk", "-v", img); !strings.Contains(out, "No problems found") {
				t.Errorf("sgdisk -v = %s; want no problems", out)
			}
			if c.check != nil {
				c.check(t, l)
			}
		})
	}
}

// FuzzParseTable: no table, however broken, makes the editor panic or leave
// the disk.
func FuzzParseTable(f *testing.F) {
	seed := make([]byte, 64<<10)
	copy(seed[512:], gptSignature)
	f.Add(seed, int64(64<<10), 1, false)
	good := bytes.Clone(seed)
	le := binary.LittleEndian
	le.PutUint32(good[512+12:], gptHeaderLen)
	le.PutUint64(good[512+72:], 2)
	le.PutUint32(good[512+80:], 128)
	le.PutUint32(good[512+84:], 128)
	for i, from := range []uint64{48, 2048} {
		e := good[2*512+128*i:]
		copy(e, guidESP[:])
		le.PutUint64(e[32:], from)
		le.PutUint64(e[40:], from+1999)
	}
	for _, big := range []bool{false, true} {
		f.Add(good, int64(1<<30), 2, big)
	}
	f.Fuzz(func(t *testing.T, b []byte, n int64, root int, big bool) {
		if len(b) > mib || n <= 0 || n > 1<<40 {
			return
		}
		// Checksums would keep the fuzzer out: make them right.
		if len(b) >= 1024 {
			fixChecksums(b)
		}
		tab, err := parseTable(b, n)
		if err != nil {
			return
		}
		if big && tab.useSectors(bigSector) != nil {
			return
		}
		l, err := tab.grow(n, root, 0, mib)
		if err != nil {
			return
		}
		for _, p := range l.parts {
			if p.Start < 0 || p.Bytes <= 0 || p.End() > n {
				t.Errorf("partition %+v is outside of a disk of %d bytes", p, n)
			}
		}
		twin := tab.twin()
		twin.fit(n)
		if head, _, _ := twin.encode(); !slices.Equal(twin.partitions(), tab.partitions()) || len(head) != len(tab.head) {
			t.Errorf("the mirror's partitions are %+v; want those of the first disk, %+v", twin.partitions(), tab.partitions())
		}
		tab.encode()
	})
}

func fixChecksums(b []byte) {
	h := b[512:1024]
	le := binary.LittleEndian
	lba, n, esize := int64(le.Uint64(h[72:])), int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
	if lba > 0 && lba < 1<<20 && n < 1024 && esize < 4096 && lba*512+n*esize <= int64(len(b)) {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(b[lba*512:lba*512+n*esize]))
	}
	if hlen := le.Uint32(h[12:]); hlen >= 92 && hlen <= 512 {
		le.PutUint32(h[16:], crcHeader(h[:hlen]))
	}
}
