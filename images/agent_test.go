package images

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// koFile is a relocatable ELF file with a section .modinfo and nothing else.
func koFile(info ...string) []byte {
	modinfo := strings.Join(info, "\x00") + "\x00"
	strtab := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	put := func(n int, v uint64) {
		for range n {
			b.WriteByte(byte(v))
			v >>= 8
		}
	}
	off := uint64(64)
	stroff := off + uint64(len(modinfo))
	shoff := stroff + uint64(len(strtab))
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	put(2, 1)  // ET_REL
	put(2, 62) // EM_X86_64
	put(4, 1)
	put(8, 0)
	put(8, 0)
	put(8, shoff)
	put(4, 0)
	put(2, 64)
	put(2, 0)
	put(2, 0)
	put(2, 64)
	put(2, 3)
	put(2, 2)
	b.WriteString(modinfo + strtab)
	section := func(name, typ, off, size uint64) {
		put(4, name)
		put(4, typ)
		put(8, 0)
		put(8, 0)
		put(8, off)
		put(8, size)
		put(4, 0)
		put(4, 0)
		put(8, 1)
		put(8, 0)
	}
	section(0, 0, 0, 0)
	section(1, 1, off, uint64(len(modinfo)))
	section(10, 3, stroff, uint64(len(strtab)))
	return b.Bytes()
}

func TestPickModules(t *testing.T) {
	files := tree{}
	add := func(name, depends string) {
		files["k/"+name+".ko"] = debFile{Path: "k/" + name + ".ko", Data: koFile("license=GPL", "depends="+depends)}
	}
	add("virtio_net", "net-failover,virtio")
	add("net_failover", "failover")
	add("failover", "")
	add("virtio", "")
	add("ext4", "jbd2,crc16")
	add("jbd2", "")
	add("snd", "")
	builtin := []byte("kernel/lib/crc16.ko\nkernel/drivers/nvme-core.ko\n")
	got, err := pickModules(files, builtin, []string{"virtio_net", "ext4", "absent", "nvme_core"}, []string{"ext4", "nvme_core"})
	want := []string{"k/ext4.ko", "k/failover.ko", "k/jbd2.ko", "k/net_failover.ko", "k/virtio.ko", "k/virtio_net.ko"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("pickModules = %v, %v; want %v", got, err, want)
	}
	if _, err := pickModules(files, nil, []string{"ext4"}, nil); err == nil || !strings.Contains(err.Error(), "ext4 depends on crc16") {
		t.Errorf("a dependency that nothing has: %v; want an error that names both", err)
	}
	if _, err := pickModules(files, builtin, []string{"absent"}, []string{"absent"}); err == nil || !strings.Contains(err.Error(), "no module absent") {
		t.Errorf("a module that must be there: %v; want an error that names it", err)
	}
	files["k/bad.ko"] = debFile{Data: []byte("no ELF")}
	if _, err := pickModules(files, builtin, []string{"bad"}, nil); err == nil {
		t.Error("a damaged module: nil; want an error")
	}
	for _, m := range mustModules {
		if !slices.Contains(agentModules, m) {
			t.Errorf("mustModules has %s, which agentModules has not", m)
		}
	}
}

// TestPrograms compares the closure with what ldd says of a program of this
// machine.
func TestPrograms(t *testing.T) {
	needTool(t, "ldd", "dpkg-deb")
	out, err := exec.Command("ldd", "/usr/bin/dpkg-deb").Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("ldd cannot say: %v", err)
		}
		t.Skipf("ldd cannot say: %v", err)
	}
	all := tree{}
	add := func(p string) {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			t.Fatal(err)
		}
		mp := mergedPath(p)
		if mergedPath(real) != mp {
			all[mp] = debFile{Path: mp, Link: "/" + mergedPath(real)}
		}
		all[mergedPath(real)] = debFile{Path: mergedPath(real), Data: []byte(mustRead(t, real))}
	}
	add("/usr/bin/dpkg-deb")
	var lib string
	for line := range strings.Lines(string(out)) {
		for _, f := range strings.Fields(line) {
			if filepath.IsAbs(f) {
				add(f)
				if strings.Contains(f, "libz.so") || lib == "" {
					lib = mergedPath(f)
				}
			}
		}
	}
	got, err := all.programs([]string{"usr/bin/dpkg-deb"})
	if err != nil || len(got) != len(all) {
		t.Errorf("programs = %v, %v; want all %d files that ldd names", got, err, len(all))
	}
	delete(all, lib)
	if _, err := all.programs([]string{"usr/bin/dpkg-deb"}); err == nil || !strings.Contains(err.Error(), filepath.Base(lib)) {
		t.Errorf("programs without %s = %v; want an error that names it", lib, err)
	}
	loop := tree{"a": {Link: "b"}, "b": {Link: "a"}}
	if _, err := loop.programs([]string{"a"}); err == nil {
		t.Error("a loop of links: nil; want an error")
	}
}

// staticELF is any static program of this machine.
func staticELF(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "init")
	src := filepath.Join(t.TempDir(), "main.go")
	mustWrite(t, src, "package main\n\nfunc main() { println(\"fettle-agent test\"); select {} }\n")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, text)
	}
	return []byte(mustRead(t, out))
}

// TestAgentFromDebian builds the real ramdisk twice from this machine's own
// archive: it takes a minute and 85 MB.
func TestAgentFromDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: fetches a kernel")
	}
	needTool(t, "apt-get", "dpkg-deb", "cpio")
	b := testBuilder(t)
	b.AgentELF = staticELF(t)
	first, cached, err := b.Agent(t.Context())
	if errors.Is(err, ErrNoSuite) && os.Getenv("CI") != "true" {
		t.Skipf("this machine has no package archive: %v", err)
	}
	if err != nil || cached {
		t.Fatalf("Agent = %v, %v; want a new release", cached, err)
	}
	if n := first.Size(); n > 35<<20 {
		t.Errorf("kernel and ramdisk have %d bytes; want at most 35 MiB", n)
	}
	debs := b.Cache
	b2 := testBuilder(t)
	b2.AgentELF, b2.Cache = b.AgentELF, debs
	second, cached, err := b2.Agent(t.Context())
	if err != nil || cached || !slices.Equal(first.Files, second.Files) {
		t.Errorf("Agent in another store = %v, %v, %v; want the same files %v", second.Files, cached, err, first.Files)
	}
	f, _ := first.File(FileInitrd)
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	// Up to three zero bytes may follow the frame: see compressRamdisk.
	frame := []byte(mustRead(t, b.Store.Blobs().Path(f.Digest)))
	var archive []byte
	for range 4 {
		if archive, err = dec.DecodeAll(frame, nil); err == nil || frame[len(frame)-1] != 0 {
			break
		}
		frame = frame[:len(frame)-1]
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-it", "--quiet")
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cpio: %v", err)
	}
	list := strings.Split(string(out), "\n")
	mods := "usr/lib/modules/" + first.Facts["kernel"] + "/"
	for _, want := range []string{"init", "usr/sbin/e2fsck", "usr/sbin/resize2fs", "usr/sbin/mkswap", "usr/sbin/modprobe", "usr/lib64/ld-linux-x86-64.so.2",
		mods + "modules.dep.bin", mods + "modules.alias", mods + "kernel/drivers/net/virtio_net.ko", mods + "kernel/drivers/nvme/host/nvme.ko"} {
		if !slices.Contains(list, want) {
			t.Errorf("the ramdisk has no /%s", want)
		}
	}
}
