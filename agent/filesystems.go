package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Tools does FileSystems with the programs of e2fsprogs and util-linux that
// the ramdisk carries, and mounts at Dir.
type Tools struct{ Dir string }

// Grow runs e2fsck and resize2fs.
func (t Tools) Grow(ctx context.Context, dev string) error {
	// e2fsck(8), EXIT CODE: 1 is "errors corrected".
	if err := run(ctx, 1, "e2fsck", "-f", "-p", dev); err != nil {
		return err
	}
	return run(ctx, 0, "resize2fs", dev)
}

// Swap runs mkswap.
func (t Tools) Swap(ctx context.Context, dev, label string) error {
	return run(ctx, 0, "mkswap", "-f", "-L", label, dev)
}

// Mirror runs mdadm. The metadata (1.0) lies at the end, so that firmware and
// boot loaders find in each member what is in the array.
func (t Tools) Mirror(ctx context.Context, name string, devs []string) (string, func() error, error) {
	if err := run(ctx, 0, "modprobe", "raid1"); err != nil {
		return "", nil, err
	}
	dev := "/dev/md/" + name
	args := []string{"--create", dev, "--run", "--level=1", "--metadata=1.0", "--bitmap=internal", "--assume-clean", "--homehost=any", "--name=" + name, fmt.Sprintf("--raid-devices=%d", len(devs))}
	if err := run(ctx, 0, "mdadm", append(args, devs...)...); err != nil {
		return "", nil, err
	}
	return dev, func() error {
		return run(context.WithoutCancel(ctx), 0, "mdadm", "--stop", dev)
	}, nil
}

// Mount mounts dev at t.Dir.
func (t Tools) Mount(_ context.Context, dev string) (string, func() error, error) {
	// A crashed predecessor may have left its mount.
	for unix.Unmount(t.Dir, unix.MNT_DETACH) == nil {
	}
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return "", nil, err
	}
	if err := unix.Mount(dev, t.Dir, "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "errors=remount-ro"); err != nil {
		return "", nil, fmt.Errorf("mounting %s as ext4: %w", dev, err)
	}
	return t.Dir, func() error {
		// Errors of writing back are seen here, not at unmount.
		err := syncDir(t.Dir)
		if uerr := unix.Unmount(t.Dir, 0); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmounting %s: %w", dev, uerr))
		}
		return errors.Join(err, syncFile(dev))
	}, nil
}

func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("flushing the root file system: %w", err)
	}
	return nil
}

func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// run runs a tool; exit statuses up to ok are success. Its last lines are in
// the error.
func run(ctx context.Context, ok int, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	var ee *exec.ExitError
	if err == nil || (errors.As(err, &ee) && ee.ExitCode() >= 0 && ee.ExitCode() <= ok) {
		return nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not in the agent's ramdisk: build the agent image again", name)
	}
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	return fmt.Errorf("%s: %w: %s", strings.Join(append([]string{name}, args...), " "), err, strings.Join(lines[max(0, len(lines)-3):], "; "))
}
