package provision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Discovered lists what was seen and is not in the site: machines that asked
// for an address, with what the agent found in them, and BMCs. Ports of one
// machine are one entry. With all, also what the site has meanwhile.
func (p *Provisioner) Discovered(ctx context.Context, all bool) ([]state.Discovery, error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	s := p.c.Site()
	p.mu.Lock()
	sightings := make([]state.Sighting, 0, len(p.seen))
	for _, sg := range p.seen {
		sightings = append(sightings, sg)
	}
	p.mu.Unlock()
	slices.SortFunc(sightings, func(a, b state.Sighting) int {
		return cmp.Or(a.First.Compare(b.First), cmp.Compare(seenKey(a), seenKey(b)))
	})
	bmcs := slices.DeleteFunc(slices.Clone(sightings), func(sg state.Sighting) bool { return sg.Sort != state.SortBMC })
	var out []state.Discovery
	index := map[site.MAC]int{} // of the entry that has a port
	for _, sg := range sightings {
		if sg.Sort == state.SortBMC {
			out = append(out, discoveredBMC(s, sg))
			continue
		}
		if i, ok := index[sg.MAC]; ok {
			addSighting(&out[i], sg)
			continue
		}
		d, err := p.discovered(ctx, s, sg)
		if err != nil {
			return nil, err
		}
		i := len(out)
		// Another port of a machine that was inspected before this one was seen.
		for _, n := range d.NICs {
			if j, ok := index[n.MAC]; ok {
				i = j
			}
		}
		if i < len(out) {
			first := out[i]
			if len(first.NICs) == 0 { // that port asked and was not inspected
				first, d = d, first
			}
			for _, o := range d.Sightings {
				addSighting(&first, o)
			}
			out[i] = first
		} else {
			out = append(out, d)
		}
		index[sg.MAC] = i
		for _, n := range out[i].NICs {
			index[n.MAC] = i
		}
	}
	for i := range out {
		finish(&out[i], s, bmcs)
	}
	if !all {
		out = slices.DeleteFunc(out, func(d state.Discovery) bool { return d.State == state.EnrolledInSite })
	}
	slices.SortStableFunc(out, func(a, b state.Discovery) int { return -cmp.Compare(a.Sort, b.Sort) })
	return out, nil
}

// discovered is a machine by one of its ports.
func (p *Provisioner) discovered(ctx context.Context, s *site.Site, sg state.Sighting) (state.Discovery, error) {
	name := sg.Name()
	d := state.Discovery{Name: name, Sort: state.SortMachine, State: state.Seen, Sightings: []state.Sighting{sg}, First: sg.First, Last: sg.Last, UUID: sg.UUID}
	if n, ok := s.Network(sg.Network); ok {
		if do, _ := s.Unknown(n); do == site.Ignore {
			d.State = state.IgnoredBySite
		}
	}
	st, err := p.c.Store.Status(ctx, name)
	if err != nil {
		return d, fmt.Errorf("reading the status of %s: %w", name, err)
	}
	if r, ok := p.latest(name); ok {
		switch {
		case r.doc().Phase == state.Failed:
			d.State, d.Reason = state.InspectFailed, r.doc().Reason
		case r.doc().Ended():
			d.State = state.WasInspected
		default:
			d.State = state.Inspecting
		}
	}
	if len(st.Inventory) > 0 {
		var inv wire.Inventory
		if err := json.Unmarshal(st.Inventory, &inv); err != nil {
			return d, fmt.Errorf("the inventory of %s cannot be read: %w", name, err)
		}
		describe(&d, inv)
	}
	return d, nil
}

// describe fills in what an inventory tells.
func describe(d *state.Discovery, inv wire.Inventory) {
	d.Serial, d.Vendor, d.Model = known(inv.System.Serial), known(inv.System.Manufacturer), known(inv.System.Product)
	d.UUID = cmp.Or(known(inv.System.UUID), d.UUID)
	d.Firmware, d.Arch, d.CPUModel, d.CPUs, d.Memory = inv.Firmware.Kind, inv.CPU.Arch, inv.CPU.Model, inv.CPU.Threads, inv.Memory
	for _, n := range inv.NICs {
		mac, err := site.ParseMAC(n.MAC)
		if err != nil {
			continue // InfiniBand and the like: no Ethernet port
		}
		d.NICs = append(d.NICs, state.DiscoveredNIC{MAC: mac, Link: n.Link, Mbps: n.Mbps})
	}
	for _, k := range inv.Disks {
		d.Disks = append(d.Disks, state.DiscoveredDisk{Serial: k.Serial, Model: k.Model, Bytes: k.Bytes, SectorSize: k.SectorSize, Transport: k.Transport, Removable: k.Removable})
	}
	for _, g := range inv.GPUs {
		if screenOnly(g.PCI) {
			continue
		}
		i := slices.IndexFunc(d.GPUs, func(o state.DiscoveredGPU) bool { return strings.EqualFold(o.PCI, g.PCI) })
		if i < 0 {
			d.GPUs = append(d.GPUs, state.DiscoveredGPU{PCI: strings.ToLower(g.PCI), Model: g.Model})
			i = len(d.GPUs) - 1
		}
		d.GPUs[i].Count++
	}
	if b := inv.BMC; b != nil {
		d.BMC = &state.DiscoveredBMC{BMCFacts: state.BMCFacts{Vendor: makerOf(b.IANA), Firmware: b.Firmware}}
		if a, err := netip.ParseAddr(b.Address); err == nil && !a.IsUnspecified() {
			d.BMC.Addr = a
		}
		if mac, err := site.ParseMAC(b.MAC); err == nil {
			d.BMC.MAC = mac
		}
	}
}

