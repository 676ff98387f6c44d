package airgap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"

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
	Site       string // the site's name
	Snapshot   string // "": the newest
	Base       string // name of the snapshot that the other side has; "": a full bundle
	VolumeSize int64  // 0: one volume
	Progress   func(done, total int64)
}

// Create writes a bundle into the folder out. The same snapshot, base and
// volume size give the same bytes. A folder that holds another bundle is
// refused; one that holds this bundle is left as it is.
func (s *Store) Create(ctx context.Context, key *Key, out string, o CreateOptions) (Bundle, error) {
	if o.VolumeSize != 0 && o.VolumeSize < MinVolumeSize {
		return Bundle{}, fmt.Errorf("volumes of %d bytes are too small: at least %d", o.VolumeSize, MinVolumeSize)
	}
	if err := CheckName("site", o.Site); err != nil {
		return Bundle{}, err
	}
	b, files, data, err := s.plan(o)
	if err != nil {
		return Bundle{}, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return Bundle{}, err
	}
	if old, err := OpenBundle(key.Public(), out); err == nil && old.ID == b.ID && old.Site == b.Site && old.missing(nil) == nil {
		if _, err := old.tables(nil); err == nil {
			return old.Bundle, nil
		}
	} else if _, err := os.Lstat(filepath.Join(out, IndexFile)); !errors.Is(err, fs.ErrNotExist) {
		return Bundle{}, fmt.Errorf("%s holds another bundle already: name an empty folder", out)
	}
	if err := checkFree(out, b.Bytes); err != nil {
		return Bundle{}, err
	}
	w, err := newVolumes(key, out, b)
	if err != nil {
		return Bundle{}, err
	}
	defer w.abort()
	var done int64
	report := func(n int64) {
		if done += n; o.Progress != nil {
			o.Progress(done, b.Bytes)
		}
	}
	if err := w.blob(b.Snapshot.SHA256, b.Snapshot.Size, bytes.NewReader(data), report); err != nil {
		return Bundle{}, err
	}
	for _, f := range files {
		if err := s.pack(ctx, w, f, report); err != nil {
			return Bundle{}, fmt.Errorf("packing %s: %w", f.Path, err)
		}
	}
	if b.Volumes, err = w.end(); err != nil {
		return Bundle{}, err
	}
	index, err := marshal(b)
	if err != nil {
		return Bundle{}, err
	}
	index = append(index, '\n')
	if _, err := parseIndex(index); err != nil {
		return Bundle{}, err
	}
	if err := writeFile(filepath.Join(out, SignatureFile), key.signatureLine(forIndex, index)); err != nil {
		return Bundle{}, err
	}
	return b, writeFile(filepath.Join(out, IndexFile), index)
}

// plan is the index without volumes, the files that go in, and the snapshot's
// bytes.
func (s *Store) plan(o CreateOptions) (Bundle, []File, []byte, error) {
	name := o.Snapshot
	if name == "" {
		last, ok, err := s.Latest()
		if err != nil {
			return Bundle{}, nil, nil, err
		}
		if !ok {
			return Bundle{}, nil, nil, fmt.Errorf("%w: nothing was mirrored yet: fettle mirror sync", ErrNoSnapshot)
		}
		name = last.Name
	}
	snap, digest, err := s.Snapshot(name)
	if err != nil {
		return Bundle{}, nil, nil, err
	}
	data, err := os.ReadFile(s.snapshotPath(name))
	if err != nil {
		return Bundle{}, nil, nil, err
	}
	if got := blob.FromBytes(data); got != digest {
		return Bundle{}, nil, nil, fmt.Errorf("snapshot %s changes while it is read", name)
	}
	b := Bundle{
		Version: bundleVersion, Site: o.Site, Serial: snap.Serial, Created: snap.Created, VolumeSize: o.VolumeSize,
		Snapshot: SnapshotRef{name, digest, int64(len(data))}, Blobs: 1, Bytes: int64(len(data)),
	}
	has := map[blob.Digest]bool{}
	if o.Base != "" {
		base, baseDigest, err := s.Snapshot(o.Base)
		if err != nil {
			return Bundle{}, nil, nil, fmt.Errorf("this side no longer has the base of the bundle; make a full one without --since: %w", err)
		}
		if base.Serial > snap.Serial {
			return Bundle{}, nil, nil, fmt.Errorf("the base %s is newer than %s", base.Name, snap.Name)
		}
		b.Base = &BaseRef{base.Name, baseDigest}
		base.Blobs(func(f File) { has[f.SHA256] = true })
	}
	var files []File
	snap.Blobs(func(f File) {
		if !has[f.SHA256] {
			files = append(files, f)
			b.Blobs, b.Bytes = b.Blobs+1, b.Bytes+f.Size
		}
	})
	b.ID = bundleID(b)
	return b, files, data, nil
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

// volumes writes volumes one behind the other.
type volumes struct {
	key   *Key
	dir   string
	id    blob.Digest
	limit int64
	frame int64
	enc   *zstd.Encoder
	buf   []byte
	out   []byte

	f    *os.File
	tab  table
	n    int64
	done []Volume
}

func newVolumes(key *Key, dir string, b Bundle) (*volumes, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, err
	}
	w := &volumes{key: key, dir: dir, id: b.ID, limit: b.VolumeSize, frame: frameSize, enc: enc}
	if w.limit > 0 {
		w.frame = min(w.frame, w.limit/4)
	}
	return w, nil
}

