package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/blob"
)

// Verify reads every file of r and compares it with its digest; of a disk
// image it also checks that the index describes the data file. The error is
// [ErrDamaged] when something is missing, truncated or altered.
func (s *Store) Verify(ctx context.Context, r Release) error {
	return s.VerifyProgress(ctx, r, nil)
}

// VerifyProgress is Verify that tells progress from time to time.
func (s *Store) VerifyProgress(ctx context.Context, r Release, progress func(Progress)) error {
	total, before := r.Size(), int64(0)
	for _, f := range r.Files {
		n, err := s.blobs.Size(f.Digest)
		if err == nil && n != f.Size {
			return fmt.Errorf("%w: file %s of %s has %d bytes; want %d; build or import it again", ErrDamaged, f.Name, r.Name, n, f.Size)
		}
		err = s.blobs.VerifyProgress(ctx, f.Digest, func(done, _ int64) {
			if progress != nil {
				progress(Progress{Name: r.Name, Stage: StageVerify, Text: f.Name, Done: before + done, Total: total})
			}
		})
		if errors.Is(err, blob.ErrMismatch) || errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: file %s of %s: %w", ErrDamaged, f.Name, r.Name, err)
		}
		if err != nil {
			return fmt.Errorf("verifying %s: %w", r.Name, err)
		}
		before += f.Size
	}
	if r.Kind != KindDisk {
		return nil
	}
	ix, err := s.Index(ctx, r)
	if err != nil {
		return err
	}
	if data, _ := r.File(FileData); ix.Data != string(data.Digest) || ix.DataSize != data.Size {
		return fmt.Errorf("%w: the index of %s describes another data file (%s); build or import it again", ErrDamaged, r.Name, ix.Data)
	}
	return nil
}

// Index reads the index of a disk image.
func (s *Store) Index(ctx context.Context, r Release) (wire.ImageIndex, error) {
	rd, err := s.Open(ctx, r, FileIndex)
	if err != nil {
		return wire.ImageIndex{}, err
	}
	defer rd.Close()
	data, err := io.ReadAll(rd)
	if err != nil {
		return wire.ImageIndex{}, fmt.Errorf("reading the index of %s: %w", r.Name, err)
	}
	var ix wire.ImageIndex
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&ix); err != nil {
		return wire.ImageIndex{}, fmt.Errorf("%w: the index of %s: %w", ErrDamaged, r.Name, err)
	}
	if err := ix.Validate(); err != nil {
		return wire.ImageIndex{}, fmt.Errorf("%w: the index of %s: %w", ErrDamaged, r.Name, err)
	}
	return ix, nil
}
