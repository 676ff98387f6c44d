package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Handler serves a store's snapshot over HTTP: /FORMAT/MIRROR/PATH. It looks
// for a switch of the snapshot with each request; a request that has begun
// keeps what it began with. It may be used concurrently.
type Handler struct {
	store   *Store
	log     *slog.Logger
	formats map[string]Serving

	mu    sync.Mutex
	stamp string // of the file served
	cur   *served
}

type served struct {
	snap  Snapshot
	files map[string]File // by URL path
	trees map[string]Tree // by /FORMAT/MIRROR/
}

// NewHandler makes a handler. A nil logger discards. Formats that are
// [Serving] answer for their trees.
func NewHandler(s *Store, log *slog.Logger, formats ...Format) *Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &Handler{store: s, log: log, formats: map[string]Serving{}}
	for _, f := range formats {
		if sv, ok := f.(Serving); ok {
			h.formats[f.Name()] = sv
		}
	}
	return h
}

// current is the served snapshot. When a new one cannot be read, the last good
// one stays.
func (h *Handler) current() (*served, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fi, err := os.Stat(filepath.Join(h.store.dir, "served"))
	if err != nil {
		if h.cur != nil {
			return h.cur, nil
		}
		return nil, errors.New("nothing is served yet: fettle bundle import, or fettle mirror sync")
	}
	stamp := fmt.Sprint(fi.ModTime().UnixNano())
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		stamp += fmt.Sprint(" ", st.Ino)
	}
	if h.cur != nil && stamp == h.stamp {
		return h.cur, nil
	}
	next, err := h.load()
	if err != nil {
		if h.cur != nil {
			h.log.Error("the new snapshot cannot be read; the last one is served on", "error", err)
			return h.cur, nil
		}
		return nil, err
	}
	h.cur, h.stamp = next, stamp
	return next, nil
}

func (h *Handler) load() (*served, error) {
	name, err := h.store.Served()
	if err != nil {
		return nil, err
	}
	snap, _, err := h.store.Snapshot(name)
	if err != nil {
		return nil, err
	}
	s := &served{snap, map[string]File{}, map[string]Tree{}}
	for _, t := range snap.Trees {
		s.trees["/"+t.Format+"/"+t.Mirror+"/"] = t
		for _, f := range t.Files {
			s.files["/"+t.Format+"/"+t.Mirror+"/"+f.Path] = f
		}
	}
	return s, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.serving(w, r) {
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	cur, err := h.current()
	if err != nil {
		h.log.Error("nothing can be served", "error", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path == "/" {
		fmt.Fprintf(w, "snapshot %s, serial %d, of %s\n", cur.snap.Name, cur.snap.Serial, cur.snap.Created.Format(time.RFC3339))
		for _, t := range cur.snap.Trees {
			fmt.Fprintf(w, "/%s/%s/ %d files\n", t.Format, t.Mirror, len(t.Files))
		}
		return
	}
	f, ok := cur.files[r.URL.Path]
	if !ok { // apt asks for /./x where an index says ./x
		f, ok = cur.files[path.Clean(r.URL.Path)]
	}
	if !ok {
		http.Error(w, "not in snapshot "+cur.snap.Name, http.StatusNotFound)
		return
	}
	h.file(w, r, f, "")
}

// file sends a file of a tree; a content type of "" is guessed from its name.
func (h *Handler) file(w http.ResponseWriter, r *http.Request, f File, ctype string) {
	rd, err := h.store.blobs.Open(r.Context(), f.SHA256)
	if err != nil || rd.Size() != f.Size {
		if err == nil {
			rd.Close()
			err = fmt.Errorf("%w: blob %s has %d bytes; it must have %d", blob.ErrMismatch, f.SHA256, rd.Size(), f.Size)
		}
		h.log.Error("a file of the snapshot is damaged", "path", r.URL.Path, "error", err)
		http.Error(w, "damaged here: fettle mirror verify --mend, then import the bundle again", http.StatusInternalServerError)
		return
	}
	defer rd.Close()
	w.Header().Set("ETag", `"`+f.SHA256.Hex()+`"`)
	if ctype == "" {
		ctype = mime.TypeByExtension(path.Ext(f.Path))
		if ctype == "" || strings.HasPrefix(ctype, "text/html") {
			ctype = "application/octet-stream"
		}
	}
	w.Header().Set("Content-Type", ctype)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// No Last-Modified: after a rollback, a client that compares times would
	// keep what it has. The ETag is exact.
	http.ServeContent(w, r, "", time.Time{}, &careful{ReadSeeker: rd, ctx: r.Context(), size: f.Size, log: h.log, path: r.URL.Path})
}

// careful reads one byte behind the end before it hands out the last bytes, so
// that a reader that verifies has its say before the client has everything. On
// damage the connection is cut: the client has an unfinished file.
type careful struct {
	io.ReadSeeker
	ctx  context.Context
	off  int64
	size int64
	log  *slog.Logger
	path string
}

func (c *careful) Seek(off int64, whence int) (int64, error) {
	n, err := c.ReadSeeker.Seek(off, whence)
	if err == nil {
		c.off = n
	}
	return n, err
}

func (c *careful) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	c.off += int64(n)
	if err == nil && c.off == c.size && n > 0 {
		if m, end := c.ReadSeeker.Read(make([]byte, 1)); m != 0 || !errors.Is(end, io.EOF) {
			err = end
		}
	}
	if err != nil && !errors.Is(err, io.EOF) && c.ctx.Err() == nil {
		c.log.Error("a file of the snapshot is damaged", "path", c.path, "error", err)
		panic(http.ErrAbortHandler)
	}
	return n, err
}
