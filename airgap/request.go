package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

type redirectKey struct{}

// checkRedirect refuses redirects to another host, unless a person gave the
// digest (redirectKey), and every step from https to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case len(via) >= 5:
		return permanent{errors.New("upstream redirects more than five times")}
	case first.URL.Scheme == "https" && req.URL.Scheme != "https":
		return permanent{fmt.Errorf("upstream redirects from https to %s: refused", req.URL.Redacted())}
	case req.URL.Host != first.URL.Host && req.Context().Value(redirectKey{}) == nil:
		return permanent{fmt.Errorf("upstream redirects to another host, %s: refused; if that is right, name it as the mirror's url", req.URL.Host)}
	}
	return nil
}

// StatusError is an answer of upstream that is no success.
type StatusError struct {
	Code   int
	Status string
}

func (e *StatusError) Error() string { return "upstream answers " + e.Status }

func statusError(resp *http.Response) error {
	err := &StatusError{resp.StatusCode, resp.Status}
	switch c := resp.StatusCode; {
	case c == http.StatusNotFound || c == http.StatusGone:
		return permanent{fmt.Errorf("%w: %w; resolve again if upstream moved on", ErrGone, err)}
	case c == http.StatusTooManyRequests || c == http.StatusRequestTimeout || c >= 500:
		return err
	}
	return permanent{err}
}

// do makes one GET request. done gives its place back and must be called.
func (f *Fetcher) do(ctx context.Context, rawURL string, header http.Header) (resp *http.Response, done func(), err error) {
	return f.request(ctx, http.MethodGet, rawURL, header)
}

func (f *Fetcher) request(ctx context.Context, method, rawURL string, header http.Header) (resp *http.Response, done func(), err error) {
	f.init()
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, nil, permanent{err}
	}
	release, err := f.acquire(ctx, u.Host)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	end := func() { cancel(nil); release() }
	req, err := http.NewRequestWithContext(ctx, method, rawURL, nil)
	if err != nil {
		end()
		return nil, nil, permanent{err}
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", "fettle-mirror")
	req.Header.Set("Accept-Encoding", "identity")
	f.mu.Lock()
	f.reqs++
	f.mu.Unlock()
	resp, err = f.client.Do(req)
	if err != nil {
		end()
		return nil, nil, err
	}
	stall := orDefault(f.Stall, defaultStall)
	errStall := fmt.Errorf("nothing came for %s", stall)
	t := time.AfterFunc(stall, func() { cancel(errStall) })
	resp.Body = &watched{resp.Body, ctx, t, stall}
	return resp, func() { t.Stop(); resp.Body.Close(); end() }, nil
}

// watched puts the stall timer off with every read.
type watched struct {
	io.ReadCloser
	ctx   context.Context
	t     *time.Timer
	stall time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 {
		w.t.Reset(w.stall)
	}
	if err != nil && !errors.Is(err, io.EOF) && w.ctx.Err() != nil {
		err = context.Cause(w.ctx)
	}
	return n, err
}

// Answer is what upstream says to [Fetcher.Ask].
type Answer struct {
	Header http.Header
	Body   []byte
	URL    *url.URL // after redirects
}

// Ask makes a request for upstream's metadata, again if need be, and reads the
// answer, of at most limit bytes. Nothing vouches for it yet. The error is
// [ErrGone] when upstream has no such thing, and a [StatusError] for every other
// answer that is no success.
func (f *Fetcher) Ask(ctx context.Context, method, rawURL string, header http.Header, limit int64) (Answer, error) {
	var out Answer
	err := f.try(ctx, rawURL, func() error {
		resp, done, err := f.request(ctx, method, rawURL, header)
		if err != nil {
			return err
		}
		defer done()
		if resp.StatusCode != http.StatusOK {
			return statusError(resp)
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err != nil {
			return err
		}
		if int64(len(b)) > limit {
			return permanent{fmt.Errorf("upstream sends more than %d bytes", limit)}
		}
		out = Answer{resp.Header, b, resp.Request.URL}
		return nil
	})
	if err != nil {
		return Answer{}, fmt.Errorf("asking %s: %w", redact(rawURL), err)
	}
	return out, nil
}
