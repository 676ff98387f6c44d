package blob

import (
	"os"

	"golang.org/x/sys/unix"
)

// flush lets the disk begin with a part of a file that is written, so that the
// sync at the end has little left to wait for. It is a hint: what it cannot do
// the sync does.
func flush(f *os.File, from, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), from, n, unix.SYNC_FILE_RANGE_WRITE)
}

// settle waits for the bytes of a whole file, without its journal: a hint too.
// Once those of many files are with the disk, one writing of the journal
// speaks for all of them.
func settle(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}
