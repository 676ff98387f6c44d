package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/fettle-dev/fettle/state"
)

// Problem is an error as the API tells it: problem details of RFC 9457, with
// a hint as an extension member (section 3.2). The Client returns it.
type Problem struct {
	Type   string   `json:"type"` // "about:blank": the status says it all (section 4.2.1)
	Title  string   `json:"title"`
	Status int      `json:"status"`
	Detail string   `json:"detail"`         // one sentence
	Hint   string   `json:"hint,omitempty"` // what to do next
	Runs   []string `json:"runs,omitempty"` // that did start before it failed
}

// Error is the sentence, with what to do next.
func (p *Problem) Error() string {
	if p.Hint == "" {
		return p.Detail
	}
	return p.Detail + ": " + p.Hint
}

// Is lets errors.Is find the errors that a status stands for.
func (p *Problem) Is(target error) bool {
	switch target {
	case state.ErrPlanChanged:
		return p.Status == http.StatusConflict
	case ErrNobody:
		return p.Status == http.StatusUnauthorized
	case state.ErrNeedsYes:
		return p.Status == http.StatusPreconditionRequired
	default:
		return false
	}
}

func problem(status int, hint, format string, args ...any) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: fmt.Sprintf(format, args...), Hint: hint}
}

var errNoRoute = problem(http.StatusNotFound, "see /api/v1/openapi.json", "there is nothing here")

// problemOf makes a Problem of any error.
func problemOf(err error) *Problem {
	var p *Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, ErrNobody):
		return problem(http.StatusUnauthorized, "send a token as Authorization: Bearer, or sign in at /login", "%v", err)
	case errors.Is(err, state.ErrPlanChanged):
		return problem(http.StatusConflict, "", "%v", err)
	case errors.Is(err, state.ErrNeedsYes):
		return problem(http.StatusPreconditionRequired, "send yes: true once somebody has", "%v", err)
	case errors.As(err, &tooLarge):
		return problem(http.StatusRequestEntityTooLarge, "send fewer machines at once", "the request is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, state.ErrClosed):
		return problem(http.StatusServiceUnavailable, "try again when fettle has started", "fettle is stopping")
	case errors.Is(err, state.ErrUnavailable):
		return problem(http.StatusServiceUnavailable, "see that its disk works and has space; fettle goes on by itself then", "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return problem(http.StatusGatewayTimeout, "try again", "%v", err)
	default:
		return problem(http.StatusInternalServerError, "", "%v", err)
	}
}

// problem answers an API request with err.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	s.note(r, p)
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="fettle"`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone if it fails
}

// note logs what is fettle's fault.
func (s *Server) note(r *http.Request, p *Problem) {
	if p.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "status", p.Status, "error", p.Detail)
	}
}
