package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/agent/wire"
)

const diskBytes = 48 * mib

// checkDisk checks that a disk holds the whole image, grown, and that nothing
// of its past shows within.
func checkDisk(t *testing.T, d *fileDisk, img *testImage) {
	t.Helper()
	got, err := os.ReadFile(d.f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if out := tool(t, "", "sfdisk", "--verify", d.f.Name()); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk --verify = %s; want no errors", out)
	}
	tab, err := parseTable(got[:2*mib], d.size)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:440], img.raw[:440]) {
		t.Error("the boot code is not the image's")
	}
	esp := tab.partitions()[0]
	if a, b := esp.Start, esp.End(); !bytes.Equal(got[a:b], img.raw[a:b]) {
		t.Error("the first partition differs from the image's (old data in zero chunks?)")
	}
	root := tab.partitions()[1]
	if got, want := root.Bytes, int64(diskBytes-5*mib); d.size == diskBytes && got < want {
		t.Errorf("root has %d bytes; want at least %d", got, want)
	}
	part := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(part, got[root.Start:root.End()], 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "", "e2fsck", "-fn", part)
}

func TestDeploy(t *testing.T) {
	img := makeImage(t)
	s := newFakeServer(t, img)
	s.tasks = []wire.Task{s.deploy("t1")}
	d := newFileDisk(t, diskBytes)
	fs := &dirFS{dir: t.TempDir()}
	runAgent(t, s, disksOf(d), fs, nil)
	rep := s.final(t)
	if rep.Step != wire.StepDone || rep.Task != "t1" {
		t.Fatalf("final report = %+v; want done of t1", rep)
	}
	checkDisk(t, d, img)
	if out := tool(t, "", "sfdisk", "-d", d.f.Name()); !strings.Contains(out, `type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F`) || !strings.Contains(out, `size=        4096`) {
		t.Errorf("sfdisk -d = %s; want a swap partition of 4096 sectors", out)
	}
	for name, want := range map[string]string{
		"etc/hostname":                     "gpu-01\n",
		"boot/grub/fettle-args.cfg":        "set fettle_args=\"console=ttyS0\"\n",
		"etc/default/grub.d/50-fettle.cfg": "'console=ttyS0'",
		"etc/fstab":                        "LABEL=fettle-swap none swap sw 0 0\n",
	} {
		b, err := os.ReadFile(filepath.Join(fs.dir, name))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s = %q, %v; want %q in it", name, b, err, want)
		}
	}
	if fs.unmounts != 1 {
		t.Errorf("unmounted %d times; want 1", fs.unmounts)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var steps []wire.Step
	for _, r := range s.reports {
		if n := len(steps); n == 0 || steps[n-1] != r.Step {
			steps = append(steps, r.Step)
		}
	}
	want := []wire.Step{wire.StepPartition, wire.StepWrite, wire.StepVerify, wire.StepSeed, wire.StepDone}
	if len(steps) < len(want) || !slices.Equal(steps[:len(want)], want) {
		t.Errorf("steps = %v; want %v", steps, want)
	}
	for _, a := range s.auth {
		if a != "Bearer tok" {
			t.Errorf("Authorization = %q; want Bearer tok", a)
		}
	}
}

