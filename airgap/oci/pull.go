package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// pullManifest answers GET and HEAD of /v2/NAME/manifests/REFERENCE:
// distribution-spec 1.1, pulling manifests.
func (g *Registry) pullManifest(w http.ResponseWriter, r *http.Request, rt route) error {
	if strings.Contains(rt.ref, ":") {
		if _, err := ParseDigest(rt.ref); err != nil {
			return errDigest(err)
		}
	} else if err := checkTag(rt.ref); err != nil {
		return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", err.Error())
	}
	rp, err := g.pulled(r, rt)
	if err != nil {
		return err
	}
	d, m, ok := rp.manifest(rt.ref)
	if !ok {
		return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", fmt.Sprintf("%s has no manifest %s here; of an index, platforms that the site does not want are not mirrored", rp.Name, rt.ref))
	}
	data, err := airgap.ReadBlob(r.Context(), g.store.Blobs(), m.SHA256, maxManifest)
	if err != nil {
		return damaged(err, d)
	}
	g.head(w, d, m.MediaType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	return nil
}

func (g *Registry) head(w http.ResponseWriter, d Digest, mediaType string) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", string(d))
	w.Header().Set("ETag", `"`+string(d)+`"`)
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

func damaged(err error, d Digest) error {
	if errors.Is(err, blob.ErrMismatch) {
		return fmt.Errorf("%s is damaged here; mend it with fettle mirror verify --mend and a sync or an import, or delete it and push it again: %w", d, err)
	}
	return err
}

// pullBlob answers GET and HEAD of /v2/NAME/blobs/DIGEST, ranges too:
// distribution-spec 1.1, pulling blobs.
func (g *Registry) pullBlob(w http.ResponseWriter, r *http.Request, rt route) error {
	d, err := ParseDigest(rt.ref)
	if err != nil {
		return errDigest(err)
	}
	rp, err := g.pulled(r, rt)
	if err != nil {
		return err
	}
	unknown := refuse(http.StatusNotFound, "BLOB_UNKNOWN", fmt.Sprintf("%s has no blob %s here", rp.Name, d))
	c, ok := rp.blob(d)
	if !ok {
		return unknown
	}
	rd, err := g.store.Blobs().Open(r.Context(), c.SHA256)
	if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	defer rd.Close()
	if rd.Size() != c.Size {
		return damaged(fmt.Errorf("%w: %d bytes; %d are right", blob.ErrMismatch, rd.Size(), c.Size), d)
	}
	g.head(w, d, "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, &verified{ReadSeeker: rd, ctx: r.Context(), size: c.Size, log: g.log, what: d})
	return nil
}

// verified reads one byte behind the end before it hands out the last bytes, so
// that the reader's verdict comes before the client has everything. On damage
// the connection is cut.
type verified struct {
	io.ReadSeeker
	ctx  context.Context
	off  int64
	size int64
	log  *slog.Logger
	what Digest
}

func (v *verified) Seek(off int64, whence int) (int64, error) {
	n, err := v.ReadSeeker.Seek(off, whence)
	if err == nil {
		v.off = n
	}
	return n, err
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadSeeker.Read(p)
	v.off += int64(n)
	if err == nil && v.off == v.size && n > 0 {
		if m, end := v.ReadSeeker.Read(make([]byte, 1)); m != 0 || !errors.Is(end, io.EOF) {
			err = end
		}
	}
	if err != nil && !errors.Is(err, io.EOF) && v.ctx.Err() == nil {
		v.log.Error("a blob is damaged", "digest", v.what, "error", err)
		panic(http.ErrAbortHandler)
	}
	return n, err
}
