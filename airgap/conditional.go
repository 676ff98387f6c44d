package airgap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/fettle-dev/fettle/blob"
)

// validators are what a server said of a file, to ask whether it changed: RFC
// 9110 §8.8.
type validators struct {
	URL      string      `json:"url"`
	ETag     string      `json:"etag,omitempty"`
	Modified string      `json:"modified,omitempty"`
	SHA256   blob.Digest `json:"sha256"`
}

// Index fetches a file whose digest is not known, by a conditional request
// when it was fetched before. Its bytes are not to be trusted before a
// signature vouched for them. More than limit bytes are refused.
func (f *Fetcher) Index(ctx context.Context, rawURL string, limit int64) ([]byte, error) {
	return f.IndexAs(ctx, rawURL, "", limit)
}

// IndexAs is Index with an Accept header, for upstreams that have several forms
// of one file.
func (f *Fetcher) IndexAs(ctx context.Context, rawURL, accept string, limit int64) ([]byte, error) {
	f.init()
	key := rawURL
	if accept != "" {
		key += "\n" + accept
	}
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(f.Dir, "conditional", hex.EncodeToString(sum[:])+".json")
	var v validators
	var old []byte
	if data, err := os.ReadFile(path); err == nil && unmarshal(data, &v) == nil && v.URL == rawURL {
		if n, err := f.Blobs.Size(v.SHA256); err == nil && n <= limit {
			if old, err = ReadBlob(ctx, f.Blobs, v.SHA256, limit); err != nil {
				f.Log.Warn("the copy of an index is damaged and is fetched again", "url", redact(rawURL), "error", err)
			}
		}
	}
	var out []byte
	err := f.try(ctx, rawURL, func() (err error) {
		out, v, err = f.conditional(ctx, rawURL, accept, limit, old, v)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", redact(rawURL), err)
	}
	if v.SHA256 != "" {
		return out, nil // unchanged
	}
	d, err := PutBytes(ctx, f.Blobs, out)
	if err != nil {
		return nil, err
	}
	v.SHA256 = d
	data, err := marshal(v)
	if err != nil {
		return nil, err
	}
	// What is not whole after a power failure is asked for again.
	return out, writeHint(path, data)
}

// conditional makes the request. The validators' digest is "" when the bytes
// are new.
func (f *Fetcher) conditional(ctx context.Context, rawURL, accept string, limit int64, old []byte, v validators) ([]byte, validators, error) {
	header := http.Header{}
	if accept != "" {
		header.Set("Accept", accept)
	}
	if old != nil && v.ETag != "" {
		header.Set("If-None-Match", v.ETag)
	}
	if old != nil && v.Modified != "" {
		header.Set("If-Modified-Since", v.Modified)
	}
	resp, done, err := f.do(ctx, rawURL, header)
	if err != nil {
		return nil, v, err
	}
	defer done()
	if resp.StatusCode == http.StatusNotModified && old != nil {
		return old, v, nil
	}
	if resp.StatusCode != http.StatusOK {
		return nil, v, statusError(resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, v, err
	}
	if int64(len(b)) > limit {
		return nil, v, permanent{fmt.Errorf("upstream sends more than %d bytes for an index", limit)}
	}
	return b, validators{URL: rawURL, ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified")}, nil
}
