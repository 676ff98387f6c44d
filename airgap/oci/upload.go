package oci

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

const (
	uploadIdle  = time.Hour       // an upload that nobody goes on with is forgotten
	uploadStall = 2 * time.Minute // so long may a client send nothing
	maxUploads  = 1024
)

// upload is a blob that comes in pieces. It lives as long as the process: a
// client that finds it gone begins again, as the specification says.
type upload struct {
	id, repo string

	mu   sync.Mutex // one request at a time
	w    *blob.Writer
	last time.Time // of the latest request; under Registry.upMu
}

func (u *upload) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.w.Abort()
}

// newUpload begins an upload and forgets those that nobody goes on with.
func (g *Registry) newUpload(name string) (*upload, error) {
	g.upMu.Lock()
	defer g.upMu.Unlock()
	now := g.now()
	for id, u := range g.uploads {
		if now.Sub(u.last) > uploadIdle && u.mu.TryLock() {
			u.w.Abort()
			u.mu.Unlock()
			delete(g.uploads, id)
		}
	}
	if len(g.uploads) >= maxUploads {
		return nil, refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", fmt.Sprintf("%d uploads are under way; go on with one, or wait", len(g.uploads)))
	}
	w, err := g.store.Blobs().Create()
	if err != nil {
		return nil, err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	u := &upload{id: hex.EncodeToString(id[:]), repo: name, w: w, last: now}
	g.uploads[u.id] = u
	return u, nil
}

// take is the upload of a request, which is the only one at it until unlock.
func (g *Registry) take(rt route) (u *upload, unlock func(), err error) {
	g.upMu.Lock()
	u = g.uploads[rt.ref]
	if u != nil && u.repo == rt.name {
		u.last = g.now()
	} else {
		u = nil
	}
	g.upMu.Unlock()
	if u == nil {
		return nil, nil, refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload (any more); begin again")
	}
	if !u.mu.TryLock() {
		return nil, nil, refuse(http.StatusConflict, "BLOB_UPLOAD_INVALID", "another request is at this upload")
	}
	return u, u.mu.Unlock, nil
}

func (g *Registry) drop(u *upload) {
	g.upMu.Lock()
	delete(g.uploads, u.id)
	g.upMu.Unlock()
	u.w.Abort()
}

// state says how far an upload is.
func (g *Registry) state(w http.ResponseWriter, u *upload) {
	w.Header().Set("Location", "/v2/"+u.repo+"/blobs/uploads/"+u.id)
	w.Header().Set("Docker-Upload-UUID", u.id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, u.w.Size()-1)))
}

