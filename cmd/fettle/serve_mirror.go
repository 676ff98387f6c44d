package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/oci"
	"github.com/fettle-dev/fettle/site"
)

const (
	mirrorFolder  = "mirror" // of a store: the mirrors' own store
	mirrorPort    = 8480     // TCP, HTTP
	mirrorTLSPort = 8481     // TCP, HTTPS with a certificate of the site's CA
	siteCAFile    = "/etc/fettle/ca.pem"
)

func mirrorURL(scheme string, server netip.Addr, port int) string {
	return scheme + "://" + net.JoinHostPort(server.String(), strconv.Itoa(port))
}

// mirrorHandler answers for the mirrors of a store.
func mirrorHandler(s *services) http.Handler {
	h := mirrorAnswers(s.mirror, s.registry, s.log)
	if s.watch != nil {
		h = s.watch(h)
	}
	return h
}

// openRegistry makes the one registry of all networks; it is closed with ctx.
func (s *services) openRegistry(ctx context.Context, g *errgroup.Group) error {
	if s.registry != nil {
		return nil
	}
	reg, err := oci.OpenRegistry(s.mirror, oci.Options{Push: s.push, Log: s.log})
	if err != nil {
		return err
	}
	s.registry = reg
	g.Go(func() error {
		<-ctx.Done()
		return reg.Close()
	})
	return nil
}

// serveMirror offers the snapshot that is served, now or later, to the machines
// of a network.
func (s *services) serveMirror(ctx context.Context, g *errgroup.Group, n site.Network, conf *tls.Config) error {
	if s.mirror == nil {
		return nil
	}
	if err := s.openRegistry(ctx, g); err != nil {
		return err
	}
	h := mirrorHandler(s)
	plain, err := s.stack.Listen(ctx, n, netip.AddrPortFrom(n.Here(), mirrorPort))
	if err != nil {
		return err
	}
	serveHTTP(ctx, g, plain, h)
	secure, err := s.stack.Listen(ctx, n, netip.AddrPortFrom(n.Here(), mirrorTLSPort))
	if err != nil {
		return err
	}
	serveHTTP(ctx, g, tls.NewListener(secure, conf), h)
	return nil
}

// clients are the files by which a machine installs from the mirrors and from
// nowhere else; none when nothing is mirrored.
func (s *services) clients(ctx context.Context, server netip.Addr) ([]wire.SeedFile, error) {
	if s.mirror == nil {
		return nil, nil
	}
	name, err := s.mirror.Served()
	if err != nil || name == "" {
		return nil, err
	}
	snap, _, err := s.mirror.Snapshot(name)
	if err != nil {
		return nil, err
	}
	files, err := clientFiles(ctx, "", airgap.ClientRequest{
		HTTP: mirrorURL("http", server, mirrorPort), HTTPS: mirrorURL("https", server, mirrorTLSPort),
		CAFile: siteCAFile, Store: s.mirror, Snapshot: snap,
	})
	if err != nil {
		return nil, err
	}
	var out []wire.SeedFile
	for _, f := range files {
		out = append(out, wire.SeedFile{Path: f.Path, Mode: uint32(f.Mode.Perm()), Content: f.Content})
	}
	return out, nil
}

// mirrorText says what a store serves.
func mirrorText(s *airgap.Store) string {
	name, err := s.Served()
	switch {
	case err != nil:
		return err.Error()
	case name == "":
		return "nothing yet: fettle mirror sync, or fettle bundle import"
	}
	return fmt.Sprintf("snapshot %s", name)
}
