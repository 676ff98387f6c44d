package airgap

import (
	"errors"
	"io"
	"sync"
)

// ReaderAt reads a ReadSeeker, such as a blob's reader, at any place. A blob
// that is read so is not verified: see blob.Reader.
func ReaderAt(r io.ReadSeeker) io.ReaderAt { return &readerAt{r: r} }

type readerAt struct {
	mu sync.Mutex
	r  io.ReadSeeker
}

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.r.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
