package pypi

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/textproto"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// Licences implements airgap.Licensed: what a wheel's METADATA says, as an
// expression (PEP 639), in classifiers, or in a line. Source distributions are
// not looked into.
func (*Format) Licences(ctx context.Context, it airgap.Item, r io.Reader) ([]string, error) {
	rs, ok := r.(io.ReadSeeker)
	if !ok || it.Kind != airgap.KindPackage || !strings.HasSuffix(it.Path, ".whl") {
		return nil, nil
	}
	size, err := rs.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	data, err := metadataOf(airgap.ReaderAt(rs), size)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, nil // not readable: not known
	}
	return licencesIn(data), nil
}

func licencesIn(metadata []byte) []string {
	h, _ := textproto.NewReader(bufio.NewReader(bytes.NewReader(metadata))).ReadMIMEHeader() // as far as it can be read
	if e := h.Get("License-Expression"); e != "" {
		return []string{e}
	}
	var out []string
	for _, c := range h.Values("Classifier") {
		if rest, ok := strings.CutPrefix(c, "License :: "); ok && rest != "OSI Approved" {
			parts := strings.Split(rest, " :: ")
			out = append(out, parts[len(parts)-1])
		}
	}
	if l := strings.TrimSpace(h.Get("License")); len(out) == 0 && l != "" && l != "UNKNOWN" && len(l) < 100 { // some have the whole text there
		out = append(out, l)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
