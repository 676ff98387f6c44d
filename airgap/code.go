package airgap

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/blob"
)

// Code is a receipt that is short enough to be typed or read over a telephone:
// 20 characters of Crockford's base32, the last four of them a check. FORMAT.md.
type Code struct {
	Serial int64
	digest uint64 // the first 45 bits of the snapshot's digest
	site   uint16 // the first 10 bits of the sha256 of the site's name
}

const (
	codeAlphabet   = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	codeBody       = 16 // characters
	codeLength     = 20
	serialBits     = 25
	codeDigestBits = 45
	codeSiteBits   = 10
)

// ErrCode says that a receipt's code was mistyped.
var ErrCode = errors.New("the code of the receipt is mistyped")

func siteBits(site string) uint16 {
	sum := sha256.Sum256([]byte(site))
	return binary.BigEndian.Uint16(sum[:]) >> (16 - codeSiteBits)
}

func digestBits(d blob.Digest) uint64 {
	var n uint64
	if _, err := fmt.Sscanf(d.Hex()[:16], "%016x", &n); err != nil {
		return 0
	}
	return n >> (64 - codeDigestBits)
}

// Code is the receipt's code; "" for a serial that does not fit.
func (r Receipt) Code() string {
	if r.Serial < 1 || r.Serial >= 1<<serialBits || r.SHA256.Validate() != nil {
		return ""
	}
	return Code{r.Serial, digestBits(r.SHA256), siteBits(r.Site)}.String()
}

// body is the 80 bits as characters, and check what follows from them.
func (c Code) body() []byte {
	out := make([]byte, 0, codeBody)
	put := func(v uint64, bits int) {
		for bits -= 5; bits >= 0; bits -= 5 {
			out = append(out, codeAlphabet[v>>bits&31])
		}
	}
	put(uint64(c.Serial), serialBits)
	put(c.digest, codeDigestBits)
	put(uint64(c.site), codeSiteBits)
	return out
}

func codeCheck(body []byte) []byte {
	sum := sha256.Sum256(append([]byte("fettle receipt code 1\n"), body...))
	v := binary.BigEndian.Uint32(sum[:])
	return []byte{codeAlphabet[v>>27], codeAlphabet[v>>22&31], codeAlphabet[v>>17&31], codeAlphabet[v>>12&31]}
}

// String is the code in groups of four.
func (c Code) String() string {
	body := c.body()
	all := append(body, codeCheck(body)...)
	var groups []string
	for g := range slices.Chunk(all, 4) {
		groups = append(groups, string(g))
	}
	return strings.Join(groups, "-")
}

// normalCode is what was typed, in the alphabet: Crockford reads I and L as 1
// and O as 0.
func normalCode(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == ' ':
			return -1
		case r == 'I' || r == 'L':
			return '1'
		case r == 'O':
			return '0'
		}
		return r
	}, strings.ToUpper(strings.TrimSpace(text)))
}

// LooksLikeCode tells whether text may be meant as a code.
func LooksLikeCode(text string) bool {
	n := normalCode(text)
	return len(n) >= codeLength-2 && len(n) <= codeLength+2 && strings.Trim(n, codeAlphabet+"U") == ""
}

// ParseCode reads a code as it was typed.
func ParseCode(text string) (Code, error) {
	n := normalCode(text)
	if len(n) != codeLength || strings.Trim(n, codeAlphabet) != "" {
		return Code{}, fmt.Errorf("%w: it has %d letters and digits, never U; got %d", ErrCode, codeLength, len(n))
	}
	if string(codeCheck([]byte(n[:codeBody]))) != n[codeBody:] {
		return Code{}, fmt.Errorf("%w: its last four characters do not fit the others; compare it group by group", ErrCode)
	}
	var c Code
	at := 0
	take := func(bits int) (v uint64) {
		for ; bits > 0; bits -= 5 {
			v = v<<5 | uint64(strings.IndexByte(codeAlphabet, n[at]))
			at++
		}
		return v
	}
	c.Serial, c.digest, c.site = int64(take(serialBits)), take(codeDigestBits), uint16(take(codeSiteBits))
	if c.Serial < 1 {
		return Code{}, fmt.Errorf("%w: it has no serial", ErrCode)
	}
	return c, nil
}

// Near are the codes that one slip makes text of: a wrong character, or two
// that changed places.
func Near(text string) []Code {
	n := []byte(normalCode(text))
	if len(n) != codeLength {
		return nil
	}
	var out []Code
	try := func(b []byte) {
		if c, err := ParseCode(string(b)); err == nil {
			out = append(out, c)
		}
	}
	for i := range n {
		for _, x := range []byte(codeAlphabet) {
			b := slices.Clone(n)
			b[i] = x
			try(b)
		}
		if i > 0 {
			b := slices.Clone(n)
			b[i-1], b[i] = b[i], b[i-1]
			try(b)
		}
	}
	return out
}

// of tells whether a code speaks of a snapshot of a site.
func (c Code) of(site string, serial int64, d blob.Digest) bool {
	return c.Serial == serial && c.site == siteBits(site) && c.digest == digestBits(d)
}
