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

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/blob"
)

// ErrRollback says that a bundle is older than what was imported already.
var ErrRollback = errors.New("an older bundle")

// ErrBase says that the store lacks what a bundle builds on.
var ErrBase = errors.New("the base of the bundle is not here")

// ImportOptions say how a bundle is taken in.
type ImportOptions struct {
	AllowRollback bool
	Now           func() time.Time
	Progress      func(done, total int64)
}

// Import takes a bundle into the store and serves its snapshot: FORMAT.md. It
// may be called again after any failure and goes on where it stopped. Before
// everything of the bundle is here and verified, what is served does not
// change.
func (s *Store) Import(ctx context.Context, b *OpenedBundle, o ImportOptions) (Receipt, error) {
	unlock, err := s.lock()
	if err != nil {
		return Receipt{}, err
	}
	defer unlock()
	if err := s.admit(b, o.AllowRollback); err != nil {
		return Receipt{}, err
	}
	if err := b.beside(ctx, false); err != nil {
		return Receipt{}, err
	}
	im := &importer{s: s, b: b, dir: filepath.Join(s.dir, "imports", b.ID.Hex()), progress: o.Progress}
	if err := im.run(ctx); err != nil {
		return Receipt{}, err
	}
	data, err := im.snapshotBytes(ctx)
	if err != nil {
		return Receipt{}, err
	}
	snap, err := b.snapshot(data)
	if err != nil {
		return Receipt{}, err
	}
	if err := s.complete(snap, nil); err != nil {
		return Receipt{}, errors.Join(err, im.forget())
	}
	if err := im.documents(ctx); err != nil {
		return Receipt{}, err
	}
	if err := s.add(snap, data); err != nil {
		return Receipt{}, err
	}
	if err := s.Use(snap.Name); err != nil {
		return Receipt{}, err
	}
	r, err := s.writeReceipt(Receipt{Version: 1, Site: b.Site, Bundle: b.ID, Serial: b.Serial,
		Snapshot: snap.Name, SHA256: b.Snapshot.SHA256, Imported: o.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return Receipt{}, err
	}
	return r, errors.Join(os.RemoveAll(im.dir), im.tidy(), s.blobs.Sweep())
}

// admit refuses bundles that are older than the newest snapshot, or that build
// on one that is not here.
func (s *Store) admit(b *OpenedBundle, rollback bool) error {
	name, err := s.latest()
	if err != nil {
		return err
	}
	var last Snapshot
	if name != "" {
		var d blob.Digest
		if last, d, err = s.Snapshot(name); err != nil {
			return err
		}
		switch {
		case b.Serial == last.Serial && b.Snapshot.SHA256 != d:
			return fmt.Errorf("refused: the bundle's snapshot %s and this side's %s have the same serial %d and are not the same: two connected sides make bundles for this site, or one was set back", b.Snapshot.Name, last.Name, last.Serial)
		case b.Serial < last.Serial && !rollback:
			return fmt.Errorf("%w: it has serial %d (%s), and this side holds %d (%s); --allow-rollback imports it all the same", ErrRollback, b.Serial, b.Snapshot.Name, last.Serial, last.Name)
		}
	}
	if b.Base == nil {
		return nil
	}
	_, d, err := s.Snapshot(b.Base.Name)
	if err != nil && !errors.Is(err, ErrNoSnapshot) {
		return err
	}
	if err != nil || d != b.Base.SHA256 {
		next := "this side holds nothing yet: ask the connected side for a full bundle, without --since"
		if name != "" {
			r, err := s.receiptOf(b.Site, last)
			if err != nil {
				return err
			}
			next = fmt.Sprintf("this side holds %s; on the connected side: fettle bundle received %s, then create a bundle --since sent", last.Name, r.Code())
		}
		return fmt.Errorf("%w: it builds on %s (%s); import that first, or: %s", ErrBase, b.Base.Name, b.Base.SHA256.Short(), next)
	}
	return nil
}

// complete tells whether the store has every file of a snapshot. there are the
// sizes of blobs that were looked at just now; it may be nil.
func (s *Store) complete(snap Snapshot, there map[blob.Digest]int64) error {
	var missing []error
	snap.Blobs(func(f File) {
		n, ok := there[f.SHA256]
		var err error
		if !ok {
			n, err = s.blobs.Size(f.SHA256)
		}
		if err == nil && n != f.Size {
			err = fmt.Errorf("blob %s has %d bytes; it must have %d", f.SHA256, n, f.Size)
		}
		if err != nil && len(missing) < 10 {
			missing = append(missing, fmt.Errorf("%s: %w", f.Path, err))
		}
	})
	if len(missing) > 0 {
		return fmt.Errorf("the snapshot is not whole, so it is not served; ask the connected side for a full bundle: %w", errors.Join(missing...))
	}
	return nil
}

// importer takes the volumes of one bundle in.
type importer struct {
	s        *Store
	b        *OpenedBundle
	dir      string
	progress func(done, total int64)
}

func (im *importer) donePath(n int) string {
	return filepath.Join(im.dir, fmt.Sprintf("volume-%04d.done", n))
}
func (im *importer) partPath(d blob.Digest) string {
	return filepath.Join(im.dir, d.Hex()+".part")
}

func (im *importer) run(ctx context.Context) error {
	if err := os.MkdirAll(im.dir, 0o755); err != nil {
		return err
	}
	var done []int
	for _, v := range im.b.Volumes {
		if _, err := os.Stat(im.donePath(v.Number)); err == nil {
			done = append(done, v.Number)
		}
	}
	var todo []Volume
	for _, v := range im.b.Volumes {
		if !slices.Contains(done, v.Number) && (im.b.present(v.Number) || im.b.restorable()) {
			todo = append(todo, v)
		}
	}
	if err := im.room(ctx, todo); err != nil {
		return err
	}
	var total, at int64
	for _, v := range todo {
		total += v.Size
	}
	for _, v := range todo {
		err := im.volume(ctx, v, func(n int64) {
			if at += n; im.progress != nil {
				im.progress(at, total)
			}
		})
		if err != nil {
			return err
		}
		if err := writeFile(im.donePath(v.Number), nil); err != nil {
			return err
		}
		done = append(done, v.Number)
	}
	if err := im.b.missing(done); err != nil {
		var lack *MissingVolumeError
		if errors.As(err, &lack) {
			lack.Kept = len(done) > 0
		}
		return err
	}
	return im.joinParts(ctx)
}

// room refuses an import for which there is no space, before the first byte.
func (im *importer) room(ctx context.Context, todo []Volume) error {
	var need int64
	for _, v := range todo {
		err := im.b.with(ctx, v, func(_ medium, t table) error {
			for _, fr := range t.Frames {
				if !im.here(fr) {
					need += fr.Length
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return checkFree(im.s.dir, need)
}

// here tells whether the blob of a frame is in the store already.
func (im *importer) here(fr frame) bool {
	n, err := im.s.blobs.Size(fr.Blob)
	return err == nil && n == fr.Size
}

// commitsAtOnce bounds the blobs of an import that are written and not durable
// yet.
const commitsAtOnce = 64

// volume takes one volume in. Blobs that are whole in it become blobs at
// once; parts of others go to files of their own until the rest is here.
func (im *importer) volume(ctx context.Context, v Volume, add func(int64)) error {
	var w *blob.Writer
	defer func() {
		if w != nil {
			w.Abort()
		}
	}()
	// Making a blob durable is waiting for the disk, which many do at once.
	var commits errgroup.Group
	commits.SetLimit(commitsAtOnce)
	next := 0
	err := im.b.with(ctx, v, func(m medium, t table) error {
		inside, skip := map[blob.Digest]int64{}, map[blob.Digest]bool{}
		for _, fr := range t.Frames {
			inside[fr.Blob] += fr.Length
			skip[fr.Blob] = im.here(fr)
		}
		want := func(fr frame) bool {
			if skip[fr.Blob] {
				add(fr.Stored)
			}
			return !skip[fr.Blob]
		}
		return readFrames(ctx, m, t, &im.b.buf, &next, want, func(fr frame, data []byte) error {
			add(fr.Stored)
			if inside[fr.Blob] != fr.Size {
				return called(im.part(fr, data))
			}
			if w == nil {
				var err error
				if w, err = im.s.blobs.Create(); err != nil {
					return called(err)
				}
			}
			if fr.Offset != w.Size() {
				return fmt.Errorf("%w: blob %s has a gap at byte %d", ErrDamaged, fr.Blob.Short(), w.Size())
			}
			if _, err := w.Write(data); err != nil {
				return called(err)
			}
			if w.Size() < fr.Size {
				return nil
			}
			whole := w
			w = nil
			commits.Go(func() error {
				_, _, err := whole.CommitSoon(fr.Blob)
				return err
			})
			return nil
		})
	})
	return errors.Join(err, commits.Wait(), im.s.blobs.Flush())
}

// part keeps a frame of a blob that spans volumes.
func (im *importer) part(fr frame, data []byte) error {
	f, err := os.OpenFile(im.partPath(fr.Blob), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, fr.Offset)
	return errors.Join(err, f.Sync(), f.Close())
}

// joinParts makes blobs of the parts, once all volumes were read.
func (im *importer) joinParts(ctx context.Context) error {
	parts, err := filepath.Glob(filepath.Join(im.dir, "*.part"))
	if err != nil {
		return err
	}
	for _, path := range parts {
		hex := filepath.Base(path)
		d, err := blob.ParseDigest("sha256:" + hex[:len(hex)-len(".part")])
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, _, err = im.s.blobs.Put(ctx, f, d)
		f.Close()
		if err != nil {
			return fmt.Errorf("joining a blob that spans volumes: %w", errors.Join(err, im.forget()))
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// forget makes the next import begin anew: what is whole stays.
func (im *importer) forget() error { return os.RemoveAll(im.dir) }

// snapshotBytes are the bytes of the snapshot, from the blobs, or from the
// store when an import of it was done before.
func (im *importer) snapshotBytes(ctx context.Context) ([]byte, error) {
	data, err := ReadBlob(ctx, im.s.blobs, im.b.Snapshot.SHA256, im.b.Snapshot.Size)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the volumes hold no snapshot %s: %w", ErrDamaged, im.b.Snapshot.Name, errors.Join(err, im.forget()))
	}
	return data, err
}

// DocumentsDir is where the documents of the bundle that brought a snapshot
// are.
func (s *Store) DocumentsDir(snapshot string) string {
	return filepath.Join(s.dir, documentsDir, snapshot)
}

// documents keeps the bundle's documents, and its signed index, beside the
// snapshot: what entered, and who vouched for it.
func (im *importer) documents(ctx context.Context) error {
	dir := im.s.DocumentsDir(im.b.Snapshot.Name)
	for _, d := range im.b.Documents {
		data, err := ReadBlob(ctx, im.s.blobs, d.SHA256, d.Size)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: the volumes hold no document %s: %w", ErrDamaged, d.Name, errors.Join(err, im.forget()))
		}
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, d.Name), data); err != nil {
			return err
		}
	}
	return errors.Join(writeFile(filepath.Join(dir, IndexFile), im.b.index), writeFile(filepath.Join(dir, SignatureFile), im.b.signature))
}

// tidy removes the snapshot and the documents from the blobs, where no
// snapshot serves the same bytes as a file.
func (im *importer) tidy() error {
	gone := map[blob.Digest]bool{im.b.Snapshot.SHA256: true}
	for _, d := range im.b.Documents {
		gone[d.SHA256] = true
	}
	all, err := im.s.Snapshots()
	if err != nil {
		return err
	}
	for _, snap := range all {
		snap.Blobs(func(f File) { delete(gone, f.SHA256) })
	}
	for d := range gone {
		err = errors.Join(err, im.s.blobs.Remove(d))
	}
	return err
}
