package agent

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/agent/wire"
)

// mirrorOf are two disks for a task that mirrors.
func mirrorOf(t *testing.T, a, b int64) *oneDisk {
	t.Helper()
	one, two := newFileDisk(t, a), newFileDisk(t, b)
	return &oneDisk{disk: one, more: map[string]*fileDisk{"S2": two}, info: []wire.Disk{
		{Name: "vda", Serial: "S1", Bytes: a}, {Name: "vdb", Serial: "S2", Bytes: b}}}
}

// rootWith is a root file system with a program.
func rootWith(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(program)), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, program), nil, 0o755))
	return dir
}

// TestDeployMirror: both disks have the whole image and a table that is right
// for their own size, with GUIDs of their own.
func TestDeployMirror(t *testing.T) {
	needTool(t, "partx")
	for _, sector := range []int{512, 4096} {
		img := makeImage(t)
		check := checkDisk
		if sector == 4096 {
			img, check = makeImageWith(t, testFAT(t, 17*mib, espArgs...)), checkMirrorBig
		}
		s := newFakeServer(t, img)
		task := s.deploy("t1")
		task.Kind, task.Deploy.MirrorSerial = wire.TaskMirror, "S2"
		s.tasks = []wire.Task{task}
		disks := mirrorOf(t, diskBytes+3*mib, diskBytes)
		one, two := disks.disk, disks.more["S2"]
		one.sector, two.sector = sector, sector
		fs := &dirFS{dir: rootWith(t, "usr/sbin/mdadm")}
		runAgent(t, s, disks, fs, started(true))
		if rep := s.final(t); rep.Step != wire.StepDone {
			t.Fatalf("final report = %+v; want done", rep)
		}
		if want := []string{"root", "swap"}; !slices.Equal(slices.Sorted(slices.Values(fs.arrays)), want) {
			t.Errorf("mirrors of %v; want of %v", fs.arrays, want)
		}
		check(t, one, img)
		check(t, two, img)
		a, err := os.ReadFile(one.f.Name())
		must(t, err)
		b, err := os.ReadFile(two.f.Name())
		must(t, err)
		tabs := [2]*table{}
		for i, raw := range [][]byte{a, b} {
			if tabs[i], err = parseTable(as512(t, raw, sector), int64(len(raw))); err != nil {
				t.Fatal(err)
			}
		}
		parts, twins := tabs[0].partitions(), tabs[1].partitions()
		if !slices.Equal(parts, twins) {
			t.Errorf("partitions are %+v and %+v; want the same", parts, twins)
		}
		for _, p := range parts {
			if p.Number == 1 && !bytes.Equal(a[p.Start:p.End()], b[p.Start:p.End()]) {
				t.Error("the EFI system partitions differ")
			}
			if n := p.End() - mdBytes; p.Number > 1 && (!bytes.Equal(a[p.Start:n], b[p.Start:n]) || !bytes.HasPrefix(a[n:], []byte("md superblock")) || !bytes.HasPrefix(b[n:], []byte("md superblock"))) {
				t.Errorf("partition %d is no mirror", p.Number)
			}
		}
		ids := strings.Fields(tool(t, "", "partx", "--sector-size", strconv.Itoa(sector), "--output", "UUID", "--noheadings", "--show", one.f.Name()) +
			tool(t, "", "partx", "--sector-size", strconv.Itoa(sector), "--output", "UUID", "--noheadings", "--show", two.f.Name()))
		if slices.Sort(ids); len(ids) != 6 || len(slices.Compact(ids)) != 6 {
			t.Errorf("partitions have the UUIDs %v; want six", ids)
		}
	}
}

