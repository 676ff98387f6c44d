package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// agentRecipe is part of an agent release's inputs: raise it when the way in
// which a ramdisk is put together changes.
const agentRecipe = 4

// agentTools are the packages whose programs the agent runs, and the programs.
var agentTools = map[string][]string{
	"fdisk":          {"usr/sbin/sfdisk"},
	"e2fsprogs":      {"usr/sbin/mke2fs", "usr/sbin/mkfs.ext4", "usr/sbin/e2fsck", "usr/sbin/fsck.ext4", "usr/sbin/resize2fs", "usr/sbin/tune2fs", "usr/sbin/dumpe2fs"},
	"mdadm":          {"usr/sbin/mdadm"},
	"util-linux":     {"usr/sbin/mkswap", "usr/sbin/blkid", "usr/sbin/blkdiscard", "usr/sbin/wipefs", "usr/sbin/blockdev", "usr/bin/lsblk"},
	"dosfstools":     {"usr/sbin/mkfs.fat", "usr/sbin/mkfs.vfat", "usr/sbin/fsck.fat"},
	"kmod":           {"usr/bin/kmod", "usr/sbin/modprobe", "usr/sbin/depmod", "usr/sbin/insmod", "usr/sbin/rmmod", "usr/sbin/lsmod", "usr/sbin/modinfo"},
	"busybox-static": {"usr/bin/busybox"},
}

// Agent makes the release "agent" for amd64, see AgentFor.
func (b *Builder) Agent(ctx context.Context) (rel Release, cached bool, err error) {
	return b.AgentFor(ctx, amd64)
}

// AgentFor makes the release [AgentName] of an architecture: the kernel, and
// the ramdisk whose init is the agent. cached tells that nothing had to be
// built. Equal packages and an equal agent give equal bytes.
func (b *Builder) AgentFor(ctx context.Context, arch string) (rel Release, cached bool, err error) {
	elf, err := b.agentELF(arch)
	if err != nil {
		return Release{}, false, err
	}
	name := AgentName(arch)
	indexer, err := b.indexerFor(ctx, name, arch)
	if err != nil {
		return Release{}, false, err
	}
	a, err := b.openHostApt(ctx, name, arch)
	if err != nil {
		return Release{}, false, err
	}
	defer a.close()
	host, err := b.host()
	if err != nil {
		return Release{}, false, err
	}
	tools, err := a.resolve(ctx, sortedKeys(agentTools)...)
	if err != nil {
		return Release{}, false, err
	}
	general := distros[host.OS].kernels[arch]
	withKernel, err := a.resolve(ctx, general)
	if err != nil {
		return Release{}, false, err
	}
	version, kernel := findKernel(withKernel)
	if version == "" {
		return Release{}, false, fmt.Errorf("package %s leads to no package linux-image-VERSION; the agent needs the general kernel of %s", general, distros[host.OS].title)
	}
	sum := sha256.Sum256(elf)
	in, err := inputs(struct {
		Recipe  int
		Agent   string
		Kernel  []pkg
		Tools   []pkg
		Modules []string
	}{agentRecipe, hex.EncodeToString(sum[:]), kernel, tools, agentModules})
	if err != nil {
		return Release{}, false, err
	}
	if r, ok, err := b.cached(ctx, name, in); err != nil || ok {
		return r, ok, err
	}
	debs, err := a.download(ctx, append(slices.Clone(kernel), tools...))
	if err != nil {
		return Release{}, false, err
	}
	rel, err = b.buildAgent(ctx, Release{Name: name, Kind: KindAgent, Arch: arch, Inputs: in}, elf, version, kernel, tools, debs, indexer)
	return rel, false, err
}

// openHostApt is apt for the machine's own suite, or the builder's.
func (b *Builder) openHostApt(ctx context.Context, name, arch string) (*apt, error) {
	h, err := b.host()
	if err != nil {
		return nil, err
	}
	return b.openApt(ctx, name, h.Suite, arch, nil, nil)
}

func (b *Builder) buildAgent(ctx context.Context, r Release, elf []byte, version string, kernel, tools []pkg, debs map[string]string, indexer tree) (Release, error) {
	b.progress(Progress{Name: r.Name, Stage: StageUnpack})
	kern := tree{}
	for _, p := range kernel {
		err := b.readDeb(ctx, debs[p.Name], func(p string) bool {
			return p == "boot/vmlinuz-"+version || strings.HasPrefix(p, "usr/lib/modules/"+version+"/")
		}, func(f debFile) error {
			if !f.Dir {
				kern[f.Path] = f
			}
			return nil
		})
		if err != nil {
			return Release{}, err
		}
	}
	vmlinuz, ok := kern["boot/vmlinuz-"+version]
	if !ok {
		return Release{}, fmt.Errorf("none of the packages %s has /boot/vmlinuz-%s", packageNames(kernel), version)
	}
	user := tree{}
	for _, p := range tools {
		err := b.readDeb(ctx, debs[p.Name], wantTool, func(f debFile) error {
			if !f.Dir {
				user[f.Path] = f
			}
			return nil
		})
		if err != nil {
			return Release{}, err
		}
	}
	entries, count, err := b.ramdisk(ctx, elf, version, kern, user, indexer)
	if err != nil {
		return Release{}, err
	}
	b.progress(Progress{Name: r.Name, Stage: StageCompress})
	initrd, raw, err := compressRamdisk(entries)
	if err != nil {
		return Release{}, err
	}
	r.Created, r.Facts = b.now().UTC(), map[string]string{
		"kernel": version, "kernel-package": packageNames(kernel),
		"modules": strconv.Itoa(count), "unpacked": strconv.FormatInt(raw, 10), "packages": strconv.Itoa(len(tools) + len(kernel)),
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{FileKernel, vmlinuz.Data}, {FileInitrd, initrd}} {
		file, err := b.putBytes(ctx, f.name, f.data)
		if err != nil {
			return Release{}, err
		}
		r.Files = append(r.Files, file)
	}
	return b.finish(ctx, r)
}

