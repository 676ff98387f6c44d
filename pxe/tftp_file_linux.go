package pxe

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// sourceOf finds how a file is read.
func sourceOf(f io.ReadSeekCloser) tftpSource {
	switch f := f.(type) {
	case nopCloser:
		return memorySource{f}
	case *os.File:
		if at, err := f.Seek(0, io.SeekCurrent); err == nil {
			return &diskSource{file: f, fd: int(f.Fd()), at: at}
		}
	}
	return waitingSource{f}
}

// diskSource is a file of the operating system's. What the kernel has in memory
// is read without waiting, where the file system can tell: RWF_NOWAIT
// (preadv2(2)), which ext4, XFS and Btrfs know, and NFS and tmpfs do not.
type diskSource struct {
	file   *os.File
	fd     int
	at     int64
	asks   [1][]byte
	unable bool // the file system cannot tell
}

func (s *diskSource) read(b []byte, wait bool) (n int, err error) {
	switch {
	case wait:
		n, err = s.file.ReadAt(b, s.at)
	case s.unable:
		return 0, errWait
	default:
		s.asks[0] = b
		n, err = unix.Preadv2(s.fd, s.asks[:], s.at, unix.RWF_NOWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return 0, errWait
		case err != nil: // whatever it is, an ordinary read says it better
			s.unable = true
			return 0, errWait
		case n == 0:
			err = io.EOF
		}
	}
	s.at += int64(n)
	return n, err
}