func TestDeployMirrorFails(t *testing.T) {
	img := makeImage(t)
	for _, c := range []struct {
		name    string
		edit    func(o *oneDisk, d *wire.Deploy, fs *dirFS)
		want    string
		touched bool
	}{
		{"the same disk", func(_ *oneDisk, d *wire.Deploy, _ *dirFS) { d.MirrorSerial = "S1" }, "wants disk S1 to mirror itself", false},
		{"a task without it", func(_ *oneDisk, d *wire.Deploy, _ *dirFS) { d.MirrorSerial = "" }, `cannot do a task of kind "deploy-mirror"`, false},
		{"no such disk", func(_ *oneDisk, d *wire.Deploy, _ *dirFS) { d.MirrorSerial = "S9" }, "no disk has serial S9", false},
		{"other sectors", func(o *oneDisk, _ *wire.Deploy, _ *dirFS) { o.more["S2"].sector = 4096 }, "disk vdb (serial S2) has sectors of 4096 bytes and cannot mirror disk vda (serial S1), which has 512", false},
		{"a second disk too small", func(o *oneDisk, _ *wire.Deploy, _ *dirFS) { o.more["S2"].size = 20 * mib }, "disk vdb (serial S2) is too small", false},
		{"no room for metadata", func(o *oneDisk, d *wire.Deploy, _ *dirFS) { o.more["S2"].size, d.SwapBytes = int64(len(img.raw)), 0 }, "at least 1 MiB larger", false},
		{"an image without mdadm", func(_ *oneDisk, _ *wire.Deploy, fs *dirFS) { must(t, os.RemoveAll(filepath.Join(fs.dir, "usr"))) }, "the image has no mdadm", true},
		{"a second disk that does not take it", func(o *oneDisk, _ *wire.Deploy, _ *dirFS) {
			o.more["S2"].fail = func(op string, off int64) error {
				if op == "write" && off >= 2*mib {
					return unix.EIO
				}
				return nil
			}
		}, "writing to disk vdb (serial S2) at byte", true},
		{"a second disk that stores a bit wrong", func(o *oneDisk, _ *wire.Deploy, _ *dirFS) { o.more["S2"].flip = 2*mib + 1500 }, "disk vdb (serial S2) gives back other bytes", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newFakeServer(t, img)
			disks := mirrorOf(t, diskBytes, diskBytes)
			fs := &dirFS{dir: rootWith(t, "usr/sbin/mdadm")}
			task := s.deploy("t1")
			task.Kind, task.Deploy.MirrorSerial = wire.TaskMirror, "S2"
			c.edit(disks, task.Deploy, fs)
			names := []string{disks.disk.f.Name(), disks.more["S2"].f.Name()}
			before := []string{sumOf(t, names[0]), sumOf(t, names[1])}
			s.tasks = []wire.Task{task}
			runAgent(t, s, disks, fs, started(true))
			if rep := s.final(t); rep.Step != wire.StepFailed || !strings.Contains(rep.Error, c.want) {
				t.Errorf("final report = %+v; want failed with %q", rep, c.want)
			}
			for i, name := range names {
				if !c.touched && sumOf(t, name) != before[i] {
					t.Errorf("disk %d was written; want it untouched", i+1)
				}
				var head [512]byte
				f, err := os.Open(name)
				must(t, err)
				_, err = f.ReadAt(head[:], 512)
				must(t, err)
				must(t, f.Close())
				if c.touched && !allZero(head[:]) {
					t.Errorf("a failed deployment left a partition table on disk %d", i+1)
				}
			}
		})
	}
}

// TestStaleMirror: what was at the ends of the new partitions is gone, or the
// array of an earlier deployment would be found in them.
func TestStaleMirror(t *testing.T) {
	img := makeImage(t)
	s := newFakeServer(t, img)
	s.tasks = []wire.Task{s.deploy("t1")}
	d := newFileDisk(t, diskBytes)
	runAgent(t, s, disksOf(d), &dirFS{dir: t.TempDir()}, started(true))
	if rep := s.final(t); rep.Step != wire.StepDone {
		t.Fatalf("final report = %+v; want done", rep)
	}
	raw, err := os.ReadFile(d.f.Name())
	must(t, err)
	tab, err := parseTable(raw[:2*mib], d.size)
	must(t, err)
	for _, p := range tab.partitions()[1:] {
		if bytes.Contains(raw[p.End()-mib/2:p.End()], []byte("old data")) {
			t.Errorf("the end of partition %d has what was there before", p.Number)
		}
	}
}

// checkMirrorBig is checkBigDisk for a member of a mirror, whose GUIDs may be
// others than the image's.
func checkMirrorBig(t *testing.T, d *fileDisk, img *testImage) {
	t.Helper()
	needTool(t, "fdisk")
	if out := tool(t, "v\nq\n", "fdisk", "-b", "4096", d.f.Name()); !strings.Contains(out, "No errors detected") {
		t.Errorf("fdisk -b 4096, verify = %s; want no errors", out)
	}
	got, err := os.ReadFile(d.f.Name())
	must(t, err)
	tab, err := parseTable(img.raw[:mib], int64(len(img.raw)))
	must(t, err)
	esp := tab.partitions()[0]
	checkFAT(t, got[esp.Start:esp.End()])
}

// as512 gives the beginning of a disk with its table counted in sectors of 512
// bytes, as parseTable reads it.
func as512(t *testing.T, raw []byte, sector int) []byte {
	t.Helper()
	if sector == 512 {
		return raw[:2*mib]
	}
	le := binary.LittleEndian
	out := make([]byte, mib)
	copy(out[512:], raw[4096:4096+92])
	entries := out[1024 : 1024+128*128]
	copy(entries, raw[2*4096:])
	for e := entries; len(e) > 0; e = e[128:] {
		if from, to := le.Uint64(e[32:]), le.Uint64(e[40:]); from > 0 {
			le.PutUint64(e[32:], from*8)
			le.PutUint64(e[40:], (to+1)*8-1)
		}
	}
	h := out[512:1024]
	le.PutUint64(h[72:], 2)
	fixChecksums(out)
	return out
}