// packageNames names packages and their versions.
func packageNames(pkgs []pkg) string {
	var out []string
	for _, p := range pkgs {
		out = append(out, p.Name+" "+p.Version)
	}
	return strings.Join(out, ", ")
}

// finish keeps a release that was built.
func (b *Builder) finish(ctx context.Context, r Release) (Release, error) {
	if err := b.Store.Add(ctx, r); err != nil {
		return Release{}, err
	}
	if err := b.Store.choose(r, b.now()); err != nil {
		return Release{}, err
	}
	b.progress(Progress{Name: r.Name, Stage: StageDone, Done: r.Size(), Total: r.Size()})
	return r, nil
}

// wantTool keeps what a program may need of a package: programs and shared
// libraries, and the one configuration file that mke2fs reads.
func wantTool(p string) bool {
	dir, base := path.Split(p)
	switch dir {
	case "usr/bin/", "usr/sbin/":
		return true
	case "usr/lib/", "usr/lib64/", "usr/lib/x86_64-linux-gnu/", "usr/lib/aarch64-linux-gnu/":
		return strings.Contains(base, ".so")
	}
	return p == "etc/mke2fs.conf"
}

// ramdisk lists what is in the agent's root.
func (b *Builder) ramdisk(ctx context.Context, elf []byte, version string, kern, user, indexer tree) ([]Entry, int, error) {
	var programs []string
	for _, name := range sortedKeys(agentTools) {
		programs = append(programs, agentTools[name]...)
	}
	files, err := user.programs(programs)
	if err != nil {
		return nil, 0, fmt.Errorf("putting together the agent's ramdisk: %w", err)
	}
	moddir := "usr/lib/modules/" + version
	mods, err := pickModules(kern, kern[moddir+"/modules.builtin"].Data, agentModules, mustModules)
	if err != nil {
		return nil, 0, err
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		if _, ok := kern[moddir+"/"+name]; ok {
			mods = append(mods, moddir+"/"+name)
		}
	}
	if indexer == nil {
		indexer = user
	}
	indexes, err := b.depmod(ctx, version, kern, mods, indexer)
	if err != nil {
		return nil, 0, err
	}
	var out []Entry
	for _, p := range files {
		out = append(out, entry(user[p]))
	}
	count := 0
	for _, p := range mods {
		out = append(out, entry(kern[p]))
		if moduleName(p) != "" {
			count++
		}
	}
	out = append(out, indexes...)
	if conf, ok := user["etc/mke2fs.conf"]; ok {
		out = append(out, entry(conf))
	}
	return append(out, skeleton(elf)...), count, nil
}

func entry(f debFile) Entry {
	return Entry{Path: f.Path, Mode: uint32(f.Mode), Link: f.Link, Data: f.Data}
}

// shellApplets are the programs of busybox that a person at the rescue shell
// looks for; none is the name of a program that a package brings.
const shellApplets = "sh ash cat chmod chown clear cp cut date dd df dmesg du echo env find free getopt grep gunzip gzip head hexdump hostname " +
	"id ip kill killall less ln ls md5sum mkdir mknod more mount mv nc nslookup ping pidof ps pwd reset rm rmdir sed sha256sum sleep sort " +
	"stty sync tail tar tee test top touch tr traceroute true false udhcpc umount uname uniq uptime vi watch wc wget which xargs zcat"

// skeleton is the part of the ramdisk that comes from no package.
func skeleton(elf []byte) []Entry {
	out := []Entry{
		{Path: "init", Mode: 0o755, Data: elf},
		{Path: "usr/bin/fettle-agent", Link: "/init"},
		{Path: "dev/console", Mode: 0o600, Dev: true, Major: 5, Minor: 1},
		{Path: "dev/null", Mode: 0o666, Dev: true, Major: 1, Minor: 3},
		{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\n")},
		{Path: "etc/mtab", Link: "/proc/self/mounts"},
	}
	for _, d := range []string{"dev", "etc/fettle", "mnt", "proc", "run", "sys", "usr/lib64", "var/lib"} {
		out = append(out, Entry{Path: d, Dir: true, Mode: 0o755})
	}
	out = append(out, Entry{Path: "root", Dir: true, Mode: 0o700}, Entry{Path: "tmp", Dir: true, Mode: 0o1777})
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		out = append(out, Entry{Path: d, Link: "usr/" + d})
	}
	for _, name := range strings.Fields(shellApplets) {
		out = append(out, Entry{Path: "usr/bin/" + name, Link: "busybox"})
	}
	return out
}

