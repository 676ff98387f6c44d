package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/fettle-dev/fettle/blob"
)

// sampleDisk has a chunk of noise, a zero chunk, a chunk of text and a short
// last chunk.
func sampleDisk() []byte {
	raw := make([]byte, 3*ChunkSize+512)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range ChunkSize {
		raw[i] = byte(r.Uint32())
	}
	copy(raw[2*ChunkSize:], bytes.Repeat([]byte("fettle "), 1000))
	raw[3*ChunkSize] = 1
	return raw
}

func TestWriteChunks(t *testing.T) {
	raw := sampleDisk()
	var data bytes.Buffer
	var steps []int64
	ix, err := writeChunks(t.Context(), &data, bytes.NewReader(raw), int64(len(raw)), func(n int64) { steps = append(steps, n) })
	if err != nil {
		t.Fatal(err)
	}
	ix.Data, ix.DataSize, ix.RootPart = string(blob.FromBytes(data.Bytes())), int64(data.Len()), 3
	if err := ix.Validate(); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 4 || steps[3] != int64(len(raw)) {
		t.Errorf("progress = %v; want four steps up to %d", steps, len(raw))
	}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	for i, c := range ix.Chunks {
		got, err := dec.DecodeAll(data.Bytes()[c.Offset:c.Offset+c.Length], nil)
		want := raw[i*ChunkSize:][:ix.RawLen(i)]
		if err != nil || !bytes.Equal(got, want) || c.Raw != string(blob.FromBytes(want)) {
			t.Errorf("chunk %d: %d bytes, %v; want %d", i, len(got), err, len(want))
		}
		if c.Zero != (i == 1) {
			t.Errorf("chunk %d: Zero = %v; want %v", i, c.Zero, i == 1)
		}
	}
	var again bytes.Buffer
	if _, err := writeChunks(t.Context(), &again, bytes.NewReader(raw), int64(len(raw)), nil); err != nil || !bytes.Equal(again.Bytes(), data.Bytes()) {
		t.Errorf("compressing again gives other bytes, %v; want the same", err)
	}
	needTool(t, "zstd")
	cmd := exec.Command("zstd", "-dcq")
	cmd.Stdin = &data
	out, err := cmd.Output()
	if err != nil || !bytes.Equal(out, raw) {
		t.Errorf("zstd -d = %d bytes, %v; want the disk", len(out), err)
	}
}

func TestWriteChunksFails(t *testing.T) {
	raw := sampleDisk()
	if _, err := writeChunks(t.Context(), io.Discard, bytes.NewReader(raw), int64(len(raw))+1, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a disk that ends early: %v; want ErrUnexpectedEOF", err)
	}
	full := errors.New("no space")
	if _, err := writeChunks(t.Context(), writerFunc(func([]byte) (int, error) { return 0, full }), bytes.NewReader(raw), int64(len(raw)), nil); !errors.Is(err, full) {
		t.Errorf("a full disk: %v; want %v", err, full)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := writeChunks(ctx, io.Discard, bytes.NewReader(raw), int64(len(raw)), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v; want context.Canceled", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
