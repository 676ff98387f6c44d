package oci

import (
	"encoding/json"
	"errors"
	"net/http"
	"syscall"
	"time"
)

// apiError is an answer of the registry: distribution-spec, error codes.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.message }

func refuse(status int, code, message string) *apiError { return &apiError{status, code, message} }

func errName(err error) *apiError {
	return refuse(http.StatusBadRequest, "NAME_INVALID", err.Error())
}

func errDigest(err error) *apiError {
	return refuse(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
}

// fail answers with an error. One that is no answer of ours is logged, and the
// client learns only that it is ours.
func (g *Registry) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		if r.Context().Err() != nil {
			return // nobody listens
		}
		g.log.Error("a request to the registry failed", "method", r.Method, "path", r.URL.Path, "error", err)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = refuse(http.StatusInsufficientStorage, "DENIED", "the registry has no space left")
			errors.As(err, &e)
		}
	}
	if e == nil {
		e = refuse(http.StatusInternalServerError, "UNKNOWN", "the registry cannot do that now; its log says why")
	}
	// What stands in a body that was not read is not worth the wait.
	if r.ContentLength != 0 && r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Connection", "close")
		_ = http.NewResponseController(w).SetReadDeadline(g.now().Add(5 * time.Second)) // a recorder has none
	}
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	g.json(w, r, e.status, map[string][]item{"errors": {{e.code, e.message}}}, "application/json")
}

// json answers with a value.
func (g *Registry) json(w http.ResponseWriter, r *http.Request, status int, v any, ctype string) {
	data, err := json.Marshal(v)
	if err != nil {
		g.log.Error("an answer cannot be written", "path", r.URL.Path, "error", err)
		status, data = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", ctype)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // a client that has gone does not matter
	}
}
