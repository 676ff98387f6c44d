package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/blob"
)

// ChunkSize is the size of the pieces that a disk image is compressed and
// verified in.
const ChunkSize = 4 << 20

// packers is how many chunks are compressed at once.
const packers = 2

type packStats struct{ used int64 }

// packDisk stores a raw disk as the two files of a disk release.
func (b *Builder) packDisk(ctx context.Context, name, path string, root int) ([]File, packStats, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, packStats{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, packStats{}, err
	}
	w, err := b.Store.blobs.Create()
	if err != nil {
		return nil, packStats{}, err
	}
	defer w.Abort()
	ix, err := writeChunks(ctx, w, f, fi.Size(), func(done int64) {
		b.progress(Progress{Name: name, Stage: StageCompress, Done: done, Total: fi.Size()})
	})
	if err != nil {
		return nil, packStats{}, err
	}
	d, n, err := w.Commit("")
	if err != nil {
		return nil, packStats{}, err
	}
	ix.Data, ix.DataSize, ix.RootPart = string(d), n, root
	if err := ix.Validate(); err != nil {
		return nil, packStats{}, err
	}
	data, err := json.Marshal(ix)
	if err != nil {
		return nil, packStats{}, err
	}
	index, err := b.putBytes(ctx, FileIndex, append(data, '\n'))
	if err != nil {
		return nil, packStats{}, err
	}
	return []File{index, {Name: FileData, Digest: d, Size: n}}, packStats{used: ix.NonZero()}, nil
}

// packed is one chunk on its way through the compressors.
type packed struct {
	raw, frame []byte
	digest     blob.Digest // of raw
	sum        blob.Digest // of frame
	zero       bool
	done       chan struct{}
}

// writeChunks compresses size bytes of r, each chunk an independent zstd frame
// (RFC 8878 §3.1), in order, and returns the index without the data's digest.
// A concatenation of frames is a valid .zst of the whole.
func writeChunks(ctx context.Context, w io.Writer, r io.Reader, size int64, progress func(int64)) (wire.ImageIndex, error) {
	ix := wire.ImageIndex{Version: wire.IndexVersion, Size: size, ChunkSize: ChunkSize}
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan *packed)
	ordered := make(chan *packed, 2*packers)
	g.Go(func() error { // reads
		defer close(work)
		defer close(ordered)
		for off := int64(0); off < size; off += ChunkSize {
			p := &packed{raw: make([]byte, min(ChunkSize, size-off)), done: make(chan struct{})}
			if _, err := io.ReadFull(r, p.raw); err != nil {
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					return fmt.Errorf("the disk ends before its %d bytes: %w", size, io.ErrUnexpectedEOF)
				}
				return fmt.Errorf("reading the disk: %w", err)
			}
			for _, c := range []chan *packed{ordered, work} {
				select {
				case c <- p:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	for range packers { // compress
		g.Go(func() error {
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
			if err != nil {
				return err
			}
			defer enc.Close()
			for p := range work {
				p.zero = allZero(p.raw)
				p.digest = blob.FromBytes(p.raw)
				p.frame = enc.EncodeAll(p.raw, nil)
				p.sum = blob.FromBytes(p.frame)
				close(p.done)
			}
			return nil
		})
	}
	g.Go(func() error { // writes
		var off, done int64
		for p := range ordered {
			select {
			case <-p.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if _, err := w.Write(p.frame); err != nil {
				return err
			}
			ix.Chunks = append(ix.Chunks, wire.Chunk{Offset: off, Length: int64(len(p.frame)), Raw: string(p.digest), Frame: string(p.sum), Zero: p.zero})
			off += int64(len(p.frame))
			if done += int64(len(p.raw)); progress != nil {
				progress(done)
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return wire.ImageIndex{}, err
	}
	return ix, nil
}

var zeros [64 << 10]byte

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
