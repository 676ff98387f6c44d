package apt

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	maxCopyright = 4 << 20
	maxUnpacked  = 16 << 30 // of one package
)

// Licences implements airgap.Licensed: what usr/share/doc/PACKAGE/copyright
// names. A package whose copyright cannot be read has none.
func (f *Format) Licences(ctx context.Context, it airgap.Item, r io.Reader) ([]string, error) {
	if it.Kind != airgap.KindPackage || path.Ext(it.Path) != ".deb" {
		return nil, nil
	}
	text, err := copyright(it.Name, r)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, nil // not readable: not known
	}
	return parseCopyright(text), nil
}

// copyright takes the copyright file out of a package: deb(5).
func copyright(name string, r io.Reader) ([]byte, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	if magic, err := io.ReadAll(io.LimitReader(br, 8)); err != nil || string(magic) != "!<arch>\n" {
		return nil, errors.New("it is no Debian package")
	}
	for {
		head := make([]byte, 60) // ar(5)
		if _, err := io.ReadFull(br, head); err != nil {
			return nil, err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
		if err != nil || size < 0 {
			return nil, errors.New("a member of the package has no size")
		}
		member := io.LimitReader(br, size)
		file := strings.TrimRight(string(head[:16]), " /")
		if strings.HasPrefix(file, "data.tar") {
			return fromData(name, strings.TrimPrefix(file, "data.tar"), member)
		}
		if _, err := io.Copy(io.Discard, io.MultiReader(member, io.LimitReader(br, size%2))); err != nil {
			return nil, err
		}
	}
}

func fromData(name, suffix string, r io.Reader) ([]byte, error) {
	var in io.Reader
	var err error
	switch suffix {
	case ".gz":
		in, err = gzip.NewReader(r)
	case ".xz":
		in, err = xz.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20)); err == nil {
			defer z.Close()
			in = z
		}
	case "":
		in = r
	default:
		return nil, errors.New("its data is compressed in an unknown way")
	}
	if err != nil {
		return nil, err
	}
	want := "usr/share/doc/" + name + "/copyright"
	tr := tar.NewReader(io.LimitReader(in, maxUnpacked))
	for {
		h, err := tr.Next()
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg && strings.TrimPrefix(h.Name, "./") == want && h.Size <= maxCopyright {
			return io.ReadAll(tr)
		}
	}
}

var (
	commonLicence = regexp.MustCompile(`/usr/share/common-licenses/([A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9])`)
	licenceJoin   = regexp.MustCompile(`(?i),?\s+(?:and/or|and|or)\s+|,\s*|\s*\|\s*`)
	licenceWord   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~_-]*$`)
)

// parseCopyright lists the licences that a copyright file names: the short
// names of a machine-readable one (Debian's copyright-format 1.0), else the
// common licences that the text refers to.
func parseCopyright(text []byte) []string {
	var out []string
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	first := text[:min(len(text), 4096)]
	if !bytes.Contains(first, []byte("copyright-format")) && !bytes.Contains(first, []byte("dep5")) {
		for _, m := range commonLicence.FindAllSubmatch(text, -1) {
			add(string(m[1]))
		}
		slices.Sort(out)
		return out
	}
	for line := range strings.Lines(string(text)) {
		names, ok := cutField(line, "License:")
		if !ok {
			continue
		}
		for _, alternative := range licenceJoin.Split(names, -1) {
			n, _, _ := strings.Cut(strings.TrimSpace(alternative), " with ")
			if n = strings.Trim(n, "()"); licenceWord.MatchString(n) {
				add(n)
			}
		}
	}
	slices.Sort(out)
	return out
}

func cutField(line, name string) (string, bool) {
	if len(line) < len(name) || !strings.EqualFold(line[:len(name)], name) {
		return "", false
	}
	v := strings.TrimSpace(line[len(name):])
	return v, v != ""
}
