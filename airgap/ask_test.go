package airgap

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestAsk(t *testing.T) {
	tries := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/head":
			w.Header().Set("X-Was", r.Method+" "+r.Header.Get("Accept"))
		case "/flaky":
			if tries++; tries < 3 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			_, _ = w.Write([]byte("now"))
		case "/long":
			_, _ = w.Write([]byte(strings.Repeat("x", 101)))
		case "/forbidden":
			w.WriteHeader(http.StatusForbidden)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &Fetcher{Blobs: s.Blobs(), Dir: s.Dir(), Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
	if a, err := f.Ask(t.Context(), "HEAD", srv.URL+"/head", http.Header{"Accept": {"x/y"}}, 10); err != nil || a.Header.Get("X-Was") != "HEAD x/y" {
		t.Errorf("Ask with HEAD = %v, %v; want the header to arrive", a.Header, err)
	}
	if a, err := f.Ask(t.Context(), "GET", srv.URL+"/flaky", nil, 10); err != nil || string(a.Body) != "now" || a.URL.Path != "/flaky" {
		t.Errorf("Ask after two failures = %q, %v; want now", a.Body, err)
	}
	if _, err := f.Ask(t.Context(), "GET", srv.URL+"/long", nil, 100); err == nil || !strings.Contains(err.Error(), "more than 100 bytes") {
		t.Errorf("Ask of too much = %v; want an error that says so", err)
	}
	if _, err := f.Ask(t.Context(), "GET", srv.URL+"/none", nil, 100); !errors.Is(err, ErrGone) {
		t.Errorf("Ask of nothing = %v; want ErrGone", err)
	}
	var se *StatusError
	if _, err := f.Ask(t.Context(), "GET", srv.URL+"/forbidden", nil, 100); !errors.As(err, &se) || se.Code != 403 {
		t.Errorf("Ask of what is forbidden = %v; want status 403", err)
	}
}
