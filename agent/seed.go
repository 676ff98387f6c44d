package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/agent/wire"
)

// Files that carry the kernel arguments into the installed OS: see
// wire.Deploy.KernelArgs.
const (
	grubArgsPath    = "/boot/grub/fettle-args.cfg"
	grubDefaultPath = "/etc/default/grub.d/50-fettle.cfg"
)

// seed grows the root file system and writes the machine's own files into it.
func (d *deployment) seed(ctx context.Context) error {
	d.report(wire.StepSeed, "growing the root file system", 0, 0)
	root, swap, stop, err := d.devices(ctx)
	if err != nil {
		return err
	}
	return errors.Join(d.seedDevices(ctx, root, swap), stop())
}

// devices gives the devices of root and swap, "" for no swap: partitions, or
// arrays of the partitions of two disks, which stop ends.
func (d *deployment) devices(ctx context.Context) (root, swap string, stop func() error, err error) {
	var arrays []func() error
	stop = func() (err error) {
		for _, f := range slices.Backward(arrays) {
			if serr := f(); serr != nil {
				err = errors.Join(err, fmt.Errorf("stopping the mirror of disk %s: %w", d.name(), serr))
			}
		}
		return err
	}
	devs := make([][]string, len(d.targets))
	for i, k := range d.targets {
		if devs[i], err = k.disk.Partitions(d.layout.parts); err != nil {
			return "", "", nil, fmt.Errorf("making the partitions of disk %s known to the kernel: %w", k, err)
		}
	}
	for i, p := range d.layout.parts {
		dev, name := devs[0][i], "root"
		switch p.Number {
		case d.layout.root:
		case d.layout.swap:
			name = "swap"
		default:
			continue
		}
		if len(devs) > 1 {
			var end func() error
			if dev, end, err = d.fs.Mirror(ctx, name, []string{devs[0][i], devs[1][i]}); err != nil {
				return "", "", nil, errors.Join(fmt.Errorf("making a mirror for %s of disk %s: %w", name, d.name(), err), stop())
			}
			arrays = append(arrays, end)
		}
		if name == "root" {
			root = dev
		} else {
			swap = dev
		}
	}
	return root, swap, stop, nil
}

func (d *deployment) seedDevices(ctx context.Context, root, swap string) error {
	if swap != "" {
		if err := d.fs.Swap(ctx, swap, swapLabel); err != nil {
			return fmt.Errorf("making swap space on disk %s: %w", d.name(), err)
		}
	}
	if err := d.fs.Grow(ctx, root); err != nil {
		return fmt.Errorf("growing the root file system on disk %s: %w; run fettle image verify on the server, or replace the disk", d.name(), err)
	}
	d.report(wire.StepSeed, fmt.Sprintf("writing %d files into the root file system", len(d.task.Files)), 0, 0)
	dir, unmount, err := d.fs.Mount(ctx, root)
	if err != nil {
		return fmt.Errorf("mounting the root file system of disk %s: %w", d.name(), err)
	}
	err = d.seedFiles(dir)
	return errors.Join(err, unmount())
}

func (d *deployment) seedFiles(dir string) (err error) {
	r, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if len(d.targets) > 1 && !r.has("/usr/sbin/mdadm") && !r.has("/sbin/mdadm") {
		return errors.New("the image has no mdadm, without which it cannot start from a mirror: build it again with the package, or leave raid out of the profile's layout")
	}
	files := slices.Clone(d.task.Files)
	if args := d.task.KernelArgs; len(args) > 0 {
		files = append(files, wire.SeedFile{Path: grubArgsPath, Mode: 0o644, Content: grubArgs(args)},
			wire.SeedFile{Path: grubDefaultPath, Mode: 0o644, Content: grubDefault(args)})
	}
	for _, f := range files {
		if err := r.write(f.Path, f.Mode, f.Content); err != nil {
			return fmt.Errorf("writing the seed file %s: %w", f.Path, err)
		}
	}
	if d.layout.swap == 0 {
		return nil
	}
	fstab, err := r.read("/etc/fstab")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the image's /etc/fstab: %w", err)
	}
	if len(fstab) > 0 && fstab[len(fstab)-1] != '\n' {
		fstab = append(fstab, '\n')
	}
	fstab = append(fstab, "LABEL="+swapLabel+" none swap sw 0 0\n"...)
	if err := r.write("/etc/fstab", 0o644, fstab); err != nil {
		return fmt.Errorf("adding swap to /etc/fstab: %w", err)
	}
	return nil
}

func checkSeedPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
		return fmt.Errorf("seed file path %q is not an absolute, clean path: correct the profile", p)
	}
	return nil
}

// rootDir writes below a directory as if it were /: symbolic links, absolute
// ones too, and .. stay inside (openat2(2), RESOLVE_IN_ROOT).
type rootDir struct{ fd int }

func openRoot(dir string) (*rootDir, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	return &rootDir{fd}, nil
}

func (r *rootDir) close() error { return unix.Close(r.fd) }

func (r *rootDir) open(p string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(r.fd, p, &how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		return fd, err
	}
}

// mkdirs opens the directory p, making what is missing.
func (r *rootDir) mkdirs(p string) (int, error) {
	fd, err := r.open(p, unix.O_PATH|unix.O_DIRECTORY)
	if err != unix.ENOENT || p == "/" {
		return fd, err
	}
	parent, err := r.mkdirs(path.Dir(p))
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, path.Base(p), 0o755); err != nil && err != unix.EEXIST {
		return -1, err
	}
	return r.open(p, unix.O_PATH|unix.O_DIRECTORY)
}

// write replaces the file p: a new file beside it, flushed and renamed. A
// symbolic link at p itself is replaced, not followed.
func (r *rootDir) write(p string, mode uint32, content []byte) (err error) {
	if err := checkSeedPath(p); err != nil {
		return err
	}
	dir, err := r.mkdirs(path.Dir(p))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	tmp := ".fettle-seed"
	fd, err := unix.Openat(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), p)
	defer func() {
		if err != nil {
			unix.Unlinkat(dir, tmp, 0)
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = unix.Fchmod(fd, mode&0o7777)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return unix.Renameat(dir, tmp, dir, path.Base(p))
}

func (r *rootDir) has(p string) bool {
	fd, err := r.open(p, unix.O_PATH)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

func (r *rootDir) read(p string) ([]byte, error) {
	fd, err := r.open(p, unix.O_RDONLY)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p, Err: err}
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > 16*mib {
		return nil, fmt.Errorf("%s is no plain small file", p)
	}
	b := make([]byte, st.Size())
	n, err := f.ReadAt(b, 0)
	if int64(n) == st.Size() {
		err = nil
	}
	return b[:n], err
}

// checkKernelArgs refuses what cannot be said in a boot loader's line.
func checkKernelArgs(args []string) error {
	for _, a := range args {
		if a == "" || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("kernel argument %q is empty or holds blanks or control characters: give each argument its own entry in the profile", a)
		}
	}
	return nil
}

// grubArgs is a line of GRUB script (grub manual §6.1, Quoting): within double
// quotes $, " and \ are escaped.
func grubArgs(args []string) []byte {
	q := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(strings.Join(args, " "))
	return []byte("set fettle_args=\"" + q + "\"\n")
}

// grubDefault is a line of shell that grub-mkconfig sources.
func grubDefault(args []string) []byte {
	q := strings.ReplaceAll(strings.Join(args, " "), `'`, `'\''`)
	return []byte("# written by fettle at deployment: the profile's kernel arguments\n" +
		"GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX \"'" + q + "'\n")
}
