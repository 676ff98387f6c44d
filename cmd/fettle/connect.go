package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/web"
)

// connFlags say which fettle a command speaks to.
func connFlags() []cli.Flag {
	return []cli.Flag{
		labFlag(), labsFlag(),
		&cli.StringFlag{Name: "server", EnvVars: []string{"FETTLE_SERVER"}, Usage: "https://HOST:PORT or Unix socket of a serving fettle (default: the one on this machine, else its only lab)"},
		&cli.StringFlag{Name: "token-file", EnvVars: []string{"FETTLE_TOKEN_FILE"}, Usage: "file with the API token for https"},
		&cli.StringFlag{Name: "ca", EnvVars: []string{"FETTLE_CA"}, Usage: "certificate of the site's CA, for https (default: ca.pem of $FETTLE_SITE or of this folder)"},
	}
}

// connect finds the serving fettle that a command means.
func (e *env) connect(c *cli.Context) (*web.Client, error) {
	if s := c.String("server"); strings.HasPrefix(s, "https://") {
		return e.connectTLS(c, s)
	} else if strings.Contains(s, "://") {
		return nil, usage("--server is https://HOST:PORT or the path of a Unix socket, not %q", s)
	} else if s != "" {
		return web.NewUnixClient(s), nil
	}
	elsewhere := "start fettle serve or fettle lab up, or say --server or --lab"
	if c.String("lab") == "" {
		if sock := defaultSocket(e); listening(sock) {
			return web.NewUnixClient(sock), nil
		}
		if rootServes(defaultSocket(e)) {
			elsewhere = "a fettle serve of root seems to run: use sudo, or --server https://... with a token"
		}
	}
	dir, err := labDir(c)
	if err != nil {
		if errors.Is(err, errNoLab) && c.String("lab") == "" {
			return nil, fail(exitMissing, fmt.Errorf("%w: %s", errNoServer, elsewhere))
		}
		return nil, err
	}
	sock := filepath.Join(dir, labAPISocket)
	if !listening(sock) {
		return nil, fail(exitMissing, fmt.Errorf("the daemon of lab %s is not running: fettle lab up starts it", filepath.Base(dir)))
	}
	return web.NewUnixClient(sock), nil
}

// rootServes tells whether root's socket is there, out of this user's reach.
func rootServes(own string) bool {
	if own == rootSocket {
		return false
	}
	_, err := os.Stat(rootSocket)
	return err == nil || errors.Is(err, fs.ErrPermission)
}

func listening(sock string) bool {
	c, err := net.Dial("unix", sock)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// connectTLS makes a client of a server elsewhere. Without a CA certificate the
// machine's own trusted ones decide.
func (e *env) connectTLS(c *cli.Context, server string) (*web.Client, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	ca := c.String("ca")
	if ca == "" {
		here := filepath.Join(e.getenv("FETTLE_SITE"), "ca.pem")
		if _, err := os.Stat(here); err == nil {
			ca = here
		}
	}
	if ca != "" {
		pool, err := readPool(ca)
		if err != nil {
			return nil, err
		}
		t.RootCAs = pool
	}
	var token string
	if f := c.String("token-file"); f != "" {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fail(exitInput, fmt.Errorf("--token-file: %w", err))
		}
		token = strings.TrimSpace(string(b))
	}
	return web.NewClient(server, &http.Client{Transport: &http.Transport{TLSClientConfig: t, ExpectContinueTimeout: web.ContinueTimeout}}, token), nil
}

// readPool reads a file of PEM certificates.
func readPool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fail(exitInput, fmt.Errorf("CA certificate: %w", err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fail(exitInput, fmt.Errorf("CA certificate %s: no PEM certificate in it", file))
	}
	return pool, nil
}

// bmcTargets are the BMCs of selected machines: a lab's virtual ones with
// --lab, else those of the site folder.
func (e *env) bmcTargets(c *cli.Context, sel []string) ([]bmc.Target, error) {
	if c.String("lab") != "" {
		return labTargets(c, sel)
	}
	s, err := site.Load(c.String("site"))
	if err != nil {
		return nil, fail(exitInput, err)
	}
	ms, err := s.Select(sel...)
	if err != nil {
		return nil, fail(exitInput, err)
	}
	secrets, err := e.openSecrets(c)
	if err != nil {
		return nil, err
	}
	ca, err := site.LoadCA(s.Dir, secrets)
	if err != nil {
		return nil, fail(exitInput, err)
	}
	var out []bmc.Target
	for _, m := range ms {
		t, err := siteTarget(m, secrets, ca, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// labTargets are the virtual BMCs of a lab, reached through its daemon.
func labTargets(c *cli.Context, sel []string) ([]bmc.Target, error) {
	dir, err := labDir(c)
	if err != nil {
		return nil, err
	}
	return labTargetsOf(dir, sel)
}

func labTargetsOf(dir string, sel []string) ([]bmc.Target, error) {
	f, err := readLabFile(dir)
	if err != nil {
		return nil, err
	}
	keys, plan, err := planLab(f, dir)
	if err != nil {
		return nil, err
	}
	ms, err := plan.Site.Select(sel...)
	if err != nil {
		return nil, fail(exitInput, err)
	}
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		conn, br, err := dialLab(ctx, dir, addr)
		if err != nil {
			return nil, err
		}
		return bufferedConn{conn, br}, nil
	}
	var out []bmc.Target
	for _, m := range ms {
		// UDP does not go through the daemon's socket: its BMC is on loopback too.
		dialUDP := func(ctx context.Context, _ string) (net.Conn, error) {
			info, err := labInfoOf(ctx, dir)
			if err != nil {
				return nil, err
			}
			for _, x := range info.Machines {
				if x.Name == m.Name && x.IPMI != "" {
					return new(net.Dialer).DialContext(ctx, "udp", x.IPMI)
				}
			}
			return nil, fmt.Errorf("the lab's daemon serves no IPMI for %s: fettle lab up starts a newer one", m.Name)
		}
		t, err := labTarget(plan, keys, m, dial, dialUDP)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}
