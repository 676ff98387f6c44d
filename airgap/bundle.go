package airgap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

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
	Bytes      int64       `json:"bytes"`                // of the blobs
	Recipients []string    `json:"recipients,omitempty"` // the age public keys that volumes are encrypted to
	Documents  []Document  `json:"documents,omitempty"`
	Programs   []Program   `json:"programs,omitempty"`
	Parity     *Parity     `json:"parity,omitempty"`
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
	Size   int64       `json:"size"`   // plain
	Stored int64       `json:"stored"` // of the file: more than Size if it is encrypted
	Table  blob.Digest `json:"table"`  // of the compressed table
}

func (b Bundle) volumeFile(n int) string {
	if b.Encrypted() {
		return fmt.Sprintf("volume-%04d.fvol.age", n)
	}
	return fmt.Sprintf("volume-%04d.fvol", n)
}

// Files is how many files of mirrors the bundle holds: its blobs, less the
// snapshot and the documents.
func (b Bundle) Files() int { return b.Blobs - 1 - len(b.Documents) }

// bundleID is the id: FORMAT.md.
func bundleID(b Bundle) blob.Digest {
	base := blob.Digest("")
	if b.Base != nil {
		base = b.Base.SHA256
	}
	text := fmt.Appendf(nil, "fettle bundle 1\n%s\n%s\n%d\n", b.Snapshot.SHA256, base, b.VolumeSize)
	for _, d := range b.Documents {
		text = fmt.Appendf(text, "%s %s\n", d.SHA256, d.Name)
	}
	return blob.FromBytes(text)
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
	if err := b.checkParts(); err != nil {
		return err
	}
	for i, v := range b.Volumes {
		if v.Number != i+1 || v.File != b.volumeFile(v.Number) || v.Size < minVolume || v.Stored < v.Size || !b.Encrypted() && v.Stored != v.Size {
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
	key              PublicKey
	dirs             []string
	paths            map[string]string // by name, of the files that are present
	sums             map[string]string // what SHA256SUMS says; nil: it is not there
	ids              []age.Identity
	buf              buffers
	index, signature []byte
	lost             []int // volumes whose files are there and damaged
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
			return nil, noBundle(dir, IndexFile, err)
		}
		sig, err := readLimited(filepath.Join(dir, SignatureFile), 1024)
		if err != nil {
			return nil, noBundle(dir, SignatureFile, err)
		}
		if err := key.verifyLine(forIndex, data, sig); err != nil {
			return nil, fmt.Errorf("%s: %w; it must not be trusted", filepath.Join(dir, IndexFile), err)
		}
		b, err := parseIndex(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		if out == nil {
			out = &OpenedBundle{Bundle: b, key: key, index: data, signature: sig, paths: map[string]string{}}
		} else if out.ID != b.ID {
			return nil, fmt.Errorf("%s has another bundle (%s) than the folders before it (%s)", dir, b.Snapshot.Name, out.Snapshot.Name)
		}
	}
	if out == nil {
		return nil, fmt.Errorf("no %s in %v: name the folder of the bundle", IndexFile, dirs)
	}
	if err := out.find(dirs); err != nil {
		return nil, err
	}
	return out, nil
}

// Key is the key that the bundle was verified with.
func (b *OpenedBundle) Key() PublicKey { return b.key }

// Fingerprint is the digest of the signed index, which covers every byte of
// the volumes.
func (b *OpenedBundle) Fingerprint() blob.Digest { return blob.FromBytes(b.index) }

// ErrNoBundle says that a folder holds none.
var ErrNoBundle = errors.New("no bundle is there")

// noBundle says what a folder lacks to be a bundle's.
func noBundle(dir, file string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s has no %s: name the folder that fettle bundle create wrote, and if this is it copy it anew: %w", ErrNoBundle, dir, file, err)
	}
	return fmt.Errorf("opening the bundle in %s: %w", dir, err)
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
	Kept    bool // what the others hold was imported
}

func (e *MissingVolumeError) Error() string {
	next := "name the folders of all its media in one command"
	if e.Kept {
		next = "import again from the media that have them; what the others hold is kept"
	}
	return fmt.Sprintf("the bundle has %d volumes and lacks %s: %s", e.Of, strings.Join(e.Missing, ", "), next)
}

// missing names the volumes that are neither present nor in done.
func (b *OpenedBundle) missing(done []int) error {
	e := &MissingVolumeError{Of: len(b.Volumes)}
	if b.restorable() {
		return nil
	}
	for _, v := range b.Volumes {
		if !b.present(v.Number) && !slices.Contains(done, v.Number) {
			e.Missing = append(e.Missing, v.File)
		}
	}
	if len(e.Missing) == 0 {
		return nil
	}
	return e
}

// tables reads and verifies the tables of all volumes.
func (b *OpenedBundle) tables(ctx context.Context) error {
	for _, v := range b.Volumes {
		if err := b.with(ctx, v, func(medium, table) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// Verify reads every byte of the bundle and compares: volumes, and what lies
// beside them. It needs no store. What it cannot know is whether the other
// side has the base.
func (b *OpenedBundle) Verify(ctx context.Context, progress func(done, total int64)) error {
	if err := b.missing(nil); err != nil {
		return err
	}
	if err := b.beside(ctx, true); err != nil {
		return err
	}
	var total, done int64
	for _, v := range b.Volumes {
		total += v.Size
	}
	check := newJoin(b.Blobs, b.Bytes, b.Snapshot)
	for _, v := range b.Volumes {
		err := b.frames(ctx, v, nil, func(fr frame, data []byte) error {
			done += fr.Stored
			if progress != nil {
				progress(done, total)
			}
			return check.frame(fr, data)
		})
		if err != nil {
			return err
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
	got, err := b.read(ctx, map[blob.Digest]int64{b.Snapshot.SHA256: b.Snapshot.Size})
	if err != nil {
		return Snapshot{}, err
	}
	return b.snapshot(got[b.Snapshot.SHA256])
}

// read reads some blobs whole: those at the beginning of a bundle.
func (b *OpenedBundle) read(ctx context.Context, want map[blob.Digest]int64) (map[blob.Digest][]byte, error) {
	out := map[blob.Digest][]byte{}
	left := len(want)
	for _, v := range b.Volumes {
		if left == 0 {
			break
		}
		if !b.present(v.Number) && !b.restorable() {
			return nil, b.missing(nil)
		}
		wanted := func(fr frame) bool { _, ok := want[fr.Blob]; return ok && left > 0 }
		err := b.frames(ctx, v, wanted, func(fr frame, data []byte) error {
			if fr.Offset != int64(len(out[fr.Blob])) || fr.Size != want[fr.Blob] {
				return fmt.Errorf("%w: blob %s is not as the index says", ErrDamaged, fr.Blob.Short())
			}
			if out[fr.Blob] = append(out[fr.Blob], data...); fr.Offset+fr.Length < fr.Size {
				return nil
			}
			if left--; blob.FromBytes(out[fr.Blob]) != fr.Blob {
				return fmt.Errorf("%w: the frames of blob %s do not make it", ErrDamaged, fr.Blob.Short())
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if left > 0 {
		return nil, fmt.Errorf("%w: its volumes lack a document that the index names", ErrDamaged)
	}
	return out, nil
}
