package airgap

import (
	"context"
	"errors"
	"io/fs"

	"github.com/fettle-dev/fettle/blob"
)

// CheckBlobs reads every file of a snapshot and returns those that are damaged
// or not there. With mend the damaged bytes are removed, so that the next sync
// or import brings them again: neither reads what is there already.
func (s *Store) CheckBlobs(ctx context.Context, name string, mend bool, progress func(done, total int64)) ([]File, error) {
	snap, _, err := s.Snapshot(name)
	if err != nil {
		return nil, err
	}
	if mend {
		unlock, err := s.lock()
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	var files, bad []File
	var done, total int64
	snap.Blobs(func(f File) { files, total = append(files, f), total+f.Size })
	for _, f := range files {
		err := s.checkBlob(ctx, f)
		if ctx.Err() != nil {
			return bad, ctx.Err()
		}
		switch {
		case err == nil:
		case errors.Is(err, blob.ErrMismatch) && mend:
			if err := s.blobs.Remove(f.SHA256); err != nil {
				return bad, err
			}
			bad = append(bad, f)
		case errors.Is(err, blob.ErrMismatch), errors.Is(err, fs.ErrNotExist):
			bad = append(bad, f)
		default:
			return bad, err
		}
		if done += f.Size; progress != nil {
			progress(done, total)
		}
	}
	return bad, nil
}

func (s *Store) checkBlob(ctx context.Context, f File) error {
	n, err := s.blobs.Size(f.SHA256)
	if err != nil {
		return err
	}
	if n != f.Size {
		return blob.ErrMismatch
	}
	return s.blobs.Verify(ctx, f.SHA256)
}
