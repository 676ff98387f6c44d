package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

// replaySite answers a replay's questions from a site folder and an image
// store, and remembers only for that replay.
type replaySite struct {
	site     *site.Site
	releases *provision.StoreReleases // nil: there is no store
	disk     bool                     // machines boot their disks
	given    map[string]netip.Addr    // from pools, by network and MAC
	taken    map[netip.Addr]bool
}

func newReplaySite(s *site.Site, store string, disk bool) (*replaySite, error) {
	r := &replaySite{site: s, disk: disk, given: map[string]netip.Addr{}, taken: map[netip.Addr]bool{}}
	for _, m := range s.Machines {
		r.taken[m.BMC.Address] = true
		for _, nic := range m.NICs {
			r.taken[nic.Address], r.taken[nic.IPv6] = true, true
		}
	}
	if _, err := os.Stat(store); err != nil {
		return r, nil // loaders of this machine, and no agent
	}
	st, err := images.OpenStore(store)
	if err != nil {
		return nil, err
	}
	r.releases = &provision.StoreReleases{Store: st}
	return r, nil
}

// Boot decides as a site does: its machines boot the agent or their disks,
// others by its policy.
func (r *replaySite) Boot(ctx context.Context, c pxe.Client) (pxe.Decision, error) {
	_, _, known := r.site.MachineByMAC(macArray(c.MAC))
	switch {
	case !known && r.ignores(c.Network):
		return pxe.Decision{Action: pxe.Ignore, Reason: "the site does not know " + c.MAC.String() + " and ignores unknown machines on network " + c.Network}, nil
	case known && r.disk:
		return pxe.Decision{Action: pxe.BootDisk, Reason: "replayed as a machine that boots its disk"}, nil
	}
	base := "release/agent/none"
	if r.releases != nil {
		rel, ok, err := r.releases.Latest(ctx, "agent")
		if err != nil {
			return pxe.Decision{}, err
		}
		if ok {
			base = "release/agent/" + rel.Inputs.Hex()
		}
	}
	return pxe.Decision{
		Action: pxe.BootKernel, Kernel: base + "/vmlinuz", Initrds: []string{base + "/initrd"},
		Cmdline: wire.ArgToken + "=replay " + wire.ArgMAC + "=" + c.MAC.String(), Reason: "replayed as a machine with a run under way",
	}, nil
}

// ignores tells whether unknown machines are ignored on a network.
func (r *replaySite) ignores(network string) bool {
	n, _ := r.site.Network(network)
	do, _ := r.site.Unknown(n)
	return do == site.Ignore
}

// Offer finds the reserved address, else one of the pools.
func (r *replaySite) Offer(_ context.Context, c pxe.Client, want netip.Addr) (pxe.Lease, error) {
	n, ok := r.site.Network(c.Network)
	if !ok {
		return pxe.Lease{}, fmt.Errorf("network %s is not in the site file", c.Network)
	}
	m, nic, known := r.site.MachineByMAC(macArray(c.MAC))
	if !known && r.ignores(n.Name) {
		return pxe.Lease{}, pxe.ErrNoLease
	}
	l := pxe.Lease{Hostname: m.Name, Duration: n.Lease}
	key, pools, reserved := n.Name+" "+c.MAC.String(), n.Pools, nic.Address
	if c.IPv6 {
		key, pools, reserved = key+" 6", n.IPv6.Pools, nic.IPv6
	}
	if known && nic.Network == n.Name && reserved.IsValid() {
		l.Addr = reserved
		return l, nil
	}
	if l.Addr = r.given[key]; l.Addr.IsValid() {
		return l, nil
	}
	free := func(a netip.Addr) bool {
		return !r.taken[a] && a != n.Server && a != n.Gateway && a != n.IPv6.Server && a != n.IPv6.Gateway
	}
	for _, p := range pools {
		if want.IsValid() && p.From.Compare(want) <= 0 && want.Compare(p.To) <= 0 && free(want) {
			l.Addr = want
		}
	}
	for _, p := range pools {
		for a := p.From; !l.Addr.IsValid() && a.Compare(p.To) <= 0; a = a.Next() {
			if free(a) {
				l.Addr = a
			}
		}
	}
	if !l.Addr.IsValid() {
		return l, fmt.Errorf("network %s: every pool address is taken: %w", n.Name, pxe.ErrNoLease)
	}
	r.given[key], r.taken[l.Addr] = l.Addr, true
	return l, nil
}

// Commit accepts the address that Offer found.
func (r *replaySite) Commit(ctx context.Context, c pxe.Client, addr netip.Addr) (pxe.Lease, error) {
	l, err := r.Offer(ctx, c, addr)
	if err == nil && l.Addr != addr {
		err = fmt.Errorf("%v: %w", addr, pxe.ErrWrongAddress)
	}
	return l, err
}

// Release frees nothing: a capture is short.
func (r *replaySite) Release(context.Context, pxe.Client, netip.Addr) error { return nil }

// Decline keeps the address from being given again.
func (r *replaySite) Decline(_ context.Context, c pxe.Client, _ netip.Addr) error {
	key := c.Network + " " + c.MAC.String()
	if c.IPv6 {
		key += " 6"
	}
	delete(r.given, key)
	return nil
}

// Open finds files of the image store; without one, the loaders of Debian's
// package ipxe.
func (r *replaySite) Open(ctx context.Context, name string) (*pxe.File, error) {
	parts := strings.Split(name, "/")
	if r.releases == nil {
		if len(parts) != 2 || parts[0] != "loaders" {
			return nil, fmt.Errorf("%s: no image store: %w", name, fs.ErrNotExist)
		}
		f, err := os.Open(path.Join("/usr/lib/ipxe", parts[1]))
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		return &pxe.File{ReadSeekCloser: f, Size: st.Size(), ModTime: st.ModTime()}, nil
	}
	var rel images.Release
	var ok bool
	var err error
	switch {
	case len(parts) == 2 && parts[0] == "loaders":
		rel, ok, err = r.releases.Latest(ctx, "loaders")
	case len(parts) == 4 && parts[0] == "release":
		rel, ok, err = r.releases.Find(ctx, parts[1], parts[2])
	}
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	f, size, err := r.releases.OpenFile(ctx, rel, parts[len(parts)-1])
	if err != nil {
		return nil, err
	}
	return &pxe.File{ReadSeekCloser: f, Size: size, ModTime: time.Unix(0, 0)}, nil
}
