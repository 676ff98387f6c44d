package airgap

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/fettle-dev/fettle/blob"
)

const (
	// MinVolumeSize is the smallest volume that can be asked for.
	MinVolumeSize = 64 << 10

	sampleSize    = 64 << 10
	tablePerFrame = 192 // compressed, at most: two digests and a few numbers
	tableFixed    = 1024
	volumesAtMost = 9999
)

// CreateOptions say what a bundle is made of.
type CreateOptions struct {
	Site       string      // the site's name
	Snapshot   string      // "": the newest
	Base       string      // name of the snapshot that the other side has; "": a full bundle
	BaseDigest blob.Digest // of that snapshot; "": by name alone
	VolumeSize int64       // 0: one volume

	Recipients []string          // age public keys of the other side; none: not encrypted
	Parity     int               // volumes of which any so many may be lost
	Programs   map[string]string // executables that go beside the volumes: paths by the names that they get
	Cosign     bool              // a signature for cosign verify-blob too
	// Documents writes the documents; the same input must give the same bytes.
	Documents func(Carried) ([]Document, error)
	// Beside are files that go beside the volumes; Sign makes more signatures
	// of SHA256SUMS, by name of the file.
	Beside map[string][]byte
	Sign   map[string]SignFunc
	// Check refuses what is to be carried: the site's policy.
	Check    func(Carried) error
	Progress func(done, total int64)
}

// SignFunc signs data as of a time: the same bytes each time.
type SignFunc func(data []byte, at time.Time) ([]byte, error)

// Create writes a bundle into the folder out. The same snapshot, base, volume
// size and documents give the same bytes, but for what is encrypted: age
// takes a fresh key each time. A folder that holds another bundle is
// refused; one that holds this bundle is left as it is.
func (s *Store) Create(ctx context.Context, key *Key, out string, o CreateOptions) (Bundle, error) {
	if o.VolumeSize != 0 && o.VolumeSize < MinVolumeSize {
		return Bundle{}, fmt.Errorf("volumes of %d bytes are too small: at least %d", o.VolumeSize, MinVolumeSize)
	}
	if err := CheckName("site", o.Site); err != nil {
		return Bundle{}, err
	}
	p, err := s.plan(ctx, &o)
	if err != nil {
		return Bundle{}, err
	}
	b := p.b
	if err := os.MkdirAll(out, 0o755); err != nil {
		return Bundle{}, err
	}
	if old, err := OpenBundle(key.Public(), out); err == nil && p.same(old.Bundle) && old.missing(nil) == nil && len(old.Restored()) == 0 {
		if old.intact(ctx) && signed(out, o) {
			return old.Bundle, nil
		}
		// What is rewritten is no bundle until it is done.
		if err := os.Remove(filepath.Join(out, IndexFile)); err != nil {
			return Bundle{}, err
		}
	} else if _, err := os.Lstat(filepath.Join(out, IndexFile)); !errors.Is(err, fs.ErrNotExist) {
		return Bundle{}, fmt.Errorf("%s holds another bundle already: name an empty folder", out)
	}
	if err := checkFree(out, p.room(o)); err != nil {
		return Bundle{}, err
	}
	w, err := newVolumes(key, out, b, p.to)
	if err != nil {
		return Bundle{}, err
	}
	defer w.abort()
	if o.Parity > 0 {
		if w.parity, err = newParityWriter(out, p.volumesAtMost(), o.Parity); err != nil {
			return Bundle{}, err
		}
	}
	if err := s.write(ctx, w, p, o); err != nil {
		return Bundle{}, err
	}
	if b, err = w.end(); err != nil {
		return Bundle{}, err
	}
	return b, finish(ctx, key, out, b, w.sums, o)
}

// signed tells whether all signatures that are asked for are there.
func signed(out string, o CreateOptions) bool {
	names := slices.Collect(maps.Keys(o.Sign))
	if o.Cosign {
		names = append(names, SumsCosign)
	}
	return !slices.ContainsFunc(names, func(n string) bool { _, err := os.Lstat(filepath.Join(out, n)); return err != nil })
}

