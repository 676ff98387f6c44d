package apt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// maxPackages bounds an index whose size its Release does not say.
const maxPackages = 4 << 30

// suffixes of an index, the cheapest to read first. xz in Go is slow.
var suffixes = []string{".gz", ".zst", ".xz", ""}

// fields of a package that are looked at.
func packageFields() map[string]bool {
	return map[string]bool{"package": true, "version": true, "architecture": true, "filename": true, "size": true, "sha256": true,
		"depends": true, "pre-depends": true, "recommends": true, "provides": true, "priority": true, "source": true}
}

// openIndex opens an index that is in the store. plain is what its Release
// says of the decompressed one, if it does.
func openIndex(ctx context.Context, s *blob.Store, d blob.Digest, suffix string, plain *listed) (io.Reader, func() error, error) {
	r, err := s.Open(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	var in io.Reader
	closer := r.Close
	switch suffix {
	case ".gz":
		in, err = gzip.NewReader(r)
	case ".xz":
		in, err = xz.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20)); err == nil {
			in = z
			closer = func() error { z.Close(); return r.Close() }
		}
	default:
		in = r
	}
	if err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("decompressing an index: %w", err)
	}
	b := &bounded{r: in, left: maxPackages, sum: sha256.New()}
	if plain != nil {
		b.left, b.want = plain.size, plain.sha256
	}
	return b, closer, nil
}

// bounded ends with an error when more comes than was promised (a bomb) or
// something else.
type bounded struct {
	r    io.Reader
	left int64
	sum  hash.Hash
	want blob.Digest
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.sum.Write(p[:n])
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("the index decompresses to more than its Release says")
	}
	if errors.Is(err, io.EOF) && b.want != "" {
		if got := "sha256:" + hex.EncodeToString(b.sum.Sum(nil)); got != string(b.want) {
			return 0, fmt.Errorf("the index decompresses to other bytes than its Release says: %w", blob.ErrMismatch)
		}
	}
	return n, err
}

// parsePackage reads a stanza of Packages.
func parsePackage(s stanza, base string) (*pkg, error) {
	p := &pkg{
		name: s.get("Package"), version: s.get("Version"), arch: s.get("Architecture"), filename: strings.TrimPrefix(s.get("Filename"), "./"),
		recommends: s.get("Recommends"), priority: s.get("Priority"), base: base,
	}
	if p.name == "" || p.version == "" || p.arch == "" {
		return nil, fmt.Errorf("a package %q has no version or no architecture", p.name)
	}
	if err := checkFilename(p.filename); err != nil {
		return nil, fmt.Errorf("package %s: %w", p.name, err)
	}
	var err error
	if p.size, err = strconv.ParseInt(s.get("Size"), 10, 64); err != nil || p.size < 0 {
		return nil, fmt.Errorf("package %s has Size %q", p.name, s.get("Size"))
	}
	if p.sha256, err = blob.ParseDigest("sha256:" + strings.ToLower(s.get("SHA256"))); err != nil {
		return nil, fmt.Errorf("package %s: its SHA256: %w", p.name, err)
	}
	p.source, p.sourceVer = p.name, p.version
	if v := s.get("Source"); v != "" { // NAME, or NAME (VERSION)
		name, version, ok := strings.Cut(v, "(")
		p.source = strings.TrimSpace(name)
		if ok {
			p.sourceVer = strings.TrimSuffix(strings.TrimSpace(version), ")")
		}
	}
	p.depends = s.get("Pre-Depends")
	if d := s.get("Depends"); d != "" && p.depends != "" {
		p.depends += ", " + d
	} else if d != "" {
		p.depends = d
	}
	for _, g := range parseRelations(s.get("Provides"), p.arch) {
		p.provides = append(p.provides, g...)
	}
	return p, nil
}

// checkFilename keeps a package, even a signed one, from being written where
// an index is, or outside.
func checkFilename(name string) error {
	if err := airgap.CheckPath(name); err != nil {
		return err
	}
	for _, ours := range []string{"dists/", ".upstream/", keyFile} {
		if strings.HasPrefix(name, ours) {
			return fmt.Errorf("its file would be %s, where indexes are: refused", name)
		}
	}
	for _, index := range []string{"Packages", "Sources", "Release", "InRelease"} {
		if base := path.Base(name); base == index || strings.HasPrefix(base, index+".") {
			return fmt.Errorf("its file would be %s, which is the name of an index: refused", name)
		}
	}
	return nil
}