// TestHeadIsLast: until the last write, the disk has no table at either end,
// whichever moment the power fails at.
func TestHeadIsLast(t *testing.T) {
	img, big := makeImage(t), makeImageWith(t, testFAT(t, 17*mib, espArgs...))
	for _, c := range []struct {
		name   string
		img    *testImage
		size   int64
		sector int
	}{
		{"a larger disk", img, diskBytes, 512},
		{"a disk like the image", img, int64(len(img.raw)), 512},
		{"a larger disk, sectors of 4096", big, diskBytes, 4096},
		{"a disk like the image, sectors of 4096", big, int64(len(big.raw)), 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newFakeServer(t, c.img)
			task := s.deploy("t1")
			if c.size == int64(len(c.img.raw)) {
				task.Deploy.SwapBytes = 0
			}
			s.tasks = []wire.Task{task}
			d := newFileDisk(t, c.size)
			d.sector = c.sector
			n := int64(c.sector)
			tail := c.size - (roundUp(128*128, n) + n)
			var wrote, bad atomic.Int64
			d.fail = func(op string, off int64) error {
				if op == "write" && off == tail {
					wrote.Store(1) // from here on the table is being written
				}
				if wrote.Load() != 0 || (op != "write" && op != "sync") {
					return nil
				}
				for _, at := range []int64{512, 4096, c.size - 512, c.size - 4096} {
					var sector [512]byte
					if _, err := d.f.ReadAt(sector[:], at); err != nil {
						return err
					}
					if bytes.HasPrefix(sector[:], []byte(gptSignature)) || at != c.size-4096 && !allZero(sector[:]) {
						bad.Add(1)
					}
				}
				return nil
			}
			runAgent(t, s, disksOf(d), &dirFS{dir: t.TempDir()}, started(true))
			if rep := s.final(t); rep.Step != wire.StepDone {
				t.Fatalf("final report = %+v; want done", rep)
			}
			if bad.Load() != 0 || wrote.Load() == 0 {
				t.Errorf("a table was there before the end at %d moments (end reached: %d); want 0", bad.Load(), wrote.Load())
			}
			if c.sector == 512 {
				checkDisk(t, d, c.img)
			} else {
				checkBigDisk(t, d, c.img)
			}
		})
	}
}

func TestDeploySurvives(t *testing.T) {
	img := makeImage(t)
	hijack := func(w http.ResponseWriter) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			c.Close()
		}
	}
	data := func(f func(n int, w http.ResponseWriter, r *http.Request) bool) func(int, http.ResponseWriter, *http.Request) bool {
		return func(n int, w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path == "/disk.zst" && f(n, w, r)
		}
	}
	for _, c := range []struct {
		name  string
		fault func(int, http.ResponseWriter, *http.Request) bool
	}{
		{"connections that break after a part", data(func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n%2 == 0 || n > 20 {
				return false
			}
			rec := &cutWriter{ResponseWriter: w, left: 3000}
			http.ServeContent(rec, r, "", time.Time{}, bytes.NewReader(img.data))
			hijack(w)
			return true
		})},
		{"a flipped bit in transit", data(func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n != 2 {
				return false
			}
			b := bytes.Clone(img.data)
			b[img.idx.Chunks[1].Offset+img.idx.Chunks[1].Length/2] ^= 4
			for i := range b {
				if i%5000 == 4999 {
					b[i] ^= 1
				}
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
			return true
		})},
		{"a server that answers 503 for a while", func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 3 {
				return false
			}
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return true
		}},
		{"a server that stalls", data(func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n != 2 {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(img.data)))
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		})},
		{"a server without ranges", data(func(n int, w http.ResponseWriter, r *http.Request) bool {
			w.Write(img.data)
			return true
		})},
		{"a lost answer to every report", func(n int, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == wire.PathReport && n%2 == 1 {
				hijack(w)
				return true
			}
			return false
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newFakeServer(t, img)
			s.fault = c.fault
			s.tasks = []wire.Task{s.deploy("t1")}
			d := newFileDisk(t, diskBytes)
			runAgent(t, s, disksOf(d), &dirFS{dir: t.TempDir()}, func(c *Config) { c.Stall = 200 * time.Millisecond })
			if rep := s.final(t); rep.Step != wire.StepDone {
				t.Fatalf("final report = %+v; want done", rep)
			}
			checkDisk(t, d, img)
		})
	}
}

// cutWriter ends after left bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("cut")
	}
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	if f, ok := c.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	if err == nil && n < len(p) {
		err = errors.New("cut")
	}
	return n, err
}