// beginUpload answers POST of /v2/NAME/blobs/uploads/: distribution-spec 1.1,
// pushing blobs and mounting them.
func (g *Registry) beginUpload(w http.ResponseWriter, r *http.Request, rt route) error {
	if err := g.writable(r, rt.name); err != nil {
		return err
	}
	q := r.URL.Query()
	if q.Has("mount") {
		d, err := ParseDigest(q.Get("mount"))
		if err != nil {
			return errDigest(err)
		}
		if c, ok, err := g.mountable(r, q.Get("from"), d); err != nil {
			return err
		} else if ok {
			if err := g.link(rt.name, d, c); err != nil {
				return err
			}
			return g.created(w, rt.name, d)
		}
	}
	u, err := g.newUpload(rt.name)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if q.Has("digest") && !q.Has("mount") {
		return g.finish(w, r, u, q.Get("digest"))
	}
	g.state(w, u)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (g *Registry) uploadStatus(w http.ResponseWriter, _ *http.Request, rt route) error {
	u, unlock, err := g.take(rt)
	if err != nil {
		return err
	}
	defer unlock()
	g.state(w, u)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Registry) cancelUpload(w http.ResponseWriter, _ *http.Request, rt route) error {
	u, unlock, err := g.take(rt)
	if err != nil {
		return err
	}
	defer unlock()
	g.drop(u)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// patchUpload takes a piece: the next chunk when it says where it belongs, else
// a stream.
func (g *Registry) patchUpload(w http.ResponseWriter, r *http.Request, rt route) error {
	u, unlock, err := g.take(rt)
	if err != nil {
		return err
	}
	defer unlock()
	if err := g.receive(w, r, u); err != nil {
		return err
	}
	g.state(w, u)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (g *Registry) endUpload(w http.ResponseWriter, r *http.Request, rt route) error {
	u, unlock, err := g.take(rt)
	if err != nil {
		return err
	}
	defer unlock()
	if err := g.writable(r, rt.name); err != nil {
		return err
	}
	return g.finish(w, r, u, r.URL.Query().Get("digest"))
}

// parseChunk reads the Content-Range of a chunk, "FIRST-LAST": not that of RFC
// 9110 §14.4, but distribution-spec's. Some clients write "bytes " before it.
func parseChunk(s string) (first, last int64, err error) {
	a, b, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "-")
	b, _, _ = strings.Cut(b, "/")
	digits := func(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
	if ok && digits(a) && digits(b) {
		var errA, errB error
		first, errA = strconv.ParseInt(a, 10, 64)
		last, errB = strconv.ParseInt(b, 10, 64)
		if errA == nil && errB == nil && last >= first {
			return first, last, nil
		}
	}
	return 0, 0, fmt.Errorf("Content-Range %.80q: write FIRST-LAST, the numbers of the chunk's first and last byte", s)
}

// receive appends a request's body to an upload.
func (g *Registry) receive(w http.ResponseWriter, r *http.Request, u *upload) error {
	limit := int64(-1)
	if s := r.Header.Get("Content-Range"); s != "" {
		first, last, err := parseChunk(s)
		if err != nil {
			return refuse(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", err.Error())
		}
		if first != u.w.Size() {
			g.state(w, u)
			return refuse(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", fmt.Sprintf("the chunk begins at byte %d, and %d are here", first, u.w.Size()))
		}
		if limit = last - first + 1; r.ContentLength >= 0 && r.ContentLength != limit {
			return refuse(http.StatusBadRequest, "SIZE_INVALID", fmt.Sprintf("the chunk has %d bytes and its Content-Range says %d", r.ContentLength, limit))
		}
	}
	room := g.opts.MaxBlob - u.w.Size()
	body := &paced{r: r.Body, rc: http.NewResponseController(w), now: g.now, stall: g.stall}
	most := room
	if limit >= 0 {
		most = min(room, limit)
	}
	n, err := io.Copy(u.w, io.LimitReader(body, most+1))
	switch {
	case n > room:
		g.drop(u)
		return refuse(http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a blob has at most %d bytes here", g.opts.MaxBlob))
	case limit >= 0 && n > limit:
		g.drop(u)
		return refuse(http.StatusBadRequest, "SIZE_INVALID", "the chunk is longer than its Content-Range")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(http.StatusRequestTimeout, "BLOB_UPLOAD_INVALID", fmt.Sprintf("nothing came for %s; ask how far the upload is, and go on", g.stall))
	case body.err != nil && !errors.Is(body.err, io.EOF):
		return refuse(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the request was cut; ask how far the upload is, and go on")
	case err != nil:
		g.drop(u)
		return err // of the store: no space left, for one
	case limit >= 0 && n < limit:
		return refuse(http.StatusBadRequest, "SIZE_INVALID", "the chunk is shorter than its Content-Range; ask how far the upload is, and go on")
	}
	return nil
}

// paced puts the deadline of reading off while something comes.
type paced struct {
	r   io.Reader
	rc  *http.ResponseController
	now func() time.Time

	stall time.Duration
	err   error
}

func (p *paced) Read(b []byte) (int, error) {
	// A recorder of tests has no deadlines; then there is none.
	_ = p.rc.SetReadDeadline(p.now().Add(p.stall))
	n, err := p.r.Read(b)
	if err != nil {
		p.err = err
	}
	if errors.Is(err, io.EOF) {
		// Only now: after a body that was cut, the server reads on to see whether
		// the connection can be used again, and must not wait for ever.
		_ = p.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// finish takes the last piece, compares, and puts the blob into the repository.
func (g *Registry) finish(w http.ResponseWriter, r *http.Request, u *upload, digest string) error {
	d, err := ParseDigest(digest)
	if err != nil {
		return errDigest(err)
	}
	if err := g.receive(w, r, u); err != nil {
		return err
	}
	defer g.drop(u)
	release, err := g.store.Hold()
	if err != nil {
		return err
	}
	defer release()
	got, n, err := u.w.Commit(d.blob())
	if errors.Is(err, blob.ErrMismatch) {
		return errDigest(fmt.Errorf("%d bytes came, and they have another digest than %s", u.w.Size(), d))
	}
	if err != nil {
		return err
	}
	if d.blob() == "" {
		// A blob that is not wanted after all goes when the store is collected.
		if err := g.compare(r, got, d); err != nil {
			return err
		}
	}
	if err := g.linkHeld(u.repo, d, content{n, got}); err != nil {
		return err
	}
	return g.created(w, u.repo, d)
}

// compare reads a blob and compares it with a digest of another algorithm.
func (g *Registry) compare(r *http.Request, at blob.Digest, want Digest) error {
	rd, err := g.store.Blobs().Open(r.Context(), at)
	if err != nil {
		return err
	}
	defer rd.Close()
	h := want.hasher()
	if _, err := io.Copy(h, rd); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != want.Hex() {
		return errDigest(fmt.Errorf("%d bytes came, and they have another digest than %s", rd.Size(), want))
	}
	return nil
}

func (g *Registry) created(w http.ResponseWriter, name string, d Digest) error {
	w.Header().Set("Location", "/v2/"+name+"/blobs/"+string(d))
	w.Header().Set("Docker-Content-Digest", string(d))
	w.WriteHeader(http.StatusCreated)
	return nil
}
