package pxe

import (
	"errors"
	"io"
)

// tftpFileBuffer is how much of a file is read at a time: four blocks of an
// Ethernet frame each. A thousand machines boot at once.
const tftpFileBuffer = 6 << 10

// errWait says that what comes next would have to wait for a disk, or for
// somebody else's server.
var errWait = errors.New("would have to wait")

// tftpSource is where the bytes of a file come from, one after the other, as
// io.Reader has it. Unless it may wait, its error is errWait for those that are
// not there yet.
type tftpSource interface {
	read(b []byte, wait bool) (int, error)
}

// waitingSource is a reader of which nobody knows how long it takes.
type waitingSource struct{ io.Reader }

func (s waitingSource) read(b []byte, wait bool) (int, error) {
	if !wait {
		return 0, errWait
	}
	return s.Read(b)
}

// memorySource is a reader that never waits.
type memorySource struct{ io.Reader }

func (s memorySource) read(b []byte, _ bool) (int, error) { return s.Read(b) }

// tftpFile is a file that is sent, read in pieces.
type tftpFile struct {
	from   tftpSource
	buf    []byte
	unread []byte // of buf
	err    error  // what the source said last
}

func newTFTPFile(from tftpSource) *tftpFile {
	return &tftpFile{from: from, buf: make([]byte, tftpFileBuffer)}
}

// read fills b, unless the file ends (io.EOF) or it fails; what was read before
// errWait stays read. slow tells that it had to wait, perhaps.
func (f *tftpFile) read(b []byte, wait bool) (n int, slow bool, err error) {
	for empty := 0; ; {
		k := copy(b[n:], f.unread)
		n, f.unread = n+k, f.unread[k:]
		if n == len(b) {
			return n, slow, nil
		}
		if f.err != nil {
			return n, slow, f.err
		}
		into := f.buf
		if len(b)-n >= len(into) {
			into = b[n:]
		}
		k, err := f.from.read(into, wait)
		if errors.Is(err, errWait) {
			return n, slow, errWait
		}
		slow, f.err = slow || wait, err
		if &into[0] != &f.buf[0] {
			n += k
		} else {
			f.unread = f.buf[:k]
		}
		if k > 0 {
			empty = 0
		} else if empty++; err == nil && empty > 100 {
			f.err = io.ErrNoProgress
		}
	}
}
