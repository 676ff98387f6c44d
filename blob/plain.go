package blob

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// Proven opens blobs as files of the operating system, which a server can hand
// to a socket (sendfile(2)) without reading them itself. Each is read through
// and verified once, and again when its file has changed since. Its methods
// may be called concurrently.
type Proven struct {
	store *Store
	mu    sync.Mutex
	known map[Digest]stamp
	under map[Digest]chan struct{} // being verified: closed when that ends
}

// stamp is what a file was when it was verified.
type stamp struct {
	size    int64
	modTime time.Time
	inode   any
}

// NewProven remembers what it has verified of a store.
func NewProven(s *Store) *Proven {
	return &Proven{store: s, known: map[Digest]stamp{}, under: map[Digest]chan struct{}{}}
}

// Open opens the blob d, of which the bytes have been verified. The error is
// fs.ErrNotExist when there is none, and [ErrMismatch] when it is damaged.
// Those who ask for one that is being verified wait for that, or for ctx.
func (p *Proven) Open(ctx context.Context, d Digest) (*os.File, fs.FileInfo, error) {
	if err := d.Validate(); err != nil {
		return nil, nil, err
	}
	for {
		f, err := os.Open(p.store.Path(d))
		if err != nil {
			return nil, nil, fmt.Errorf("blob %s: %w", d, err)
		}
		fi, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, nil, fmt.Errorf("blob %s: %w", d, err)
		}
		is := stamp{fi.Size(), fi.ModTime(), inodeOf(fi)}
		p.mu.Lock()
		if p.known[d] == is {
			p.mu.Unlock()
			return f, fi, nil
		}
		wait, others := p.under[d]
		if !others {
			wait = make(chan struct{})
			p.under[d] = wait
		}
		p.mu.Unlock()
		if others {
			f.Close()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		err = p.verify(ctx, f, d)
		p.mu.Lock()
		delete(p.under, d)
		if err == nil {
			p.known[d] = is
		}
		p.mu.Unlock()
		close(wait)
		if err != nil {
			f.Close()
			return nil, nil, err
		}
		return f, fi, nil
	}
}

// verify reads the whole file and goes back to its start.
func (p *Proven) verify(ctx context.Context, f *os.File, d Digest) error {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("blob %s: %w", d, err)
		}
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	if got := fromSum(sum); got != d {
		return fmt.Errorf("%w: the file of blob %s is damaged: it holds %s; remove it and build or fetch it again", ErrMismatch, d, got)
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}
