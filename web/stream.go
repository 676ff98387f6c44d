package web

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// A stream that has nothing to say sends an empty line now and then, so that
// both ends notice when the other is gone; a client that takes nothing for
// writeTimeout is dropped.
const (
	keepAlive    = 15 * time.Second
	writeTimeout = 30 * time.Second
)

// getEvents answers with newline-delimited JSON, an event a line; with
// follow=1 it goes on with each event that comes.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) error {
	q, follow, err := parseQuery(r.URL.Query())
	if err != nil {
		return err
	}
	q.Machine = s.nameOf(q.Machine)
	if name := s.nameOf(r.PathValue("name")); name != "" {
		if _, err := s.machine(r, name); err != nil {
			return err
		}
		q.Machine = name
	}
	if !follow {
		events, err := s.c.Store.Events(r.Context(), q)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		enc := json.NewEncoder(w)
		for _, e := range events {
			if err := enc.Encode(e); err != nil {
				return ignoreGone(err)
			}
		}
		return nil
	}
	return s.follow(w, r, q)
}

func (s *Server) follow(w http.ResponseWriter, r *http.Request, q state.Query) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	type item struct {
		event state.Event
		err   error
	}
	items := make(chan item)
	go func() {
		defer close(items)
		for e, err := range s.c.Store.Watch(ctx, q) {
			select {
			case items <- item{e, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		for range items { // until the watch has ended
		}
	}()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy must pass lines on at once
	w.WriteHeader(http.StatusOK)
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	enc := json.NewEncoder(w)
	for {
		_ = out.SetWriteDeadline(time.Now().Add(writeTimeout)) // the socket keeps real time; not every writer has deadlines
		if err := out.Flush(); err != nil {
			return ignoreGone(err)
		}
		select {
		case it, ok := <-items:
			if !ok {
				return nil
			}
			if it.err != nil {
				s.log.Error("event stream broke", "error", it.err)
				// The answer has begun: the client must see that it is cut short.
				panic(http.ErrAbortHandler)
			}
			if err := enc.Encode(it.event); err != nil {
				return ignoreGone(err)
			}
		case <-tick.C:
			if _, err := w.Write([]byte("\n")); err != nil {
				return ignoreGone(err)
			}
		}
	}
}

// parseQuery reads after, machine, limit, kind (repeated) and follow.
func parseQuery(v url.Values) (q state.Query, follow bool, err error) {
	for key, values := range v {
		value := values[len(values)-1]
		switch key {
		case "after":
			q.After, err = strconv.ParseInt(value, 10, 64)
		case "limit":
			q.Limit, err = strconv.Atoi(value)
			if err == nil && q.Limit < 0 {
				err = strconv.ErrRange
			}
		case "machine":
			q.Machine = value
		case "kind":
			for _, k := range values {
				q.Kinds = append(q.Kinds, state.Kind(k))
			}
		case "follow":
			follow, err = strconv.ParseBool(value)
		default:
			return q, false, problem(http.StatusBadRequest, "use after, limit, machine, kind and follow", "there is no parameter %q", key)
		}
		if err != nil {
			return q, false, problem(http.StatusBadRequest, "", "%s=%s cannot be read: %v", key, value, err)
		}
	}
	return q, follow, nil
}
