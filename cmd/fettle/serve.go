package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

func serveCommands(e *env) []*cli.Command {
	return []*cli.Command{{
		Name:  "serve",
		Usage: "serve DHCP, TFTP, HTTP boot, the agent and the API to the machines of a site",
		Description: `Answers on the interface that has each boot network's server address. SIGHUP
reads the site folder again, and so does fettle enroll; a folder with errors is
refused and the old one stays in force. BMCs get addresses too, on a network of
purpose bmc that has a server address here, and a pool or a BMC with its MAC.`,
		Flags: []cli.Flag{
			siteFlag(), storeFlag(), secretIdentityFlag(),
			&cli.StringSliceFlag{Name: "interface", Usage: "NETWORK=INTERFACE, when the address alone does not tell"},
			&cli.StringSliceFlag{Name: "network", Usage: "serve only this boot network (repeatable)"},
			&cli.StringFlag{Name: "state", Usage: "folder of the embedded etcd (default: /var/lib/fettle/state, or below $XDG_STATE_HOME)"},
			&cli.StringSliceFlag{Name: "etcd", Usage: "endpoint of an existing etcd cluster, instead of the embedded one (repeatable)"},
			&cli.StringFlag{Name: "etcd-ca", Usage: "CA certificate of that cluster"},
			&cli.StringFlag{Name: "etcd-cert", Usage: "client certificate for that cluster"},
			&cli.StringFlag{Name: "etcd-key", Usage: "key of the client certificate"},
			&cli.StringFlag{Name: "socket", Usage: "Unix socket of the API (default: $XDG_RUNTIME_DIR/fettle/api.sock, or /run/fettle/api.sock)"},
			&cli.StringFlag{Name: "listen", Usage: "also serve API and pages over TLS at this ADDRESS:PORT"},
			&cli.StringFlag{Name: "tokens", Usage: "file of API tokens, needed by --listen"},
		},
		Action: func(c *cli.Context) error { return serve(c, e) },
	}}
}

func storeFlag() cli.Flag {
	return &cli.StringFlag{Name: "store", EnvVars: []string{"FETTLE_STORE"}, Usage: "folder of images and mirrors (default: /var/lib/fettle, or $XDG_DATA_HOME/fettle)"}
}

