package airgap

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/blob"
)

// Files beside the volumes that standard tools read: FORMAT.md, Beside the
// volumes.
const (
	SumsFile       = "SHA256SUMS"
	SumsSignature  = "SHA256SUMS.sig"    // ed25519, raw
	SumsCosign     = "SHA256SUMS.cosign" // the same in base64, as cosign verify-blob reads it
	ReadmeFile     = "README.txt"
	maxSums        = 16 << 20
	sumsLineFormat = "%s  %s\n"
)

// writeSums writes the digests of a bundle's files and signs them. What is
// signed are the plain bytes, so that openssl can verify; they begin with hex
// digits, as nothing else that the key signs does.
func (k *Key) writeSums(out string, sums map[string]string, cosign bool) ([]byte, error) {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(&b, sumsLineFormat, sums[name], name)
	}
	sig := ed25519.Sign(k.priv, b.Bytes())
	err := errors.Join(writeFile(filepath.Join(out, SumsFile), b.Bytes()), writeFile(filepath.Join(out, SumsSignature), sig))
	if cosign {
		err = errors.Join(err, writeFile(filepath.Join(out, SumsCosign), []byte(base64.StdEncoding.EncodeToString(sig))))
	}
	return b.Bytes(), err
}

// readSums reads and verifies SHA256SUMS of a folder; nil: there is none.
func (p PublicKey) readSums(dir string) (map[string]string, error) {
	path := filepath.Join(dir, SumsFile)
	data, err := readLimited(path, maxSums)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sig, err := readLimited(filepath.Join(dir, SumsSignature), ed25519.SignatureSize)
	if err != nil {
		return nil, fmt.Errorf("%s has no signature: %w", path, err)
	}
	if len(p.pub) != ed25519.PublicKeySize || !ed25519.Verify(p.pub, data, sig) {
		return nil, fmt.Errorf("%s: %w: the bytes are not those that key %s signed", path, ErrSignature, p.ID())
	}
	cosign, err := readLimited(filepath.Join(dir, SumsCosign), 1024)
	if err == nil && string(cosign) != base64.StdEncoding.EncodeToString(sig) {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, SumsCosign), ErrSignature)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || CheckPath(name) != nil || blob.Digest("sha256:"+sum).Validate() != nil {
			return nil, fmt.Errorf("%w: %s has the line %q", ErrDamaged, path, line)
		}
		out[name] = sum
	}
	return out, nil
}

// find looks for the bundle's files in dirs.
func (b *OpenedBundle) find(dirs []string) error {
	b.dirs = dirs
	for _, dir := range dirs {
		sums, err := b.key.readSums(dir)
		if err != nil {
			return err
		}
		if b.sums == nil {
			b.sums = sums
		}
	}
	for _, name := range b.files() {
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if _, err := os.Lstat(path); err == nil && b.paths[name] == "" {
				b.paths[name] = path
			}
		}
	}
	return nil
}

// files are the names of all files that an index names.
func (b Bundle) files() []string {
	var out []string
	for _, v := range b.Volumes {
		out = append(out, v.File)
	}
	if b.Parity != nil {
		for _, p := range b.Parity.Files {
			out = append(out, p.File)
		}
	}
	for _, p := range b.Programs {
		out = append(out, p.File)
	}
	if !b.Encrypted() {
		for _, d := range b.Documents {
			out = append(out, documentsDir+"/"+d.Name)
		}
	}
	return out
}

// beside verifies what lies beside the volumes: programs, documents and what
// SHA256SUMS names; parity too with all.
func (b *OpenedBundle) beside(ctx context.Context, all bool) error {
	want := map[string]string{}
	maps.Copy(want, b.sums) // none on a medium with only the index and a volume
	for _, p := range b.Programs {
		want[p.File] = p.SHA256.Hex()
	}
	for _, d := range b.Documents {
		if !b.Encrypted() {
			want[documentsDir+"/"+d.Name] = d.SHA256.Hex()
		}
	}
	for _, v := range b.Volumes {
		delete(want, v.File) // has a signature of its own
	}
	if b.Parity != nil {
		for _, p := range b.Parity.Files {
			if !all {
				delete(want, p.File)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		for _, dir := range b.dirs {
			got, err := fileSum(ctx, filepath.Join(dir, name))
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				return err
			case got != want[name]:
				return fmt.Errorf("%w: %s is not the file that was signed", ErrDamaged, filepath.Join(dir, name))
			}
		}
	}
	return nil
}

// intact tells, without decrypting, whether a bundle that lies in one folder is
// as it was made.
func (b *OpenedBundle) intact(ctx context.Context) bool {
	if b.sums == nil || b.beside(ctx, true) != nil {
		return false
	}
	for _, v := range b.Volumes {
		if !b.Encrypted() {
			continue
		}
		if got, err := fileSum(ctx, b.paths[v.File]); err != nil || got != b.sums[v.File] {
			return false
		}
	}
	return b.Encrypted() || b.tables(ctx) == nil && len(b.Restored()) == 0
}
