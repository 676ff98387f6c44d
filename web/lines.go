package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// lines answers a request with JSON values, a line each, while they come.
type lines struct {
	w      http.ResponseWriter
	out    *http.ResponseController
	enc    *json.Encoder
	cancel context.CancelFunc
	begun  bool
}

// lines begins such an answer; nothing is sent before the first line. ctx ends
// with the request, with the server, and when nobody reads. stop ends it.
func (s *Server) lines(w http.ResponseWriter, r *http.Request) (l *lines, ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	after := context.AfterFunc(s.ctx, cancel)
	return &lines{w: w, out: http.NewResponseController(w), enc: json.NewEncoder(w), cancel: cancel}, ctx, func() { after(); cancel() }
}

func (l *lines) send(v any) {
	if !l.begun {
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.Header().Set("X-Accel-Buffering", "no")
		l.begun = true
	}
	_ = l.out.SetWriteDeadline(time.Now().Add(writeTimeout)) // the socket keeps real time; not every writer has deadlines
	if err := errors.Join(l.enc.Encode(v), l.out.Flush()); err != nil {
		l.cancel() // nobody reads
	}
}