func serve(c *cli.Context, e *env) error {
	s, err := site.Load(c.String("site"))
	if err != nil {
		return fail(exitInput, err)
	}
	log := slog.New(slog.NewTextHandler(e.stderr, nil))
	var current atomic.Pointer[site.Site]
	current.Store(s)

	named := map[string]string{}
	for _, v := range c.StringSlice("interface") {
		n, i, ok := strings.Cut(v, "=")
		if _, known := s.Network(n); !ok || !known || i == "" {
			return usage("--interface is NETWORK=INTERFACE with a network of the site, not %q", v)
		}
		named[n] = i
	}
	only := c.StringSlice("network")
	for _, n := range only {
		if net, ok := s.Network(n); !ok || net.Purpose != site.PurposeBoot {
			return usage("--network %s: the site has no boot network of that name", n)
		}
	}
	if len(only) == 0 {
		only = nil
	}
	secrets, err := e.openSecrets(c)
	if err != nil {
		return e.behindSudo(c, err)
	}
	ca, err := site.LoadCA(s.Dir, secrets)
	if err != nil {
		return fail(exitInput, err)
	}
	store, err := images.OpenStore(storeDir(c, e))
	if err != nil {
		return err
	}
	mirror, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	push, err := pushSecret(secrets)
	if err != nil {
		return err
	}
	sv := &services{
		mirror: mirror, push: push,
		site: current.Load, images: store, ca: ca, log: log, networks: only,
		state:   state.Config{Dir: c.String("state"), Endpoints: c.StringSlice("etcd"), Logger: log},
		apiPath: c.String("socket"),
	}
	if sv.apiPath == "" {
		sv.apiPath = defaultSocket(e)
	}
	sv.bmcDir = stateHome(e)
	if d := c.String("state"); d != "" {
		sv.bmcDir = d + "-bmc"
	}
	if err := etcdFlags(c, e, &sv.state); err != nil {
		return err
	}
	st, err := newHostStack(sv.bootNetworks(), named)
	if err != nil {
		return err
	}
	sv.stack = st
	sv.target = func(m site.Machine) (bmc.Target, error) { return siteTarget(m, secrets, ca, st.Dial) }
	sv.bmcSearch = true
	warnings := sv.findBMCNetworks(st, named)
	if addr := c.String("listen"); addr != "" {
		if err := listenAPI(c, ca, sv, addr); err != nil {
			return err
		}
	}
	sv.started = func(*provision.Provisioner, *state.Store) {
		fmt.Fprintf(e.stderr, "fettle serves site %s (%s, revision %.19s)\n", s.Name, counted(len(s.Machines), "machine"), s.Revision())
		for _, n := range sv.bootNetworks() {
			dhcp := "DHCP"
			if n.Only6() {
				dhcp = "DHCPv6"
			}
			fmt.Fprintf(e.stderr, "  network %s on %s: %s, TFTP and HTTP at %s, agents at https://%s\n", n.Name, st.interfaces[n.Name], dhcp, n.Here(), netip.AddrPortFrom(n.Here(), agentPort))
			if n.IPv6.Server.IsValid() && !n.Only6() {
				fmt.Fprintf(e.stderr, "    DHCPv6, TFTP and HTTP at %s\n", n.IPv6.Server)
			}
			fmt.Fprintf(e.stderr, "    mirrors at %s and %s: %s\n", mirrorURL("http", n.Here(), mirrorPort), mirrorURL("https", n.Here(), mirrorTLSPort), mirrorText(mirror))
		}
		for _, n := range sv.bmcNetworksOf(sv.site()) {
			fmt.Fprintf(e.stderr, "  network %s on %s: DHCP for BMCs at %s\n", n.Name, cmp.Or(st.interfaces[n.Name], "its relays"), n.Server)
		}
		if sv.apiTLS != nil {
			fmt.Fprintf(e.stderr, "  API and pages at https://%s\n", apiHost(sv.apiTLS.Addr()))
		}
		fmt.Fprintf(e.stderr, "  API at %s\n", sv.apiPath)
		for _, w := range warnings {
			fmt.Fprintf(e.stderr, "warning: %s\n", w)
		}
		lacks, err := sv.lacks(c.Context)
		if err != nil {
			lacks = append(lacks, err.Error())
		}
		if f := c.String("tokens"); sv.apiTLS != nil {
			if _, err := os.Stat(f); errors.Is(err, fs.ErrNotExist) {
				lacks = append(lacks, fmt.Sprintf("nobody has a token for the API yet: fettle token add --tokens %s NAME", f))
			}
		}
		lacks = append(lacks, neighbourLacks(sv.site())...)
		for _, l := range append(lacks, begunRotations(sv.site(), secrets)...) {
			fmt.Fprintf(e.stderr, "warning: %s\n", l)
		}
	}
	var rereading sync.Mutex // a SIGHUP and a request take turns
	sv.reread = func() (*site.Site, error) {
		rereading.Lock()
		defer rereading.Unlock()
		s, err := sv.reload(s.Dir)
		if err != nil {
			fmt.Fprintf(e.stderr, "site not read again: %v\nThe site as read before (revision %.19s) stays in force.\n", err, current.Load().Revision())
			return nil, err
		}
		current.Store(s)
		fmt.Fprintf(e.stderr, "site %s read again (%s, revision %.19s)\n", s.Name, counted(len(s.Machines), "machine"), s.Revision())
		return s, nil
	}
	sv.passwords = &provision.SitePasswords{Secrets: secrets, Site: current.Load, Reread: sv.reread}
	stop := e.reloadOnHangup(c.Context, sv.reread)
	defer stop()
	ctx, cancel := context.WithCancel(c.Context)
	var beside sync.WaitGroup
	beside.Go(func() { tuneGC(ctx) })
	look := time.NewTicker(neighbourLook)
	defer look.Stop()
	beside.Go(func() { watchNeighbours(ctx, os.DirFS("/proc"), log, look.C) })
	defer func() { cancel(); beside.Wait() }()
	return sv.run(c.Context)
}

// reloadOnHangup reads the site again at each SIGHUP.
func (e *env) reloadOnHangup(ctx context.Context, reread func() (*site.Site, error)) (stop func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
			}
			if _, err := reread(); err != nil {
				continue // it is told
			}
		}
	}()
	return func() { signal.Stop(hup); cancel(); <-done }
}