// screenOnly tells graphics that are no GPU to count on: the BMC's own, for its
// remote screen (ASPEED, Matrox, Huawei's iBMC), and those of virtual machines
// (QEMU's VGA and QXL, Cirrus, virtio, VMware).
func screenOnly(pci string) bool {
	vendor, _, _ := strings.Cut(strings.ToLower(pci), ":")
	switch vendor {
	case "1a03", "102b", "19e5", "1234", "1b36", "1013", "1af4", "15ad":
		return true
	}
	return false
}

// known is "" for the fillers that firmware writes where nobody filled in.
func known(s string) string {
	s = strings.TrimSpace(s)
	switch strings.ToLower(s) {
	case "", "none", "not specified", "n/a", "unknown", "to be filled by o.e.m.", "default string", "system serial number", "system manufacturer",
		"system product name", "0123456789", "123456789", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "03000200-0400-0500-0006-000700080009":
		return ""
	}
	return s
}

// addSighting joins another port's sighting with its machine.
func addSighting(d *state.Discovery, sg state.Sighting) {
	d.Sightings = append(d.Sightings, sg)
	if sg.First.Before(d.First) {
		d.First = sg.First
	}
	if sg.Last.After(d.Last) {
		d.Last = sg.Last
	}
}

// finish says where each port is plugged in, joins a machine with its BMC's
// sighting, and names what the site has by now.
func finish(d *state.Discovery, s *site.Site, bmcs []state.Sighting) {
	if d.Sort == state.SortBMC {
		return
	}
	// The port that boots is the first that asked as firmware, else the first.
	boots := max(0, slices.IndexFunc(d.Sightings, func(sg state.Sighting) bool { return firmware(sg.VendorClass) }))
	for i, sg := range d.Sightings {
		if m, _, ok := s.MachineByMAC(sg.MAC); ok {
			d.State, d.Name = state.EnrolledInSite, m.Name
		}
		j := slices.IndexFunc(d.NICs, func(n state.DiscoveredNIC) bool { return n.MAC == sg.MAC })
		if j < 0 {
			d.NICs = append(d.NICs, state.DiscoveredNIC{MAC: sg.MAC, Link: true})
			j = len(d.NICs) - 1
		}
		d.NICs[j].Network, d.NICs[j].Port = sg.Network, sg.Port
		d.NICs[j].Boot = d.NICs[j].Boot || i == boots
	}
	if d.BMC == nil && d.Serial == "" {
		return
	}
	for _, sg := range bmcs {
		b := d.BMC
		if b != nil && (!sg.MAC.IsZero() && sg.MAC == b.MAC || sg.Addr.IsValid() && sg.Addr == b.Addr) ||
			sg.BMC != nil && sg.BMC.Serial != "" && sg.BMC.Serial == d.Serial {
			if b == nil {
				b = &state.DiscoveredBMC{}
				d.BMC = b
			}
			if sg.Addr.IsValid() {
				b.Addr = sg.Addr
			}
			if !sg.MAC.IsZero() {
				b.MAC = sg.MAC
			}
			b.Network = cmp.Or(sg.Network, b.Network)
			if sg.BMC != nil {
				b.BMCFacts = *sg.BMC
			}
		}
	}
}

// discoveredBMC is a BMC that was seen.
func discoveredBMC(s *site.Site, sg state.Sighting) state.Discovery {
	d := state.Discovery{Name: sg.Name(), Sort: state.SortBMC, State: state.Seen, Sightings: []state.Sighting{sg}, First: sg.First, Last: sg.Last}
	d.BMC = &state.DiscoveredBMC{Addr: sg.Addr, MAC: sg.MAC, Network: sg.Network}
	if f := sg.BMC; f != nil {
		d.BMC.BMCFacts = *f
		d.Vendor, d.Model, d.Serial, d.Firmware, d.UUID = f.Vendor, f.Model, f.Serial, f.Firmware, f.UUID
	}
	for _, m := range s.Machines {
		if sg.Addr.IsValid() && m.BMC.Address == sg.Addr || !sg.MAC.IsZero() && m.BMC.MAC == sg.MAC {
			d.State, d.Name = state.EnrolledInSite, m.Name
		}
	}
	return d
}

// ErrUndiscovered means that nothing of that name was seen.
var ErrUndiscovered = errors.New("nothing of that name was seen")

// Forget forgets what was seen under a name of Discovered, so that a machine is
// inspected anew when it boots next. What happened stays on its timeline.
func (p *Provisioner) Forget(ctx context.Context, actor, name string) error {
	all, err := p.Discovered(ctx, true)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(d state.Discovery) bool { return d.Name == name })
	if i < 0 {
		return fmt.Errorf("%s: %w; fettle discover --all lists what was", name, ErrUndiscovered)
	}
	p.sighting.Lock()
	defer p.sighting.Unlock()
	for _, sg := range all[i].Sightings {
		if err := p.c.Store.Delete(ctx, seenPrefix+seenKey(sg)); err != nil {
			return err
		}
		p.mu.Lock()
		delete(p.seen, seenKey(sg))
		delete(p.stored, seenKey(sg))
		r, ok := p.runs[sg.Name()]
		p.mu.Unlock()
		if ok && r.doc().Stranger {
			r.settle()
			if err := p.c.Store.Delete(ctx, runKey(sg.Name())); err != nil {
				return err
			}
			p.mu.Lock()
			delete(p.tokens, r.doc().Token)
			delete(p.runs, sg.Name())
			p.mu.Unlock()
		}
		if _, err := p.c.Store.Append(ctx, state.Event{Time: p.now(), Machine: sg.Name(), Actor: actor, Kind: "discover.forgotten",
			Text: "forgot that this was seen: it is inspected anew when it boots next"}); err != nil {
			return err
		}
	}
	return nil
}
