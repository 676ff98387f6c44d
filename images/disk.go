package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/site"
)

// diskRecipe is part of a disk release's inputs: raise it when the way in
// which an image is made changes.
const diskRecipe = 6

// basePackages are what every image has beside the boot loaders of its
// architecture: it configures itself by cloud-init and lets people in by ssh.
var basePackages = []string{
	"initramfs-tools", "zstd", "systemd-sysv", "dbus", "udev", "kmod",
	"grub2-common", "shim-signed", "e2fsprogs",
	"cloud-init", "netplan.io", "systemd-resolved", "systemd-timesyncd", "openssh-server", "sudo", "curl", "ca-certificates",
	"iproute2", "iputils-ping", "procps", "pciutils", "less", "vim-tiny", "mount", "passwd", "login", "tzdata",
}

// Disk makes the OS image that spec asks for. cached tells that nothing had to
// be built.
func (b *Builder) Disk(ctx context.Context, spec DiskSpec) (rel Release, cached bool, err error) {
	spec = spec.withDefaults()
	if err := spec.check(); err != nil {
		return Release{}, false, err
	}
	if spec.OS == site.OSHost {
		h, err := b.host()
		if err != nil {
			return Release{}, false, fmt.Errorf("image %s: %w", spec.Name, err)
		}
		spec = spec.onHost(h)
	}
	a, err := b.openApt(ctx, spec.Name, spec.Suite, spec.Arch, spec.Components, spec.Sources)
	if err != nil {
		return Release{}, false, fmt.Errorf("image %s: %w", spec.Name, err)
	}
	defer a.close()
	pkgs, err := a.resolve(ctx, append([]string{"?essential", "apt"}, spec.include()...)...)
	if err != nil {
		return Release{}, false, fmt.Errorf("%w; see that the suite %s has them, in the components of the image (components: in the site file)", err, spec.Suite)
	}
	inputSpec := spec
	inputSpec.Sources = nil // they are among apt's
	in, err := inputs(struct {
		Recipe  int
		Spec    DiskSpec
		Sources []Source
		Pkgs    []pkg
		Files   []Entry
		Hook    string
		Exclude []string
	}{diskRecipe, inputSpec, a.sources, pkgs, imageFiles(spec.Arch), initramfsHook(spec.Arch), spec.excludes()})
	if err != nil {
		return Release{}, false, err
	}
	if r, ok, err := b.cached(ctx, spec.Name, in); err != nil || ok {
		return r, ok, err
	}
	if err := b.checkMapped(ctx); err != nil {
		return Release{}, false, fmt.Errorf("image %s: %w", spec.Name, err)
	}
	if err := b.checkArch(ctx, spec.Arch); err != nil {
		return Release{}, false, fmt.Errorf("image %s: %w", spec.Name, err)
	}
	debs, err := a.download(ctx, pkgs)
	if err != nil {
		return Release{}, false, err
	}
	rel, err = b.buildDisk(ctx, a, spec, in, pkgs, debs)
	return rel, false, err
}

// include is the list of packages that are asked for by name.
func (d DiskSpec) include() []string {
	out := append(slices.Clone(basePackages), archs[d.Arch].packages...)
	out = append(out, d.Packages...)
	out = append(out, d.kernel())
	lacks := distros[d.OS].lacks[d.Suite]
	out = slices.DeleteFunc(out, func(p string) bool { return p[len(p)-1] == '-' || slices.Contains(lacks, p) })
	slices.Sort(out)
	return slices.Compact(out)
}

func (d DiskSpec) kernel() string {
	if d.Kernel != "" {
		return d.Kernel
	}
	return distros[d.OS].kernels[d.Arch]
}

// excludes are the paths that dpkg does not unpack, wherever a package puts
// /lib: Debian 13's kernels have their modules in /usr/lib.
func (d DiskSpec) excludes() []string {
	var out []string
	for _, x := range append(slices.Clone(docExcludes), distros[d.OS].exclude...) {
		out = append(out, x)
		if strings.HasPrefix(x, "/lib/") {
			out = append(out, "/usr"+x)
		}
	}
	return out
}

func (b *Builder) buildDisk(ctx context.Context, a *apt, spec DiskSpec, in blob.Digest, pkgs []pkg, debs map[string]string) (rel Release, err error) {
	dir, remove, err := b.workDir("disk")
	if err != nil {
		return Release{}, err
	}
	defer func() {
		if rerr := remove(); rerr != nil && err == nil {
			err = rerr
		}
	}()
	// The tree belongs to mapped users when we are not root, so it is removed in
	// the same way as it was made, also after Ctrl-C.
	trees, err := newMappedDir(filepath.Join(b.Cache, "work"))
	if err != nil {
		return Release{}, err
	}
	defer func() {
		if rerr := trees.remove(context.WithoutCancel(ctx), b); rerr != nil && err == nil {
			err = rerr
		}
	}()
	ids := newIDs(in)
	tarball, err := b.bootstrap(ctx, a, spec, dir, ids, debs)
	if err != nil {
		return Release{}, fmt.Errorf("installing image %s: %w", spec.Name, err)
	}
	b.progress(Progress{Name: spec.Name, Stage: StageDisk, Text: "root file system"})
	root := filepath.Join(trees.path, "root")
	boot, err := b.unpackRoot(ctx, a, spec, tarball, root, ids)
	if err != nil {
		return Release{}, fmt.Errorf("unpacking image %s: %w", spec.Name, err)
	}
	if err := os.Remove(tarball); err != nil {
		return Release{}, fmt.Errorf("unpacking image %s: %w", spec.Name, err)
	}
	disk := filepath.Join(trees.path, "disk.raw")
	if err := b.makeDisk(ctx, spec, dir, trees, disk, root, boot, ids); err != nil {
		return Release{}, fmt.Errorf("making the disk of image %s: %w", spec.Name, err)
	}
	files, stats, err := b.packDisk(ctx, spec.Name, disk, rootPart(spec.Arch))
	if err != nil {
		return Release{}, fmt.Errorf("compressing image %s: %w", spec.Name, err)
	}
	kernel, _ := findKernel(pkgs)
	return b.finish(ctx, Release{Name: spec.Name, Kind: KindDisk, Arch: spec.Arch, Inputs: in, Created: b.now().UTC(), Files: files, Facts: map[string]string{
		"os": spec.OS, "suite": spec.Suite, "kernel": kernel, "packages": strconv.Itoa(len(pkgs)), "root-uuid": ids.root,
		"disk-bytes": strconv.FormatInt(spec.Size, 10), "used-bytes": strconv.FormatInt(stats.used, 10),
	}})
}
