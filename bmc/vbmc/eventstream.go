package vbmc

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// openStream makes the EventDestination of a stream (DSP0266 §13.6.2.1).
func (s *Server) openStream(filter condition) (*receiver, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) >= maxStreams {
		m := bad("EventSubscriptionLimitExceeded")
		m.Status = http.StatusServiceUnavailable
		return nil, m
	}
	s.nextID++
	r := &receiver{queue: make(chan []byte, eventQueue), filter: filter, gone: make(chan struct{}),
		sub: Subscription{ID: strconv.Itoa(s.nextID), Context: "SSE-" + rand.Text()[:12], Stream: true}}
	s.streams = append(s.streams, r)
	return r, nil
}

// closeStream removes it. True: it was there.
func (s *Server) closeStream(id string) bool {
	i := slices.IndexFunc(s.streams, func(x *receiver) bool { return x.sub.ID == id })
	if i < 0 {
		return false
	}
	close(s.streams[i].gone)
	s.streams = slices.Delete(s.streams, i, i+1)
	return true
}

// serveEvents streams events (DSP0266 §13.6.2; WHATWG HTML §9.2) until the
// client goes, falls too far behind, or its EventDestination is deleted. The
// end of the session that opened it does not end it (DSP0266 §13.3.4.5).
func (s *Server) serveEvents(w http.ResponseWriter, c *call) error {
	filter, err := eventFilter(c.r.URL.Query().Get("$filter"))
	if err != nil {
		return err
	}
	r, err := s.openStream(filter)
	if err != nil {
		return err
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closeStream(r.sub.ID)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	send := func(text string) error {
		// A client that reads nothing must not hold the stream for ever.
		_ = rc.SetWriteDeadline(time.Now().Add(30 * time.Second)) // not every writer has deadlines
		if _, err := fmt.Fprint(w, text); err != nil {
			return err
		}
		return rc.Flush()
	}
	if err := send(": fettle virtual BMC\n\n"); err != nil {
		return nil // the client is gone
	}
	n := 0
	data := func(b []byte) error {
		n++
		return send(fmt.Sprintf("id: %d\ndata: %s\n\n", n, b))
	}
	due := dueReports{}
	report := func(ds []*reportDef) error {
		for _, d := range ds {
			if !r.wants(d.traits()) {
				continue
			}
			if b, err := s.reportBody(c.ctx, d, r.sub.Context); err == nil {
				if err := data(b); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if report(due.first(s)) != nil {
		return nil
	}
	tick := time.NewTicker(telemetryTick)
	defer tick.Stop()
	alive := time.NewTicker(30 * time.Second)
	defer alive.Stop()
	for {
		err := error(nil)
		select {
		case <-c.ctx.Done():
			return nil
		case <-r.gone:
			return nil
		case <-alive.C:
			err = send(": alive\n\n")
		case <-tick.C:
			s.lookAtTriggers(c.ctx)
			err = report(due.now(s))
		case b := <-r.queue:
			err = data(b)
		}
		s.mu.Lock()
		lost := r.lost
		s.mu.Unlock()
		if err != nil || lost && len(r.queue) == 0 {
			return nil
		}
	}
}