func (w *volumes) tmp() string { return filepath.Join(w.dir, ".volume.tmp") }

// abort removes the volume that is being written.
func (w *volumes) abort() {
	if w.f != nil {
		w.f.Close()
		os.Remove(w.tmp())
		w.f = nil
	}
}

// blob writes the frames of one blob. r ends with an error when its bytes are
// not the blob's.
func (w *volumes) blob(d blob.Digest, size int64, r io.Reader, report func(int64)) error {
	var compress bool
	for off := int64(0); off < size || off == 0; {
		n := min(w.frame, size-off)
		if int64(cap(w.buf)) < n {
			w.buf = make([]byte, n)
		}
		data := w.buf[:n]
		if _, err := io.ReadFull(r, data); err != nil {
			return fmt.Errorf("reading blob %s at byte %d: %w", d, off, err)
		}
		if off+n == size {
			// The reader vouches for the bytes only at their end.
			if m, err := r.Read(make([]byte, 1)); m != 0 || !errors.Is(err, io.EOF) {
				return fmt.Errorf("blob %s does not end after %d bytes: %w", d, size, errors.Join(blob.ErrMismatch, err))
			}
		}
		if off == 0 {
			sample := data[:min(n, sampleSize)]
			w.out = w.enc.EncodeAll(sample, w.out[:0])
			compress = len(w.out) < len(sample)*9/10
		}
		fr := frame{Blob: d, Size: size, Offset: off, Length: n, Stored: n, Encoding: encodingRaw}
		if compress {
			w.out = w.enc.EncodeAll(data, w.out[:0])
			if int64(len(w.out)) < n {
				data, fr.Encoding, fr.Stored = w.out, encodingZstd, int64(len(w.out))
			}
		}
		if fr.whole() && fr.Encoding == encodingRaw {
			fr.SHA256 = d
		} else {
			fr.SHA256 = blob.FromBytes(data)
		}
		if err := w.put(fr, data); err != nil {
			return err
		}
		report(n)
		if off += n; size == 0 {
			break
		}
	}
	return nil
}

func (w *volumes) put(fr frame, data []byte) error {
	need := w.n + fr.Stored + minVolume + tableFixed + tablePerFrame*int64(len(w.tab.Frames)+1)
	if w.f != nil && w.limit > 0 && need > w.limit {
		if err := w.close(); err != nil {
			return err
		}
	}
	if w.f == nil {
		if len(w.done) >= volumesAtMost {
			return fmt.Errorf("the bundle needs more than %d volumes: make them larger", volumesAtMost)
		}
		f, err := os.OpenFile(w.tmp(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		w.f, w.n = f, 0
		w.tab = table{Version: 1, ID: w.id, Number: len(w.done) + 1}
		if _, err := f.WriteString(volumeHead); err != nil {
			return err
		}
	}
	if _, err := w.f.Write(data); err != nil {
		return fmt.Errorf("writing volume %d: %w", len(w.done)+1, err)
	}
	w.n += fr.Stored
	w.tab.Frames = append(w.tab.Frames, fr)
	return nil
}

// close ends the volume that is being written.
func (w *volumes) close() error {
	plain, err := marshal(w.tab)
	if err != nil {
		return err
	}
	packed := w.enc.EncodeAll(plain, nil)
	v := Volume{Number: w.tab.Number, File: volumeFile(w.tab.Number), Size: w.n + minVolume + int64(len(packed)), Table: blob.FromBytes(packed)}
	if w.limit > 0 && v.Size > w.limit {
		return fmt.Errorf("volume %d has %d bytes and its limit is %d: its table is larger than foreseen", v.Number, v.Size, w.limit)
	}
	end := append(packed, w.key.sign(forTable, packed)...)
	end = binary.BigEndian.AppendUint64(end, uint64(len(packed)))
	end = append(end, volumeTail...)
	_, err = w.f.Write(end)
	if err := errors.Join(err, w.f.Sync(), w.f.Close()); err != nil {
		return fmt.Errorf("writing volume %d: %w", v.Number, err)
	}
	w.f = nil
	if err := os.Rename(w.tmp(), filepath.Join(w.dir, v.File)); err != nil {
		return err
	}
	w.done = append(w.done, v)
	return syncDir(w.dir)
}

func (w *volumes) end() ([]Volume, error) {
	if err := w.close(); err != nil {
		return nil, err
	}
	// What an interrupted create of other volumes left would only confuse.
	old, err := filepath.Glob(filepath.Join(w.dir, "volume-[0-9][0-9][0-9][0-9].fvol"))
	if err != nil {
		return nil, err
	}
	for _, path := range old {
		if filepath.Base(path) > w.done[len(w.done)-1].File {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	return w.done, nil
}
