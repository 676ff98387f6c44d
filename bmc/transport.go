package bmc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// httpClient reaches t and nothing else: every connection goes to its address,
// by its Dial, and the certificate is verified by its roots or its pin.
func httpClient(t Target, log *slog.Logger) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: t.RootCAs, ServerName: t.Address.Addr().WithZone("").String()}
	switch {
	case t.Fingerprint != "":
		want, err := hex.DecodeString(strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(t.Fingerprint), "sha256:"), ":", ""))
		if err != nil || len(want) != sha256.Size {
			return nil, fmt.Errorf("its pinned fingerprint %q is not a SHA-256 in hex: give 64 hex digits", t.Fingerprint)
		}
		conf.InsecureSkipVerify = true // the pin is what verifies
		conf.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the BMC sent no certificate")
			}
			if got := sha256.Sum256(s.PeerCertificates[0].Raw); string(got[:]) != string(want) {
				return &pinError{want: hex.EncodeToString(want), got: hex.EncodeToString(got[:])}
			}
			return nil
		}
	case t.Insecure:
		conf.InsecureSkipVerify = true
		if t.Protocol != IPMI {
			log.Warn("the BMC's certificate is not verified: pin its fingerprint")
		}
	}
	dial := t.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: t.Timeout}).DialContext
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return dial(ctx, network, t.Address.String())
			},
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    t.Timeout,
			MaxConnsPerHost:        parallelRequests,
			MaxIdleConnsPerHost:    parallelRequests,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		// A redirect may add or drop a slash on the BMC; it never leads a session's
		// token elsewhere.
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
				return fmt.Errorf("the BMC redirects to %s: give the address of the BMC itself", r.URL.Redacted())
			}
			return nil
		},
	}, nil
}

// pinError means that another certificate answered than the pinned one.
type pinError struct{ want, got string }

func (e *pinError) Error() string {
	return fmt.Sprintf("the certificate of the BMC is another than the pinned one: expected sha256 %s, got sha256 %s: no password was sent; either somebody else answers there, or the BMC has a new certificate: look at the certificate in the BMC's own pages or at its console, and when it is the BMC's, write bmc.fingerprint: %s in the site file", e.want, e.got, e.got)
}

// bound sends requests under ctx: gofish keeps the context of its login for
// all requests that follow.
type bound struct {
	ctx  context.Context
	base http.RoundTripper
}

func (b bound) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(b.ctx)
	r.Close = false // gofish would open a connection for every request
	return b.base.RoundTrip(r)
}

// under is hc for one operation.
func under(ctx context.Context, hc *http.Client) *http.Client {
	c := *hc
	c.Transport = bound{ctx, hc.Transport}
	return &c
}
