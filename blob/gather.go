package blob

import (
	"cmp"
	"errors"
	"io"
	"os"
	"syscall"
)

const (
	gatherSize  = 256 << 10
	gathersOnce = 12        // of a store; who finds none writes as its bytes come
	directMost  = 1 << 20   // of a blob; what comes behind goes through the page cache
	directLeast = 64 << 10  // fewer bytes are one write through the page cache
	directAlign = 4096      // of memory, place and length, for every disk's blocks
	plainSize   = 128 << 10 // pieces of who does not gather
)

// gather is memory in which the first bytes of a blob come together, so that they
// go to the disk from there: past the page cache, which would take a copy of each
// and write it out on its own. Small blobs come by the dozen, and the disk has
// enough to do; one large blob alone would wait for each of its pieces.
type gather struct {
	buf    []byte
	n      int
	direct bool // the file is written past the page cache
	never  bool // its file system cannot
}

// gatherFor gives a writer its memory; nil: all of it is taken.
func (s *Store) gatherFor() *gather {
	select {
	case g := <-s.spare:
		*g = gather{buf: g.buf}
		return g
	default:
	}
	if s.gathered.Add(1) > gathersOnce {
		s.gathered.Add(-1)
		return nil
	}
	return &gather{buf: aligned(gatherSize)}
}

// room is where the next bytes may be put. It is never empty.
func (g *gather) room() []byte { return g.buf[g.n:] }

// spill writes what is there to f: past the page cache when it is much, but for
// the end that fills no block of the disk.
func (g *gather) spill(f *os.File) error {
	body := g.n &^ (directAlign - 1)
	if body >= directLeast && !g.direct && !g.never {
		g.direct = setDirect(f, true)
		g.never = !g.direct
	}
	at := 0
	if g.direct && body > 0 {
		n, err := f.Write(g.buf[:body])
		if at = n; errors.Is(err, syscall.EINVAL) { // blocks of another size
			g.never, err = true, nil
		}
		if err != nil {
			return err
		}
	}
	if at < g.n {
		if err := g.plain(f); err != nil {
			return err
		}
		if _, err := f.Write(g.buf[at:g.n]); err != nil {
			return err
		}
	}
	g.n = 0
	return nil
}

// plain has what is written from now on go through the page cache.
func (g *gather) plain(f *os.File) error {
	if g.direct && !setDirect(f, false) {
		return &os.PathError{Op: "fcntl", Path: f.Name(), Err: syscall.EINVAL}
	}
	g.direct = false
	return nil
}

// Pour appends what r yields. It is for blobs of which many come at once over a
// network: the first bytes of each are read to where they are written from, past
// the page cache. A bundle's frames, which are in memory already, gain nothing by
// it and are written with Write.
func (w *Writer) Pour(r io.Reader) (total int64, err error) {
	if w.g == nil && w.n == 0 && !w.keep && !w.done && w.err == nil {
		w.g = w.s.gatherFor()
	}
	for w.gathers() {
		n, err := r.Read(w.g.room())
		w.took(n)
		total += int64(n)
		if w.err != nil {
			return total, w.err
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
	if w.done || w.err != nil {
		return total, cmp.Or(w.err, os.ErrClosed)
	}
	buf, ok := w.s.plain.Get().(*[]byte)
	if !ok {
		b := make([]byte, plainSize)
		buf = &b
	}
	defer w.s.plain.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, *buf)
	return total + n, err
}

// gathers tells whether the writer's next bytes go where it gathers them.
func (w *Writer) gathers() bool {
	if w.g == nil || w.done || w.err != nil {
		return false
	}
	if w.n < directMost {
		return true
	}
	w.spill()
	if err := w.g.plain(w.f); err != nil && w.err == nil {
		w.err = w.explain(err)
	}
	w.release()
	return false
}

// took takes the next n bytes of the room in.
func (w *Writer) took(n int) {
	w.sum.Write(w.g.room()[:n])
	w.n += int64(n)
	if w.g.n += n; len(w.g.room()) == 0 {
		w.spill()
	}
}

// spill writes what was gathered.
func (w *Writer) spill() {
	if err := w.g.spill(w.f); err != nil {
		w.err = w.explain(err)
	}
}

// release gives the memory to the next writer.
func (w *Writer) release() {
	if w.g == nil {
		return
	}
	g := w.g
	w.g = nil
	select {
	case w.s.spare <- g:
	default: // never: there are no more than fit
	}
}