// write packs everything into volumes.
func (s *Store) write(ctx context.Context, w *volumes, p planned, o CreateOptions) error {
	var done int64
	report := func(n int64) {
		if done += n; o.Progress != nil {
			o.Progress(done, p.b.Bytes)
		}
	}
	if err := w.blob(p.b.Snapshot.SHA256, p.b.Snapshot.Size, bytes.NewReader(p.data), report); err != nil {
		return err
	}
	packed := map[blob.Digest]bool{p.b.Snapshot.SHA256: true}
	for _, d := range p.b.Documents {
		if packed[d.SHA256] {
			continue
		}
		packed[d.SHA256] = true
		if err := w.blob(d.SHA256, d.Size, bytes.NewReader(d.Data), report); err != nil {
			return fmt.Errorf("packing the document %s: %w", d.Name, err)
		}
	}
	for _, f := range p.files {
		if err := s.pack(ctx, w, f, report); err != nil {
			return fmt.Errorf("packing %s: %w", f.Path, err)
		}
	}
	return nil
}

// finish writes what lies beside the volumes, the index last: a folder without
// it holds no bundle.
func finish(ctx context.Context, key *Key, out string, b Bundle, sums map[string]string, o CreateOptions) error {
	index, err := marshal(b)
	if err != nil {
		return err
	}
	index = append(index, '\n')
	if _, err := parseIndex(index); err != nil {
		return err
	}
	small := map[string][]byte{SignatureFile: key.signatureLine(forIndex, index), ReadmeFile: readme(key.Public(), b, o)}
	maps.Copy(small, o.Beside)
	if !b.Encrypted() {
		for _, d := range b.Documents {
			small[documentsDir+"/"+d.Name] = d.Data
		}
	}
	for _, name := range slices.Sorted(maps.Keys(small)) {
		if err := writeFile(filepath.Join(out, name), small[name]); err != nil {
			return err
		}
		sums[name] = blob.FromBytes(small[name]).Hex()
	}
	sums[IndexFile] = blob.FromBytes(index).Hex()
	for _, p := range b.Programs {
		f, err := os.Open(p.from)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o755)
		err = errors.Join(copyFile(ctx, filepath.Join(out, p.File), f, &mode), f.Close())
		if err != nil {
			return fmt.Errorf("writing the program %s: %w", p.File, err)
		}
		sums[p.File] = p.SHA256.Hex()
	}
	stale, err := filepath.Glob(filepath.Join(out, documentsDir, "*"))
	if err != nil {
		return err
	}
	for _, path := range stale { // of an interrupted create of another bundle
		if sums[documentsDir+"/"+filepath.Base(path)] == "" {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	text, err := key.writeSums(out, sums, o.Cosign)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o.Sign)) {
		sig, err := o.Sign[name](text, b.Created)
		if err != nil {
			return fmt.Errorf("signing %s: %w", name, err)
		}
		if err := writeFile(filepath.Join(out, name), sig); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(out, IndexFile), index)
}

// planned is what a bundle will hold, before the first byte of it is written.
type planned struct {
	b     Bundle // without volumes and parity
	files []File
	data  []byte // of the snapshot
	to    []age.Recipient
	head  int64 // bytes of an age header

	parity int
}

// same tells whether a bundle that is there is the one that is planned.
func (p planned) same(old Bundle) bool {
	n := 0
	if old.Parity != nil {
		n = len(old.Parity.Files)
	}
	a, b := p.b, old
	a.Volumes, b.Volumes, a.Parity, b.Parity = nil, nil, nil, nil
	a.Documents, b.Documents = nil, nil // they are part of the id
	a.Programs = slices.Clone(a.Programs)
	for i := range a.Programs {
		a.Programs[i].from = ""
	}
	return n == p.parity && reflect.DeepEqual(a, b)
}

// volumesAtMost is how many volumes the blobs may need: a frame that does not
// fit may leave a quarter of a volume empty.
func (p planned) volumesAtMost() int {
	if p.b.VolumeSize == 0 {
		return 1
	}
	frame := min(int64(frameSize), p.b.VolumeSize/4)
	frames := p.b.Bytes/frame + int64(p.b.Blobs)
	need := p.b.Bytes + frames*tablePerFrame
	use := p.b.VolumeSize - frame - tableFixed - minVolume - tablePerFrame
	return int(need/use) + 1
}

// room is the space that the bundle may need.
func (p planned) room(o CreateOptions) int64 {
	need := p.b.Bytes + int64(p.b.Blobs)*tablePerFrame + tableFixed
	for _, x := range p.b.Programs {
		need += x.Size
	}
	if !p.b.Encrypted() {
		for _, d := range p.b.Documents {
			need += d.Size
		}
	} else {
		need += need / ageChunk * ageTag
	}
	if one := cmp.Or(o.VolumeSize, need); o.Parity > 0 {
		need += int64(o.Parity) * min(one, need)
	}
	return need
}

