package npm

import (
	"crypto/sha1"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// sha512Sums are the sha512 digests of an integrity, which may have several:
// https://www.w3.org/TR/sri-2/, section 3.
func sha512Sums(integrity string) []string {
	var out []string
	for _, w := range strings.Fields(integrity) {
		w, _, _ = strings.Cut(w, "?") // options
		b64, ok := strings.CutPrefix(w, "sha512-")
		b, err := base64.StdEncoding.DecodeString(b64)
		if ok && err == nil && len(b) == sha512.Size {
			out = append(out, w)
		}
	}
	return out
}

// checkIntegrity refuses an integrity that vouches for nothing today.
func checkIntegrity(integrity string) error {
	switch {
	case integrity == "":
		return errors.New("it has no integrity")
	case len(sha512Sums(integrity)) == 0:
		return fmt.Errorf("its integrity %q has no sha512", integrity)
	}
	return nil
}

// checkTarball compares a tarball with its integrity.
func checkTarball(integrity string) func(io.ReaderAt, int64) error {
	return func(r io.ReaderAt, size int64) error {
		h := sha512.New()
		if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
			return err
		}
		got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil))
		if !slices.Contains(sha512Sums(integrity), got) {
			return fmt.Errorf("its integrity is %s, and the lockfile says %s", got, integrity)
		}
		return nil
	}
}

// shasum is the sha1 that packuments have beside the integrity.
func shasum(r io.Reader) (string, error) {
	h := sha1.New()
	_, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}
