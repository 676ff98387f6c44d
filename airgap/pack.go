package airgap

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/fettle-dev/fettle/blob"
)

// volumes writes volumes one behind the other.
type volumes struct {
	key    *Key
	dir    string
	b      Bundle
	limit  int64
	frame  int64
	enc    *zstd.Encoder
	buf    []byte
	out    []byte
	to     []age.Recipient
	parity *parityWriter // nil: none
	sums   map[string]string

	f    *volumeFile // nil: none is open
	tab  table
	n    int64
	done []Volume
}

// volumeFile is the file of one volume as it is written. It sums up what is
// stored and adds it to parity.
type volumeFile struct {
	f      *os.File
	sum    hash.Hash
	number int
	n      int64
	parity *parityWriter
	buf    *bufio.Writer  // nil: not encrypted
	plain  io.WriteCloser // nil: not encrypted
}

// buffer gathers the chunks of age.
func (v *volumeFile) buffer() io.Writer {
	v.buf = bufio.NewWriterSize(v, 1<<20)
	return v.buf
}

// Write is for what is stored; [volumeFile.put] for what is meant.
func (v *volumeFile) Write(p []byte) (int, error) {
	summed := make(chan struct{})
	go func() { v.sum.Write(p); close(summed) }()
	_, err := v.f.Write(p)
	if err == nil && v.parity != nil {
		err = v.parity.add(v.number, v.n, p)
	}
	<-summed
	v.n += int64(len(p))
	return len(p), err
}

func (v *volumeFile) put(p []byte) error {
	var w io.Writer = v
	if v.plain != nil {
		w = v.plain
	}
	_, err := w.Write(p)
	return err
}

// close makes the file durable.
func (v *volumeFile) close() error {
	var err error
	if v.plain != nil {
		err = errors.Join(v.plain.Close(), v.buf.Flush())
	}
	return errors.Join(err, v.f.Sync(), v.f.Close())
}

func newVolumes(key *Key, dir string, b Bundle, to []age.Recipient) (*volumes, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, err
	}
	w := &volumes{key: key, dir: dir, b: b, limit: b.VolumeSize, frame: frameSize, enc: enc, to: to, sums: map[string]string{}}
	if w.limit > 0 {
		w.frame = min(w.frame, w.limit/4)
	}
	return w, nil
}

func (w *volumes) tmp() string { return filepath.Join(w.dir, ".volume.tmp") }

// abort removes the volume and the parity that are being written.
func (w *volumes) abort() {
	if w.f != nil {
		w.f.f.Close()
		os.Remove(w.tmp())
		w.f = nil
	}
	if w.parity != nil {
		w.parity.abort()
	}
}

// open begins a volume.
func (w *volumes) open() error {
	if len(w.done) >= volumesAtMost {
		return fmt.Errorf("the bundle needs more than %d volumes: make them larger", volumesAtMost)
	}
	f, err := os.OpenFile(w.tmp(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	w.f = &volumeFile{f: f, sum: sha256.New(), number: len(w.done) + 1, parity: w.parity}
	if len(w.to) > 0 {
		if w.f.plain, err = age.Encrypt(w.f.buffer(), w.to...); err != nil {
			return fmt.Errorf("encrypting to the recipients: %w", err)
		}
	}
	w.n = 0
	w.tab = table{Version: 1, ID: w.b.ID, Number: w.f.number}
	return w.f.put([]byte(volumeHead))
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
		if err := w.open(); err != nil {
			return fmt.Errorf("writing volume %d: %w", len(w.done)+1, err)
		}
	}
	if err := w.f.put(data); err != nil {
		return fmt.Errorf("writing volume %d: %w", w.f.number, err)
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
	v := Volume{Number: w.tab.Number, File: w.b.volumeFile(w.tab.Number), Size: w.n + minVolume + int64(len(packed)), Table: blob.FromBytes(packed)}
	if w.limit > 0 && v.Size > w.limit {
		return fmt.Errorf("volume %d has %d bytes and its limit is %d: its table is larger than foreseen", v.Number, v.Size, w.limit)
	}
	end := append(packed, w.key.sign(forTable, packed)...)
	end = binary.BigEndian.AppendUint64(end, uint64(len(packed)))
	end = append(end, volumeTail...)
	if err := errors.Join(w.f.put(end), w.f.close()); err != nil {
		return fmt.Errorf("writing volume %d: %w", v.Number, err)
	}
	v.Stored, w.sums[v.File] = w.f.n, fmt.Sprintf("%x", w.f.sum.Sum(nil))
	w.f = nil
	if err := os.Rename(w.tmp(), filepath.Join(w.dir, v.File)); err != nil {
		return err
	}
	w.done = append(w.done, v)
	return syncDir(w.dir)
}

// end ends the last volume and returns the index with volumes and parity.
func (w *volumes) end() (Bundle, error) {
	if err := w.close(); err != nil {
		return Bundle{}, err
	}
	if w.parity != nil {
		var err error
		if w.b.Parity, err = w.parity.end(w.sums); err != nil {
			return Bundle{}, err
		}
	}
	w.b.Volumes = w.done
	return w.b, w.tidy()
}

// tidy removes what an interrupted create of other volumes left.
func (w *volumes) tidy() error {
	for _, pattern := range []string{"volume-[0-9][0-9][0-9][0-9].fvol", "volume-[0-9][0-9][0-9][0-9].fvol.age", "parity-[0-9][0-9][0-9][0-9].fpar",
		".parity-*.tmp", ".tmp-*", documentsDir + "/.tmp-*"} {
		old, err := filepath.Glob(filepath.Join(w.dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range old {
			if w.sums[filepath.Base(path)] == "" {
				if err := os.Remove(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
