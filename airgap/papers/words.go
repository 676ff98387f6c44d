package papers

import (
	"math/big"
	"strings"

	"github.com/tyler-smith/go-bip39/wordlists"

	"github.com/fettle-dev/fettle/blob"
)

const wordsOfFingerprint = 12

// Words are the first 132 bits of a digest as 12 words of BIP 39's English
// list, 11 bits each: easier to compare over a telephone than hex digits.
func Words(d blob.Digest) string {
	n, ok := new(big.Int).SetString(d.Hex(), 16)
	if !ok {
		return ""
	}
	n.Rsh(n, 256-11*wordsOfFingerprint)
	out := make([]string, wordsOfFingerprint)
	list, mask := wordlists.English, big.NewInt(2047)
	for i := range out {
		out[len(out)-1-i] = list[new(big.Int).And(n, mask).Int64()]
		n.Rsh(n, 11)
	}
	return strings.Join(out, " ")
}
