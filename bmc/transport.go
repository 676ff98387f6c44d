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

// curves are the key exchanges that are offered: those of NIST, which every
// TLS library has (RFC 8446 §9.1 wants P-256 of all). Go would offer X25519
// with ML-KEM too, and in front: a third of the time of a handshake, for BMCs
// that know none of it.
var curves = []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521}

// httpClient reaches t and nothing else: every connection goes to its address,
// by its Dial, and the certificate is verified by its roots or its pin.
func httpClient(t Target, log *slog.Logger) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: t.RootCAs, ServerName: t.Address.Addr().WithZone("").String(),
		CurvePreferences: curves, ClientSessionCache: t.TLSSessions}
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
			// The handshake is done where the connection is opened: Transport would
			// start a goroutine of its own for it, whose stack has to grow.
			DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				raw, err := dial(ctx, network, t.Address.String())
				if err != nil {
					return nil, err
				}
				c := tls.Client(raw, conf)
				ctx, cancel := context.WithTimeout(ctx, t.Timeout)
				defer cancel()
				if err := c.HandshakeContext(ctx); err != nil {
					_ = raw.Close() // the handshake's error says more
					return nil, err
				}
				return c, nil
			},
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
