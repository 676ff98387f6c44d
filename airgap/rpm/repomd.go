package rpm

import (
	"compress/bzip2"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	maxRepomd = 16 << 20
	maxOpen   = 8 << 30 // of one metadata file, unpacked
)

// repomd is the index of a repository's metadata.
type repomd struct {
	date time.Time
	data []metadata
}

// metadata is one file of it.
type metadata struct {
	kind     string // primary, filelists, …
	href     string
	sum      string // sha256 or sha512, then ':' and hex digits
	size     int64  // -1: not said
	openSize int64  // -1: not said
}

func (r repomd) find(kind string) (metadata, bool) {
	for _, d := range r.data {
		if d.kind == kind {
			return d, true
		}
	}
	return metadata{}, false
}

type xmlSum struct {
	Type string `xml:"type,attr"`
	Text string `xml:",chardata"`
}

// sumOf reads a checksum: sha256 or stronger.
func sumOf(s xmlSum) (string, error) {
	text := strings.ToLower(strings.TrimSpace(s.Text))
	want := map[string]int{"sha256": 64, "sha512": 128}[s.Type]
	if want == 0 {
		return "", fmt.Errorf("its digest is a %s, which vouches for nothing today: sha256 or sha512 is needed", s.Type)
	}
	if len(text) != want || strings.Trim(text, "0123456789abcdef") != "" {
		return "", fmt.Errorf("its %s is %q", s.Type, s.Text)
	}
	return s.Type + ":" + text, nil
}

// parseRepomd reads repomd.xml.
func parseRepomd(b []byte) (repomd, error) {
	var doc struct {
		XMLName  xml.Name `xml:"repomd"`
		Revision string   `xml:"revision"`
		Data     []struct {
			Type     string `xml:"type,attr"`
			Checksum xmlSum `xml:"checksum"`
			Location struct {
				Href string `xml:"href,attr"`
				Base string `xml:"base,attr"`
			} `xml:"location"`
			Timestamp string `xml:"timestamp"`
			Size      string `xml:"size"`
			OpenSize  string `xml:"open-size"`
		} `xml:"data"`
	}
	if err := xml.Unmarshal(b, &doc); err != nil {
		return repomd{}, err
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil || n < 0 {
			return -1
		}
		return n
	}
	var r repomd
	var newest int64
	seen := map[string]bool{}
	for _, d := range doc.Data {
		if d.Location.Base != "" {
			return r, fmt.Errorf("its %s is at another base, %s: refused", d.Type, d.Location.Base)
		}
		if err := checkHref(d.Location.Href, true); err != nil {
			return r, fmt.Errorf("its %s: %w", d.Type, err)
		}
		sum, err := sumOf(d.Checksum)
		if err != nil {
			return r, fmt.Errorf("its %s: %w", d.Type, err)
		}
		if seen[d.Type] || seen[d.Location.Href] {
			return r, fmt.Errorf("it names %s or %s twice", d.Type, d.Location.Href)
		}
		seen[d.Type], seen[d.Location.Href] = true, true
		// Timestamps are whole seconds, or Python's floats.
		t, _, _ := strings.Cut(strings.TrimSpace(d.Timestamp), ".")
		newest = max(newest, number(t))
		r.data = append(r.data, metadata{d.Type, d.Location.Href, sum, number(d.Size), number(d.OpenSize)})
	}
	if _, ok := r.find("primary"); !ok {
		return r, errors.New("it has no primary")
	}
	if n := number(doc.Revision); n > 1e9 && n < 1e11 { // often a time
		newest = max(newest, n)
	}
	r.date = time.Unix(newest, 0).UTC()
	return r, nil
}

// checkHref keeps files of a repository where such files belong.
func checkHref(href string, meta bool) error {
	if err := airgap.CheckPath(href); err != nil {
		return err
	}
	if strings.HasPrefix(href, evidence) || href == siteKeyFile || href == keysFile || href == packageKeys {
		return fmt.Errorf("its file would be %s, where the site's own are: refused", href)
	}
	if in := strings.HasPrefix(href, "repodata/"); in != meta || href == "repodata/repomd.xml" || href == "repodata/repomd.xml.asc" || href == "repodata/repomd.xml.key" {
		return fmt.Errorf("its file would be %s: refused", href)
	}
	return nil
}

// openMetadata opens a metadata file that is in the store, unpacked.
func openMetadata(ctx context.Context, s *blob.Store, d blob.Digest, m metadata) (io.Reader, func() error, error) {
	r, err := s.Open(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	var in io.Reader = r
	done := r.Close
	switch path.Ext(m.href) {
	case ".gz":
		in, err = gzip.NewReader(r)
	case ".bz2":
		in = bzip2.NewReader(r)
	case ".xz":
		in, err = xz.ReaderConfig{DictCap: 256 << 20}.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(256<<20)); err == nil {
			in = z
			done = func() error { z.Close(); return r.Close() }
		}
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("unpacking %s: %w", m.href, err), r.Close())
	}
	limit := int64(maxOpen)
	if m.openSize >= 0 {
		limit = m.openSize
	}
	return &bounded{r: in, left: limit, name: m.href}, done, nil
}

// bounded ends with an error when more comes than was promised.
type bounded struct {
	r    io.Reader
	left int64
	name string
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%s unpacks to more than its repomd.xml says", b.name)
	}
	return n, err
}
