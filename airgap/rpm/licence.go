package rpm

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/fettle-dev/fettle/airgap"
)

const tagLicense = 1014

// Licences implements airgap.Licensed: the License of a package's header.
func (*Format) Licences(ctx context.Context, it airgap.Item, r io.Reader) ([]string, error) {
	if it.Kind != airgap.KindPackage {
		return nil, nil
	}
	_, h, err := readHeaders(r)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if l := h.text(tagLicense); err == nil && l != "" {
		return []string{l}, nil
	}
	return nil, nil // not readable, or not said: not known
}

// readHeaders reads a package up to its payload: the signature header and the
// header.
func readHeaders(r io.Reader) (sigs, h header, err error) {
	var lead [leadSize]byte
	if _, err := io.ReadFull(r, lead[:]); err != nil || string(lead[:4]) != "\xed\xab\xee\xdb" {
		return header{}, header{}, errors.New("it is no rpm package")
	}
	if sigs, err = readHeader(r); err != nil {
		return header{}, header{}, err
	}
	if pad := (8 - len(sigs.raw)%8) % 8; pad > 0 {
		if _, err := io.CopyN(io.Discard, r, int64(pad)); err != nil {
			return header{}, header{}, fmt.Errorf("its header is cut: %w", err)
		}
	}
	h, err = readHeader(r)
	return sigs, h, err
}
