package pgp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/fettle-dev/fettle/airgap"
)

// Signer is the site's OpenPGP key: Ed25519, derived from the site key, with a
// creation time that is always the same.
type Signer struct {
	entity *openpgp.Entity
	Public []byte // armoured
}

func pgpConfig(seed []byte, at time.Time) *packet.Config {
	no := false
	return &packet.Config{
		Rand: bytes.NewReader(seed), Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA512,
		Time: func() time.Time { return at }, NonDeterministicSignaturesViaNotation: &no,
	}
}

// NewSigner derives the site's OpenPGP key.
func NewSigner(key *airgap.Key) (*Signer, error) {
	seed, err := key.Derive("apt repository key 1", 4096)
	if err != nil {
		return nil, fmt.Errorf("deriving the site's OpenPGP key: %w", err)
	}
	e, err := openpgp.NewEntity("fettle site "+key.Public().ID(), "", "", pgpConfig(seed, time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)))
	if err != nil {
		return nil, fmt.Errorf("deriving the site's OpenPGP key: %w", err)
	}
	e.Subkeys = nil // it only signs
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(e.Serialize(w), w.Close()); err != nil {
		return nil, fmt.Errorf("writing the site's OpenPGP key: %w", err)
	}
	b.WriteByte('\n')
	return &Signer{e, b.Bytes()}, nil
}

// Sign signs data as of a time: the same bytes each time. Both are armoured.
func (s *Signer) Sign(data []byte, at time.Time) (inline, detached []byte, err error) {
	if at.Before(s.entity.PrimaryKey.CreationTime) {
		at = s.entity.PrimaryKey.CreationTime
	}
	var in, det bytes.Buffer
	w, err := clearsign.Encode(&in, s.entity.PrivateKey, pgpConfig(nil, at))
	if err != nil {
		return nil, nil, err
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, nil, fmt.Errorf("signing an index: %w", err)
	}
	in.WriteByte('\n')
	if err := openpgp.ArmoredDetachSign(&det, s.entity, bytes.NewReader(data), pgpConfig(nil, at)); err != nil {
		return nil, nil, fmt.Errorf("signing an index: %w", err)
	}
	det.WriteByte('\n')
	return in.Bytes(), det.Bytes(), nil
}

// SignedText is the text of an InRelease that was verified before.
func SignedText(data []byte) ([]byte, error) {
	block, _ := clearsign.Decode(data)
	if block == nil {
		return nil, errors.New("it is no clear-signed text")
	}
	return block.Bytes, nil
}
