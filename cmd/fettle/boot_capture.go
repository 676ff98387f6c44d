package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

const (
	maxCaptures    = 16 // at once
	captureRequest = 10 * time.Second
)

// captureSocket is where a serving fettle streams its boot conversation: beside
// the API's socket.
func captureSocket(api string) string { return filepath.Join(filepath.Dir(api), "cap.sock") }

// serveCapture streams the boot conversation to whoever of this user connects
// and names machines or MACs in one line, until they close their side.
func (s *services) serveCapture(ctx context.Context, g *errgroup.Group, c *pxe.Capture) error {
	ln, err := listenUnix(captureSocket(s.apiPath))
	if err != nil {
		return err
	}
	g.Go(func() error {
		var wg sync.WaitGroup
		defer wg.Wait()
		stop := context.AfterFunc(ctx, func() { ln.Close() })
		defer stop()
		slots := make(chan struct{}, maxCaptures)
		for {
			conn, err := ln.Accept()
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("captures at %s: %w", ln.Addr(), err)
			}
			select {
			case slots <- struct{}{}:
			default:
				fmt.Fprintf(conn, "%d captures run already: end one\n", maxCaptures)
				conn.Close()
				continue
			}
			wg.Go(func() {
				defer func() { <-slots }()
				defer conn.Close()
				if err := streamCapture(ctx, conn, c, s.site()); err != nil {
					s.log.Warn("a capture ended", "err", err)
				}
			})
		}
	})
	return nil
}

// streamCapture serves one listener.
func streamCapture(ctx context.Context, conn net.Conn, c *pxe.Capture, s *site.Site) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := conn.SetReadDeadline(time.Now().Add(captureRequest)); err != nil {
		return err
	}
	r := bufio.NewReader(io.LimitReader(conn, 64<<10))
	line, err := r.ReadString('\n')
	if err != nil {
		return fmt.Errorf("reading what to capture: %w", err)
	}
	macs, err := captureMACs(s, strings.Fields(line))
	if err != nil {
		fmt.Fprintln(conn, err)
		return nil
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	// The other side closes when it has enough; it never says more.
	go func() {
		defer cancel()
		io.Copy(io.Discard, r)
	}()
	stop := context.AfterFunc(ctx, func() {
		conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) // what is left must not wait for ever
	})
	defer stop()
	if err := c.Stream(ctx, conn, macs...); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// captureMACs are the MACs of machines, or those named themselves; nil for
// everybody.
func captureMACs(s *site.Site, names []string) ([]net.HardwareAddr, error) {
	var out []net.HardwareAddr
	for _, name := range names {
		if mac, err := net.ParseMAC(name); err == nil && len(mac) == 6 {
			out = append(out, mac)
			continue
		}
		m, ok := s.Machine(name)
		if !ok {
			return nil, fmt.Errorf("%q is neither a machine of the site nor a MAC address", name)
		}
		for _, nic := range m.NICs {
			out = append(out, net.HardwareAddr(nic.MAC[:]))
		}
	}
	return out, nil
}
