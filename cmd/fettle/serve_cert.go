package main

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

// certLife is how long a server's certificate is valid. It is made anew at
// half of that, so a server that runs for years never shows an old one.
const certLife = 90 * 24 * time.Hour

// serverTLS is the configuration of a TLS server with these names and
// addresses, whose certificates the site's CA issues as they are needed.
func serverTLS(ca *site.CA, names []string, ips []netip.Addr, now func() time.Time) (*tls.Config, error) {
	c := &serverCert{ca: ca, names: names, ips: ips, now: now}
	// What is wrong with the CA is said at the start, not at the first caller.
	if _, err := c.get(nil); err != nil {
		return nil, err
	}
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}, nil
}

// bootTLS is the configuration for UEFI firmware that boots by HTTPS: an RSA
// key, made when the first machine asks, and cipher suites that it has.
func bootTLS(ca *site.CA, ips []netip.Addr, now func() time.Time) *tls.Config {
	c := &serverCert{ca: ca, ips: ips, now: now, rsa: true}
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12, CipherSuites: pxe.CipherSuites()}
}

type serverCert struct {
	rsa   bool
	ca    *site.CA
	names []string
	ips   []netip.Addr
	now   func() time.Time

	mu    sync.Mutex
	cert  *tls.Certificate
	renew time.Time
}

func (c *serverCert) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.cert != nil && now.Before(c.renew) {
		return c.cert, nil
	}
	// A day back: clocks of machines without a battery are behind.
	issue := c.ca.Issue
	if c.rsa {
		issue = c.ca.IssueRSA
	}
	cert, err := issue(c.names, c.ips, now.Add(-24*time.Hour), now.Add(certLife))
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %v %v: %w", c.names, c.ips, err)
	}
	c.cert, c.renew = &cert, now.Add(certLife/2)
	return c.cert, nil
}
