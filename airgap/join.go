package airgap

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/fettle-dev/fettle/blob"
)

// join checks that frames in order make whole blobs of the right digests. It
// keeps the snapshot's bytes.
type join struct {
	blobs, wantBlobs int
	bytes, wantBytes int64
	snapshot         SnapshotRef
	data             []byte

	cur blob.Digest // blob that is not whole yet
	at  int64
	sum hash.Hash
}

func newJoin(blobs int, bytes int64, s SnapshotRef) *join {
	return &join{wantBlobs: blobs, wantBytes: bytes, snapshot: s}
}

func (j *join) frame(fr frame, data []byte) error {
	if j.sum == nil {
		j.cur, j.at, j.sum = fr.Blob, 0, sha256.New()
	}
	if fr.Blob != j.cur || fr.Offset != j.at {
		return fmt.Errorf("%w: blob %s has a gap at byte %d", ErrDamaged, j.cur.Short(), j.at)
	}
	if fr.Blob == j.snapshot.SHA256 {
		j.data = append(j.data, data...)
	}
	j.at += fr.Length
	switch {
	case fr.whole() && fr.Encoding == encodingRaw && fr.SHA256 == fr.Blob:
		// hashed already as a frame
	default:
		j.sum.Write(data)
		if j.at < fr.Size {
			return nil
		}
		if got := blob.Digest("sha256:" + hex.EncodeToString(j.sum.Sum(nil))); got != fr.Blob {
			return fmt.Errorf("%w: the frames of blob %s make %s", ErrDamaged, fr.Blob.Short(), got.Short())
		}
	}
	j.sum = nil
	j.blobs++
	j.bytes += fr.Size
	return nil
}

// end returns the snapshot's bytes if everything was there.
func (j *join) end() ([]byte, error) {
	switch {
	case j.sum != nil:
		return nil, fmt.Errorf("%w: blob %s ends at byte %d", ErrDamaged, j.cur.Short(), j.at)
	case j.blobs != j.wantBlobs || j.bytes != j.wantBytes:
		return nil, fmt.Errorf("%w: it has %d blobs with %d bytes; its index says %d with %d", ErrDamaged, j.blobs, j.bytes, j.wantBlobs, j.wantBytes)
	case int64(len(j.data)) != j.snapshot.Size:
		return nil, fmt.Errorf("%w: it has no snapshot %s", ErrDamaged, j.snapshot.Name)
	}
	return j.data, nil
}
