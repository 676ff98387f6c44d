package wire

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func goodIndex() ImageIndex {
	return ImageIndex{
		Version: 1, Size: 2*MinChunkSize + 512, ChunkSize: MinChunkSize, Data: digest, DataSize: 300, RootPart: 3,
		Chunks: []Chunk{
			{Offset: 0, Length: 100, Raw: digest},
			{Offset: 100, Length: 20, Raw: digest, Zero: true},
			{Offset: 120, Length: 180, Raw: digest},
		},
	}
}

func TestValidate(t *testing.T) {
	cases := []struct {
		name string
		edit func(*ImageIndex)
		want string // part of the error; "" = good
	}{
		{"good", func(*ImageIndex) {}, ""},
		{"gap between chunks", func(x *ImageIndex) { x.DataSize = 400; x.Chunks[2].Offset = 200 }, ""},
		{"other version", func(x *ImageIndex) { x.Version = 2 }, "version 2"},
		{"no size", func(x *ImageIndex) { x.Size = 0 }, "disk of 0 bytes"},
		{"odd size", func(x *ImageIndex) { x.Size++ }, "multiple of 512"},
		{"huge size", func(x *ImageIndex) { x.Size = math.MaxInt64 &^ 511 }, "multiple of 512"},
		{"small chunks", func(x *ImageIndex) { x.ChunkSize = 512 }, "chunks of 512"},
		{"huge chunks", func(x *ImageIndex) { x.ChunkSize = 1 << 40 }, "chunks of"},
		{"negative chunks", func(x *ImageIndex) { x.ChunkSize = -4096 }, "chunks of"},
		{"too few chunks", func(x *ImageIndex) { x.Chunks = x.Chunks[:2] }, "has 2 chunks"},
		{"too many chunks", func(x *ImageIndex) { x.Chunks = append(x.Chunks, x.Chunks[2]) }, "has 4 chunks"},
		{"overlap", func(x *ImageIndex) { x.Chunks[1].Offset = 99 }, "chunk 1: begins at 99"},
		{"negative offset", func(x *ImageIndex) { x.Chunks[0].Offset = -1 }, "chunk 0: begins at -1"},
		{"beyond the data", func(x *ImageIndex) { x.Chunks[2].Length = 181 }, "after the data's end"},
		{"overflowing offset", func(x *ImageIndex) { x.Chunks[2].Offset = math.MaxInt64 - 10 }, "after the data's end"},
		{"empty frame", func(x *ImageIndex) { x.Chunks[1].Length = 0 }, "chunk 1: 0 bytes"},
		{"frame larger than raw", func(x *ImageIndex) { x.DataSize = 1 << 30; x.Chunks[2].Length = 1 << 20 }, "chunk 2: 1048576 bytes"},
		{"bad chunk digest", func(x *ImageIndex) { x.Chunks[1].Raw = "md5:00" }, "chunk 1: \"md5:00\""},
		{"bad frame digest", func(x *ImageIndex) { x.Chunks[1].Frame = "sha256:00" }, "chunk 1, its frame"},
		{"upper case digest", func(x *ImageIndex) { x.Chunks[1].Raw = strings.ToUpper(digest) }, "no digest"},
		{"not hex", func(x *ImageIndex) { x.Data = "sha256:" + strings.Repeat("z", 64) }, "no digest"},
		{"root partition 0", func(x *ImageIndex) { x.RootPart = 0 }, "root partition 0"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x := goodIndex()
			c.edit(&x)
			err := x.Validate()
			if c.want == "" {
				if err != nil {
					t.Errorf("Validate() = %v; want nil", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Validate() = %v; want an error with %q", err, c.want)
			}
		})
	}
}

func TestRawLen(t *testing.T) {
	x := goodIndex()
	for i, want := range []int64{MinChunkSize, MinChunkSize, 512} {
		if got := x.RawLen(i); got != want {
			t.Errorf("RawLen(%d) = %d; want %d", i, got, want)
		}
	}
	if got, want := x.NonZero(), int64(MinChunkSize+512); got != want {
		t.Errorf("NonZero() = %d; want %d", got, want)
	}
}

// FuzzValidate: whatever Validate accepts is safe to walk.
func FuzzValidate(f *testing.F) {
	x := goodIndex()
	b, err := json.Marshal(x)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"size":512,"chunk_size":65536,"chunks":[{"length":-1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x ImageIndex
		if json.Unmarshal(b, &x) != nil || x.Validate() != nil {
			return
		}
		var total, end int64
		for i, c := range x.Chunks {
			n := x.RawLen(i)
			if n <= 0 || n > x.ChunkSize {
				t.Fatalf("RawLen(%d) = %d; want 1 to %d", i, n, x.ChunkSize)
			}
			if c.Offset < end || c.Length <= 0 || c.Offset+c.Length > x.DataSize {
				t.Fatalf("chunk %d = %+v is outside of the data (%d..%d)", i, c, end, x.DataSize)
			}
			total, end = total+n, c.Offset+c.Length
		}
		if total != x.Size {
			t.Fatalf("chunks hold %d bytes; want %d", total, x.Size)
		}
	})
}
