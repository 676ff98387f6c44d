package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/fettle-dev/fettle/agent/wire"
)

// needTool skips where a tool is missing, and fails there in CI.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed: CI needs it", n)
			}
			t.Skipf("%s is not installed", n)
		}
	}
}

// testImage is a disk of two partitions (EFI, root with a real ext4), made by
// sfdisk and mke2fs, and its index and data.
type testImage struct {
	raw, data, index []byte
	idx              wire.ImageIndex
}

const testChunk = 64 << 10

// testFAT is an EFI system partition as images have it but for its size:
// FAT16, since FAT32 would have 256 MiB at least. A file in it fills more than
// one cluster.
func testFAT(t *testing.T, bytes int64, args ...string) []byte {
	t.Helper()
	needTool(t, "mkfs.vfat", "fsck.vfat", "mcopy", "mmd")
	t.Setenv("MTOOLSRC", os.DevNull)
	t.Setenv("MTOOLS_SKIP_CHECK", "1")
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000") // the files' times
	dir := t.TempDir()
	fat, file := filepath.Join(dir, "fat"), filepath.Join(dir, "file")
	must(t, os.WriteFile(fat, nil, 0o600))
	must(t, os.Truncate(fat, bytes))
	must(t, os.WriteFile(file, espFile, 0o600))
	tool(t, "", "mkfs.vfat", append(append([]string{"--invariant", "-n", "ESP", "-i", "12345678"}, args...), fat)...)
	tool(t, "", "mmd", "-i", fat, "::/EFI", "::/EFI/BOOT")
	tool(t, "", "mcopy", "-i", fat, file, "::/EFI/BOOT/BOOTX64.EFI")
	b, err := os.ReadFile(fat)
	must(t, err)
	return b
}

var espFile = bytes.Repeat([]byte("loader "), 3000)

// checkFAT lets fsck.vfat and mtools read a file system that testFAT made.
func checkFAT(t *testing.T, fat []byte) {
	t.Helper()
	dir := t.TempDir()
	name, file := filepath.Join(dir, "fat"), filepath.Join(dir, "file")
	must(t, os.WriteFile(name, fat, 0o600))
	if out := tool(t, "", "fsck.vfat", "-n", "-v", name); !strings.Contains(out, "4096 bytes per logical sector") || !strings.Contains(out, "4096 bytes per cluster") {
		t.Errorf("fsck.vfat = %s; want sectors of 4096 bytes", out)
	}
	tool(t, "", "mcopy", "-i", name, "::/EFI/BOOT/BOOTX64.EFI", file)
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, espFile) {
		t.Errorf("mcopy gives %d bytes (%v); want the %d that were put there", len(got), err, len(espFile))
	}
}

func makeImage(t *testing.T) *testImage {
	t.Helper()
	return makeImageWith(t, make([]byte, mib))
}

