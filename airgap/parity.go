package airgap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/reedsolomon"
)

// Parity says how many volumes of a set may be lost: FORMAT.md, Parity.
type Parity struct {
	Shards int          `json:"shards"` // data shards of the code: the volumes, then empty ones
	Files  []ParityFile `json:"files"`
}

// ParityFile is as long as the largest volume.
type ParityFile struct {
	Number int    `json:"number"`
	File   string `json:"file"`
	Size   int64  `json:"size"`
}

const (
	shardsAtMost = 256 // GF(2^8)
	parityStep   = 1 << 20
)

func parityFile(n int) string { return fmt.Sprintf("parity-%04d.fpar", n) }

// newCode is the code of shards data shards and extra parity shards: a Cauchy
// matrix over GF(2^8), as klauspost/reedsolomon makes it.
func newCode(shards, extra int) (reedsolomon.Encoder, error) {
	return reedsolomon.New(shards, extra, reedsolomon.WithCauchyMatrix(), reedsolomon.WithMaxGoroutines(1))
}

// parityWriter adds volumes to parity files as they are written. Position p of
// a parity file depends on position p of each volume only, so nothing is read
// again but the parity itself.
type parityWriter struct {
	dir    string
	code   reedsolomon.Encoder
	shards int
	files  []*os.File
	sizes  []int64 // how far each was written
	bufs   [][]byte
}

func newParityWriter(dir string, shards, extra int) (*parityWriter, error) {
	if shards+extra > shardsAtMost {
		return nil, fmt.Errorf("parity works for %d volumes at most, parity volumes counted, and this bundle may need %d: make the volumes larger", shardsAtMost, shards+extra)
	}
	code, err := newCode(shards, extra)
	if err != nil {
		return nil, fmt.Errorf("preparing parity: %w", err)
	}
	p := &parityWriter{dir: dir, code: code, shards: shards, sizes: make([]int64, extra)}
	for i := range extra {
		f, err := os.OpenFile(p.tmp(i), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
		if err != nil {
			p.abort()
			return nil, err
		}
		p.files = append(p.files, f)
		p.bufs = append(p.bufs, make([]byte, parityStep))
	}
	return p, nil
}

func (p *parityWriter) tmp(i int) string {
	return filepath.Join(p.dir, fmt.Sprintf(".parity-%d.tmp", i+1))
}

func (p *parityWriter) abort() {
	for i, f := range p.files {
		f.Close()
		os.Remove(p.tmp(i))
	}
	p.files = nil
}

// add adds the bytes data at offset off of volume number n, from 1.
func (p *parityWriter) add(n int, off int64, data []byte) error {
	if n > p.shards {
		return fmt.Errorf("the bundle needs more than the %d volumes that its parity was made for", p.shards)
	}
	parts := make([][]byte, len(p.files))
	for len(data) > 0 {
		piece := data[:min(len(data), parityStep)]
		data = data[len(piece):]
		for i, f := range p.files {
			parts[i] = p.bufs[i][:len(piece)]
			got := 0
			if off < p.sizes[i] {
				var err error
				if got, err = f.ReadAt(parts[i], off); err != nil && !errors.Is(err, io.EOF) {
					return fmt.Errorf("reading parity: %w", err)
				}
			}
			clear(parts[i][got:])
		}
		if err := p.code.EncodeIdx(piece, n-1, parts); err != nil {
			return fmt.Errorf("computing parity: %w", err)
		}
		for i, f := range p.files {
			if _, err := f.WriteAt(parts[i], off); err != nil {
				return fmt.Errorf("writing parity: %w", err)
			}
			p.sizes[i] = max(p.sizes[i], off+int64(len(piece)))
		}
		off += int64(len(piece))
	}
	return nil
}

// end makes the files durable and returns them with their digests.
func (p *parityWriter) end(sums map[string]string) (*Parity, error) {
	out := &Parity{Shards: p.shards}
	for i, f := range p.files {
		var h hash.Hash = sha256.New()
		n, err := io.Copy(h, io.NewSectionReader(f, 0, p.sizes[i]))
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return nil, fmt.Errorf("writing parity: %w", err)
		}
		pf := ParityFile{i + 1, parityFile(i + 1), n}
		if err := os.Rename(p.tmp(i), filepath.Join(p.dir, pf.File)); err != nil {
			return nil, err
		}
		sums[pf.File] = fmt.Sprintf("%x", h.Sum(nil))
		out.Files = append(out.Files, pf)
	}
	p.files = nil
	return out, syncDir(p.dir)
}

// restored is a lost volume as the other volumes and parity give it back,
// piece by piece. What it reads is as good as its sources: the volume's own
// signature decides.
type restored struct {
	code     reedsolomon.Encoder
	shards   []medium // by number; nil: lost, or empty if beyond the volumes
	volumes  int
	data     int // data shards
	number   int
	step     int64 // bytes of a piece
	n        int64
	at       int64 // of the piece in buf; -1: none
	buf      []byte
	pieces   [][]byte
	required []bool
}

func (r *restored) Size() int64 { return r.n }

func (r *restored) Close() error {
	var errs []error
	for _, m := range r.shards {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

func (r *restored) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= r.n {
			return done, io.EOF
		}
		step := at - at%r.step
		if r.at != step {
			if err := r.load(step); err != nil {
				return done, err
			}
		}
		done += copy(p[done:], r.buf[at-step:])
	}
	return done, nil
}

func (r *restored) load(step int64) error {
	r.at = -1
	for i, m := range r.shards {
		if m == nil && i >= r.volumes && i < r.data {
			clear(r.pieces[i][:cap(r.pieces[i])]) // an empty shard
			r.pieces[i] = r.pieces[i][:r.step]
			continue
		}
		if m == nil {
			r.pieces[i] = r.pieces[i][:0]
			continue
		}
		r.pieces[i] = r.pieces[i][:r.step]
		n, err := m.ReadAt(r.pieces[i], step)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		clear(r.pieces[i][n:])
	}
	if err := r.code.ReconstructSome(r.pieces, r.required); err != nil {
		return fmt.Errorf("restoring volume %d: %w", r.number, err)
	}
	n := min(r.step, r.n-step)
	r.buf, r.at = r.pieces[r.number-1][:n], step
	return nil
}
