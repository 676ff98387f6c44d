package airgap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Names of a bundle's files, and what its signatures are for.
const (
	IndexFile     = "bundle.json"
	SignatureFile = "bundle.sig"

	bundleVersion = 1
	maxIndex      = 16 << 20
	forIndex      = "fettle bundle index 1"
	forTable      = "fettle volume table 1"
)

// ErrDamaged says that a bundle's bytes are not those that were signed, or do
// not keep FORMAT.md's rules.
var ErrDamaged = errors.New("the bundle is damaged")

// Bundle is the index of a bundle: FORMAT.md.
type Bundle struct {
	Version    int         `json:"bundle"`
	ID         blob.Digest `json:"id"`
	Site       string      `json:"site"`
	Serial     int64       `json:"serial"`
	Created    time.Time   `json:"created"`
	Snapshot   SnapshotRef `json:"snapshot"`
	Base       *BaseRef    `json:"base,omitempty"`
	VolumeSize int64       `json:"volumeSize"` // 0: no limit
	Blobs      int         `json:"blobs"`
	Bytes      int64       `json:"bytes"` // of the blobs
	Volumes    []Volume    `json:"volumes"`
}

// SnapshotRef names the snapshot that a bundle carries.
type SnapshotRef struct {
	Name   string      `json:"name"`
	SHA256 blob.Digest `json:"sha256"`
	Size   int64       `json:"size"`
}

// BaseRef names the snapshot that a bundle builds on.
type BaseRef struct {
	Name   string      `json:"name"`
	SHA256 blob.Digest `json:"sha256"`
}

// Volume is one file of a bundle.
type Volume struct {
	Number int         `json:"number"`
	File   string      `json:"file"`
	Size   int64       `json:"size"`
	Table  blob.Digest `json:"table"` // of the compressed table
}

func volumeFile(n int) string { return fmt.Sprintf("volume-%04d.fvol", n) }

// bundleID is the id: FORMAT.md.
func bundleID(b Bundle) blob.Digest {
	base := blob.Digest("")
	if b.Base != nil {
		base = b.Base.SHA256
	}
	return blob.FromBytes(fmt.Appendf(nil, "fettle bundle 1\n%s\n%s\n%d\n", b.Snapshot.SHA256, base, b.VolumeSize))
}

// parseIndex reads bytes whose signature is good.
func parseIndex(data []byte) (Bundle, error) {
	var b Bundle
	if err := unmarshal(data, &b); err != nil {
		return Bundle{}, fmt.Errorf("%w: %s: %w", ErrDamaged, IndexFile, err)
	}
	if err := b.check(); err != nil {
		return Bundle{}, fmt.Errorf("%w: %s: %w", ErrDamaged, IndexFile, err)
	}
	return b, nil
}

