package apt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxStanza bounds one stanza: deb822(5).
const maxStanza = 4 << 20

// stanza is one paragraph of a control file: deb822(5).
type stanza struct {
	raw    []byte // with the newline of its last line
	fields map[string]string
}

// get is a field's value; names are not case sensitive.
func (s stanza) get(name string) string { return s.fields[strings.ToLower(name)] }

// readStanzas calls yield for every stanza. keep names the fields, in lower
// case, that are looked at; nil: all. raw is kept only with keepRaw.
func readStanzas(r io.Reader, keep map[string]bool, keepRaw bool, yield func(stanza) error) error {
	br := bufio.NewReaderSize(r, 1<<20)
	cur, last, size := stanza{fields: map[string]string{}}, "", 0
	flush := func() error {
		if size == 0 {
			return nil
		}
		s := cur
		cur, last, size = stanza{fields: map[string]string{}}, "", 0
		if len(s.fields) == 0 && keep == nil {
			return nil
		}
		return yield(s)
	}
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("line %d is longer than a megabyte", n)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		end := err != nil
		if len(line) > 0 {
			if err := takeLine(&cur, &last, &size, line, n, keep, keepRaw); err != nil {
				return err
			}
		}
		if blank := len(bytes.TrimRight(line, " \t\r\n")) == 0; blank || end {
			if err := flush(); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

func takeLine(cur *stanza, last *string, size *int, line []byte, n int, keep map[string]bool, keepRaw bool) error {
	text := bytes.TrimRight(line, " \t\r\n")
	if len(text) == 0 || text[0] == '#' {
		return nil
	}
	if *size += len(line); *size > maxStanza {
		return fmt.Errorf("the stanza that ends before line %d is larger than %d bytes", n, maxStanza)
	}
	if keepRaw {
		cur.raw = append(append(cur.raw, text...), '\n')
	}
	if text[0] == ' ' || text[0] == '\t' {
		if *last == "" {
			return fmt.Errorf("line %d continues nothing", n)
		}
		if keep == nil || keep[*last] {
			cur.fields[*last] += "\n" + string(bytes.TrimSpace(text))
		}
		return nil
	}
	k, v, ok := bytes.Cut(text, []byte{':'})
	if !ok || len(k) == 0 {
		return fmt.Errorf("line %d is no field: it has no colon", n)
	}
	*last = strings.ToLower(string(bytes.TrimSpace(k)))
	if keep != nil && !keep[*last] {
		return nil
	}
	if _, twice := cur.fields[*last]; twice {
		return fmt.Errorf("line %d: the field %s stands twice in its stanza", n, *last)
	}
	cur.fields[*last] = string(bytes.TrimSpace(v))
	return nil
}
