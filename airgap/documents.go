package airgap

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/fettle-dev/fettle/blob"
)

const (
	documentsDir = "documents"
	maxDocument  = 256 << 20
)

// Document is a file about a bundle: a list of what is in it, where that came
// from, what changed. It travels in volume 1, and, when the bundle is not
// encrypted, beside the volumes too.
type Document struct {
	Name   string      `json:"name"`
	Size   int64       `json:"size"`
	SHA256 blob.Digest `json:"sha256"`

	Data []byte `json:"-"`
}

// NewDocument is a document of data.
func NewDocument(name string, data []byte) Document {
	return Document{name, int64(len(data)), blob.FromBytes(data), data}
}

// Program is an executable beside the volumes: fettle itself, for a machine
// that has nothing.
type Program struct {
	File   string      `json:"file"`
	Size   int64       `json:"size"`
	SHA256 blob.Digest `json:"sha256"`

	from string
}

// Carried is what a bundle is about, for those who write its documents.
type Carried struct {
	Bundle   Bundle // without volumes
	Snapshot Snapshot
	Base     *Snapshot // nil: the bundle is full
	New      []File    // what the bundle holds and the base does not
}

// checkParts checks what an index says of documents, programs and parity.
func (b Bundle) checkParts() error {
	for i, d := range b.Documents {
		if err := errors.Join(CheckName("document", d.Name), d.SHA256.Validate()); err != nil {
			return err
		}
		if d.Size < 1 || d.Size > maxDocument || i > 0 && b.Documents[i-1].Name >= d.Name {
			return fmt.Errorf("document %s has an impossible size, stands twice or is not in order", d.Name)
		}
	}
	for i, p := range b.Programs {
		if err := errors.Join(CheckName("program", p.File), p.SHA256.Validate()); err != nil {
			return err
		}
		if p.Size < 1 || i > 0 && b.Programs[i-1].File >= p.File {
			return fmt.Errorf("program %s is empty, stands twice or is not in order", p.File)
		}
	}
	if p := b.Parity; p != nil {
		if p.Shards < len(b.Volumes) || len(p.Files) < 1 || p.Shards+len(p.Files) > shardsAtMost {
			return errors.New("its parity is for another number of volumes")
		}
		for i, f := range p.Files {
			if f.Number != i+1 || f.File != parityFile(f.Number) || f.Size < 1 {
				return fmt.Errorf("parity file %d is described wrongly", i+1)
			}
		}
	}
	return nil
}

// ReadDocuments reads the documents of a bundle, by name.
func (b *OpenedBundle) ReadDocuments(ctx context.Context) (map[string][]byte, error) {
	want := map[blob.Digest]int64{}
	for _, d := range b.Documents {
		want[d.SHA256] = d.Size
	}
	got, err := b.read(ctx, want)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, d := range b.Documents {
		out[d.Name] = got[d.SHA256]
	}
	return out, nil
}

// program describes the executable at path, which will be called name.
func program(ctx context.Context, name, path string) (Program, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Program{}, err
	}
	sum, err := fileSum(ctx, path)
	if err != nil {
		return Program{}, fmt.Errorf("reading the program %s: %w", path, err)
	}
	return Program{name, fi.Size(), blob.Digest("sha256:" + sum), path}, nil
}

// fileSum is the sha256 of a file, in hex.
func fileSum(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, ctxReader{ctx, f}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// copyFile writes a file of r's bytes durably, by rename.
func copyFile(ctx context.Context, path string, r io.Reader, mode *os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, ctxReader{ctx, r})
	perm := os.FileMode(0o644)
	if mode != nil {
		perm = *mode
	}
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// ctxReader ends with the context's error.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
