package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/oci"
	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

// TLS ports for machines: of the agent's endpoint, and of boot HTTP, for
// firmware that trusts the site's CA.
const (
	agentPort   = 8443
	bootTLSPort = 8444
)

// stack is where services live: on real interfaces (serve), or on the hosts of
// a lab's fabric. Services open no sockets of their own.
type stack interface {
	// DHCP is the socket of a DHCP server on a network.
	DHCP(ctx context.Context, n site.Network) (net.PacketConn, error)
	// ListenPacket is a UDP socket at an address of a network's server.
	ListenPacket(ctx context.Context, n site.Network, at netip.AddrPort) (net.PacketConn, error)
	// Listen is a TCP listener at an address of a network's server.
	Listen(ctx context.Context, n site.Network, at netip.AddrPort) (net.Listener, error)
	// DHCP6 is the socket of a DHCPv6 server on a network, and Advertise that of
	// a router's advertisements; nil where the stack sends them by itself.
	DHCP6(ctx context.Context, n site.Network) (net.PacketConn, error)
	Advertise(ctx context.Context, n site.Network) (pxe.AdvertiseConn, error)
	// Dial opens a connection to a BMC.
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
}

// services is all that serve and a lab's daemon run.
type services struct {
	site     func() *site.Site
	images   *images.Store
	state    state.Config
	stack    stack
	ca       *site.CA
	target   func(m site.Machine) (bmc.Target, error) // address, credentials and trust of a BMC
	apiPath  string                                   // Unix socket of the operators' API
	apiTLS   net.Listener                             // operators' API over TLS, or nil
	tokens   *web.Tokens                              // who may use apiTLS
	limits   provision.Limits
	log      *slog.Logger
	started  func(p *provision.Provisioner, st *state.Store) // nil: nobody waits
	networks []string                                        // boot networks to serve; nil = all
	mirror   *airgap.Store                                   // what machines install from, or nil
	push     *oci.Pushers                                    // who may push images to it; nil: nobody
	registry *oci.Registry                                   // made by run
	watch    func(http.Handler) http.Handler                 // sees requests for it; nil: nobody does

	reread      func() (*site.Site, error) // reads the site again and puts it in force; nil: cannot
	bmcSearch   bool                       // BMCs can be searched for by multicast
	bmcDHCP     bool                       // BMCs get addresses, where the site says so
	bmcUnserved []string                   // networks of BMCs that this machine is not on
	turns       *provision.Turns           // at BMCs; made by run
	tlsSessions tls.ClientSessionCache     // of BMCs; made by run
	bmcDir      string                     // what BMCs are given, and what consoles said
	passwords   provision.Passwords        // of BMCs; nil: none is changed here
}

