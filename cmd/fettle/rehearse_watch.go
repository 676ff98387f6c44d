package main

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/fettle-dev/fettle/labs/fabric"
)

// missed is a request to the served mirrors that they could not fulfil.
type missed struct {
	From   string `json:"from"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Status int    `json:"status"`
	Count  int    `json:"count"`
}

// outside is what machines of a lab with a trap wanted that is not in it.
type outside struct {
	Attempts []fabric.Attempt `json:"attempts"`
	Lost     int              `json:"lost,omitempty"`
	Missed   []missed         `json:"missed"`
	Served   int              `json:"served"` // requests that were fulfilled
}

// mirrorWatch remembers which requests failed.
type mirrorWatch struct {
	mu     sync.Mutex
	seen   map[missed]int
	served int
}

func newMirrorWatch() *mirrorWatch { return &mirrorWatch{seen: map[missed]int{}} }

// maxMissed bounds what is remembered.
const maxMissed = 10_000

func (m *mirrorWatch) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w}
		h.ServeHTTP(sw, r)
		from, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			from = r.RemoteAddr
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		// 401 is a registry's way to begin (RFC 9110 §11.6.1).
		if sw.status < 400 || sw.status == http.StatusUnauthorized {
			m.served++
			return
		}
		k := missed{From: from, Method: r.Method, Path: r.URL.Path, Status: sw.status}
		if _, ok := m.seen[k]; ok || len(m.seen) < maxMissed {
			m.seen[k]++
		}
	})
}

func (m *mirrorWatch) all() (out []missed, served int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, n := range m.seen {
		k.Count = n
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b missed) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.From, b.From)) })
	return out, m.served
}

// statusWriter sees the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(code int) {
	if s.status == 0 || s.status < 200 {
		s.status = code
	}
	s.ResponseWriter.WriteHeader(code)
}

func (s *statusWriter) Write(b []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	return s.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (d *labServer) outside() outside {
	var o outside
	o.Attempts, o.Lost = d.lab.Attempts()
	o.Missed, o.Served = d.watch.all()
	return o
}
