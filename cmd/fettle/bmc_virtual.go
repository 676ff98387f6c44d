package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// serveVirtualCommand is a virtual BMC for those who develop BMC clients.
func serveVirtualCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "serve-virtual", Usage: "serve a virtual BMC (Redfish, and IPMI with --ipmi-listen) over a machine in memory, to try BMC clients on",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:8443", Usage: "address and port"},
			&cli.StringFlag{Name: "ipmi-listen", Usage: "UDP address and port for IPMI 2.0, such as 127.0.0.1:623 (default: no IPMI)"},
			&cli.StringFlag{Name: "ssdp", Usage: "answer searches for Redfish services (SSDP) on `INTERFACE` (default: none)"},
			&cli.StringFlag{Name: "cert", TakesFile: true, Usage: "PEM certificate (default: a new one, whose fingerprint is printed)"},
			&cli.StringFlag{Name: "key", TakesFile: true, Usage: "PEM key of --cert"},
			&cli.StringFlag{Name: "user", Value: "root", Usage: "user name"},
			&cli.StringFlag{Name: "keep", TakesFile: true, Usage: "`FILE` for event subscriptions, which are then there after a restart"},
			&cli.StringFlag{Name: "personality", Usage: "the server to look like: " + strings.Join(vbmc.Personalities(), ", ") + " (default: a generic one)"},
			&cli.StringFlag{Name: "tree", TakesFile: true, Usage: "look like the server that fettle bmc record wrote to this file"},
		},
		Description: "The password is taken from the environment variable FETTLE_BMC_PASSWORD; without it, one is made up and printed.\n" +
			"Ends on Ctrl-C.",
		Action: func(c *cli.Context) error { return serveVirtual(c, e) },
	}
}

// virtualInfo is the machine that serve-virtual shows.
func virtualInfo() vbmc.Info {
	in := vbmc.Info{
		Name: "virtual", UUID: "6a0f0f5e-2f6b-4f0e-9d58-5d1c7a3d0001", Serial: "VIRTUAL0001", SKU: "VIRTUAL", Manufacturer: "fettle", Model: "Virtual GPU server",
		BIOSVersion: "1.0", CPUs: 128, CPUModel: "Virtual CPU", MemoryMiB: 1 << 20,
		NICs:   []vbmc.NIC{{ID: "NIC1", MAC: "52:54:00:fe:00:01", Link: true}, {ID: "NIC2", MAC: "52:54:00:fe:00:02"}},
		Drives: []vbmc.Drive{{ID: "Disk1", Serial: "VDISK0001", Model: "Virtual NVMe", Bytes: 1_920_383_410_176, Protocol: "NVMe"}},
	}
	for i := range 8 {
		in.GPUs = append(in.GPUs, vbmc.GPU{ID: fmt.Sprintf("GPU%d", i+1), Model: "NVIDIA H100 SXM5 80GB", PCI: "10de:2330"})
	}
	return in
}

// ipmiPasswordMax is the longest password of IPMI 2.0 (§22.30).
const ipmiPasswordMax = 20

