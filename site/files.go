package site

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockedDir runs do while no other fettle holds the folder (flock(2) on the
// folder itself: there is no lock file to be left behind).
func lockedDir(dir string, do func() error) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening the folder to lock it: %w", err)
	}
	defer func() { _ = d.Close() }() // closing unlocks
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return do()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", dir, err)
		}
		<-tick.C
	}
	return fmt.Errorf("another program has held the lock of %s for 10 s: let it end, or stop it", dir)
}

// writeFile replaces a file whole: temporary file beside it, fsync, rename,
// fsync of the folder. Its owner stays: a server that runs as root changes the
// secrets of people, who go on reading them.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, werr := f.Write(data)
	if err := errors.Join(werr, keepOwner(f, path), f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil //nolint:nilerr // the file is in place; a folder that cannot be opened cannot be synced
	}
	return errors.Join(d.Sync(), d.Close())
}

// keepOwner gives f the owner of the file at path, where there is one and this
// program may: root of a container, or of an NFS client, may not give a file to
// everybody.
func keepOwner(f *os.File, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	was, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	err = f.Chown(int(was.Uid), int(was.Gid))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