// etcdFlags fills in where the state is kept.
func etcdFlags(c *cli.Context, e *env, cfg *state.Config) error {
	if len(cfg.Endpoints) == 0 {
		if cfg.Dir == "" {
			cfg.Dir = filepath.Join(stateHome(e), "state")
		}
		return nil
	}
	if c.String("state") != "" {
		return usage("--state and --etcd exclude each other: the state is here or there")
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if f := c.String("etcd-ca"); f != "" {
		pool, err := readPool(f)
		if err != nil {
			return err
		}
		t.RootCAs = pool
	}
	if f := c.String("etcd-cert"); f != "" {
		cert, err := tls.LoadX509KeyPair(f, c.String("etcd-key"))
		if err != nil {
			return fail(exitInput, fmt.Errorf("--etcd-cert %s with --etcd-key %s: %w", f, c.String("etcd-key"), err))
		}
		t.Certificates = []tls.Certificate{cert}
	}
	if strings.HasPrefix(cfg.Endpoints[0], "https://") {
		cfg.TLS = t
	}
	return nil
}

// listenAPI opens the TLS listener of the operators' API.
func listenAPI(c *cli.Context, ca *site.CA, sv *services, addr string) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return usage("--listen is ADDRESS:PORT, not %q", addr)
	}
	if c.String("tokens") == "" {
		return usage("--listen needs --tokens FILE: an API on the network is for those who have a token (fettle token add)")
	}
	if sv.tokens, err = web.OpenTokens(c.String("tokens")); err != nil {
		return fail(exitInput, err)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("this machine's host name: %w", err)
	}
	ips, err := apiAddrs(at.Addr())
	if err != nil {
		return err
	}
	conf, err := serverTLS(ca, []string{host, "localhost"}, ips, time.Now)
	if err != nil {
		return fmt.Errorf("API: %w", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(c.Context, "tcp", at.String())
	if err != nil {
		return listenFailed("--listen", addr, err)
	}
	sv.apiTLS = tls.NewListener(ln, conf)
	return nil
}

// apiAddrs are the addresses that the API's certificate is for.
func apiAddrs(at netip.Addr) ([]netip.Addr, error) {
	if !at.IsUnspecified() {
		return []netip.Addr{at}, nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this machine: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}

// apiHost is where people find a listener: at this machine's name when it
// listens at every address.
func apiHost(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil || !at.Addr().IsUnspecified() {
		return a.String()
	}
	host, err := os.Hostname()
	if err != nil {
		return a.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(at.Port())))
}

// siteTarget is a machine's BMC with the credentials that the site's secrets
// hold.
func siteTarget(m site.Machine, secrets *site.Secrets, ca *site.CA, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (bmc.Target, error) {
	if !m.BMC.Address.IsValid() {
		return bmc.Target{}, fail(exitInput, fmt.Errorf("machine %s has no BMC address in %s:%d", m.Name, m.Pos.File, m.Pos.Line))
	}
	if m.BMC.Secret == "" {
		return bmc.Target{}, fail(exitInput, fmt.Errorf("machine %s: its bmc names no secret in %s:%d: add secret: NAME", m.Name, m.Pos.File, m.Pos.Line))
	}
	v, err := secrets.Get(m.BMC.Secret)
	if err != nil {
		return bmc.Target{}, fail(exitInput, fmt.Errorf("BMC of %s: %w", m.Name, err))
	}
	user, pw, err := credentials(m.BMC.Secret, v.Reveal())
	if err != nil {
		return bmc.Target{}, err
	}
	port := uint16(m.BMC.Port)
	if port == 0 {
		port = 443
		if m.BMC.Protocol == site.IPMI {
			port = 623
		}
	}
	t := bmc.Target{
		Name: m.Name, System: m.BMC.System, Address: netip.AddrPortFrom(m.BMC.Address, port), Protocol: bmc.Protocol(m.BMC.Protocol),
		User: user, Password: pw, Dial: dial, RootCAs: ca.Pool(), Fingerprint: m.BMC.Fingerprint,
	}
	if dial != nil { // IPMI goes the same way
		t.DialUDP = func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "udp", addr) }
	}
	return t, nil
}

// stateHome is where fettle keeps what it remembers.
func stateHome(e *env) string {
	if d := e.getenv("FETTLE_STATE_HOME"); filepath.IsAbs(d) {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/fettle"
	}
	if d := e.getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "fettle")
	}
	return filepath.Join(e.getenv("HOME"), ".local", "state", "fettle")
}

const rootSocket = "/run/fettle/api.sock"

// defaultSocket is where serve's API listens unless told otherwise.
func defaultSocket(e *env) string {
	if os.Geteuid() == 0 {
		return rootSocket
	}
	if d := e.getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "fettle", "api.sock")
	}
	return filepath.Join(stateHome(e), "api.sock")
}

var errNoServer = errors.New("no fettle serves here")
