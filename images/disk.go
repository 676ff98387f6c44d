package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/fettle-dev/fettle/blob"
)

// diskRecipe is part of a disk release's inputs: raise it when the way in
// which an image is made changes.
const diskRecipe = 4

// basePackages are what every image has, so that it boots from BIOS and UEFI,
// configures itself by cloud-init and lets people in by ssh.
var basePackages = []string{
	"linux-image-amd64", "initramfs-tools", "zstd", "systemd-sysv", "dbus", "udev", "kmod",
	"grub2-common", "grub-pc-bin", "grub-efi-amd64-signed", "shim-signed", "e2fsprogs",
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
	a, err := b.openApt(ctx, spec.Name, spec.Suite, spec.Arch, spec.Components)
	if err != nil {
		return Release{}, false, fmt.Errorf("image %s: %w", spec.Name, err)
	}
	defer a.close()
	pkgs, err := a.resolve(ctx, append([]string{"?essential", "apt"}, spec.include()...)...)
	if err != nil {
		return Release{}, false, err
	}
	overlay := imageFiles()
	in, err := inputs(struct {
		Recipe  int
		Spec    DiskSpec
		Sources []Source
		Pkgs    []pkg
		Files   []Entry
		Hook    string
		Exclude []string
	}{diskRecipe, spec, a.sources, pkgs, overlay, initramfsHook(), docExcludes})
	if err != nil {
		return Release{}, false, err
	}
	if r, ok, err := b.cached(ctx, spec.Name, in); err != nil || ok {
		return r, ok, err
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
	out := append(slices.Clone(basePackages), d.Packages...)
	out = slices.DeleteFunc(out, func(p string) bool { return p[len(p)-1] == '-' })
	slices.Sort(out)
	return slices.Compact(out)
}

func (b *Builder) buildDisk(ctx context.Context, a *apt, spec DiskSpec, in blob.Digest, pkgs []pkg, debs map[string]string) (rel Release, err error) {
	dir, _, err := b.workDir("disk")
	if err != nil {
		return Release{}, err
	}
	// The tree in the work folder belongs to mapped users when we are not
	// root, so it is removed in the same way as it was made, also after Ctrl-C.
	defer func() {
		if rerr := b.removeMapped(context.WithoutCancel(ctx), dir); rerr != nil && err == nil {
			err = rerr
		}
	}()
	ids := newIDs(in)
	tarball, err := b.bootstrap(ctx, a, spec, dir, ids, debs)
	if err != nil {
		return Release{}, fmt.Errorf("installing image %s: %w", spec.Name, err)
	}
	b.progress(Progress{Name: spec.Name, Stage: StageDisk, Text: "root file system"})
	root := filepath.Join(dir, "root")
	boot, err := b.unpackRoot(ctx, a, tarball, root, ids)
	if err != nil {
		return Release{}, fmt.Errorf("unpacking image %s: %w", spec.Name, err)
	}
	if err := os.Remove(tarball); err != nil {
		return Release{}, fmt.Errorf("unpacking image %s: %w", spec.Name, err)
	}
	disk := filepath.Join(dir, "disk.raw")
	if err := b.makeDisk(ctx, spec, dir, disk, root, boot, ids); err != nil {
		return Release{}, fmt.Errorf("making the disk of image %s: %w", spec.Name, err)
	}
	files, stats, err := b.packDisk(ctx, spec.Name, disk, rootPart)
	if err != nil {
		return Release{}, fmt.Errorf("compressing image %s: %w", spec.Name, err)
	}
	kernel := ""
	for _, p := range pkgs {
		if m := kernelPackage.FindStringSubmatch(p.Name); m != nil {
			kernel = m[1]
		}
	}
	return b.finish(ctx, Release{Name: spec.Name, Kind: KindDisk, Arch: spec.Arch, Inputs: in, Created: b.now().UTC(), Files: files, Facts: map[string]string{
		"os": spec.OS, "suite": spec.Suite, "kernel": kernel, "packages": strconv.Itoa(len(pkgs)), "root-uuid": ids.root,
		"disk-bytes": strconv.FormatInt(spec.Size, 10), "used-bytes": strconv.FormatInt(stats.used, 10),
	}})
}
