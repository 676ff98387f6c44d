package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An embedded etcd that gave up ends some of its goroutines and leaves others
// waiting for them for ever, with its files open and locked. Before the
// directory is opened again, these descriptors are made to lead nowhere, so
// that what is left of it can write no more. The locks of its logs tell when
// the last write to these has come back from the kernel.

// fence makes every descriptor of this process that leads into folder lead to
// /dev/null, for reading only. The numbers stay taken, so that who holds one
// finds no other file behind it.
func fence(folder string) error {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("finding the open files of etcd: %w", err)
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", os.DevNull, err)
	}
	var errs []error
	for _, name := range names {
		fd, err := strconv.Atoi(name.Name())
		if err != nil {
			continue
		}
		to, err := os.Readlink("/proc/self/fd/" + name.Name())
		if err != nil || !strings.HasPrefix(to, folder+"/") && to != folder {
			continue
		}
		// bbolt maps its database, and a mapping keeps the file's lock.
		if err := unix.Flock(fd, unix.LOCK_UN); err != nil {
			errs = append(errs, fmt.Errorf("unlocking %s: %w", to, err))
		}
		if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
			errs = append(errs, fmt.Errorf("closing %s: %w", to, err))
		}
	}
	return errors.Join(append(errs, unix.Close(null))...)
}

// writeAgain writes everything of etcd's files once more, in place, and syncs
// it. It refuses while a write of a fenced etcd is still under way.
func writeAgain(ctx context.Context, dir string) error {
	var files []string
	for _, glob := range []string{"wal/*.wal", "wal/*.tmp", "snap/db", "snap/*.snap"} {
		found, err := filepath.Glob(filepath.Join(dir, "etcd", "member", glob))
		if err != nil {
			return err // of the pattern
		}
		files = append(files, found...)
	}
	for _, name := range files {
		if err := rewrite(ctx, name); err != nil {
			return fmt.Errorf("writing %s again: %w", name, err)
		}
	}
	for _, folder := range []string{"wal", "snap", "."} {
		if err := syncFolder(filepath.Join(dir, "etcd", "member", folder)); err != nil {
			return err
		}
	}
	return nil
}

// rewrite writes a file's bytes where they are. Zeros are left out: a
// preallocated log is mostly these.
func rewrite(ctx context.Context, name string) (err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// etcd locks its logs by open file description, bbolt its database by flock.
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return fmt.Errorf("a write from before the failure is still under way: %w", err)
	}
	chunk, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := f.ReadAt(chunk, at)
		if n > 0 && !bytes.Equal(chunk[:n], zeros[:n]) {
			if _, err := f.WriteAt(chunk[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return f.Sync()
		}
		if err != nil {
			return err
		}
	}
}

func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
