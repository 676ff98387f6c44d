package airgap

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/fettle-dev/fettle/blob"
)

const (
	secretKeyPrefix = "fettle-secret-key-1:"
	publicKeyPrefix = "fettle-public-key-1:"
	signaturePrefix = "fettle-sig-1"
)

// ErrSignature says that a signature is not good for a key.
var ErrSignature = errors.New("signature not good")

// Key is the site's secret key. It prints as its public key's id.
type Key struct{ priv ed25519.PrivateKey }

// PublicKey is what the other side knows of a [Key].
type PublicKey struct{ pub ed25519.PublicKey }

// NewKey makes a key.
func NewKey() (*Key, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a site key: %w", err)
	}
	return &Key{priv}, nil
}

// ParseKey reads the text form of a secret key.
func ParseKey(text string) (*Key, error) {
	seed, err := keyBytes(text, secretKeyPrefix, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("the site's secret key is malformed: %w; make one with fettle bundle key", err)
	}
	return &Key{ed25519.NewKeyFromSeed(seed)}, nil
}

// ParsePublicKey reads the text form of a public key.
func ParsePublicKey(text string) (PublicKey, error) {
	b, err := keyBytes(text, publicKeyPrefix, ed25519.PublicKeySize)
	if err != nil {
		return PublicKey{}, fmt.Errorf("the site's public key is malformed: %w; fettle bundle key prints it on the connected side", err)
	}
	return PublicKey{b}, nil
}

func keyBytes(text, prefix string, n int) ([]byte, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), prefix) // people paste it
	if !ok {
		return nil, fmt.Errorf("it must begin with %q", prefix)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) != n {
		return nil, fmt.Errorf("behind %q it must have %d bytes in base64", prefix, n)
	}
	return b, nil
}

// Reveal is the text form of the secret key: for a secrets file only.
func (k *Key) Reveal() string {
	return secretKeyPrefix + base64.StdEncoding.EncodeToString(k.priv.Seed())
}

// Public is the public key.
func (k *Key) Public() PublicKey { return PublicKey{k.priv.Public().(ed25519.PublicKey)} }

func (k *Key) String() string { return "[secret of " + k.Public().ID() + "]" }

// Format keeps every verb from showing the secret.
func (k *Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// LogValue implements slog.LogValuer.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Derive is a secret of n bytes for one purpose, the same each time.
func (k *Key) Derive(purpose string, n int) ([]byte, error) {
	return hkdf.Key(sha256.New, k.priv.Seed(), nil, "fettle "+purpose, n)
}

// sign signs data for one purpose; the purpose keeps a signature of one thing
// from passing as one of another.
func (k *Key) sign(purpose string, data []byte) []byte {
	return ed25519.Sign(k.priv, append([]byte(purpose+"\x00"), data...))
}

func (p PublicKey) verify(purpose string, data, sig []byte) bool {
	return len(p.pub) == ed25519.PublicKeySize && ed25519.Verify(p.pub, append([]byte(purpose+"\x00"), data...), sig)
}

// String is the text form of the public key.
func (p PublicKey) String() string {
	return publicKeyPrefix + base64.StdEncoding.EncodeToString(p.pub)
}

// ID is short and for people: it decides nothing.
func (p PublicKey) ID() string {
	sum := sha256.Sum256(p.pub)
	return hex.EncodeToString(sum[:8])
}

// Fingerprint is the sha256 of the public key, of which the ID is the
// beginning.
func (p PublicKey) Fingerprint() blob.Digest { return blob.FromBytes(p.pub) }

// signatureLine is the content of bundle.sig.
func (k *Key) signatureLine(purpose string, data []byte) []byte {
	return fmt.Appendf(nil, "%s %s %s\n", signaturePrefix, k.Public().ID(), base64.StdEncoding.EncodeToString(k.sign(purpose, data)))
}

// verifyLine checks the content of bundle.sig.
func (p PublicKey) verifyLine(purpose string, data, line []byte) error {
	text, ok := strings.CutSuffix(string(line), "\n")
	f := strings.Split(text, " ")
	// The base64 decoder would pass over line ends.
	if !ok || len(f) != 3 || f[0] != signaturePrefix || strings.ContainsAny(text, "\r\n") {
		return fmt.Errorf("%w: its file is malformed", ErrSignature)
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(f[2])
	if err != nil {
		return fmt.Errorf("%w: its file is malformed", ErrSignature)
	}
	if f[1] != p.ID() {
		return fmt.Errorf("%w: it was made with key %s, and this side trusts %s", ErrSignature, f[1], p.ID())
	}
	if !p.verify(purpose, data, sig) {
		return fmt.Errorf("%w: the bytes are not those that key %s signed", ErrSignature, p.ID())
	}
	return nil
}
