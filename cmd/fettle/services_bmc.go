package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// runTurn is how long a run waits for a BMC that a person's command has: as long
// as an update of its firmware takes. openTime is what a login then has.
const (
	runTurn  = 30 * time.Minute
	openTime = 2 * time.Minute
)

// openBMC logs in to a machine's BMC for a run, once nobody else has it.
func (s *services) openBMC(ctx context.Context, m site.Machine) (provision.BMC, error) {
	t, err := s.targetOf(m)
	if err != nil {
		return nil, err
	}
	release, err := s.turns.Take(ctx, provision.ToChange, m.Name, "fettle", "a run of the machine", runTurn, func(h state.BMCHold) {
		s.log.Info("a run waits for its BMC", "machine", m.Name, "holder", h.Holder, "doing", h.Doing)
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	c, err := bmc.Open(ctx, t)
	if err != nil {
		release()
		return nil, err
	}
	return turnBMC{c, release}, nil
}

// targetOf is how a machine's BMC is reached: a connection goes on with the keys
// of the one before.
func (s *services) targetOf(m site.Machine) (bmc.Target, error) {
	t, err := s.target(m)
	t.TLSSessions = s.tlsSessions
	return t, err
}

// turnBMC gives the BMC back when it is closed.
type turnBMC struct {
	*bmc.Client
	release func()
}

func (b turnBMC) Close(ctx context.Context) error {
	defer b.release()
	return b.Client.Close(ctx)
}

// bmcs do what people ask of BMCs through the API.
func (s *services) bmcs(st *state.Store) (*provision.BMCs, error) {
	b, err := provision.NewBMCs(provision.BMCsConfig{
		Site: s.site, Append: st.Append, Target: s.targetOf, Turns: s.turns, Passwords: s.passwords, Dir: s.bmcDir, Logger: s.log,
	})
	if err != nil {
		return nil, err
	}
	if err := b.Sweep(); err != nil {
		s.log.Warn("old firmware images stay", "err", err)
	}
	return b, nil
}

// bmcNetworksOf are the networks of BMCs that ask this server for addresses:
// those with a server address, and a pool or a BMC whose MAC address the site
// says.
func (s *services) bmcNetworksOf(from *site.Site) []site.Network {
	if !s.bmcDHCP {
		return nil
	}
	var out []site.Network
	for _, n := range from.Networks {
		if n.Purpose != site.PurposeBMC || !n.Server.IsValid() || s.networks != nil && !slices.Contains(s.networks, n.Name) {
			continue
		}
		reserved := slices.ContainsFunc(from.Machines, func(m site.Machine) bool { return m.BMC.Network == n.Name && !m.BMC.MAC.IsZero() })
		if (len(n.Pools) > 0 || reserved) && !slices.Contains(s.bmcUnserved, n.Name) {
			out = append(out, n)
		}
	}
	return out
}

// bootBMCs starts DHCP on the networks of BMCs: nothing boots from them.
func (s *services) bootBMCs(ctx context.Context, g *errgroup.Group, px *pxe.Server) error {
	for _, n := range s.bmcNetworksOf(s.site()) {
		if behindRelay(n) {
			continue
		}
		dhcp, err := s.stack.DHCP(ctx, n)
		if err != nil {
			return fmt.Errorf("DHCP on network %s: %w", n.Name, err)
		}
		g.Go(func() error { return px.ServeDHCP(ctx, n.Name, dhcp) })
	}
	return nil
}

// findBMCNetworks finds the interfaces of networks of BMCs. One that this
// machine is not on is told, and is no reason not to serve the others: its
// BMCs may well have their addresses from somebody else.
func (s *services) findBMCNetworks(h *hostStack, named map[string]string) (warnings []string) {
	s.bmcDHCP = true
	for _, n := range s.bmcNetworksOf(s.site()) {
		if behindRelay(n) {
			continue
		}
		one, err := newHostStack([]site.Network{n}, named)
		if err != nil {
			s.bmcUnserved = append(s.bmcUnserved, n.Name)
			warnings = append(warnings, fmt.Sprintf("BMCs get no addresses here: %v", err))
			continue
		}
		h.interfaces[n.Name] = one.interfaces[n.Name]
	}
	return warnings
}

// sameNetworks tells whether the sockets that are open fit another reading of
// the site.
func (s *services) sameNetworks(next *site.Site) error {
	was := append(pxeNetworks(s.bootNetworks()), pxeNetworks(s.bmcNetworksOf(s.site()))...)
	if !reflect.DeepEqual(was, append(pxeNetworks(s.bootNetworksOf(next)), pxeNetworks(s.bmcNetworksOf(next))...)) {
		return errors.New("its networks changed, which are served as they were at the start: start fettle serve again")
	}
	return nil
}