// indexerFor is the programs of this machine's architecture that index the
// modules of another one's kernel: depmod reads those of all. It is nil where
// the ramdisk's own run here.
func (b *Builder) indexerFor(ctx context.Context, name, arch string) (tree, error) {
	if arch == runtime.GOARCH {
		return nil, nil
	}
	a, err := b.openHostApt(ctx, name, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	defer a.close()
	pkgs, err := a.resolve(ctx, "kmod")
	if err != nil {
		return nil, err
	}
	debs, err := a.download(ctx, pkgs)
	if err != nil {
		return nil, err
	}
	out := tree{}
	for _, p := range pkgs {
		err := b.readDeb(ctx, debs[p.Name], wantTool, func(f debFile) error {
			if !f.Dir {
				out[f.Path] = f
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// depmod runs the depmod of the fetched kmod package, by its own loader and
// libraries, over the modules that were picked: nothing of this machine's
// goes into the result. It returns the index files.
func (b *Builder) depmod(ctx context.Context, version string, kern tree, mods []string, user tree) ([]Entry, error) {
	libs, ok := map[string]string{amd64: libDirs[0], arm64: libDirs[1]}[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("the agent's ramdisk can be built on an amd64 or arm64 machine only; this one is %s", runtime.GOARCH)
	}
	files, err := user.programs([]string{"usr/bin/kmod", "usr/sbin/depmod"})
	if err != nil {
		return nil, fmt.Errorf("indexing kernel modules: %w", err)
	}
	dir, remove, err := b.workDir("depmod")
	if err != nil {
		return nil, err
	}
	defer remove()
	write := func(p string, f debFile) error {
		to := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if f.Link != "" {
			file, _, err := user.resolve(p)
			if err != nil {
				return err
			}
			f = user[file]
		}
		return os.WriteFile(to, f.Data, 0o755)
	}
	for _, p := range mods {
		// depmod wants DIR/lib/modules.
		if err := write(strings.TrimPrefix(p, "usr/"), kern[p]); err != nil {
			return nil, fmt.Errorf("indexing kernel modules: %w", err)
		}
	}
	var loader string
	for _, p := range files {
		if strings.Contains(path.Base(p), "ld-linux-") {
			loader = filepath.Join(dir, "run", p)
		}
		to := filepath.Join("run", p)
		f := user[p]
		if f.Link != "" {
			file, _, err := user.resolve(p)
			if err != nil {
				return nil, fmt.Errorf("indexing kernel modules: %w", err)
			}
			f = user[file]
			f.Link = ""
		}
		if err := write(to, f); err != nil {
			return nil, fmt.Errorf("indexing kernel modules: %w", err)
		}
	}
	if loader == "" {
		return nil, fmt.Errorf("indexing kernel modules: the packages have no program loader (ld-linux)")
	}
	err = b.run(ctx, tool{args: []string{loader, "--library-path", filepath.Join(dir, "run", libs),
		filepath.Join(dir, "run/usr/sbin/depmod"), "-b", dir, version}})
	if err != nil {
		return nil, fmt.Errorf("indexing kernel modules: %w", err)
	}
	var out []Entry
	moddir := filepath.Join(dir, "lib/modules", version)
	names, err := filepath.Glob(filepath.Join(moddir, "modules.*"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		base := filepath.Base(name)
		if base == "modules.builtin" || base == "modules.builtin.modinfo" || base == "modules.order" {
			continue // of the package
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("indexing kernel modules: %w", err)
		}
		out = append(out, Entry{Path: "usr/lib/modules/" + version + "/" + base, Mode: 0o644, Data: data})
	}
	return out, nil
}

// compressRamdisk makes a zstd ramdisk and tells its unpacked size. One
// encoder goroutine: the same bytes every time.
func compressRamdisk(entries []Entry) ([]byte, int64, error) {
	var out bytes.Buffer
	enc, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, 0, fmt.Errorf("compressing the ramdisk: %w", err)
	}
	cw := &countWriter{w: enc}
	if err := WriteCPIO(cw, entries); err != nil {
		return nil, 0, err
	}
	if err := enc.Close(); err != nil {
		return nil, 0, fmt.Errorf("compressing the ramdisk: %w", err)
	}
	// Other ramdisks follow this one in memory, and the kernel takes an
	// uncompressed archive only at a multiple of 4 (init/initramfs.c,
	// unpack_to_rootfs). BIOS loaders align them; the kernel's EFI stub was seen
	// not to (Debian 6.1, 2026-11-21: the site's CA was lost).
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
	return out.Bytes(), cw.n, nil
}
