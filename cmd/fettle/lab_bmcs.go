package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
)

// serveBMCs starts the virtual BMCs at their addresses on the fabric, and on
// loopback ports for curl and others on this machine. Machines that share a BMC
// in the site share one here.
func (d *labServer) serveBMCs(ctx context.Context, g *errgroup.Group, log *slog.Logger) error {
	for _, m := range d.plan.Machines {
		if d.virtual[m.Name] != nil {
			continue // with the first of its nodes
		}
		if err := d.serveBMC(ctx, g, log, d.plan.SharedBMC(m.Name)); err != nil {
			return fmt.Errorf("BMC of %s: %w", m.Name, err)
		}
	}
	return nil
}

// newBMC is the virtual BMC of machines that share it.
func (d *labServer) newBMC(log *slog.Logger, nodes []labs.MachinePlan) (*vbmc.Server, error) {
	m := nodes[0]
	password, err := d.keys.bmcPassword(m.Name)
	if err != nil {
		return nil, err
	}
	conf := vbmc.Config{
		Console:  d.lab.Console(m.Name),
		Chassis:  d.lab.Chassis(m.Name),
		Accounts: []vbmc.Account{{User: d.keys.bmcUser, Password: password, Role: "Administrator"}},
		Logger:   log,
		Keep:     eventFile(filepath.Join(d.dir, "bmc", m.Name+".events.json")),
	}
	if x, ok := d.plan.Site.Machine(m.Name); ok {
		if conf.Tree, err = twinTree(d.plan.Site.Dir, x.Name, x.BMC.Twin); err != nil {
			return nil, err
		}
	}
	if conf.Tree == nil {
		conf.Node = m.BMC.System
	}
	for _, n := range nodes[1:] {
		conf.Nodes = append(conf.Nodes, vbmc.Node{ID: n.BMC.System, Console: d.lab.Console(n.Name), Chassis: d.lab.Chassis(n.Name)})
	}
	return vbmc.New(conf)
}

func (d *labServer) serveBMC(ctx context.Context, g *errgroup.Group, log *slog.Logger, nodes []labs.MachinePlan) error {
	m := nodes[0]
	srv, err := d.newBMC(log, nodes)
	if err != nil {
		return err
	}
	g.Go(func() error {
		if err := srv.DeliverEvents(ctx, deliverEvents(labOnly(d.lab.DialContext))); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	now := time.Now()
	cert, err := d.keys.ca.Issue([]string{"localhost"}, []netip.Addr{m.BMC.Address, netip.MustParseAddr("127.0.0.1")}, now.Add(-24*time.Hour), now.AddDate(1, 0, 0))
	if err != nil {
		return fmt.Errorf("its certificate: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	on, err := d.lab.ListenBMC(ctx, m.Name)
	if err != nil {
		return err
	}
	serveHTTP(ctx, g, tls.NewListener(on, conf), srv)
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("its loopback port: %w", err)
	}
	serveHTTP(ctx, g, tls.NewListener(local, conf), srv)
	ipmi, err := d.lab.ListenIPMI(ctx, m.Name)
	if err != nil {
		return err
	}
	serveIPMI(ctx, g, srv, ipmi)
	for i, n := range nodes {
		one := srv
		if i > 0 {
			one = srv.Node(n.BMC.System)
		}
		d.virtual[n.Name], d.bmcs[n.Name] = one, "https://"+local.Addr().String()
		if err := d.serveNodeIPMI(ctx, g, n.Name, one); err != nil {
			return err
		}
	}
	return nil
}

func serveIPMI(ctx context.Context, g *errgroup.Group, srv *vbmc.Server, conn net.PacketConn) {
	g.Go(func() error {
		defer conn.Close()
		return srv.ServeIPMI(ctx, conn)
	})
}

// serveNodeIPMI serves a machine by IPMI on a loopback port of its own, and on
// the machine's own interface: of nodes that share a BMC each one, although on
// the fabric its address is that of the first.
func (d *labServer) serveNodeIPMI(ctx context.Context, g *errgroup.Group, machine string, srv *vbmc.Server) error {
	local, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("the loopback port of %s: %w", machine, err)
	}
	serveIPMI(ctx, g, srv, local)
	d.ipmi[machine] = local.LocalAddr().String()
	own, err := d.lab.ListenSystemInterface(machine)
	if err != nil {
		return err
	}
	g.Go(func() error { return srv.ServeSystemInterface(ctx, own) })
	return nil
}

// target is a virtual BMC, reached over the fabric as a real one is over its
// network.
func (d *labServer) target(m site.Machine) (bmc.Target, error) {
	return labTarget(d.plan, d.keys, m, d.lab.DialContext, func(ctx context.Context, addr string) (net.Conn, error) {
		return d.lab.DialContext(ctx, "udp", addr)
	})
}

func labTarget(plan *labs.Plan, keys *labKeys, m site.Machine, dial func(ctx context.Context, network, addr string) (net.Conn, error),
	dialUDP func(ctx context.Context, addr string) (net.Conn, error)) (bmc.Target, error) {
	for _, mp := range plan.Machines {
		if mp.Name == m.Name {
			password, err := keys.bmcPassword(m.Name)
			if err != nil {
				return bmc.Target{}, fmt.Errorf("BMC of %s: %w", m.Name, err)
			}
			return bmc.Target{
				Name: m.Name, System: mp.BMC.System, Address: netip.AddrPortFrom(mp.BMC.Address, uint16(mp.BMC.Port)), Protocol: bmc.Protocol(mp.BMC.Protocol),
				User: keys.bmcUser, Password: bmc.Password(password), Dial: dial, DialUDP: dialUDP, RootCAs: keys.ca.Pool(),
			}, nil
		}
	}
	return bmc.Target{}, fmt.Errorf("machine %s is not in this lab", m.Name)
}