func TestDeployFails(t *testing.T) {
	img := makeImage(t)
	damaged := packImage(t, bytes.Clone(img.raw), 2)
	for i, c := range damaged.idx.Chunks {
		if i > 1 && !c.Zero {
			damaged.data[c.Offset+c.Length/2] ^= 0xff
			break
		}
	}
	type setup struct {
		s    *fakeServer
		d    *fileDisk
		o    *oneDisk
		task *wire.Deploy
		uefi bool
		// fetch is of what fails for good.
		fetch Retry
	}
	for _, c := range []struct {
		name    string
		edit    func(*setup)
		want    string // part of the error
		touched bool   // whether the disk may have been written
	}{
		{"no such disk", func(x *setup) { x.task.DiskSerial = "S9" }, "no disk has serial S9: this machine has vda", false},
		{"two with the serial", func(x *setup) { x.o.info[1].Serial = "S1" }, "disks vda and vdb all have serial S1", false},
		{"read-only disk", func(x *setup) { x.o.info[0].ReadOnly = true }, "read-only", false},
		{"disk in use", func(x *setup) { x.o.open = errors.New("it is in use") }, "it is in use", false},
		{"disk smaller than the image", func(x *setup) { x.d.size = 20 * mib }, "too small: it has 20 MiB, the image needs 24 MiB", false},
		{"no room for swap", func(x *setup) { x.task.SwapBytes = 40 * mib }, "too small", false},
		{"no room for root", func(x *setup) { x.task.RootBytes = 100 * mib }, "too small: root of 100 MiB", false},
		{"root smaller than the image's", func(x *setup) { x.task.RootBytes = 5 * mib }, "wants a root partition of 5 MiB", false},
		{"sectors of 520 bytes", func(x *setup) { x.d.sector = 520 }, "sectors of 520 bytes; images can be written to", false},
		{"sectors of 4096 bytes and a BIOS", func(x *setup) { x.d.sector = 4096 }, "a BIOS cannot boot from such a disk", false},
		{"sectors of 4096 bytes and no FAT", func(x *setup) { x.d.sector, x.uefi = 4096, true }, "partition (1) there: it has no FAT", false},
		{"wrong index digest", func(x *setup) { x.task.IndexDigest = "sha256:" + strings.Repeat("0", 64) }, "has digest", false},
		{"no index", func(x *setup) { x.task.IndexURL = "/nothing" }, "404", false},
		{"no data", func(x *setup) { x.task.DataURL = "/nothing" }, "404", false},
		{"data from another server", func(x *setup) { x.task.DataURL, x.fetch = "http://127.0.0.1:1/disk.zst", brief }, "connection refused", false},
		{"kernel argument with a blank", func(x *setup) { x.task.KernelArgs = []string{"a b"} }, "kernel argument", false},
		{"seed file that climbs", func(x *setup) { x.task.Files[0].Path = "/../etc/x" }, "not an absolute, clean path", false},
		{"image that is damaged on the server", func(x *setup) { x.s.img = damaged }, "is damaged, 3 times in a row", true},
		{"data that ends early", func(x *setup) {
			short := *img
			short.data = img.data[:len(img.data)/2]
			x.s.img = &short
		}, "is not the one of the index", true},
		{"write error", func(x *setup) {
			x.d.fail = func(op string, off int64) error {
				if op == "write" && off >= 2*mib {
					return unix.EIO
				}
				return nil
			}
		}, "writing to disk vda (serial S1) at byte", true},
		{"flush error", func(x *setup) {
			n := 0
			x.d.fail = func(op string, _ int64) error {
				if op == "sync" {
					if n++; n == 3 {
						return unix.EIO
					}
				}
				return nil
			}
		}, "flushing disk vda", true},
		{"disk that stores a bit wrong", func(x *setup) { x.d.flip = 2*mib + 1500 }, "gives back other bytes", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := &setup{s: newFakeServer(t, img), d: newFileDisk(t, diskBytes)}
			x.o = disksOf(x.d)
			task := x.s.deploy("t1")
			x.task = task.Deploy
			c.edit(x)
			before := sumOf(t, x.d.f.Name())
			x.s.tasks = []wire.Task{task}
			runAgent(t, x.s, x.o, &dirFS{dir: t.TempDir()}, func(c *Config) {
				started(x.uefi)(c)
				if x.fetch != (Retry{}) {
					c.Fetch = x.fetch
				}
			})
			rep := x.s.final(t)
			if rep.Step != wire.StepFailed || !strings.Contains(rep.Error, c.want) {
				t.Errorf("final report = %+v; want failed with %q", rep, c.want)
			}
			if after := sumOf(t, x.d.f.Name()); !c.touched && after != before {
				t.Error("the disk was written; want it untouched")
			}
			if c.touched {
				var head [512]byte
				if _, err := x.d.f.ReadAt(head[:], 512); err != nil || !allZero(head[:]) {
					t.Errorf("a failed deployment left a partition table (%v)", err)
				}
			}
		})
	}
}

func sumOf(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return sum(f)
}
