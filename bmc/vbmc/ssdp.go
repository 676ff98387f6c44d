package vbmc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// SSDP (DSP0266 §15, "Discovery"; UPnP Device Architecture 1.1 §1.3).
const (
	ssdpTarget = "urn:dmtf-org:service:redfish-rest:1"
	ssdpPort   = 1900
	// ssdpRate bounds answers: a search can carry somebody else's address.
	ssdpRate = 10 // in a second
)

// ServeSSDP answers searches for Redfish services that come in on conn, which
// has joined 239.255.255.250 port 1900, until ctx ends; its error is then nil.
// location is the URL of the service root on that network. It announces nothing
// by itself, answers searches for Redfish and for everything, and no more than
// ten in a second. Clients can switch it off (ManagerNetworkProtocol.SSDP).
func (s *Server) ServeSSDP(ctx context.Context, conn net.PacketConn, location string) error {
	s.mu.Lock()
	s.ssdp++
	s.mu.Unlock()
	defer func() { s.mu.Lock(); defer s.mu.Unlock(); s.ssdp-- }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 2048)
	var second time.Time
	answered := 0
	for failed := 0; ; {
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if failed++; errors.Is(err, net.ErrClosed) || failed > 100 {
				return fmt.Errorf("reading searches for Redfish services: %w", err)
			}
			continue
		}
		failed = 0
		if !searches(buf[:n]) {
			continue
		}
		now := s.now()
		if now.Sub(second) >= time.Second {
			second, answered = now, 0
		}
		if answered++; answered > ssdpRate {
			continue
		}
		if b := s.ssdpAnswer(ctx, location); b != nil {
			_, _ = conn.WriteTo(b, from) // who asks again is answered again
		}
	}
}

// searches tells whether a datagram is a search that a Redfish service answers.
func searches(b []byte) bool {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil || r.Method != "M-SEARCH" || r.RequestURI != "*" || strings.Trim(r.Header.Get("Man"), `"`) != "ssdp:discover" {
		return false
	}
	st := r.Header.Get("St")
	return st == "ssdp:all" || st == ssdpTarget || strings.HasPrefix(st, ssdpTarget+":")
}

// ssdpAnswer is the answer to a search; nil: none.
func (s *Server) ssdpAnswer(ctx context.Context, location string) []byte {
	s.mu.Lock()
	off := s.ssdpOff
	s.mu.Unlock()
	in, err := s.chassis.Info(ctx)
	if off || err != nil || in.UUID == "" {
		return nil
	}
	const target = ssdpTarget + ":0"
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nST: %s\r\nUSN: uuid:%s::%s\r\nAL: %s\r\nEXT:\r\n\r\n",
		target, in.UUID, target, location)
}
