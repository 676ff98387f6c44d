package pxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

const (
	goesOn        = "was told that there is no boot file, and goes on to its next boot device"
	goesOnSigned  = "was told that there is no boot file for it, and goes on to its next boot device: with Secure Boot it can boot by PXE, not by HTTP"
	autoexecName  = "autoexec.ipxe"
	scriptDisk    = "disk"     // the Name of a script that leaves the network
	scriptSigned  = "signed"   // of one that starts the signed loader
	scriptNobody  = "unsigned" // of one that leaves because nothing would be let start
	decideTimeout = 10 * time.Second
)

// Handler serves boot HTTP below /boot/: files/NAME, script/MAC and
// autoexec.ipxe. It never redirects, which firmware does not follow, not even
// away from a double slash (FIELD-NOTES item 18); give it to an http.Server
// itself, or to a mux of yours that does not redirect either:
// http.ServeMux does.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	w = s.tapHTTP(w, r)
	at := remoteAddr(r)
	n := s.networkFor(at)
	name, err := cleanName(r.URL.Path)
	if err != nil {
		s.fail(w, r, n, at, http.StatusBadRequest, err)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		s.fail(w, r, n, at, http.StatusMethodNotAllowed, fmt.Errorf("method %s is not served here", r.Method))
		return
	}
	name, ok := strings.CutPrefix(name, "boot/")
	if !ok {
		s.fail(w, r, n, at, http.StatusNotFound, errors.New("only /boot/ is served here"))
		return
	}
	if mac, ok := strings.CutPrefix(name, "script/"); ok {
		s.serveScript(w, r, n, at, mac)
		return
	}
	if file, ok := strings.CutPrefix(name, "files/"); ok {
		s.serveFile(w, r, n, at, file)
		return
	}
	if mac, ok := ukiMAC(name); ok {
		ctx, cancel := context.WithTimeout(r.Context(), decideTimeout)
		defer cancel()
		f, err := s.ukiFor(ctx, n, at, mac)
		s.sendFile(w, r, n, at, name, f, err)
		return
	}
	if name == autoexecName {
		s.serveText(w, r, n, at, name, "fetched its iPXE script", n.autoexec(at.Is6()))
		return
	}
	s.fail(w, r, n, at, http.StatusNotFound, fmt.Errorf("no such file: %s", name))
}

