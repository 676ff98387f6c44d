package blob

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
)

// Reader reads one blob. Read from the start to the end in sequence, it
// returns io.EOF only if size and digest match, else [ErrMismatch]. After a
// Seek that changes the offset no claim is made about the whole: who reads
// ranges verifies parts by digests of their own, as the agent does with chunks.
// Seeking back to the start begins a new verified reading. It is not for
// concurrent use.
type Reader struct {
	ctx  context.Context
	f    *os.File
	d    Digest
	size int64
	off  int64
	sum  hash.Hash // nil while the bytes read are not a whole prefix
}

// Open opens the blob d. The error is fs.ErrNotExist when there is none. Reads
// end with ctx's error once ctx is done.
func (s *Store) Open(ctx context.Context, d Digest) (*Reader, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	f, err := os.Open(s.Path(d))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return &Reader{ctx: ctx, f: f, d: d, size: fi.Size(), sum: sha256.New()}, nil
}

// Size is the size of the blob in bytes.
func (r *Reader) Size() int64 { return r.size }

// Digest is what the blob is called.
func (r *Reader) Digest() Digest { return r.d }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.f.Read(p)
	r.off += int64(n)
	if r.sum != nil {
		r.sum.Write(p[:n])
	}
	if err == io.EOF && r.sum != nil {
		var sum [sha256.Size]byte
		r.sum.Sum(sum[:0])
		if got := fromSum(sum); got != r.d {
			return n, fmt.Errorf("%w: the file of blob %s is damaged: it holds %d bytes with %s; remove it and build or fetch it again", ErrMismatch, r.d, r.off, got)
		}
	}
	return n, err
}

// Seek implements io.Seeker.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	n, err := r.f.Seek(offset, whence)
	if err != nil {
		return n, err
	}
	switch {
	case n == 0:
		r.sum = sha256.New()
	case n != r.off:
		r.sum = nil
	}
	r.off = n
	return n, nil
}

// Close implements io.Closer.
func (r *Reader) Close() error { return r.f.Close() }
