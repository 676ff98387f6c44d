package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// eventFile is where a virtual BMC keeps its event subscriptions.
type eventFile string

// Load implements vbmc.Keeper.
func (f eventFile) Load() ([]byte, error) {
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Save implements vbmc.Keeper. Nobody else may read it: it has the headers that
// receivers know a sender by.
func (f eventFile) Save(data []byte) error {
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
		return err
	}
	return replaceFileMode(string(f), data, 0o600)
}

// deliverEvents pushes a virtual BMC's events by dial; nil dials as this machine
// does.
func deliverEvents(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, to vbmc.Subscription, body []byte) error {
	return func(ctx context.Context, to vbmc.Subscription, body []byte) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.Destination, bytes.NewReader(body))
		if err != nil {
			return err
		}
		for k, v := range to.Headers {
			req.Header[k] = v
		}
		req.Header.Set("Content-Type", "application/json")
		hc := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, DialContext: dial},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		res, err := hc.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode/100 != 2 {
			return fmt.Errorf("%s answered %s", to.Destination, res.Status)
		}
		return nil
	}
}

// labOnly dials addresses of a lab's fabric, and this machine's loopback: a
// lab's BMC has production's addresses and reaches nothing of production.
func labOnly(fabric func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		at, err := netip.ParseAddrPort(addr)
		if err == nil && at.Addr().Unmap().IsLoopback() {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		return fabric(ctx, network, addr)
	}
}
