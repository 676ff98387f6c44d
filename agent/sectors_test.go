package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/agent/wire"
)

// espArgs are those of images (makeESP), for a small FAT16: clusters, tables
// and the reserved area are multiples of 4096 bytes.
var espArgs = []string{"-F", "16", "-S", "512", "-s", "8", "-R", "8"}

// started makes the agent's machine one that was started so.
func started(uefi bool) func(*Config) {
	kind := wire.FirmwareBIOS
	if uefi {
		kind = wire.FirmwareUEFI
	}
	return func(c *Config) {
		c.Inventory = func() (wire.Inventory, error) {
			return wire.Inventory{Agent: "test", Firmware: wire.Firmware{Kind: kind}}, nil
		}
	}
}

// checkBigDisk lets fdisk, partx, fsck.vfat, mtools and e2fsck judge a disk
// with sectors of 4096 bytes that holds an image with testFAT's file system.
func checkBigDisk(t *testing.T, d *fileDisk, img *testImage) {
	t.Helper()
	needTool(t, "fdisk", "partx", "e2fsck")
	name := d.f.Name()
	if out := tool(t, "v\nq\n", "fdisk", "-b", "4096", name); !strings.Contains(out, "No errors detected") {
		t.Errorf("fdisk -b 4096, verify = %s; want no errors", out)
	}
	before, err := parseTable(img.raw[:mib], int64(len(img.raw)))
	must(t, err)
	var starts []string
	for _, p := range before.partitions() {
		starts = append(starts, fmt.Sprint(p.Start/512)) // partx counts so whatever the sectors
	}
	uuids := func(args ...string) []string {
		return strings.Fields(tool(t, "", "partx", append(args, "--output", "UUID", "--noheadings", "--show")...))
	}
	if got := strings.Fields(tool(t, "", "partx", "--sector-size", "4096", "--output", "START", "--noheadings", "--show", name)); len(got) < 2 || !slices.Equal(got[:2], starts) {
		t.Errorf("partitions begin at sectors %v; want %v, where the image's do", got, starts)
	}
	raw := filepath.Join(t.TempDir(), "raw")
	must(t, os.WriteFile(raw, img.raw, 0o600))
	if got, want := uuids("--sector-size", "4096", name), uuids(raw); len(got) < 2 || !slices.Equal(got[:2], want) {
		t.Errorf("partitions have UUIDs %v; want the image's, %v", got, want)
	}
	got, err := os.ReadFile(name)
	must(t, err)
	if !allZero(got[:440]) {
		t.Error("the disk has boot code, which only a BIOS would run and which counts in sectors of 512")
	}
	esp, root := before.partitions()[0], before.partitions()[1]
	checkFAT(t, got[esp.Start:esp.End()])
	reserved := int64(8 * 512)
	if a, b := esp.Start+reserved, esp.End(); !bytes.Equal(got[a:b], img.raw[a:b]) {
		t.Error("behind its boot sector the EFI system partition differs from the image's")
	}
	size := tool(t, "", "partx", "--sector-size", "4096", "--bytes", "--output", "SIZE", "--noheadings", "--nr", "2", "--show", name)
	var n int64
	if _, err := fmt.Sscan(size, &n); err != nil || n < root.Bytes {
		t.Fatalf("root has %q bytes (%v); want at least %d", size, err, root.Bytes)
	}
	if d.size == diskBytes && n < diskBytes-(esp.End()+5*mib) {
		t.Errorf("root has %d bytes; want it grown to the disk of %d", n, d.size)
	}
	part := filepath.Join(t.TempDir(), "root")
	must(t, os.WriteFile(part, got[root.Start:root.Start+n], 0o600))
	tool(t, "", "e2fsck", "-fn", part)
}

// TestFATSectors: fsck.vfat and mtools read what fatSectors made, and it is
// what mkfs.vfat makes for such sectors itself.
func TestFATSectors(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int64
		args  []string
		same  []string
	}{
		{"FAT16", 17 * mib, espArgs, []string{"-F", "16", "-S", "4096", "-s", "1", "-R", "1"}},
		{"FAT32 as images have it", 262 * mib, []string{"-F", "32", "-S", "512", "-s", "8", "-R", "64"}, []string{"-F", "32", "-S", "4096", "-s", "1", "-R", "8"}},
		{"FAT32 as mkfs.vfat makes it, its copy at sector 2", 260 * mib, []string{"-F", "32", "-s", "8"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			fat := testFAT(t, c.bytes, c.args...)
			reserved, err := fatBoot(fat).check(4096)
			must(t, err)
			if reserved == 0 {
				t.Fatal("check gives no reserved area; want one")
			}
			copy(fat, fatSectors(fat[:reserved], 4096))
			checkFAT(t, fat)
			if n, err := fatBoot(fat).check(4096); n != 0 || err != nil {
				t.Errorf("check of what has such sectors already = %d, %v; want 0, nil", n, err)
			}
			if c.same == nil {
				return
			}
			want := testFAT(t, c.bytes, c.same...)
			if len(want) != len(fat) || !bytes.Equal(fat[reserved:], want[reserved:]) {
				t.Error("behind the reserved area it is not what mkfs.vfat -S 4096 makes")
			}
			// But the geometry for BIOS calls (BPB_SecPerTrk, BPB_NumHeads), and
			// boot code, which mkfs.vfat writes for either kind of sectors.
			if got, want := fat[11:24], want[11:24]; !bytes.Equal(got, want) {
				t.Errorf("parameters = %x; want %x", got, want)
			}
			// mkfs.vfat leaves out sectors behind the last whole track.
			if got := fatBoot(fat).u32(fatTotal32) * 4096; got > c.bytes || got < c.bytes-63*512 && got != 0 {
				t.Errorf("it has sectors for %d bytes; want all %d but a track's", got, c.bytes)
			}
			if got, want := fat[36:64], want[36:64]; !bytes.Equal(got, want) {
				t.Errorf("more parameters = %x; want %x", got, want)
			}
		})
	}
}