// plan decides what goes in.
func (s *Store) plan(ctx context.Context, o *CreateOptions) (planned, error) {
	p := planned{parity: o.Parity}
	name := o.Snapshot
	if name == "" {
		var err error
		if name, err = s.latest(); err != nil {
			return p, err
		}
		if name == "" {
			return p, fmt.Errorf("%w: nothing was mirrored yet: fettle mirror sync", ErrNoSnapshot)
		}
	}
	snap, data, err := s.read(name)
	if err != nil {
		return p, err
	}
	p.data = data
	p.b = Bundle{
		Version: bundleVersion, Site: o.Site, Serial: snap.Serial, Created: snap.Created, VolumeSize: o.VolumeSize,
		Snapshot: SnapshotRef{name, blob.FromBytes(data), int64(len(p.data))}, Blobs: 1, Bytes: int64(len(p.data)),
	}
	if err := p.encrypt(o); err != nil {
		return p, err
	}
	c := Carried{Snapshot: snap}
	has := map[blob.Digest]bool{}
	if o.Base != "" {
		base, baseDigest, err := s.known(o.Base, o.BaseDigest)
		if err != nil {
			return p, fmt.Errorf("this side no longer has the base of the bundle; make a full one without --since: %w", err)
		}
		if base.Serial > snap.Serial {
			return p, fmt.Errorf("the base %s is newer than %s", base.Name, snap.Name)
		}
		c.Base, p.b.Base = &base, &BaseRef{base.Name, baseDigest}
		base.Blobs(func(f File) { has[f.SHA256] = true })
	}
	snap.Blobs(func(f File) {
		if !has[f.SHA256] {
			p.files = append(p.files, f)
		}
	})
	for name, path := range o.Programs {
		x, err := program(ctx, name, path)
		if err != nil {
			return p, err
		}
		p.b.Programs = append(p.b.Programs, x)
	}
	slices.SortFunc(p.b.Programs, func(a, b Program) int { return cmp.Compare(a.File, b.File) })
	c.Bundle, c.New = p.b, p.files
	if o.Check != nil {
		if err := o.Check(c); err != nil {
			return p, err
		}
	}
	return p, p.count(c, o)
}

// encrypt reads the recipients and makes volumes so small that they fit when
// they are encrypted.
func (p *planned) encrypt(o *CreateOptions) (err error) {
	if len(o.Recipients) == 0 {
		return nil
	}
	p.b.Recipients = slices.Compact(slices.Sorted(slices.Values(o.Recipients)))
	if p.to, err = parseRecipients(p.b.Recipients); err != nil {
		return err
	}
	if p.head, err = ageHeader(p.to); err != nil || o.VolumeSize == 0 {
		return err
	}
	p.b.VolumeSize = plainLimit(o.VolumeSize, p.head)
	return nil
}

// count takes the documents in and adds everything up.
func (p *planned) count(c Carried, o *CreateOptions) error {
	if o.Documents != nil {
		docs, err := o.Documents(c)
		if err != nil {
			return fmt.Errorf("writing the documents of the bundle: %w", err)
		}
		slices.SortFunc(docs, func(a, b Document) int { return cmp.Compare(a.Name, b.Name) })
		p.b.Documents = docs
	}
	seen := map[blob.Digest]bool{p.b.Snapshot.SHA256: true}
	for _, d := range p.b.Documents {
		if !seen[d.SHA256] {
			seen[d.SHA256] = true
			p.b.Blobs, p.b.Bytes = p.b.Blobs+1, p.b.Bytes+d.Size
		}
	}
	p.files = slices.DeleteFunc(p.files, func(f File) bool { return seen[f.SHA256] })
	for _, f := range p.files {
		p.b.Blobs, p.b.Bytes = p.b.Blobs+1, p.b.Bytes+f.Size
	}
	p.b.ID = bundleID(p.b)
	return nil
}

func (s *Store) pack(ctx context.Context, w *volumes, f File, report func(int64)) error {
	r, err := s.blobs.Open(ctx, f.SHA256)
	if err != nil {
		return fmt.Errorf("the store lacks it; fettle mirror sync fetches it again: %w", err)
	}
	defer r.Close()
	if r.Size() != f.Size {
		return fmt.Errorf("%w: blob %s has %d bytes; the snapshot says %d; fettle mirror verify --mend, then sync again", blob.ErrMismatch, f.SHA256, r.Size(), f.Size)
	}
	return w.blob(f.SHA256, f.Size, r, report)
}

// checkFree refuses work for which the file system has no room.
func checkFree(dir string, need int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fmt.Errorf("%s has %d bytes free, and %d are needed; nothing was written", dir, free, need)
	}
	return nil
}
