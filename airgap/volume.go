package airgap

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/fettle-dev/fettle/blob"
)

const (
	volumeHead = "fvol0001"
	volumeTail = "fvolend1"

	frameSize = 16 << 20
	maxTable  = 256 << 20 // decompressed
	minVolume = int64(len(volumeHead) + ed25519.SignatureSize + 8 + len(volumeTail))

	encodingRaw  = "raw"
	encodingZstd = "zstd"
)

// table lists a volume's frames.
type table struct {
	Version int         `json:"volume"`
	ID      blob.Digest `json:"id"`
	Number  int         `json:"number"`
	Frames  []frame     `json:"frames"`
}

// frame is a part of one blob as it stands in a volume.
type frame struct {
	Blob     blob.Digest `json:"blob"`
	Size     int64       `json:"size"` // of the blob
	Offset   int64       `json:"offset"`
	Length   int64       `json:"length"`
	Stored   int64       `json:"stored"`
	Encoding string      `json:"encoding"`
	SHA256   blob.Digest `json:"sha256"` // of the stored bytes
}

func (f frame) whole() bool { return f.Offset == 0 && f.Length == f.Size }

func (f frame) check() error {
	if err := errors.Join(f.Blob.Validate(), f.SHA256.Validate()); err != nil {
		return err
	}
	if f.Size < 0 || f.Offset < 0 || f.Length < 0 || f.Length > frameSize || f.Offset > f.Size-f.Length || f.Length == 0 && f.Size > 0 {
		return fmt.Errorf("a frame of blob %s has impossible bounds", f.Blob)
	}
	switch f.Encoding {
	case encodingRaw:
		if f.Stored != f.Length {
			return fmt.Errorf("a raw frame of blob %s stores %d bytes for %d", f.Blob, f.Stored, f.Length)
		}
	case encodingZstd:
		if f.Stored < 1 || f.Stored >= f.Length {
			return fmt.Errorf("a compressed frame of blob %s stores %d bytes for %d", f.Blob, f.Stored, f.Length)
		}
	default:
		return fmt.Errorf("a frame of blob %s has encoding %q", f.Blob, f.Encoding)
	}
	return nil
}

func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxTable))
}

// parseTable reads a decompressed table and checks all but its place.
func parseTable(data []byte) (table, error) {
	var t table
	if err := unmarshal(data, &t); err != nil {
		return table{}, err
	}
	if t.Version != 1 {
		return table{}, fmt.Errorf("a volume of version %d; this fettle reads version 1", t.Version)
	}
	for _, f := range t.Frames {
		if err := f.check(); err != nil {
			return table{}, err
		}
	}
	return t, nil
}

// readTable reads a volume's table: FORMAT.md. Nothing of it is looked at
// before its signature is good.
func readTable(f medium, key PublicKey, id blob.Digest, v Volume) (table, error) {
	fail := func(format string, args ...any) (table, error) {
		return table{}, fmt.Errorf("%w: volume %d "+format, append([]any{ErrDamaged, v.Number}, args...)...)
	}
	if f.Size() != v.Size {
		return fail("has %d bytes; it must have %d: the copy was cut or is of another bundle: copy the volume anew", f.Size(), v.Size)
	}
	end := make([]byte, 8+len(volumeTail))
	head := make([]byte, len(volumeHead))
	if n, err := f.ReadAt(end, v.Size-int64(len(end))); n < len(end) {
		return fail("cannot be read: %w", err)
	}
	if n, err := f.ReadAt(head, 0); n < len(head) {
		return fail("cannot be read: %w", err)
	}
	n := int64(binary.BigEndian.Uint64(end))
	if string(head) != volumeHead || string(end[8:]) != volumeTail || n < 1 || n > maxTable || n > v.Size-minVolume {
		return fail("does not begin or end as a volume does")
	}
	signed := make([]byte, n+ed25519.SignatureSize)
	if n, err := f.ReadAt(signed, v.Size-int64(len(end))-int64(len(signed))); n < len(signed) {
		return fail("cannot be read: %w", err)
	}
	packed, sig := signed[:n], signed[n:]
	if !key.verify(forTable, packed, sig) {
		return fail("has a table whose signature is not good: %w", ErrSignature)
	}
	if blob.FromBytes(packed) != v.Table {
		return fail("is not the one that the index names")
	}
	dec, err := newDecoder()
	if err != nil {
		return table{}, err
	}
	defer dec.Close()
	data, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return fail("has a table that does not decompress: %w", err)
	}
	t, err := parseTable(data)
	if err != nil {
		return fail("has a wrong table: %w", err)
	}
	if t.ID != id || t.Number != v.Number {
		return fail("is volume %d of bundle %s", t.Number, t.ID.Short())
	}
	sum := minVolume + n
	for _, fr := range t.Frames {
		sum += fr.Stored
	}
	if sum != v.Size {
		return fail("has bytes that its table does not name")
	}
	return t, nil
}

// buffers are kept from one volume to the next.
type buffers struct{ stored, plain []byte }

// readFrames calls yield with the bytes of each frame from number *next that
// want wants (nil: all), once their digest is right, and counts *next up. data
// is valid until yield returns.
func readFrames(ctx context.Context, f medium, t table, buf *buffers, next *int, want func(frame) bool, yield func(fr frame, data []byte) error) error {
	dec, err := newDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	at := int64(len(volumeHead))
	stored, plain := buf.stored, buf.plain
	defer func() { buf.stored, buf.plain = stored, plain }()
	for i, fr := range t.Frames {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i < *next || want != nil && !want(fr) {
			at += fr.Stored
			if i >= *next {
				*next++
			}
			continue
		}
		if int64(cap(stored)) < fr.Stored {
			stored = make([]byte, max(fr.Stored, 1<<20))
		}
		stored = stored[:fr.Stored]
		if n, err := f.ReadAt(stored, at); int64(n) < fr.Stored {
			return fmt.Errorf("%w: frame %d cannot be read: %w", ErrDamaged, i, err)
		}
		at += fr.Stored
		if got := blob.FromBytes(stored); got != fr.SHA256 {
			return fmt.Errorf("%w: frame %d, of blob %s, has %s; it was signed with %s: copy the volume anew, and if it is the same again ask for another", ErrDamaged, i, fr.Blob.Short(), got.Short(), fr.SHA256.Short())
		}
		data := stored
		if fr.Encoding == encodingZstd {
			plain, err = dec.DecodeAll(stored, plain[:0])
			if err != nil || int64(len(plain)) != fr.Length {
				return fmt.Errorf("%w: frame %d, of blob %s, does not decompress to %d bytes", ErrDamaged, i, fr.Blob.Short(), fr.Length)
			}
			data = plain
		}
		if err := yield(fr, data); err != nil {
			return err
		}
		*next++
	}
	return nil
}