func TestFATSectorsRefused(t *testing.T) {
	good := func() []byte { return testFAT(t, 17*mib, espArgs...)[:4096] }
	for _, c := range []struct {
		name string
		edit func(b []byte)
		want string
	}{
		{"zeros", func(b []byte) { clear(b) }, "no FAT file system"},
		{"clusters of 512", func(b []byte) { b[fatPerCluster] = 1 }, "clusters of 512 bytes"},
		{"an odd reserved area", func(b []byte) { b[fatReserved] = 1 }, "a reserved area of 512 bytes"},
		{"odd tables", func(b []byte) { b[fatSize16]++ }, "file allocation tables of"},
		{"an odd root folder", func(b []byte) { b[fatRootEntries], b[fatRootEntries+1] = 16, 0 }, "a root folder of 512 bytes"},
		{"sectors of 1024", func(b []byte) { b[fatSectorSize+1] = 4 }, "sectors of 1024 bytes"},
		{"three sectors a cluster", func(b []byte) { b[fatPerCluster] = 24 }, "24 a cluster"},
		{"no reserved area", func(b []byte) { b[fatReserved] = 0 }, "sectors of 512 bytes, 8 a cluster"},
		{"a huge reserved area", func(b []byte) { b[fatReserved+1] = 0xff }, "too small or too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := good()
			c.edit(b)
			if n, err := fatBoot(b).check(4096); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("check = %d, %v; want an error with %q", n, err, c.want)
			}
		})
	}
}

// FuzzFATSectors: whatever check accepts can be counted again, and then counts
// in the larger sectors.
func FuzzFATSectors(f *testing.F) {
	b := make([]byte, 64<<10)
	copy(b[fatSectorSize:], []byte{0, 2, 8, 64, 0})
	b[fatSize32], b[fatTotal32+2], b[fatInfo], b[fatBackup] = 16, 1, 1, 6
	b[fatSignature], b[fatSignature+1] = 0x55, 0xaa
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := fatBoot(b).check(4096)
		if err != nil || n == 0 || n > int64(len(b)) {
			return
		}
		out := fatSectors(b[:n], 4096)
		if got, err := fatBoot(out).check(4096); int64(len(out)) != n || got != 0 || err != nil {
			t.Errorf("fatSectors gives %d bytes, of which check says %d, %v; want %d, 0, nil", len(out), got, err, n)
		}
	})
}

// TestDeployBigSectors: the image reaches a disk with sectors of 4096 bytes.
func TestDeployBigSectors(t *testing.T) {
	img := makeImageWith(t, testFAT(t, 17*mib, espArgs...))
	s := newFakeServer(t, img)
	s.tasks = []wire.Task{s.deploy("t1")}
	d := newFileDisk(t, diskBytes)
	d.sector = 4096
	runAgent(t, s, disksOf(d), &dirFS{dir: t.TempDir()}, started(true))
	if rep := s.final(t); rep.Step != wire.StepDone {
		t.Fatalf("final report = %+v; want done", rep)
	}
	checkBigDisk(t, d, img)
}

// TestUseSectors: tables that cannot be those of a disk with larger sectors.
func TestUseSectors(t *testing.T) {
	needTool(t, "sfdisk")
	for _, c := range []struct {
		name, layout string
		want         string // part of the error
	}{
		{"whole MiB", "start=2048,size=4096\ntype=L\n", ""},
		{"an odd end", "start=2048,size=4097\nstart=8192,size=4097,type=L\n", ""},
		{"an odd beginning", "start=2048,size=4097\nstart=6145,size=4096,type=L\n", "partition 2 begins at byte 3146240"},
		{"no room for the table", "first-lba: 34\nstart=40,size=4096\nstart=8192,type=L\n", "no room for the partition table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			must(t, os.WriteFile(img, nil, 0o600))
			must(t, os.Truncate(img, 20*mib))
			layout := c.layout
			if !strings.HasPrefix(layout, "first-lba") {
				layout = "\n" + layout
			}
			tool(t, "label: gpt\n"+layout, "sfdisk", "-q", img)
			raw, err := os.ReadFile(img)
			must(t, err)
			tab, err := parseTable(raw[:2*mib], int64(len(raw)))
			must(t, err)
			err = tab.useSectors(4096)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("useSectors = %v; want %q", err, c.want)
			}
		})
	}
}