// makeImageWith makes an image with an EFI system partition of these bytes.
func makeImageWith(t *testing.T, esp []byte) *testImage {
	t.Helper()
	needTool(t, "sfdisk", "mke2fs", "resize2fs", "e2fsck", "mkswap")
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 23*mib+int64(len(esp))); err != nil {
		t.Fatal(err)
	}
	tool(t, fmt.Sprintf("label: gpt\nstart=2048, size=%d, type=U\ntype=L\n", len(esp)/gptSector), "sfdisk", "-q", img)
	raw, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	tab, err := parseTable(raw, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	root := tab.partitions()[1]
	fs := filepath.Join(dir, "fs")
	if err := os.WriteFile(fs, make([]byte, root.Bytes), 0o600); err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(dir, "src")
	if err := os.MkdirAll(filepath.Join(src, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if err := os.WriteFile(filepath.Join(src, "data", fmt.Sprint(i)), bytes.Repeat(fmt.Appendf(nil, "file %d of the root file system\n", i), 4000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-d", src, fs)
	b, err := os.ReadFile(fs)
	if err != nil {
		t.Fatal(err)
	}
	copy(raw[root.Start:], b)
	copy(raw[mib:], esp)
	copy(raw[:440], "boot code")
	return packImage(t, raw, 2)
}

func packImage(t *testing.T, raw []byte, root int) *testImage {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	m := &testImage{raw: raw, idx: wire.ImageIndex{Version: 1, Size: int64(len(raw)), ChunkSize: testChunk, RootPart: root}}
	for off := 0; off < len(raw); off += testChunk {
		c := raw[off:min(off+testChunk, len(raw))]
		f := enc.EncodeAll(c, nil)
		chunk := wire.Chunk{Offset: int64(len(m.data)), Length: int64(len(f)), Raw: digestOf(c), Zero: allZero(c)}
		if len(m.idx.Chunks)%2 == 0 { // both kinds of digests
			chunk.Frame = digestOf(f)
		}
		m.idx.Chunks = append(m.idx.Chunks, chunk)
		m.data = append(m.data, f...)
	}
	m.idx.DataSize, m.idx.Data = int64(len(m.data)), digestOf(m.data)
	if m.index, err = json.Marshal(m.idx); err != nil {
		t.Fatal(err)
	}
	return m
}

func tool(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewBufferString(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// fileDisk is a Disk in a file, with partitions that are files beside it and
// are copied back when the table is read again. fail makes operations fail.
type fileDisk struct {
	f      *os.File
	size   int64
	sector int
	fail   func(op string, off int64) error
	flip   int64 // the byte that a bad disk stores wrong; 0 = none

	mu    sync.Mutex
	parts map[string]filePart
	log   []string // order of writes: "zero", "write 0", "sync"
}

// filePart is a partition that is a file beside the disk.
type filePart struct {
	Partition
	sum string // of what was in it
}

func newFileDisk(t *testing.T, size int64) *fileDisk {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	// What was on it before: an old table, and bytes everywhere.
	if _, err := f.Write(bytes.Repeat([]byte("old data "), int(size/9)+1)[:size]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &fileDisk{f: f, size: size, sector: 512}
}

func (d *fileDisk) op(op string, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf("%s %d", op, off))
	if d.fail != nil {
		return d.fail(op, off)
	}
	return nil
}

func (d *fileDisk) Size() int64     { return d.size }
func (d *fileDisk) SectorSize() int { return d.sector }
func (d *fileDisk) Close() error    { return nil }
func (d *fileDisk) Sync() error     { return d.op("sync", 0) }
func (d *fileDisk) Discard() error  { return errors.New("not here") }
func (d *fileDisk) ReadAt(p []byte, off int64) (int, error) {
	if err := d.op("read", off); err != nil {
		return 0, err
	}
	return d.f.ReadAt(p, off)
}

func (d *fileDisk) WriteAt(p []byte, off int64) (int, error) {
	if n := int64(d.sector); off%n != 0 || int64(len(p))%n != 0 || off+int64(len(p)) > d.size {
		return 0, fmt.Errorf("write of %d bytes at %d is out of bounds or not aligned", len(p), off)
	}
	if err := d.op("write", off); err != nil {
		return 0, err
	}
	if d.flip > off && d.flip < off+int64(len(p)) {
		p = bytes.Clone(p)
		p[d.flip-off] ^= 1
	}
	return d.f.WriteAt(p, off)
}

func (d *fileDisk) Zero(off, n int64) error {
	if err := d.op("zero", off); err != nil {
		return err
	}
	_, err := d.f.WriteAt(make([]byte, n), off)
	return err
}

func (d *fileDisk) Partitions(ps []Partition) ([]string, error) {
	d.parts = map[string]filePart{}
	var paths []string
	for _, p := range ps {
		b := make([]byte, p.Bytes)
		if _, err := d.f.ReadAt(b, p.Start); err != nil {
			return nil, err
		}
		name := fmt.Sprintf("%s-%d", d.f.Name(), p.Number)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			return nil, err
		}
		d.parts[name] = filePart{p, digestOf(b)}
		paths = append(paths, name)
	}
	return paths, nil
}

func (d *fileDisk) Reread() error {
	for name, p := range d.parts {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if digestOf(b) == p.sum {
			continue // as the kernel writes nothing of a partition that nobody wrote to
		}
		if _, err := d.f.WriteAt(b, p.Start); err != nil {
			return err
		}
	}
	return nil
}

// oneDisk is Disks of one fileDisk.
type oneDisk struct {
	info []wire.Disk
	disk *fileDisk
	open error
	more map[string]*fileDisk // others by serial
}

func (o *oneDisk) List() ([]wire.Disk, error) { return o.info, nil }
func (o *oneDisk) Open(d wire.Disk) (Disk, error) {
	if x := o.more[d.Serial]; x != nil {
		return x, o.open
	}
	return o.disk, o.open
}

func disksOf(d *fileDisk) *oneDisk {
	return &oneDisk{disk: d, info: []wire.Disk{{Name: "vda", Serial: "S1", Bytes: d.size}, {Name: "vdb", Serial: "S2", Bytes: 1 << 40}}}
}

// mdBytes is what a mirror takes of its members' ends.
const mdBytes = 128 << 10

// dirFS does the real tools on files, and "mounts" a directory. Its mirror is a
// file that is shorter than its members, to which it is copied in the end.
type dirFS struct {
	Tools
	dir      string
	unmounts int
	arrays   []string // made by Mirror
}

func (d *dirFS) Mirror(_ context.Context, name string, devs []string) (string, func() error, error) {
	var members [][]byte
	for _, dev := range devs {
		b, err := os.ReadFile(dev)
		if err != nil {
			return "", nil, err
		}
		members = append(members, b)
	}
	n := min(len(members[0]), len(members[1])) - mdBytes
	array := devs[0] + "-" + name
	if err := os.WriteFile(array, members[0][:n], 0o600); err != nil {
		return "", nil, err
	}
	d.arrays = append(d.arrays, name)
	return array, func() error {
		b, err := os.ReadFile(array)
		if err != nil {
			return err
		}
		for i, dev := range devs {
			copy(members[i], b)
			copy(members[i][n:], "md superblock")
			if err := os.WriteFile(dev, members[i], 0o600); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func (d *dirFS) Mount(context.Context, string) (string, func() error, error) {
	return d.dir, func() error { d.unmounts++; return nil }, nil
}

// fakeServer is the server's side of the protocol, with faults.
type fakeServer struct {
	*httptest.Server
	t   *testing.T
	img *testImage

	mu          sync.Mutex
	tasks       []wire.Task // handed out in turn; the last one again and again
	reports     []wire.Report
	inventories int
	auth        []string
	got         chan wire.Report // final reports
	// fault may answer a request itself (true) before it is served; n counts
	// requests of this path from 1.
	fault func(n int, w http.ResponseWriter, r *http.Request) bool
	calls map[string]int
}

func newFakeServer(t *testing.T, img *testImage) *fakeServer {
	s := &fakeServer{t: t, img: img, got: make(chan wire.Report, 100), calls: map[string]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls[r.URL.Path]++
	n := s.calls[r.URL.Path]
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	fault := s.fault
	s.mu.Unlock()
	if fault != nil && fault(n, w, r) {
		return
	}
	switch r.URL.Path {
	case wire.PathInventory:
		s.mu.Lock()
		s.inventories++
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case wire.PathTask:
		s.mu.Lock()
		defer s.mu.Unlock()
		task := wire.Task{Kind: wire.TaskWait}
		if len(s.tasks) > 0 {
			task = s.tasks[0]
			if len(s.tasks) > 1 {
				s.tasks = s.tasks[1:]
			}
		}
		if err := json.NewEncoder(w).Encode(task); err != nil {
			s.t.Error(err)
		}
	case wire.PathReport:
		var rep wire.Report
		if err := json.NewDecoder(r.Body).Decode(&rep); err != nil {
			s.t.Error(err)
		}
		s.mu.Lock()
		s.reports = append(s.reports, rep)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		if isFinal(rep.Step) {
			select {
			case s.got <- rep:
			default:
			}
		}
	case "/index.json":
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.img.index))
	case "/disk.zst":
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.img.data))
	default:
		http.NotFound(w, r)
	}
}

func (s *fakeServer) deploy(id string) wire.Task {
	return wire.Task{ID: id, Kind: wire.TaskDeploy, Deploy: &wire.Deploy{
		DiskSerial: "S1", IndexURL: s.URL + "/index.json", IndexDigest: digestOf(s.img.index), DataURL: "/disk.zst",
		SwapBytes: 2 * mib, KernelArgs: []string{"console=ttyS0"},
		Files: []wire.SeedFile{{Path: "/etc/hostname", Mode: 0o644, Content: []byte("gpu-01\n")}},
	}}
}

// brief is for tests in which fetching fails for good. Elsewhere nothing gives
// up: on a machine that is busy, a fetch that is well takes longer than that.
var brief = Retry{Min: time.Millisecond, Max: 5 * time.Millisecond, GiveUp: 300 * time.Millisecond}

// runAgent runs an agent against s until the test ends.
func runAgent(t *testing.T, s *fakeServer, disks Disks, fs FileSystems, edit func(*Config)) {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Server: u, Token: "tok", Disks: disks, FileSystems: fs, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Inventory: func() (wire.Inventory, error) { return wire.Inventory{Agent: "test"}, nil },
		Talk:      Retry{Min: time.Millisecond, Max: 5 * time.Millisecond}, Fetch: Retry{Min: time.Millisecond, Max: 5 * time.Millisecond}, Every: time.Millisecond}
	if edit != nil {
		edit(&c)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run() = %v; want %v", err, context.Canceled)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run did not end within 10 s of its context")
		}
	})
}

func (s *fakeServer) final(t *testing.T) wire.Report {
	t.Helper()
	select {
	case r := <-s.got:
		return r
	case <-time.After(30 * time.Second):
		t.Fatal("no final report within 30 s")
		return wire.Report{}
	}
}

func sum(r io.Reader) string {
	h := sha256.New()
	io.Copy(h, r)
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}
