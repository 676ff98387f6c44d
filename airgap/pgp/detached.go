package pgp

import (
	"bytes"
	"fmt"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/fettle-dev/fettle/airgap"
)

// PublicKey is the site's OpenPGP public key, armoured.
func PublicKey(key *airgap.Key) ([]byte, error) {
	s, err := NewSigner(key)
	if err != nil {
		return nil, err
	}
	return s.Public, nil
}

// SignDetached signs data with the site's OpenPGP key, as of a time: the same
// bytes each time. The signature is armoured.
func SignDetached(key *airgap.Key, data []byte, at time.Time) ([]byte, error) {
	s, err := NewSigner(key)
	if err != nil {
		return nil, err
	}
	_, detached, err := s.Sign(data, at)
	return detached, err
}

// VerifyArmored checks an armoured signature by an armoured key.
func VerifyArmored(public, data, sig []byte) error {
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(public))
	if err != nil {
		return fmt.Errorf("%w: the key cannot be read: %w", ErrSignature, err)
	}
	if _, err := openpgp.CheckArmoredDetachedSignature(keys, bytes.NewReader(data), bytes.NewReader(sig), nil); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}
