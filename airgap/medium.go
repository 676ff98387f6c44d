package airgap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// ErrIdentity says that a bundle is encrypted, and not to an identity that was
// given.
var ErrIdentity = errors.New("the bundle is encrypted to others")

// medium is where the bytes of one volume are: a file, or what other volumes
// and parity give back. It is for one reader at a time.
type medium interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// fileMedium is a regular file.
type fileMedium struct {
	*os.File
	n int64
}

func (f fileMedium) Size() int64 { return f.n }

func openFile(path string) (medium, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%w: %s is no regular file", ErrDamaged, path)
	}
	return fileMedium{f, fi.Size()}, nil
}

// opened is a medium behind its decryption.
type opened struct {
	io.ReaderAt
	io.Closer
	n int64
}

func (o opened) Size() int64 { return o.n }

// decrypt gives the plain volume of an encrypted one. The age format
// authenticates each 64 KiB chunk; who made it, only the volume's own
// signature tells.
func decrypt(m medium, recipients []string, ids []age.Identity) (medium, error) {
	r, n, err := age.DecryptReaderAt(m, m.Size(), ids...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none) || len(ids) == 0:
		return nil, fmt.Errorf("%w: it opens with the identity of %s: name its file with --identity", ErrIdentity, strings.Join(recipients, " or "))
	case err != nil:
		return nil, fmt.Errorf("%w: decrypting: %w", ErrDamaged, err)
	}
	return opened{r, m, n}, nil
}

// Unlock gives the identities that open an encrypted bundle, as the text of an
// age identity file.
func (b *OpenedBundle) Unlock(identities string) error {
	ids, err := age.ParseIdentities(strings.NewReader(identities))
	if err != nil {
		return fmt.Errorf("reading the identity that opens the bundle: %w", err)
	}
	b.ids = append(b.ids, ids...)
	return nil
}

// Encrypted tells whether the bundle needs [OpenedBundle.Unlock].
func (b Bundle) Encrypted() bool { return len(b.Recipients) > 0 }

// parseRecipients reads public keys of age.
func parseRecipients(texts []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, t := range texts {
		rs, err := age.ParseRecipients(strings.NewReader(t))
		if err != nil || len(rs) != 1 {
			return nil, fmt.Errorf("recipient %q is no age public key (age1…): fettle bundle identity prints it on the other side: %w", t, err)
		}
		out = append(out, rs[0])
	}
	return out, nil
}

// Identity makes an identity that opens bundles, as the text of an age
// identity file, and its public key.
func Identity() (secret, public string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("making an identity: %w", err)
	}
	return id.String() + "\n", id.Recipient().String(), nil
}

// PublicOf are the public keys of the identities in text.
func PublicOf(text string) ([]string, error) {
	ids, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading an age identity: %w", err)
	}
	var out []string
	for _, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			out = append(out, id.Recipient().String())
		case *age.HybridIdentity:
			out = append(out, id.Recipient().String())
		}
	}
	return out, nil
}

const (
	ageChunk = 64 << 10 // plain bytes of a chunk of an age file: age-encryption.org/v1, "Payload"
	ageTag   = 16
)

// ageHeader is the number of bytes of an age file before its first chunk.
func ageHeader(to []age.Recipient) (int64, error) {
	var n countBytes
	w, err := age.Encrypt(&n, to...)
	if err != nil {
		return 0, fmt.Errorf("encrypting to the recipients: %w", err)
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	return int64(n) - ageTag, nil
}

// plainLimit is how large a volume may be so that limit bounds its encrypted
// form.
func plainLimit(limit, header int64) int64 {
	p := limit - header
	return p - (p/ageChunk+2)*ageTag
}

type countBytes int64

func (c *countBytes) Write(p []byte) (int, error) {
	*c += countBytes(len(p))
	return len(p), nil
}
