package rpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/fettle-dev/fettle/airgap/pgp"
)

// A package file is a lead, a signature header, a header and a payload:
// https://rpm-software-management.github.io/rpm/manual/format_v4.html.
const (
	leadSize   = 96
	maxEntries = 64 << 10
	maxStore   = 256 << 20
)

// Tags of the signature header and of the header.
const (
	tagDSAHeader     = 267
	tagRSAHeader     = 268
	tagName          = 1000
	tagVersion       = 1001
	tagRelease       = 1002
	tagEpoch         = 1003
	tagArch          = 1022
	tagSourceRPM     = 1044
	tagPayloadDigest = 5092
	tagPayloadAlgo   = 5093
	algoSHA256       = 8
)

// errUnsigned says that a package has no signature of its header.
var errUnsigned = errors.New("its header has no signature")

// header is a header structure, with its bytes.
type header struct {
	raw     []byte
	entries map[uint32]headerEntry
	store   []byte
}

type headerEntry struct{ kind, offset, count uint32 }

// readHeader reads a header structure.
func readHeader(r io.Reader) (header, error) {
	var intro [16]byte
	if _, err := io.ReadFull(r, intro[:]); err != nil {
		return header{}, fmt.Errorf("its header is cut: %w", err)
	}
	if !bytes.Equal(intro[:4], []byte{0x8e, 0xad, 0xe8, 0x01}) {
		return header{}, errors.New("it has no header where one must be")
	}
	n, size := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
	if n > maxEntries || size > maxStore {
		return header{}, fmt.Errorf("its header has %d entries and %d bytes", n, size)
	}
	var b bytes.Buffer
	b.Write(intro[:])
	want := int64(n)*16 + int64(size)
	if got, err := io.Copy(&b, io.LimitReader(r, want)); err != nil || got != want {
		return header{}, fmt.Errorf("its header is cut: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	h := header{raw: b.Bytes(), entries: map[uint32]headerEntry{}}
	h.store = h.raw[16+int(n)*16:]
	for i := range int(n) {
		e := h.raw[16+i*16:]
		tag := binary.BigEndian.Uint32(e)
		x := headerEntry{binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[8:]), binary.BigEndian.Uint32(e[12:])}
		if int64(x.offset) > int64(len(h.store)) {
			return header{}, fmt.Errorf("entry %d of its header is outside", tag)
		}
		if _, twice := h.entries[tag]; twice {
			return header{}, fmt.Errorf("entry %d of its header is there twice", tag)
		}
		h.entries[tag] = x
	}
	return h, nil
}

// text is a string, or the first of several.
func (h header) text(tag uint32) string {
	e, ok := h.entries[tag]
	if !ok || e.kind != 6 && e.kind != 8 && e.kind != 9 {
		return ""
	}
	s, _, ok := strings.Cut(string(h.store[e.offset:min(len(h.store), int(e.offset)+64<<10)]), "\x00")
	if !ok {
		return ""
	}
	return s
}

func (h header) number(tag uint32) (uint32, bool) {
	e, ok := h.entries[tag]
	if !ok || e.kind != 4 || e.count != 1 || int64(e.offset)+4 > int64(len(h.store)) {
		return 0, false
	}
	return binary.BigEndian.Uint32(h.store[e.offset:]), true
}

func (h header) bytes(tag uint32) []byte {
	e, ok := h.entries[tag]
	if !ok || e.kind != 7 || int64(e.offset)+int64(e.count) > int64(len(h.store)) {
		return nil
	}
	return h.store[e.offset : e.offset+e.count]
}

// verified is a package file whose header a trusted key signed.
type verified struct {
	name, arch string
	evr        evr
	signedBy   string
}

// verifyPackage verifies the signature of a package's header and, if payload
// is set, the payload by the digest in it.
func verifyPackage(r io.Reader, kr pgp.Keyring, payload bool) (verified, error) {
	sigs, h, err := readHeaders(r)
	if err != nil {
		return verified{}, err
	}
	v := verified{name: h.text(tagName), arch: h.text(tagArch), evr: evr{"", h.text(tagVersion), h.text(tagRelease)}}
	if e, ok := h.number(tagEpoch); ok {
		v.evr.epoch = fmt.Sprint(e)
	}
	if h.text(tagSourceRPM) == "" {
		v.arch = "src"
	}
	sig := sigs.bytes(tagRSAHeader)
	if sig == nil {
		sig = sigs.bytes(tagDSAHeader)
	}
	if sig == nil {
		return v, errUnsigned
	}
	if v.signedBy, err = verifySignature(h.raw, sig, kr); err != nil {
		return v, err
	}
	if !payload {
		return v, nil
	}
	if algo, ok := h.number(tagPayloadAlgo); !ok || algo != algoSHA256 {
		return v, errors.New("its header has no sha256 of the payload: it was made by an rpm older than 4.14")
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return v, err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != h.text(tagPayloadDigest) {
		return v, errors.New("its payload is not what its signed header says")
	}
	return v, nil
}

// verifySignature verifies as of the signature's own time: packages outlive
// their keys' dates, and rpm does the same.
func verifySignature(data, sig []byte, kr pgp.Keyring) (string, error) {
	p, err := packet.Read(bytes.NewReader(sig))
	if err != nil {
		return "", fmt.Errorf("%w: %w", pgp.ErrSignature, err)
	}
	s, ok := p.(*packet.Signature)
	if !ok {
		return "", fmt.Errorf("%w: its signature is something else", pgp.ErrSignature)
	}
	return pgp.VerifyDetached(data, sig, kr, s.CreationTime.Add(time.Second))
}

// armored is a keyring as one armoured text.
func armored(kr pgp.Keyring) ([]byte, error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range kr.Keys {
		errs = append(errs, e.Serialize(w))
	}
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		return nil, fmt.Errorf("writing the keys of %s: %w", kr.Source, err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
