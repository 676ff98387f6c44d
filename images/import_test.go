package images

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// partitioned makes a raw disk of 64 MiB with an sfdisk script.
func partitioned(t *testing.T, script string) string {
	t.Helper()
	needTool(t, "sfdisk", "qemu-img")
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 * mebi); err != nil {
		t.Fatal(err)
	}
	sfdisk, err := lookTool("sfdisk", "fdisk")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sfdisk, "-q", path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	if _, err := f.WriteAt([]byte("root file system"), 20*mebi); err != nil {
		t.Fatal(err)
	}
	return path
}

// The root partition is number 1 and lies last; the ESP is number 2.
const goodTable = "label: gpt\nstart=32768, size=65536, type=L\nstart=2048, size=16384, type=U\n"

func TestImport(t *testing.T) {
	raw := partitioned(t, goodTable)
	qcow := filepath.Join(t.TempDir(), "disk.qcow2")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	run("qemu-img", "convert", "-O", "qcow2", raw, qcow)
	needTool(t, "zstd")
	zst := filepath.Join(t.TempDir(), "disk.raw.zst")
	run("zstd", "-q", raw, "-o", zst)
	b := testBuilder(t)
	var data []string
	for i, file := range []string{raw, qcow, zst} {
		name := fmt.Sprintf("img%d", i)
		r, cached, err := b.Import(t.Context(), name, amd64, file)
		if err != nil || cached {
			t.Fatalf("Import(%s) = %v, %v; want a new release", file, cached, err)
		}
		if err := b.Store.Verify(t.Context(), r); err != nil {
			t.Errorf("Verify = %v; want nil", err)
		}
		ix, err := b.Store.Index(t.Context(), r)
		if err != nil || ix.RootPart != 1 || ix.Size != 64*mebi {
			t.Errorf("Index = part %d of %d bytes, %v; want part 1 of %d", ix.RootPart, ix.Size, err, 64*mebi)
		}
		data = append(data, ix.Data)
		if _, cached, err := b.Import(t.Context(), name, amd64, file); err != nil || !cached {
			t.Errorf("Import(%s) again = %v, %v; want cached", file, cached, err)
		}
	}
	if data[0] != data[1] || data[0] != data[2] {
		t.Errorf("one disk as raw, qcow2 and zst gives the data %v; want one", data)
	}
	// The same file for other machines is another release.
	if r, cached, err := b.Import(t.Context(), "img0", arm64, raw); err != nil || cached || r.Arch != arm64 {
		t.Errorf("Import for arm64 = %s, %v, %v; want a new release for arm64", r.Arch, cached, err)
	}
	if _, _, err := b.Import(t.Context(), "img0", "riscv64", raw); err == nil || !strings.Contains(err.Error(), "want amd64 or arm64") {
		t.Errorf("Import for riscv64 = %v; want an error that names what there is", err)
	}
	left, err := os.ReadDir(filepath.Join(b.Cache, "work"))
	if err != nil || len(left) != 0 {
		t.Errorf("work holds %v, %v; want nothing", left, err)
	}
}

func TestImportRefuses(t *testing.T) {
	good := partitioned(t, goodTable)
	dir := t.TempDir()
	truncated := filepath.Join(dir, "short.raw")
	mustWrite(t, truncated, mustRead(t, good))
	if err := os.Truncate(truncated, 32*mebi); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "readme")
	mustWrite(t, text, strings.Repeat("not a disk ", 1000))
	empty := filepath.Join(dir, "empty")
	mustWrite(t, empty, "")
	zst := filepath.Join(dir, "bad.zst")
	mustWrite(t, zst, "\x28\xb5\x2f\xfdgarbage")
	overlay := filepath.Join(dir, "overlay.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", good, "-F", "raw", overlay).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	for _, tt := range []struct{ name, image, file, want string }{
		{"name taken", "agent", good, "taken"},
		{"name taken by arm64", "agent-arm64", good, "taken"},
		{"name climbs", "../x", good, "image name"},
		{"no file", "x", filepath.Join(dir, "none"), "no such file"},
		{"a folder", "x", dir, "regular file"},
		{"empty", "x", empty, "too short"},
		{"text", "x", text, "no GUID partition table"},
		{"truncated", "x", truncated, "truncated"},
		{"bad zstd", "x", zst, "decompressing"},
		{"difference", "x", overlay, "qemu-img convert"},
		{"MBR", "x", partitioned(t, "label: dos\nstart=2048, size=16384, type=83\n"), "no GUID partition table"},
		{"no partitions", "x", partitioned(t, "label: gpt\n"), "empty"},
		{"ESP last", "x", partitioned(t, "label: gpt\nstart=2048, size=16384, type=L\nstart=32768, size=16384, type=U\n"), "must lie last"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := testBuilder(t)
			_, _, err := b.Import(t.Context(), tt.image, amd64, tt.file)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Import = %v; want an error with %q", err, tt.want)
			}
			if rs, err := b.Store.List(t.Context()); err != nil || len(rs) != 0 {
				t.Errorf("the store holds %v, %v; want nothing", rs, err)
			}
			if left, err := os.ReadDir(filepath.Join(b.Cache, "work")); len(left) != 0 && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("work holds %v; want nothing", left)
			}
		})
	}
}

func FuzzLastPartition(f *testing.F) {
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, in []byte) {
		path := filepath.Join(t.TempDir(), "d")
		mustWrite(t, path, string(in))
		n, err := lastPartition(path)
		if err == nil && (n < 1 || n > 1024) {
			t.Errorf("lastPartition = %d; want 1 to 1024", n)
		}
	})
}
