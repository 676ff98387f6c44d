package airgap

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// Serving is what a [Format] implements too whose clients ask for more than
// the plain files of a tree: other names for them, other media types.
type Serving interface {
	// Serve answers a request for p, which is the decoded path below the
	// mirror's address, without a slash at its beginning. The method may be any.
	// It may be called concurrently.
	Serve(w http.ResponseWriter, r *http.Request, t ServedTree, p string)
}

// ServedTree is a tree while it is served.
type ServedTree struct {
	Tree
	Base string // the tree's address as the client wrote it, without a slash at its end
	at   string // /FORMAT/MIRROR/
	cur  *served
	h    *Handler
}

// File is the file at p.
func (t ServedTree) File(p string) (File, bool) {
	f, ok := t.cur.files[t.at+p]
	return f, ok
}

// Send sends a file; a content type of "" is guessed from its name.
func (t ServedTree) Send(w http.ResponseWriter, r *http.Request, f File, ctype string) {
	t.h.file(w, r, f, ctype)
}

// Read reads a file of at most limit bytes whole.
func (t ServedTree) Read(ctx context.Context, f File, limit int64) ([]byte, error) {
	b, err := ReadBlob(ctx, t.h.store.blobs, f.SHA256, limit)
	if err != nil {
		t.h.log.Error("a file of the snapshot cannot be read", "path", t.at+f.Path, "error", err)
	}
	return b, err
}

// NotFound says that the snapshot has no such thing.
func (t ServedTree) NotFound(w http.ResponseWriter) {
	http.Error(w, "not in snapshot "+t.cur.snap.Name, http.StatusNotFound)
}

// serving lets a format answer, when the path is of a tree of one that does.
func (h *Handler) serving(w http.ResponseWriter, r *http.Request) bool {
	if len(h.formats) == 0 {
		return false
	}
	parts := strings.SplitN(r.URL.Path, "/", 4)
	if len(parts) < 4 || h.formats[parts[1]] == nil {
		return false
	}
	cur, err := h.current()
	if err != nil {
		return false
	}
	at := "/" + parts[1] + "/" + parts[2] + "/"
	tree, ok := cur.trees[at]
	if !ok {
		return false
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	base := fmt.Sprintf("%s://%s%s", scheme, r.Host, strings.TrimSuffix(at, "/"))
	h.formats[parts[1]].Serve(w, r, ServedTree{Tree: tree, Base: base, at: at, cur: cur, h: h}, parts[3])
	return true
}
