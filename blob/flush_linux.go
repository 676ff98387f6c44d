package blob

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flush lets the disk begin with a part of a file that is written, so that the
// sync at the end has little left to wait for. It is a hint: what it cannot do
// the sync does.
func flush(f *os.File, from, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), from, n, unix.SYNC_FILE_RANGE_WRITE)
}

// settle waits for the bytes of a whole file, without its journal: once those of
// many files are with the disk, one writing of the journal speaks for all of
// them. What it cannot do the sync does. An error of the disk it must tell: the
// kernel tells each of them once for an open file, and the sync after it would
// say that all is well.
func settle(f *os.File) error {
	err := unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	for _, cannot := range []error{nil, unix.EINVAL, unix.ESPIPE, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM, unix.EINTR, unix.EBADF} {
		if errors.Is(err, cannot) {
			return nil
		}
	}
	return &os.PathError{Op: "sync_file_range", Path: f.Name(), Err: err}
}