func (b Bundle) check() error {
	if b.Version != bundleVersion {
		return fmt.Errorf("a bundle of version %d; this fettle reads version %d", b.Version, bundleVersion)
	}
	if err := errors.Join(CheckName("site", b.Site), CheckName("snapshot", b.Snapshot.Name), b.Snapshot.SHA256.Validate()); err != nil {
		return err
	}
	if b.Base != nil {
		if err := errors.Join(CheckName("snapshot", b.Base.Name), b.Base.SHA256.Validate()); err != nil {
			return err
		}
	}
	if b.Serial < 1 || b.Snapshot.Size < 1 || b.Snapshot.Size > maxSnapshot || b.Blobs < 1 || b.Bytes < 0 || b.VolumeSize < 0 || len(b.Volumes) == 0 {
		return errors.New("its numbers make no sense")
	}
	if b.ID != bundleID(b) {
		return errors.New("its id is not that of its snapshot and base")
	}
	for i, v := range b.Volumes {
		if v.Number != i+1 || v.File != volumeFile(v.Number) || v.Size < minVolume {
			return fmt.Errorf("volume %d is described wrongly", i+1)
		}
		if err := v.Table.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// OpenedBundle is a bundle whose index is verified, and where its volumes are.
type OpenedBundle struct {
	Bundle
	key   PublicKey
	paths map[int]string // of the volumes that are present
}

// OpenBundle reads the index of the bundle in dirs, the folders of one medium
// or of several, and verifies its signature.
func OpenBundle(key PublicKey, dirs ...string) (*OpenedBundle, error) {
	var out *OpenedBundle
	for _, dir := range dirs {
		data, err := readLimited(filepath.Join(dir, IndexFile), maxIndex)
		if errors.Is(err, fs.ErrNotExist) && len(dirs) > 1 {
			continue // the volumes of a medium without a copy of the index
		}
		if err != nil {
			return nil, fmt.Errorf("opening the bundle in %s: %w", dir, err)
		}
		sig, err := readLimited(filepath.Join(dir, SignatureFile), 1024)
		if err != nil {
			return nil, fmt.Errorf("opening the bundle in %s: %w", dir, err)
		}
		if err := key.verifyLine(forIndex, data, sig); err != nil {
			return nil, fmt.Errorf("%s: %w; it must not be trusted", filepath.Join(dir, IndexFile), err)
		}
		b, err := parseIndex(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		if out == nil {
			out = &OpenedBundle{Bundle: b, key: key, paths: map[int]string{}}
		} else if out.ID != b.ID {
			return nil, fmt.Errorf("%s has another bundle (%s) than the folders before it (%s)", dir, b.Snapshot.Name, out.Snapshot.Name)
		}
	}
	if out == nil {
		return nil, fmt.Errorf("no %s in %v: name the folder of the bundle", IndexFile, dirs)
	}
	for _, v := range out.Volumes {
		for _, dir := range dirs {
			path := filepath.Join(dir, v.File)
			if _, err := os.Lstat(path); err == nil && out.paths[v.Number] == "" {
				out.paths[v.Number] = path
			}
		}
	}
	return out, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > limit {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

// MissingVolumeError says which volumes are not there.
type MissingVolumeError struct {
	Missing []string
	Of      int
}

func (e *MissingVolumeError) Error() string {
	return fmt.Sprintf("the bundle has %d volumes and lacks %v: bring the medium and run the same command on its folder", e.Of, e.Missing)
}

// missing names the volumes that are neither present nor in done.
func (b *OpenedBundle) missing(done []int) error {
	e := &MissingVolumeError{Of: len(b.Volumes)}
	for _, v := range b.Volumes {
		if b.paths[v.Number] == "" && !slices.Contains(done, v.Number) {
			e.Missing = append(e.Missing, v.File)
		}
	}
	if len(e.Missing) == 0 {
		return nil
	}
	return e
}

// tables reads and verifies the tables of the volumes that are present.
func (b *OpenedBundle) tables(except []int) (map[int]table, error) {
	out := map[int]table{}
	for _, v := range b.Volumes {
		if b.paths[v.Number] == "" || slices.Contains(except, v.Number) {
			continue
		}
		t, err := readTable(b.paths[v.Number], b.key, b.ID, v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b.paths[v.Number], err)
		}
		out[v.Number] = t
	}
	return out, nil
}

// Verify reads every byte of the bundle and compares. It needs no store. What
// it cannot know is whether the other side has the base.
func (b *OpenedBundle) Verify(ctx context.Context, progress func(done, total int64)) error {
	if err := b.missing(nil); err != nil {
		return err
	}
	tables, err := b.tables(nil)
	if err != nil {
		return err
	}
	var total, done int64
	for _, v := range b.Volumes {
		total += v.Size
	}
	check := newJoin(b.Blobs, b.Bytes, b.Snapshot)
	for _, v := range b.Volumes {
		err := readFrames(ctx, b.paths[v.Number], tables[v.Number], nil, func(fr frame, data []byte) error {
			done += fr.Stored
			if progress != nil {
				progress(done, total)
			}
			return check.frame(fr, data)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", b.paths[v.Number], err)
		}
	}
	data, err := check.end()
	if err != nil {
		return err
	}
	_, err = b.snapshot(data)
	return err
}

// snapshot reads the snapshot's bytes, which have the right digest.
func (b *OpenedBundle) snapshot(data []byte) (Snapshot, error) {
	snap, err := parseSnapshot(data)
	if err != nil {
		return Snapshot{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if snap.Name != b.Snapshot.Name || snap.Serial != b.Serial || !snap.Created.Equal(b.Created) {
		return Snapshot{}, fmt.Errorf("%w: the index says snapshot %s (%d), the snapshot says %s (%d)", ErrDamaged, b.Snapshot.Name, b.Serial, snap.Name, snap.Serial)
	}
	return snap, nil
}

// List reads the snapshot alone, which stands at the beginning of volume 1.
func (b *OpenedBundle) List(ctx context.Context) (Snapshot, error) {
	if b.paths[1] == "" {
		return Snapshot{}, b.missing(nil)
	}
	t, err := readTable(b.paths[1], b.key, b.ID, b.Volumes[0])
	if err != nil {
		return Snapshot{}, fmt.Errorf("%s: %w", b.paths[1], err)
	}
	check := newJoin(1, b.Snapshot.Size, b.Snapshot)
	want := func(fr frame) bool { return fr.Blob == b.Snapshot.SHA256 }
	if err := readFrames(ctx, b.paths[1], t, want, check.frame); err != nil {
		return Snapshot{}, fmt.Errorf("%s: %w", b.paths[1], err)
	}
	data, err := check.end()
	if err != nil {
		return Snapshot{}, fmt.Errorf("the snapshot is not whole in %s; fettle bundle verify reads all volumes: %w", b.paths[1], err)
	}
	return b.snapshot(data)
}
