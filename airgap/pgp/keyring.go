// Package pgp has the OpenPGP keys and signatures of mirrors: keyrings of
// upstreams, and the site's own key, which is derived from the site key.
package pgp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// ErrSignature says that no key that is trusted signed something.
var ErrSignature = errors.New("no trusted key signed it")

// Keyring is the keys of one source and where they come from.
type Keyring struct {
	Keys   openpgp.EntityList
	Source string
}

// ReadKeyring reads files of keys, binary or armoured, and armoured texts.
// Paths are relative to dir; the lock has them as they were written, so that it
// is the same in every checkout.
func ReadKeyring(dir string, paths, texts []string) (Keyring, error) {
	kr := Keyring{Source: strings.Join(paths, ", ")}
	for _, p := range paths {
		file := p
		if !filepath.IsAbs(p) {
			file = filepath.Join(dir, p)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return Keyring{}, fmt.Errorf("reading a keyring: %w", err)
		}
		keys, err := parseKeys(data)
		if err != nil {
			return Keyring{}, fmt.Errorf("reading the keyring %s: %w", p, err)
		}
		kr.Keys = append(kr.Keys, keys...)
	}
	for _, t := range texts {
		keys, err := parseKeys([]byte(t))
		if err != nil {
			return Keyring{}, fmt.Errorf("reading the key in Signed-By: %w", err)
		}
		kr.Keys = append(kr.Keys, keys...)
		kr.Source = "Signed-By"
	}
	if len(kr.Keys) == 0 {
		return Keyring{}, errors.New("there is no key to verify with: name keyrings in the site file")
	}
	return kr, nil
}

func parseKeys(data []byte) (openpgp.EntityList, error) {
	if bytes.Contains(data, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")) {
		return openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
	}
	return openpgp.ReadKeyRing(bytes.NewReader(data))
}

// VerifyInline verifies a clear-signed text, such as InRelease, and returns exactly what was signed.
func VerifyInline(data []byte, kr Keyring, now time.Time) (plain []byte, fingerprint string, err error) {
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, "", fmt.Errorf("%w: it is no clear-signed text", ErrSignature)
	}
	if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) || len(bytes.TrimSpace(rest)) > 0 {
		return nil, "", fmt.Errorf("%w: something stands around the signed text", ErrSignature)
	}
	sig, err := readAll(block.ArmoredSignature)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrSignature, err)
	}
	fingerprint, err = verifyWith(block.Bytes, sig, kr, now)
	return block.Bytes, fingerprint, err
}

// VerifyDetached verifies data with a signature, armoured or binary.
func VerifyDetached(data, sig []byte, kr Keyring, now time.Time) (fingerprint string, err error) {
	if bytes.HasPrefix(bytes.TrimSpace(sig), []byte("-----BEGIN")) {
		block, err := armor.Decode(bytes.NewReader(sig))
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrSignature, err)
		}
		if sig, err = readAll(block); err != nil {
			return "", fmt.Errorf("%w: %w", ErrSignature, err)
		}
	}
	return verifyWith(data, sig, kr, now)
}

func readAll(b *armor.Block) ([]byte, error) {
	var out bytes.Buffer
	_, err := out.ReadFrom(b.Body)
	return out.Bytes(), err
}

// verifyWith tries the keys one by one: an index is signed by several keys,
// of which some may be unknown here or expired.
func verifyWith(data, sig []byte, kr Keyring, now time.Time) (string, error) {
	var errs []error
	for _, e := range kr.Keys {
		_, signer, err := openpgp.VerifyDetachedSignature(openpgp.EntityList{e}, bytes.NewReader(data), bytes.NewReader(sig),
			&packet.Config{Time: func() time.Time { return now }})
		if err == nil {
			return strings.ToUpper(hex.EncodeToString(signer.PrimaryKey.Fingerprint)), nil
		}
		if !errors.Is(err, pgperrors.ErrUnknownIssuer) {
			errs = append(errs, err)
		}
	}
	return "", fmt.Errorf("%w: tried the %d keys of %s: %w", ErrSignature, len(kr.Keys), kr.Source, errors.Join(append(errs, errors.New("has upstream a new key?"))...))
}
