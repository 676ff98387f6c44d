package rpm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
)

// maxElement is the most that one element of metadata may have.
const maxElement = 64 << 20

// elements calls each for every child called name of a document's root, as
// upstream wrote it, and returns the document up to its root's start tag. What
// is in memory is one element; raw is good until each returns.
func elements(r io.Reader, name string, each func(raw []byte) error) (head []byte, err error) {
	rec := &recorder{r: r}
	dec := xml.NewDecoder(rec)
	dec.Strict = true
	depth := 0
	for {
		start := dec.InputOffset()
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			if head == nil {
				return nil, io.ErrUnexpectedEOF
			}
			return head, nil
		}
		if err != nil {
			return nil, err
		}
		switch t := tok.(type) {
		case xml.StartElement:
			if depth++; depth == 1 {
				if head != nil {
					return nil, errors.New("it has two roots")
				}
				head = append([]byte{}, rec.slice(0, dec.InputOffset())...)
				rec.drop(dec.InputOffset())
				continue
			}
			if depth != 2 || t.Name.Local != name {
				continue
			}
			if err := dec.Skip(); err != nil {
				return nil, err
			}
			depth--
			end := dec.InputOffset()
			if end-start > maxElement {
				return nil, fmt.Errorf("a %s of %d bytes", name, end-start)
			}
			if err := each(rec.slice(start, end)); err != nil {
				return nil, err
			}
			rec.drop(end)
		case xml.EndElement:
			depth--
		default:
			if depth == 1 {
				rec.drop(dec.InputOffset())
			}
		}
		if len(rec.buf) > 2*maxElement {
			return nil, fmt.Errorf("an element of more than %d bytes", maxElement)
		}
	}
}

// recorder keeps what was read from an offset on.
type recorder struct {
	r   io.Reader
	buf []byte
	off int64
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.buf = append(r.buf, p[:n]...)
	if len(r.buf) > 3*maxElement {
		return 0, fmt.Errorf("an element of more than %d bytes", maxElement)
	}
	return n, err
}

func (r *recorder) slice(from, to int64) []byte { return r.buf[from-r.off : to-r.off] }

func (r *recorder) drop(to int64) {
	r.buf = r.buf[to-r.off:]
	r.off = to
}