// run runs all services until ctx ends or one of them fails.
func (s *services) run(ctx context.Context) error {
	st, err := state.Open(ctx, s.state)
	if err != nil {
		return err
	}
	defer st.Close()
	s.turns, s.tlsSessions = provision.NewTurns(time.Now, provision.BMCOf(s.site)), tls.NewLRUClientSessionCache(4096)
	var listenBMC func(context.Context, site.Network) (net.PacketConn, error)
	if s.bmcSearch {
		listenBMC = func(ctx context.Context, n site.Network) (net.PacketConn, error) {
			return s.stack.ListenPacket(ctx, n, netip.AddrPortFrom(n.Server, 0))
		}
	}
	p, err := provision.New(provision.Config{
		ListenBMC: listenBMC,
		Site:      s.site, Store: st, Releases: provision.StoreReleases{Store: s.images},
		OpenBMC: s.openBMC, Dial: s.stack.Dial, CA: s.ca.PEM(), AgentPort: agentPort, Logger: s.log, Limits: s.limits,
		Clients: func(server netip.Addr) ([]wire.SeedFile, error) { return s.clients(ctx, server) },
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	ln, err := listenUnix(s.apiPath)
	if err != nil {
		return err
	}
	defer ln.Close()
	err = s.boot(ctx, g, p)
	if err == nil {
		err = s.api(ctx, g, p, st, ln)
	}
	if err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}
	g.Go(func() error { return p.Run(ctx) })
	g.Go(func() error { return st.Wait(ctx) })
	if s.started != nil {
		s.started(p, st)
	}
	return g.Wait()
}

// boot starts DHCP, TFTP, boot HTTP and the agent's endpoint on every boot
// network.
func (s *services) boot(ctx context.Context, g *errgroup.Group, p *provision.Provisioner) error {
	nets := s.bootNetworks()
	if len(nets) == 0 {
		return fail(exitInput, errors.New("the site has no network with purpose: boot, so there is nothing to serve"))
	}
	capture := pxe.NewCapture()
	px, err := pxe.New(pxe.Config{Networks: append(pxeNetworks(nets), pxeNetworks(s.bmcNetworksOf(s.site()))...), Booter: p, Leases: p, Files: p, Recorder: p, Capture: capture, Logger: s.log})
	if err != nil {
		return err
	}
	if err := s.serveCapture(ctx, g, capture); err != nil {
		return err
	}
	if direct := slices.DeleteFunc(slices.Clone(nets), behindRelay); len(direct) == 0 {
		return fail(exitInput, errors.New("every network to be served is behind relays: serve the boot network too that they send to"))
	}
	if err := s.bootBMCs(ctx, g, px); err != nil {
		return err
	}
	for _, n := range nets {
		if behindRelay(n) {
			continue // its relays send to a server address that is another network's
		}
		if !n.Only6() {
			if err := s.boot4(ctx, g, px, n); err != nil {
				return err
			}
		}
		if err := s.boot6(ctx, g, px, n); err != nil {
			return err
		}

		agent, err := s.stack.Listen(ctx, n, netip.AddrPortFrom(n.Here(), agentPort))
		if err != nil {
			return fmt.Errorf("agent's endpoint on network %s: %w", n.Name, err)
		}
		conf, err := serverTLS(s.ca, nil, []netip.Addr{n.Here()}, time.Now)
		if err != nil {
			return fmt.Errorf("agent's endpoint on network %s: %w", n.Name, err)
		}
		serveHTTP(ctx, g, tls.NewListener(agent, conf), p.Handler())
		if err := s.serveMirror(ctx, g, n, conf); err != nil {
			return fmt.Errorf("mirrors on network %s: %w", n.Name, err)
		}
	}
	return nil
}

// boot4 starts DHCP, port 4011 and boot files over IPv4.
func (s *services) boot4(ctx context.Context, g *errgroup.Group, px *pxe.Server, n site.Network) error {
	dhcp, err := s.stack.DHCP(ctx, n)
	if err != nil {
		return fmt.Errorf("DHCP on network %s: %w", n.Name, err)
	}
	g.Go(func() error { return px.ServeDHCP(ctx, n.Name, dhcp) })

	binl, err := s.stack.ListenPacket(ctx, n, netip.AddrPortFrom(n.Server, 4011))
	if err != nil {
		return fmt.Errorf("port 4011 on network %s: %w", n.Name, err)
	}
	g.Go(func() error { return px.ServeBINL(ctx, n.Name, binl) })
	return s.bootFiles(ctx, g, px, n, n.Server)
}

// bootFiles serves TFTP, boot HTTP and HTTPS at one of a network's server addresses.
func (s *services) bootFiles(ctx context.Context, g *errgroup.Group, px *pxe.Server, n site.Network, at netip.Addr) error {
	tftp, err := s.stack.ListenPacket(ctx, n, netip.AddrPortFrom(at, 69))
	if err != nil {
		return fmt.Errorf("TFTP on network %s: %w", n.Name, err)
	}
	g.Go(func() error {
		return px.ServeTFTP(ctx, tftp, func(ctx context.Context, local netip.Addr) (net.PacketConn, error) {
			if !local.IsValid() || local.IsUnspecified() {
				local = at
			}
			return s.stack.ListenPacket(ctx, n, netip.AddrPortFrom(local, 0))
		})
	})
	boot, err := s.stack.Listen(ctx, n, netip.AddrPortFrom(at, 80))
	if err != nil {
		return fmt.Errorf("boot HTTP on network %s: %w", n.Name, err)
	}
	serveHTTP(ctx, g, boot, px.Handler()) // no ServeMux: it redirects //boot/, and firmware follows no redirect
	secure, err := s.stack.Listen(ctx, n, netip.AddrPortFrom(at, bootTLSPort))
	if err != nil {
		return fmt.Errorf("boot HTTPS on network %s: %w", n.Name, err)
	}
	serveHTTP(ctx, g, tls.NewListener(secure, bootTLS(s.ca, []netip.Addr{at}, time.Now)), px.Handler())
	return nil
}

// boot6 starts DHCPv6 and boot files over IPv6 where a network has it, and
// router advertisements where it wants them.
func (s *services) boot6(ctx context.Context, g *errgroup.Group, px *pxe.Server, n site.Network) error {
	if n.IPv6.Prefix.IsValid() {
		dhcp, err := s.stack.DHCP6(ctx, n)
		if err != nil {
			return fmt.Errorf("DHCPv6 on network %s: %w", n.Name, err)
		}
		g.Go(func() error { return px.ServeDHCP6(ctx, n.Name, dhcp) })
		if err := s.bootFiles(ctx, g, px, n, n.IPv6.Server); err != nil {
			return err
		}
	}
	if advertiseOf(n) == pxe.AdvertiseOff {
		return nil
	}
	ra, err := s.stack.Advertise(ctx, n)
	if err != nil && n.Advertise == "" {
		// Nobody asked for it, and a machine without IPv6 boots all the same.
		s.log.Warn("no answers to machines that look for an IPv6 router: iPXE waits 16 s for one", "network", n.Name, "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("router advertisements on network %s: %w", n.Name, err)
	}
	if ra != nil {
		g.Go(func() error { return px.ServeAdvertisements(ctx, n.Name, ra) })
	}
	return nil
}

// advertiseOf is what a network's machines are told that look for a router.
func advertiseOf(n site.Network) pxe.Advertise {
	switch n.Advertise {
	case site.AdvertiseManaged:
		return pxe.AdvertiseManaged
	case site.AdvertiseOther:
		return pxe.AdvertiseOther
	case site.AdvertiseSLAAC:
		return pxe.AdvertiseSLAAC
	case site.AdvertiseNone:
		return pxe.AdvertiseNothing
	case site.AdvertiseOff:
		return pxe.AdvertiseOff
	}
	if n.IPv6.Prefix.IsValid() {
		return pxe.AdvertiseManaged
	}
	return pxe.AdvertiseNothing
}

func behindRelay(n site.Network) bool { return len(n.Relays) > 0 }

// pxeNetworks are networks as the boot server knows them.
func pxeNetworks(nets []site.Network) []pxe.Network {
	var out []pxe.Network
	for _, n := range nets {
		p := pxe.Network{
			Name: n.Name, Prefix: n.Prefix, Server: n.Server, Gateway: n.Gateway,
			DNS: n.DNS, NTP: n.NTP, Domain: n.Domain, MTU: n.MTU, Search: n.Search,
			Proxy: n.Proxy, Relays: n.Relays, NativeDrivers: n.NativeDrivers, ReplyDelay: n.ReplyDelay, Probe: n.Probe, HTTPSPort: bootTLSPort,
			IPv6:      pxe.Network6{Prefix: n.IPv6.Prefix, Server: n.IPv6.Server, Gateway: n.IPv6.Gateway, DNS: n.IPv6.DNS, Relays: n.IPv6.Relays},
			Advertise: advertiseOf(n), AdvertiseAlone: n.Advertise == "",
		}
		for _, r := range n.Routes {
			p.Routes = append(p.Routes, pxe.Route{To: r.To, Via: r.Via})
		}
		for _, w := range n.BootWays {
			p.Ways = append(p.Ways, pxe.Way(w))
		}
		for _, o := range n.Options {
			b, err := o.Bytes()
			if err != nil {
				b = nil // no site that was read holds it; pxe.New refuses it
			}
			p.Options = append(p.Options, pxe.Option{Number: byte(o.Number), Value: b, Always: o.Always})
		}
		out = append(out, p)
	}
	return out
}

// bootNetworks are the networks of the site that are served.
func (s *services) bootNetworks() []site.Network { return s.bootNetworksOf(s.site()) }

func (s *services) bootNetworksOf(from *site.Site) []site.Network {
	var out []site.Network
	for _, n := range from.Networks {
		if n.Purpose != site.PurposeBoot {
			continue
		}
		if s.networks != nil && !slices.Contains(s.networks, n.Name) {
			continue
		}
		out = append(out, n)
	}
	return out
}

// api starts the operators' API on its Unix socket ln and, if there is one,
// its TLS listener.
func (s *services) api(ctx context.Context, g *errgroup.Group, p *provision.Provisioner, st *state.Store, ln net.Listener) error {
	conf := web.Config{Store: st, Site: s.site, Operator: p, Logger: s.log, Authenticate: web.Authenticator(s.tokens), Discoverer: p}
	if s.reread != nil {
		conf.Reload = func(context.Context) (*site.Site, error) { return s.reread() }
	}
	bmcs, err := s.bmcs(st)
	if err != nil {
		return err
	}
	conf.BMCs = bmcs
	srv, err := web.New(ctx, conf)
	if err != nil {
		return err
	}
	serveHTTP(ctx, g, ln, srv)
	if s.apiTLS != nil {
		serveHTTP(ctx, g, s.apiTLS, srv)
	}
	return nil
}

// listenUnix listens at path for this user only. A socket that nobody listens
// on any more is taken over.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("folder of socket %s: %w", path, err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("another fettle serves at %s: stop it first", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the stale socket %s: %w", path, err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("protecting socket %s: %w", path, err)
	}
	return ln, nil
}

// serveHTTP serves h on ln until ctx ends.
func serveHTTP(ctx context.Context, g *errgroup.Group, ln net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: web.ConnContext,
	}
	g.Go(func() error {
		if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving HTTP at %s: %w", ln.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if err := srv.Shutdown(end); err != nil {
			return srv.Close()
		}
		return nil
	})
}

// credentials splits a secret "user:password".
func credentials(secretName, value string) (user string, pw bmc.Password, err error) {
	user, pass, ok := strings.Cut(strings.TrimSpace(value), ":")
	if !ok || user == "" {
		return "", "", fail(exitInput, fmt.Errorf("secret %s must be USER:PASSWORD: set it with fettle secret set %s", secretName, secretName))
	}
	return user, bmc.Password(pass), nil
}
