// Package blob keeps bytes by their digest. A blob is verified when it is
// written and again when it is read. The package does not know what the bytes
// mean.
//
// A [Digest] names bytes. A [Store] is a folder of blobs, each a file named by
// its digest, immutable once it is there. A [Writer] collects bytes whose
// digest is not known yet; a [Reader] hands them out and checks them on the
// way.
//
// Layout: DIR/sha256/ab/abcdef… holds the blob whose digest begins with ab;
// DIR/tmp holds files that are being written. Both are on one file system, so
// that a blob appears by rename: whole, or not at all.
//
// A blob has its name only when its bytes are on the disk, so that no power cut
// leaves a name without them. Blobs that are committed at the same time are
// made durable together (together.go): many goroutines that each commit one
// are faster than one that commits many. What comes over a network goes to the
// disk past the page cache where it can ([Writer.Pour]).
package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is "sha256:" and 64 lower case hex digits.
type Digest string

const prefix = "sha256:"

// FromBytes is the digest of b.
func FromBytes(b []byte) Digest { return fromSum(sha256.Sum256(b)) }

func fromSum(sum [sha256.Size]byte) Digest {
	return Digest(prefix + hex.EncodeToString(sum[:]))
}

// ParseDigest reads the text form of a digest.
func ParseDigest(s string) (Digest, error) {
	d := Digest(s)
	return d, d.Validate()
}

// Validate tells whether d is well formed.
func (d Digest) Validate() error {
	h, ok := strings.CutPrefix(string(d), prefix)
	if !ok {
		return fmt.Errorf("digest %q: it must begin with %q", string(d), prefix)
	}
	if len(h) != 2*sha256.Size {
		return fmt.Errorf("digest %q: it has %d hex digits; sha256 has %d", string(d), len(h), 2*sha256.Size)
	}
	for i := range len(h) {
		if c := h[i]; c-'0' > 9 && c-'a' > 5 { // what is below wraps around
			return fmt.Errorf("digest %q: %q is not a lower case hex digit", string(d), string(c))
		}
	}
	return nil
}

// Hex is the digest without its algorithm. It is "" when d is malformed.
func (d Digest) Hex() string {
	if d.Validate() != nil {
		return ""
	}
	return string(d[len(prefix):])
}

// Short is enough of the digest for people: 12 hex digits.
func (d Digest) Short() string {
	h := d.Hex()
	if h == "" {
		return string(d)
	}
	return h[:12]
}

func (d Digest) String() string { return string(d) }
