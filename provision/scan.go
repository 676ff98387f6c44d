package provision

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// ErrScanning means that a search for BMCs is under way already.
var ErrScanning = errors.New("a search for BMCs is under way: wait until it ends, or stop it")

// Bounds of a scan, whatever is asked for.
const (
	maxScanParallel = 256
	maxScanRate     = 2000
	maxScanTimeout  = 30 * time.Second
)

// Scan looks for BMCs at every address of prefixes and tells step how far it
// is, one step at a time. No login is tried. What is found is remembered, with
// an event, before step hears of it.
func (p *Provisioner) Scan(ctx context.Context, actor string, sc state.Scan, step func(state.ScanStep)) error {
	if err := p.wait(ctx); err != nil {
		return err
	}
	if sc.SSDP && (len(sc.Prefixes) > 0 || p.c.ListenBMC == nil) {
		return errors.New("by SSDP only this server's networks of purpose bmc are asked, not prefixes, and none in a lab")
	}
	if len(sc.Prefixes) == 0 {
		for _, n := range p.c.Site().Networks {
			if n.Purpose == site.PurposeBMC {
				sc.Prefixes = append(sc.Prefixes, n.Prefix)
			}
		}
	}
	if len(sc.Prefixes) == 0 {
		return errors.New("the site has no network of purpose bmc: name a prefix to search")
	}
	if !p.scanning.TryLock() {
		return ErrScanning
	}
	defer p.scanning.Unlock()
	var names []string
	for _, x := range sc.Prefixes {
		names = append(names, x.String())
	}
	if _, err := p.c.Store.Append(ctx, state.Event{Time: p.now(), Actor: actor, Kind: "discover.scan", Text: "searches " + strings.Join(names, ", ") + " for BMCs" + map[bool]string{true: " by SSDP"}[sc.SSDP]}); err != nil {
		return err
	}
	if sc.SSDP {
		found, err := p.announced(ctx)
		if err != nil || len(found) == 0 {
			return err
		}
		sc.Prefixes = found
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.c.CA)
	o := bmc.ScanOptions{
		ProbeOptions: bmc.ProbeOptions{Dial: p.c.Dial, RootCAs: roots, Timeout: min(time.Duration(sc.Timeout)*time.Millisecond, maxScanTimeout)},
		Parallel:     min(sc.Parallel, maxScanParallel), Rate: min(sc.Rate, maxScanRate),
	}
	return bmc.Scan(ctx, sc.Prefixes, o, func(done, total int, a *bmc.Answer) {
		st := state.ScanStep{Done: done, Total: total}
		if a != nil {
			d := p.answered(ctx, *a)
			st.Found = &d
		}
		step(st)
	})
}

// announced are the addresses of Redfish services that answer a search by SSDP
// on the site's networks of BMCs, on all of them at once. What they say of
// themselves is not believed: only where they are, if that is on the network.
func (p *Provisioner) announced(ctx context.Context) ([]netip.Prefix, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex // of what follows
	var out []netip.Prefix
	var errs []error
	asked := false
	for _, n := range p.c.Site().Networks {
		if n.Purpose != site.PurposeBMC || !n.Server.Is4() {
			continue // the site gives this server no address there
		}
		asked = true
		wg.Go(func() {
			all, err := p.announcedOn(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("network %s: %w", n.Name, err))
			}
			for _, a := range all {
				if n.Prefix.Contains(a.From) {
					out = append(out, netip.PrefixFrom(a.From, 32))
				}
			}
		})
	}
	wg.Wait()
	if !asked {
		return nil, errors.New("the site gives this server no address on a network of purpose bmc (server: ADDRESS): a search by SSDP goes no further than the network that it is sent on")
	}
	err := errors.Join(errs...)
	if err != nil && len(out) == 0 {
		return nil, err
	}
	if err != nil { // this machine is not on that network, perhaps; others answered
		p.log.Warn("not every network of BMCs was asked by SSDP", "err", err)
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(out), nil
}

func (p *Provisioner) announcedOn(ctx context.Context, n site.Network) ([]bmc.Announced, error) {
	conn, err := p.c.ListenBMC(ctx, n)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return bmc.SearchSSDP(ctx, conn, bmc.SSDPGroup)
}

// answered remembers a BMC that answered a search.
func (p *Provisioner) answered(ctx context.Context, a bmc.Answer) state.Discovery {
	s := p.c.Site()
	now := p.now()
	sg := state.Sighting{Sort: state.SortBMC, Addr: a.Addr, First: now, Last: now, BMC: FactsOf(a)}
	for _, n := range s.Networks {
		if n.Prefix.Contains(a.Addr) {
			sg.Network = n.Name
		}
	}
	if mac, err := site.ParseMAC(a.MAC); err == nil {
		sg.MAC = mac
	} else if l, ok, err := p.c.Store.LeaseByAddr(ctx, sg.Network, a.Addr); err == nil && ok && now.Before(l.Expires) && !l.Declined {
		sg.MAC = l.MAC
	}
	d := discoveredBMC(s, sg)
	if d.State == state.EnrolledInSite {
		return d // the site has it: nothing new
	}
	ev, news := p.saw(ctx, sg)
	if news {
		if _, err := p.c.Store.Append(ctx, ev); err != nil && ctx.Err() == nil {
			p.log.Error("sighting lost", "addr", a.Addr, "err", err)
		}
	}
	p.mu.Lock()
	if kept, ok := p.seen[seenKey(sg)]; ok {
		sg = kept
	}
	p.mu.Unlock()
	return discoveredBMC(s, sg)
}

// FactsOf is what a BMC told without a login, its maker named as everywhere.
func FactsOf(a bmc.Answer) *state.BMCFacts {
	f := &state.BMCFacts{
		Vendor: a.Vendor, Model: a.Product, Serial: a.Serial, Firmware: a.Firmware, UUID: a.UUID,
		Redfish: a.Redfish, IPMI: a.IPMI, Plain: a.Plain, Fingerprint: a.Fingerprint, Certificate: a.Certificate,
	}
	if v, ok := vendorOf(f.Vendor); ok {
		f.Vendor = v.Vendor
	}
	if f.Vendor == "" {
		f.Vendor = makerOf(a.Enterprise)
	}
	return f
}

// makerOf is who has an enterprise number, named as everywhere; "" for none.
func makerOf(enterprise uint32) string {
	if enterprise == 0 {
		return ""
	}
	if all, err := vendors(); err == nil {
		for _, v := range all {
			if slices.Contains(v.IANA, enterprise) {
				return v.Vendor
			}
		}
	}
	return fmt.Sprintf("IANA enterprise %d", enterprise)
}
