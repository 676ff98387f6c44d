package wire

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Limits of an ImageIndex: what an agent is ready to hold in memory.
const (
	IndexVersion   = 1
	MinChunkSize   = 64 << 10
	MaxChunkSize   = 64 << 20
	MaxIndexBytes  = 64 << 20 // of the JSON text
	MaxImageBytes  = 1 << 50
	maxIndexChunks = 1 << 22
	maxRootPart    = 128
)

// RawLen is how many bytes of the disk chunk i holds: ChunkSize, or less for
// the last one.
func (x *ImageIndex) RawLen(i int) int64 {
	return min(x.ChunkSize, x.Size-int64(i)*x.ChunkSize)
}

// NonZero is how many bytes of the disk are in chunks that have to be fetched.
func (x *ImageIndex) NonZero() int64 {
	var n int64
	for i, c := range x.Chunks {
		if !c.Zero {
			n += x.RawLen(i)
		}
	}
	return n
}

// Validate checks that the index describes one disk, each byte of it once, and
// that nothing in it can make a reader allocate or write more than it says.
func (x *ImageIndex) Validate() error {
	switch {
	case x.Version != IndexVersion:
		return fmt.Errorf("image index has version %d; this agent reads version %d: rebuild the image or boot a newer agent", x.Version, IndexVersion)
	case x.Size <= 0 || x.Size > MaxImageBytes || x.Size%512 != 0:
		return fmt.Errorf("image index says a disk of %d bytes; want a positive multiple of 512", x.Size)
	case x.ChunkSize < MinChunkSize || x.ChunkSize > MaxChunkSize || x.ChunkSize%4096 != 0:
		return fmt.Errorf("image index says chunks of %d bytes; want a multiple of 4096 from %d to %d", x.ChunkSize, MinChunkSize, MaxChunkSize)
	case x.RootPart < 1 || x.RootPart > maxRootPart:
		return fmt.Errorf("image index says root partition %d; want 1 to %d", x.RootPart, maxRootPart)
	case x.DataSize < 0:
		return fmt.Errorf("image index says %d bytes of data", x.DataSize)
	}
	if err := checkDigest(x.Data); err != nil {
		return fmt.Errorf("image index, digest of the data: %w", err)
	}
	want := (x.Size + x.ChunkSize - 1) / x.ChunkSize
	if want > maxIndexChunks || int64(len(x.Chunks)) != want {
		return fmt.Errorf("image index has %d chunks; a disk of %d bytes in chunks of %d has %d", len(x.Chunks), x.Size, x.ChunkSize, want)
	}
	var end int64
	for i, c := range x.Chunks {
		// A zstd frame of n bytes is at most n + n/256 and a few headers long
		// (RFC 8878 §3.1.1); twice that is no image.
		limit := x.RawLen(i) + x.RawLen(i)/64 + 4096
		switch {
		case c.Length <= 0 || c.Length > limit:
			return fmt.Errorf("image index, chunk %d: %d bytes compressed; want 1 to %d", i, c.Length, limit)
		case c.Offset < end:
			return fmt.Errorf("image index, chunk %d: begins at %d, before the end of the one before it (%d)", i, c.Offset, end)
		case c.Offset > x.DataSize-c.Length:
			return fmt.Errorf("image index, chunk %d: ends at %d, after the data's end (%d)", i, c.Offset+c.Length, x.DataSize)
		}
		if err := checkDigest(c.Raw); err != nil {
			return fmt.Errorf("image index, chunk %d: %w", i, err)
		}
		if c.Frame != "" {
			if err := checkDigest(c.Frame); err != nil {
				return fmt.Errorf("image index, chunk %d, its frame: %w", i, err)
			}
		}
		end = c.Offset + c.Length
	}
	return nil
}

func checkDigest(s string) error {
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 64 || strings.ToLower(h) != h {
		return fmt.Errorf("%q is no digest: want sha256: and 64 lower case hex digits", s)
	}
	if _, err := hex.DecodeString(h); err != nil {
		return fmt.Errorf("%q is no digest: %w", s, err)
	}
	return nil
}