// cleanName makes a slash-separated name out of a path of the wire. A name
// that would leave the root, or holds what no file name holds, is refused.
func cleanName(p string) (string, error) {
	p = quirkName(p)
	if !fs.ValidPath(p) || p == "." {
		return "", fmt.Errorf("%q is not a file name", printable([]byte(p)))
	}
	for _, c := range p {
		if c < 0x20 || c == 0x7f {
			return "", fmt.Errorf("%q is not a file name", printable([]byte(p)))
		}
	}
	return p, nil
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// open finds a file; autoexec.ipxe is there in every directory unless Files
// has one of its own.
func (s *Server) open(ctx context.Context, n *Network, at netip.Addr, name string) (*File, error) {
	f, err := s.files.Open(ctx, name)
	if err != nil && errors.Is(err, fs.ErrNotExist) && path.Base(name) == autoexecName {
		text := n.autoexec(at.Is6())
		return &File{ReadSeekCloser: nopCloser{strings.NewReader(text)}, Size: int64(len(text)), Type: "text/plain"}, nil
	}
	return f, err
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

func (s *Server) serveFile(w http.ResponseWriter, r *http.Request, n *Network, at netip.Addr, name string) {
	f, err := s.open(r.Context(), n, at, name)
	s.sendFile(w, r, n, at, name, f, err)
}

// sendFile answers with a file, or with the error of opening it.
func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, n *Network, at netip.Addr, name string, f *File, err error) {
	start := s.now()
	if text, ok := quirkMissing(name); ok && errors.Is(err, fs.ErrNotExist) {
		http.Error(w, text, http.StatusNotFound)
		s.recordFetch(start, n, at, Exchange{Kind: "http." + strings.ToLower(r.Method), Name: name, Text: text})
		return
	}
	if errors.Is(err, fs.ErrPermission) {
		s.fail(w, r, n, at, http.StatusForbidden, err)
		return
	}
	if errors.Is(err, fs.ErrNotExist) {
		if quirkOptional(name) {
			s.decline(w, r, n, at, name)
			return
		}
		s.fail(w, r, n, at, http.StatusNotFound, fmt.Errorf("no such file: %s", name))
		return
	}
	if err != nil {
		s.fail(w, r, n, at, http.StatusInternalServerError, fmt.Errorf("opening %s: %w", name, err))
		return
	}
	defer f.Close()
	switch {
	case f.Type != "":
		w.Header().Set("Content-Type", f.Type)
	case strings.HasSuffix(name, ".efi"):
		// EDK2 takes a boot file by its extension or by this type
		// (UEFI 2.10 §24.7.3.5).
		w.Header().Set("Content-Type", "application/efi")
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	c := &counter{ResponseWriter: w}
	// The reader itself, not *File, so that an *os.File reaches sendfile.
	http.ServeContent(c, r, "", f.ModTime, f.ReadSeekCloser)
	whole := r.Method == http.MethodGet && c.status == http.StatusOK
	e := Exchange{Kind: "http." + strings.ToLower(r.Method), Name: name, Bytes: c.n, Took: s.now().Sub(start)}
	e.Text = fmt.Sprintf("fetched %s by %s: %s", name, protocol(r), amount(c.n, e.Took))
	switch {
	case r.Method == http.MethodHead:
		e.Text = fmt.Sprintf("asked by %s how long %s is: %d bytes", protocol(r), name, f.Size)
	case whole && c.n < f.Size:
		e.Err = fmt.Errorf("connection ended after %d of %d bytes of %s", c.n, f.Size, name)
		e.Text = e.Err.Error()
	case c.status >= 400:
		e.Err = fmt.Errorf("HTTP status %d for %s", c.status, name)
		e.Text = e.Err.Error()
	case whole:
		st := stageKernel
		if strings.HasPrefix(name, "loaders/") {
			st = stageLoader
		}
		s.noteFetch(at, st, name)
	}
	s.recordFetch(start, n, at, e)
}

func protocol(r *http.Request) string {
	if r.TLS != nil {
		return "HTTPS"
	}
	return "HTTP"
}

// decline answers that there is no file of a name that its client can do
// without.
func (s *Server) decline(w http.ResponseWriter, r *http.Request, n *Network, at netip.Addr, name string) {
	http.Error(w, "no such file", http.StatusNotFound)
	s.recordFetch(s.now(), n, at, Exchange{Kind: "http." + strings.ToLower(r.Method), Name: name,
		Text: fmt.Sprintf("asked by %s for %s, which it can do without", protocol(r), name)})
}

// serveScript answers with a machine's iPXE script. What a machine boots may
// carry its secrets: a MAC known under another address gets nothing.
func (s *Server) serveScript(w http.ResponseWriter, r *http.Request, n *Network, at netip.Addr, macText string) {
	mac, err := net.ParseMAC(macText)
	if err != nil || len(mac) != 6 {
		s.fail(w, r, n, at, http.StatusBadRequest, fmt.Errorf("%q is not a MAC address", printable([]byte(macText))))
		return
	}
	c, known := s.clients.of(mac)
	if has := s.clients.addrOf(mac, at); known && has.IsValid() && !s.clients.holds(mac, at) && !isEUI64(at, mac) {
		s.fail(w, r, n, at, http.StatusForbidden, fmt.Errorf("the script of %v was asked from %v, which is not its address (%v) or no longer", mac, at, has))
		return
	}
	c.MAC, c.Addr, c.IPXE, c.IPv6 = mac, at, true, at.Is6()
	if c.Network == "" {
		c.Network = n.Name
	}
	q := r.URL.Query()
	if !c.ArchKnown && q.Get("platform") == "efi" {
		c.UEFI = true
	}
	if c.UUID == "" {
		c.UUID = printable([]byte(q.Get("uuid")))
	}
	if a, ok := buildArch(q.Get("arch")); ok && c.UEFI && !c.ArchKnown {
		c.Arch, c.ArchKnown = a, true
	}
	refused := q.Has("refused") && c.UEFI && r.Method == http.MethodGet
	ctx, cancel := context.WithTimeout(r.Context(), decideTimeout)
	defer cancel()
	d, err := s.decide(ctx, c)
	if err != nil {
		try, _ := strconv.Atoi(q.Get("try"))
		s.record(s.now(), n, c, "boot.undecided", "got no script yet, because nobody could say what it boots: "+err.Error(), err)
		s.serveText(w, r, n, at, macText, "fetched its iPXE script", n.troubleScript(c, max(try, 1), err.Error()))
		return
	}
	st := stageScript
	if d.Action != BootKernel {
		st = stageDisk
	}
	s.noteStage(c, st, "script")
	if refused && d.Action == BootKernel {
		s.noteRefusal(n, c, d)
	}
	way, name, told := s.scriptWay(n, c, d, refused), macText, ""
	switch {
	case d.Action == BootDisk:
		name = scriptDisk
	case way == bySigned:
		name, told = scriptSigned, ", which starts the signed loader "+signedFor(c)
	case way == byNobody:
		name, told = scriptNobody, ", which goes back to its firmware: "+unsignable(c)
	}
	s.serveText(w, r, n, at, name, "fetched its iPXE script"+told, n.script(c, d, way))
}

// serveText answers with a script; told is what the timeline says of it.
func (s *Server) serveText(w http.ResponseWriter, r *http.Request, n *Network, at netip.Addr, name, told, text string) {
	start := s.now()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Header().Set("Cache-Control", "no-store")
	e := Exchange{Kind: "script", Name: name, Text: told}
	if r.Method == http.MethodGet {
		var k int
		k, e.Err = io.WriteString(w, text)
		e.Bytes = int64(k)
	}
	e.Took = s.now().Sub(start)
	s.recordFetch(start, n, at, e)
}

// fail answers with an error that has a length, and records it.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, n *Network, at netip.Addr, status int, err error) {
	text := err.Error() + "\n"
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		io.WriteString(w, text)
	}
	s.recordFetch(s.now(), n, at, Exchange{
		Kind: "http." + strings.ToLower(printable([]byte(r.Method))), Name: printable([]byte(r.URL.Path)),
		Text: fmt.Sprintf("was refused by HTTP (%d): %v", status, err), Err: err,
	})
}

// recordFetch completes an exchange with the client at an address.
func (s *Server) recordFetch(start time.Time, n *Network, at netip.Addr, e Exchange) {
	e.Time, e.Addr, e.Network = start, at, n.Name
	if c, ok := s.clients.at(at); ok {
		e.MAC = c.MAC
	}
	s.recorder.Record(e)
}

// amount says bytes and speed.
func amount(n int64, took time.Duration) string {
	s := fmt.Sprintf("%d bytes in %.1f s", n, took.Seconds())
	if took > 0 {
		s += fmt.Sprintf(", %.1f MB/s", float64(n)/1e6/took.Seconds())
	}
	return s
}

// counter counts a response's bytes and keeps sendfile working.
type counter struct {
	http.ResponseWriter
	status int
	n      int64
}

func (c *counter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	k, err := c.ResponseWriter.Write(b)
	c.n += int64(k)
	return k, err
}

// ReadFrom hands the file on to the connection (sendfile).
func (c *counter) ReadFrom(src io.Reader) (int64, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	k, err := io.Copy(c.ResponseWriter, src)
	c.n += k
	return k, err
}

func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