func serveVirtual(c *cli.Context, e *env) error {
	if (c.String("cert") == "") != (c.String("key") == "") {
		return usage("give both --cert and --key, or neither")
	}
	addr := c.String("listen")
	cert, err := virtualCert(c, addr)
	if err != nil {
		return err
	}
	password := e.getenv("FETTLE_BMC_PASSWORD")
	made := password == ""
	if made {
		password = rand.Text()[:ipmiPasswordMax]
	}
	if c.String("ipmi-listen") != "" && len(password) > ipmiPasswordMax {
		return usage("FETTLE_BMC_PASSWORD has %d characters; IPMI takes %d at most", len(password), ipmiPasswordMax)
	}
	tree, err := virtualTree(c)
	if err != nil {
		return err
	}
	id := vbmc.NewIdentity(cert)
	var keep vbmc.Keeper
	if f := c.String("keep"); f != "" {
		keep = eventFile(f)
	}
	srv, err := vbmc.New(vbmc.Config{Keep: keep, Chassis: vbmc.NewMemory(virtualInfo()), Accounts: []vbmc.Account{{User: c.String("user"), Password: password}}, Logger: e.log,
		Identity: id, FetchImage: fetchFirmware, Tree: tree})
	if err != nil {
		return fail(exitUsage, err)
	}
	l, err := (&net.ListenConfig{}).Listen(c.Context, "tcp", addr)
	if err != nil {
		return listenFailed("--listen", addr, err)
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	var udp net.PacketConn
	if at := c.String("ipmi-listen"); at != "" {
		if udp, err = (&net.ListenConfig{}).ListenPacket(ctx, "udp", at); err != nil {
			_ = l.Close() // nothing was served on it
			return fail(exitFailed, fmt.Errorf("--ipmi-listen: %w: is another program there, or may only root use the port?", err))
		}
		defer udp.Close()
		fmt.Fprintf(e.stdout, "virtual BMC: IPMI at %s user %s\n", udp.LocalAddr(), c.String("user"))
	}
	var ssdp net.PacketConn
	var at netip.Addr
	if name := c.String("ssdp"); name != "" {
		if ssdp, at, err = listenSSDP(name); err != nil {
			_ = l.Close() // nothing was served on it
			return fail(exitFailed, err)
		}
		defer ssdp.Close()
	}
	sum := sha256.Sum256(cert.Certificate[0])
	fmt.Fprintf(e.stdout, "virtual BMC: https://%s/redfish/v1/ user %s\n", l.Addr(), c.String("user"))
	if made {
		fmt.Fprintf(e.stdout, "password: %s\n", password)
	}
	fmt.Fprintf(e.stdout, "certificate: sha256 %s\n", hex.EncodeToString(sum[:]))
	log := e.log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	hs := &http.Server{
		Handler: srv, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		TLSConfig: &tls.Config{GetCertificate: id.Certificate, MinVersion: tls.VersionTLS12},
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	// Whichever ends first ends the other.
	ended := make(chan error, 4)
	parts := []func() error{func() error {
		if err := hs.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, func() error {
		if err := srv.DeliverEvents(ctx, deliverEvents(nil)); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}}
	if udp != nil {
		parts = append(parts, func() error { return srv.ServeIPMI(ctx, udp) })
	}
	if ssdp != nil {
		parts = append(parts, func() error { return srv.ServeSSDP(ctx, ssdp, rootURL(l.Addr().String(), at)) })
	}
	for _, part := range parts {
		go func() { defer cancel(); ended <- part() }()
	}
	<-ctx.Done()
	sctx, stop := context.WithTimeout(context.WithoutCancel(c.Context), 2*time.Second)
	defer stop()
	err = hs.Shutdown(sctx)
	for range parts {
		err = errors.Join(err, <-ended)
	}
	if err != nil {
		return fail(exitFailed, fmt.Errorf("serving the virtual BMC: %w", err))
	}
	return nil
}

// virtualTree is the tree that the flags name; nil: none.
func virtualTree(c *cli.Context) (*vbmc.Tree, error) {
	name, file := c.String("personality"), c.String("tree")
	switch {
	case name != "" && file != "":
		return nil, usage("give --personality or --tree, not both")
	case name != "":
		t, err := vbmc.Personality(name)
		if err != nil {
			return nil, usage("--personality: %v", err)
		}
		return t, nil
	case file != "":
		t, err := readTree(file)
		if err != nil {
			return nil, fail(exitInput, err)
		}
		return t, nil
	}
	return nil, nil
}

// twinTree is what a machine's virtual BMC shows in a lab; nil: a generic server.
func twinTree(siteDir, machine, twin string) (*vbmc.Tree, error) {
	if twin == "" {
		return nil, nil
	}
	if slices.Contains(vbmc.Personalities(), twin) {
		return vbmc.Personality(twin)
	}
	if !filepath.IsLocal(twin) {
		return nil, fmt.Errorf("machine %s: bmc: twin %q is not a file within the site folder, nor one of %s", machine, twin, strings.Join(vbmc.Personalities(), ", "))
	}
	t, err := readTree(filepath.Join(siteDir, twin))
	if err != nil {
		return nil, fmt.Errorf("machine %s: bmc: twin is neither one of %s nor a file that can be read: %w", machine, strings.Join(vbmc.Personalities(), ", "), err)
	}
	return t, nil
}

// readTree reads a recorded BMC.
func readTree(file string) (*vbmc.Tree, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := vbmc.ReadTree(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: is it a file of fettle bmc record?", file, err)
	}
	return t, nil
}

// fetchFirmware gets the image of a SimpleUpdate.
func fetchFirmware(ctx context.Context, uri string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close() // its status says it all
		return nil, fmt.Errorf("%s answered %s", uri, res.Status)
	}
	return res.Body, nil
}

// virtualCert is the given certificate, or a new one for the listening address.
func virtualCert(c *cli.Context, addr string) (tls.Certificate, error) {
	if c.String("cert") != "" {
		cert, err := tls.LoadX509KeyPair(c.String("cert"), c.String("key"))
		if err != nil {
			return cert, fail(exitInput, fmt.Errorf("--cert and --key: %w", err))
		}
		return cert, nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return tls.Certificate{}, usage("--listen %q: %v", addr, err)
	}
	ips := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() && !ip.IsLoopback() {
		ips = append(ips, ip)
	}
	now := time.Now()
	ca, err := site.NewCA("fettle virtual BMC", now)
	if err != nil {
		return tls.Certificate{}, err
	}
	return ca.Issue([]string{"localhost"}, ips, now.Add(-time.Hour), now.AddDate(1, 0, 0))
}
