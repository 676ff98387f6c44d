package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
)

// volume opens a volume that is present, or gives back one that is lost.
func (b *OpenedBundle) volume(v Volume) (medium, error) {
	var m medium
	var err error
	if path := b.paths[v.File]; path != "" && !slices.Contains(b.lost, v.Number) {
		m, err = openFile(path)
	} else {
		m, err = b.restore(v)
	}
	if err != nil {
		return nil, err
	}
	if m.Size() != v.Stored {
		m.Close()
		return nil, fmt.Errorf("%w: volume %d has %d bytes; it must have %d: the copy was cut or is of another bundle: copy the volume anew", ErrDamaged, v.Number, m.Size(), v.Stored)
	}
	if !b.Encrypted() {
		return m, nil
	}
	plain, err := decrypt(m, b.Recipients, b.ids)
	if err != nil {
		m.Close()
		return nil, err
	}
	return plain, nil
}

// present tells whether a volume's file is there and not known to be damaged.
func (b *OpenedBundle) present(n int) bool {
	return b.paths[b.Volumes[n-1].File] != "" && !slices.Contains(b.lost, n)
}

// restorable tells whether parity gives back all volumes that are lost.
func (b *OpenedBundle) restorable() bool {
	if b.Parity == nil {
		return false
	}
	lost, have := 0, 0
	for _, v := range b.Volumes {
		if !b.present(v.Number) {
			lost++
		}
	}
	for _, p := range b.Parity.Files {
		if b.paths[p.File] != "" {
			have++
		}
	}
	return lost <= have
}

// restore gives back a lost volume, as it was stored.
func (b *OpenedBundle) restore(v Volume) (_ medium, err error) {
	if !b.restorable() {
		if err := b.missing(nil); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s is damaged, and there is not enough parity to restore it: copy or send that volume again", ErrDamaged, v.File)
	}
	code, err := newCode(b.Parity.Shards, len(b.Parity.Files))
	if err != nil {
		return nil, err
	}
	total := b.Parity.Shards + len(b.Parity.Files)
	r := &restored{code: code, shards: make([]medium, total), volumes: len(b.Volumes), data: b.Parity.Shards, number: v.Number, n: v.Stored,
		step: max(parityStep*16/int64(total), 64<<10), at: -1, pieces: make([][]byte, total), required: make([]bool, total)}
	r.required[v.Number-1] = true
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	for i := range r.pieces {
		r.pieces[i] = make([]byte, r.step)
	}
	for _, w := range b.Volumes {
		if b.present(w.Number) {
			if r.shards[w.Number-1], err = openFile(b.paths[w.File]); err != nil {
				return nil, err
			}
		}
	}
	for _, p := range b.Parity.Files {
		if path := b.paths[p.File]; path != "" {
			m, err := openFile(path)
			if err != nil {
				return nil, err
			}
			if m.Size() != p.Size {
				m.Close()
				continue
			}
			r.shards[b.Parity.Shards+p.Number-1] = m
		}
	}
	return r, nil
}

// lose notes that a volume's file cannot be used. It returns err if parity
// does not make up for that.
func (b *OpenedBundle) lose(v Volume, err error) error {
	b.lost = append(b.lost, v.Number)
	if !b.restorable() {
		b.lost = b.lost[:len(b.lost)-1]
		return err
	}
	return nil
}

// callerError is an error of who is told of frames, not of the volume.
type callerError struct{ error }

func (e callerError) Unwrap() error { return e.error }

// called marks an error of who is told; nil stays nil.
func called(err error) error {
	if err == nil {
		return nil
	}
	return callerError{err}
}

// with opens a volume and calls do. When the volume turns out damaged and
// parity can give it back, do is called again with what parity gives.
func (b *OpenedBundle) with(ctx context.Context, v Volume, do func(medium, table) error) error {
	for try := 1; ; try++ {
		err := b.once(v, do)
		var ce callerError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &ce):
			return ce.error
		case ctx.Err() != nil:
			return ctx.Err()
		case b.present(v.Number):
			if lerr := b.lose(v, err); lerr != nil {
				return fmt.Errorf("%s: %w", b.paths[v.File], lerr)
			}
		case try < 3 && b.restorable():
			// One of the sources may be damaged too.
			n := len(b.lost) + len(b.paths)
			if err := b.scan(ctx, v); err != nil {
				return err
			}
			if n == len(b.lost)+len(b.paths) {
				return fmt.Errorf("%s, restored from parity: %w", v.File, err)
			}
		default:
			return err
		}
	}
}

func (b *OpenedBundle) once(v Volume, do func(medium, table) error) error {
	m, err := b.volume(v)
	if err != nil {
		return err
	}
	defer m.Close()
	t, err := readTable(m, b.key, b.ID, v)
	if err != nil {
		return err
	}
	return do(m, t)
}

// frames is [readFrames] of a volume, wherever its bytes come from.
func (b *OpenedBundle) frames(ctx context.Context, v Volume, want func(frame) bool, yield func(frame, []byte) error) error {
	next := 0
	return b.with(ctx, v, func(m medium, t table) error {
		return readFrames(ctx, m, t, &b.buf, &next, want, func(fr frame, data []byte) error {
			return called(yield(fr, data))
		})
	})
}

// scan reads all volumes but v, and parity, and notes which are damaged.
func (b *OpenedBundle) scan(ctx context.Context, v Volume) error {
	for _, w := range b.Volumes {
		if w.Number == v.Number || !b.present(w.Number) {
			continue
		}
		next := 0
		err := b.once(w, func(m medium, t table) error {
			return readFrames(ctx, m, t, &b.buf, &next, nil, func(frame, []byte) error { return nil })
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			b.lost = append(b.lost, w.Number)
		}
	}
	for _, p := range b.Parity.Files {
		path, want := b.paths[p.File], b.sums[p.File]
		if path == "" || want == "" {
			continue
		}
		if got, err := fileSum(ctx, path); err != nil || got != want {
			delete(b.paths, p.File)
		}
	}
	return nil
}

// Restored are the volumes that were read from parity.
func (b *OpenedBundle) Restored() []string {
	var out []string
	for _, v := range b.Volumes {
		if !b.present(v.Number) {
			out = append(out, v.File)
		}
	}
	return out
}

// Repair writes the volumes that are missing or damaged, given back by parity,
// into the folder out and returns their names.
func (b *OpenedBundle) Repair(ctx context.Context, out string, progress func(done, total int64)) ([]string, error) {
	if err := b.Verify(ctx, progress); err != nil {
		return nil, err
	}
	var names []string
	for _, v := range b.Volumes {
		if b.present(v.Number) {
			continue
		}
		if err := checkFree(out, v.Stored); err != nil {
			return names, err
		}
		m, err := b.restore(v)
		if err != nil {
			return names, err
		}
		err = copyFile(ctx, filepath.Join(out, v.File), io.NewSectionReader(m, 0, m.Size()), nil)
		if err := errors.Join(err, m.Close()); err != nil {
			return names, fmt.Errorf("writing %s: %w", v.File, err)
		}
		names = append(names, v.File)
	}
	return names, nil
}
