package pxe

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/netip"
)

// tapWriter shows the head of a response of boot HTTP.
type tapWriter struct {
	http.ResponseWriter
	s        *Server
	r        *http.Request
	from, to netip.AddrPort
	done     bool
}

// tapHTTP shows a request to the capture, and its response's head.
func (s *Server) tapHTTP(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !s.capture.listens() {
		return w
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	n := s.networkFor(from.Addr())
	port := uint16(n.HTTPPort)
	switch {
	case r.TLS != nil:
		port = uint16(n.HTTPSPort)
	case port == 0:
		port = 80
	}
	t := &tapWriter{ResponseWriter: w, s: s, r: r, from: netip.AddrPortFrom(n.serverFor(from.Addr()), port), to: from}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\nHost: %s\r\n", r.Method, r.RequestURI, r.Proto, r.Host)
	if err := r.Header.Write(&b); err == nil {
		b.WriteString("\r\n")
		s.capture.packet(Packet{Time: s.now(), MAC: s.macAt(from.Addr()), From: t.to, To: t.from, TCP: true, Data: b.Bytes()})
	}
	return t
}

func (t *tapWriter) WriteHeader(status int) {
	t.head(status)
	t.ResponseWriter.WriteHeader(status)
}

func (t *tapWriter) head(status int) {
	if t.done {
		return
	}
	t.done = true
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %d %s\r\n", t.r.Proto, status, http.StatusText(status))
	if err := t.Header().Write(&b); err != nil {
		return
	}
	b.WriteString("\r\n")
	t.s.capture.packet(Packet{Time: t.s.now(), MAC: t.s.macAt(t.to.Addr()), From: t.from, To: t.to, Sent: true, TCP: true, Data: b.Bytes()})
}

func (t *tapWriter) Write(b []byte) (int, error) {
	t.head(http.StatusOK)
	return t.ResponseWriter.Write(b)
}

// ReadFrom hands a file on to the connection (sendfile).
func (t *tapWriter) ReadFrom(src io.Reader) (int64, error) {
	t.head(http.StatusOK)
	return io.Copy(t.ResponseWriter, src)
}

func (t *tapWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }
