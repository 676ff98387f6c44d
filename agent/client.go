package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Clock is the machine's clock. A server that lay in a drawer wakes up in
// 1970, and no certificate is valid then.
type Clock interface {
	Now() time.Time
	// Set moves the system's clock; it is only ever called to move it forward.
	Set(time.Time) error
}

// client speaks to the server. See wire/PROTOCOL.md for the clock.
type client struct {
	base  *url.URL
	token Token
	http  *http.Client
	clock Clock
	log   *slog.Logger

	mu    sync.Mutex
	floor time.Time // certificates are verified at this time if the clock is earlier
}

func newClient(base *url.URL, token Token, ca []byte, clock Clock, log *slog.Logger) (*client, error) {
	c := &client{base: base, token: token, clock: clock, log: log}
	t := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   30 * time.Second,
		ResponseHeaderTimeout: 90 * time.Second, // the server holds a task request 30 s
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true,
		ReadBufferSize:        128 << 10,
		Protocols:             new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if base.Scheme == "https" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("the ramdisk holds no CA certificate to verify the server with: boot the machine through fettle again")
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, Time: c.verifyTime}
	}
	c.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

func (c *client) verifyTime() time.Time {
	now := c.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.floor) {
		return c.floor
	}
	return now
}

func (c *client) setFloor(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floor = t
}

// send makes one request. The token goes to the server of the kernel command
// line and nowhere else.
func (c *client) send(ctx context.Context, method, target, ranges string, body []byte) (*http.Response, error) {
	u, err := c.base.Parse(target)
	if err != nil {
		return nil, &fatalError{fmt.Errorf("the task names %q, which is no address: %w", target, err)}
	}
	do := func() (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
		if err != nil {
			return nil, &fatalError{err}
		}
		if u.Scheme == c.base.Scheme && u.Host == c.base.Host {
			req.Header.Set("Authorization", "Bearer "+string(c.token))
		}
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		return c.http.Do(req)
	}
	res, err := do()
	// A certificate that is not valid yet: is it good at the moment from which
	// on it is valid? Then that moment has passed, says a CA that we trust.
	var inv x509.CertificateInvalidError
	if errors.As(err, &inv) && inv.Reason == x509.Expired && c.verifyTime().Before(inv.Cert.NotBefore) {
		c.setFloor(inv.Cert.NotBefore.Add(time.Second))
		if res, err = do(); err != nil {
			c.setFloor(time.Time{})
		}
	}
	if err != nil {
		if errors.As(err, &inv) && inv.Reason == x509.Expired {
			return nil, fmt.Errorf("the clock of this machine says %s, the server's certificate is valid from %s to %s: set the clock in the firmware, or renew the certificate: %w",
				c.clock.Now().Format(time.DateTime), inv.Cert.NotBefore.Format(time.DateTime), inv.Cert.NotAfter.Format(time.DateTime), err)
		}
		return nil, err
	}
	c.setClock(res)
	return res, nil
}

// setClock moves the clock forward to the Date of an authenticated server.
func (c *client) setClock(res *http.Response) {
	if res.TLS == nil || res.Request.URL.Host != c.base.Host {
		return
	}
	date, err := http.ParseTime(res.Header.Get("Date"))
	now := c.clock.Now()
	if err != nil || date.Sub(now) < time.Minute {
		return
	}
	c.log.Warn("the clock was behind; set to the server's", "was", now.Format(time.DateTime), "is", date.Format(time.DateTime))
	if err := c.clock.Set(date); err != nil {
		c.log.Error("setting the clock", "error", err)
	}
}

// get is for images.
func (c *client) get(ctx context.Context, target, ranges string) (*http.Response, error) {
	return c.send(ctx, http.MethodGet, target, ranges, nil)
}

// call posts in (nil: GET) and decodes the answer into out (nil: none).
func (c *client) call(ctx context.Context, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	method, body := http.MethodGet, []byte(nil)
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return &fatalError{err}
		}
		method, body = http.MethodPost, b
	}
	res, err := c.send(ctx, method, c.base.String()+path, "", body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNoContent && out == nil:
		return nil
	case res.StatusCode != http.StatusOK:
		return statusError(res)
	case out == nil:
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 256*mib))
	if err != nil {
		return fmt.Errorf("reading the answer to %s: %w", path, err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("reading the answer to %s: %w", path, err)
	}
	return nil
}

// httpError is an answer that is no success.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

// statusError describes an answer by its status and the server's own words.
func statusError(res *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, 300))
	words := strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "?")), " ")
	if err != nil || words == "" {
		words = "no reason given"
	}
	return &httpError{res.StatusCode, fmt.Sprintf("%s %s: the server answered %s (%s)", res.Request.Method, res.Request.URL.Redacted(), res.Status, words)}
}

// hasStatus says whether err is an answer with this status.
func hasStatus(err error, status int) bool {
	var he *httpError
	return errors.As(err, &he) && he.status == status
}
