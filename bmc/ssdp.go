package bmc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// SSDPGroup is where Redfish services hear searches (DSP0266 §15, "Discovery").
var SSDPGroup = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 255, 255, 250}), 1900)

const ssdpTarget = "urn:dmtf-org:service:redfish-rest:1"

// Bounds of a search.
const (
	ssdpWait = 3 * time.Second
	maxSSDP  = 4096 // services
)

// Announced is a Redfish service that answered a search. Nothing of it is
// proven: who answers may say anything.
type Announced struct {
	From netip.Addr
	Root string // URL of the service root
	UUID string
}

// SearchSSDP asks the Redfish services at to for an answer, twice, and collects
// what comes within three seconds, each sender once.
func SearchSSDP(ctx context.Context, conn net.PacketConn, to netip.AddrPort) ([]Announced, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, ssdpWait, errSSDPOver)
	defer cancel()
	ask := fmt.Appendf(nil, "M-SEARCH * HTTP/1.1\r\nHOST: %s\r\nMAN: \"ssdp:discover\"\r\nMX: 2\r\nST: %s\r\n\r\n", to, ssdpTarget)
	send := func() error {
		if _, err := conn.WriteTo(ask, net.UDPAddrFromAddrPort(to)); err != nil {
			return fmt.Errorf("asking for Redfish services by SSDP: %w", err)
		}
		return nil
	}
	if err := send(); err != nil {
		return nil, err
	}
	again := time.AfterFunc(ssdpWait/3, func() { _ = send() }) // the first may have been lost; so may this
	defer again.Stop()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	var out []Announced
	for buf := make([]byte, 2048); len(out) < maxSSDP; {
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return out, fmt.Errorf("reading answers by SSDP: %w", err)
		}
		ap, err := netip.ParseAddrPort(from.String())
		if err != nil {
			continue
		}
		a, ok := parseSSDP(buf[:n])
		if a.From = ap.Addr().Unmap(); ok && !slices.ContainsFunc(out, func(x Announced) bool { return x.From == a.From }) {
			out = append(out, a)
		}
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errSSDPOver) {
		return out, cause
	}
	return out, nil
}

var errSSDPOver = errors.New("the search is over")

// parseSSDP reads an answer to a search for Redfish services.
func parseSSDP(b []byte) (a Announced, ok bool) {
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		return a, false
	}
	_ = r.Body.Close() // of what was read
	if st := r.Header.Get("St"); r.StatusCode != http.StatusOK || st != ssdpTarget && !strings.HasPrefix(st, ssdpTarget+":") {
		return a, false
	}
	u, err := url.Parse(r.Header.Get("Al"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return a, false
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Usn"), "uuid:"), "::")
	return Announced{Root: u.String(), UUID: id}, true
}
