package airgap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fettle-dev/fettle/blob"
)

// Collected is what a collection removed, or would remove.
type Collected struct {
	Snapshots []string `json:"snapshots"`
	Blobs     int      `json:"blobs"`
	Bytes     int64    `json:"bytes"`
}

// Collect removes all but the newest keep snapshots, the served one and pinned
// ones, then every blob that neither a snapshot left nor a file of OwnDir
// needs, and what interrupted transfers left. With dry it only says what would
// go.
func (s *Store) Collect(ctx context.Context, keep int, dry bool) (Collected, error) {
	unlock, err := s.lock()
	if err != nil {
		return Collected{}, err
	}
	defer unlock()
	all, err := s.Snapshots()
	if err != nil {
		return Collected{}, err // a snapshot that cannot be read may need anything
	}
	served, err := s.Served()
	if err != nil {
		return Collected{}, err
	}
	out := Collected{Snapshots: []string{}}
	needed := map[blob.Digest]bool{}
	for i, snap := range all {
		if i < len(all)-max(keep, 1) && snap.Name != served && !s.Pinned(snap.Name) {
			out.Snapshots = append(out.Snapshots, snap.Name)
			continue
		}
		snap.Blobs(func(f File) { needed[f.SHA256] = true })
		for _, m := range snap.Lock.Mirrors {
			for _, it := range m.Items {
				needed[it.SHA256] = true
			}
		}
	}
	if !dry {
		for _, name := range out.Snapshots {
			if err := os.Remove(s.snapshotPath(name)); err != nil {
				return out, fmt.Errorf("removing snapshot %s: %w", name, err)
			}
			if err := os.RemoveAll(s.DocumentsDir(name)); err != nil {
				return out, fmt.Errorf("removing the documents of snapshot %s: %w", name, err)
			}
		}
		// What an import or a download remembers is of blobs that may go now.
		if err := errors.Join(syncDir(filepath.Join(s.dir, "snapshots")), os.RemoveAll(filepath.Join(s.dir, "imports")), s.discardPartial()); err != nil {
			return out, err
		}
	}
	if !dry {
		release, err := s.holdOwn(syscall.LOCK_EX)
		if err != nil {
			return out, err
		}
		defer release()
	}
	if err := s.ownDigests(ctx, func(d blob.Digest) { needed[d] = true }); err != nil {
		return out, err
	}
	err = s.blobs.List(ctx, func(d blob.Digest, n int64) error {
		if needed[d] {
			return nil
		}
		out.Blobs, out.Bytes = out.Blobs+1, out.Bytes+n
		if dry {
			return nil
		}
		if err := os.Remove(s.licencePath(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return s.blobs.Remove(d)
	})
	if err != nil || dry {
		return out, err
	}
	return out, s.blobs.Sweep()
}

// discardPartial removes what downloads left. A resolution, which does not lock
// the store, may be at some of them.
func (s *Store) discardPartial() error {
	dir := filepath.Join(s.dir, "partial")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := blob.Discard(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("removing what a download left: %w", err)
		}
	}
	return nil
}
