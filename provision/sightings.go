package provision

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

const (
	seenPrefix = "seen/"
	// seenEvery is how old the time of the last sighting may become in the
	// state: a machine that asks on and on costs a write a minute.
	seenEvery = time.Minute
	// forgetTogether is how many forgotten sightings are taken out of the state
	// at once. etcd brings its file up to date at each removal, two syncs of the
	// disk, while the leases of machines that boot wait. What a server that is
	// stopped before has not removed, the next one does.
	forgetTogether = 128
)

// strangerIn is what an exchange tells of a client that the site does not know.
func (p *Provisioner) strangerIn(e pxe.Exchange) (next state.Sighting, ok bool) {
	mac, err := macOf(e.MAC)
	if err != nil || !strings.HasPrefix(e.Kind, "dhcp.") {
		return next, false
	}
	x := p.index()
	if _, _, ok := x.machine(mac); ok {
		return next, false
	}
	if _, ok := x.ofBMC(mac); ok {
		return next, false
	}
	n, _ := x.site.Network(e.Network)
	next = state.Sighting{
		Sort: state.SortMachine, MAC: mac, Network: e.Network, Client: e.Client, First: e.Time, Last: e.Time,
		VendorClass: e.Asker.VendorClass, Hostname: e.Asker.Hostname, UUID: e.Asker.UUID,
		Relay: e.Asker.Relay.Agent, Port: e.Asker.Relay.Circuit, Switch: e.Asker.Relay.Remote,
	}
	if e.Kind == "dhcp.ack" || e.Kind == "dhcp.address" {
		next.Addr = e.Addr
	}
	vendor, isBMC := bmcVendor(e.Asker.VendorClass, mac)
	if isBMC || n.Purpose == site.PurposeBMC {
		next.Sort, next.BMC = state.SortBMC, &state.BMCFacts{Vendor: vendor}
	}
	return next, true
}

// saw is sawAll of one sighting.
func (p *Provisioner) saw(ctx context.Context, next state.Sighting) (state.Event, bool) {
	news := p.sawAll(ctx, []state.Sighting{next})
	if len(news) == 0 {
		return state.Event{}, false
	}
	return news[0], true
}

// sawAll joins sightings with what was known of them, keeps them in one write,
// and tells in events what is new. Only the recording goroutine and a scan call
// it, which take turns by p.sighting.
func (p *Provisioner) sawAll(ctx context.Context, all []state.Sighting) (news []state.Event) {
	p.sighting.Lock()
	defer p.sighting.Unlock()
	latest, docs := map[string]state.Sighting{}, map[string][]byte{}
	for _, next := range all {
		key := seenKey(next)
		p.mu.Lock()
		old, known := p.seen[key]
		stored := p.stored[key]
		p.mu.Unlock()
		if l, ok := latest[key]; ok {
			old, known, stored = l, true, l.Last
		}
		merged := next
		if known {
			merged = join(old, next)
		}
		isNew := !known || !same(old, merged)
		latest[key] = merged
		if known && !isNew && merged.Last.Sub(stored) < seenEvery {
			continue
		}
		b, err := json.Marshal(merged)
		if err != nil { // strings and addresses always encode
			p.log.Error("sighting", "err", err)
			continue
		}
		docs[seenPrefix+key] = b
		if !isNew {
			continue
		}
		ev := state.Event{Time: merged.Last, Machine: merged.Name(), Actor: "fettle", Kind: state.KindSeen, Data: b,
			Text: "is seen for the first time: " + sightingText(merged)}
		if known {
			ev.Kind, ev.Text = state.KindChanged, "is seen otherwise than before: "+sightingText(merged)
		}
		news = append(news, ev)
	}
	if err := p.c.Store.PutAll(ctx, docs); err != nil {
		if ctx.Err() == nil {
			p.log.Error("sightings not recorded", "count", len(docs), "err", err)
		}
		return nil // they are new when they are seen again
	}
	p.forgotten = append(p.forgotten, p.keepSeen(latest, docs)...)
	if len(p.forgotten) >= forgetTogether {
		gone := slices.DeleteFunc(p.forgotten, func(key string) bool { // seen again since
			p.mu.Lock()
			defer p.mu.Unlock()
			_, back := p.seen[strings.TrimPrefix(key, seenPrefix)]
			return back
		})
		slices.Sort(gone)
		p.forgotten = slices.Compact(gone)
		if err := p.c.Store.PutAll(ctx, nil, p.forgotten...); err == nil {
			p.forgotten = p.forgotten[:0]
		} else if ctx.Err() == nil { // with the next ones
			p.log.Error("sightings not forgotten yet", "count", len(gone), "err", err)
		}
	}
	return news
}

// keepSeen remembers sightings, and returns the documents of those that are
// forgotten for them.
func (p *Provisioner) keepSeen(latest map[string]state.Sighting, docs map[string][]byte) (forgotten []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, s := range latest {
		p.seen[key] = s
		if _, ok := docs[seenPrefix+key]; ok {
			p.stored[key] = s.Last
		}
	}
	over := len(p.seen) - maxStrangers
	if over <= 0 {
		return nil
	}
	// In a flood of strangers each batch forgets as many as it brings: they are
	// looked through once for all of them.
	type last struct {
		key string
		at  time.Time
	}
	all := make([]last, 0, len(p.seen))
	for k, s := range p.seen {
		all = append(all, last{k, s.Last})
	}
	slices.SortFunc(all, func(a, b last) int { return a.at.Compare(b.at) })
	for _, l := range all[:over] {
		delete(p.seen, l.key)
		delete(p.stored, l.key)
		forgotten = append(forgotten, seenPrefix+l.key)
	}
	return forgotten
}

// seenKey names a sighting: by its MAC, or by its address where only that is
// known.
func seenKey(s state.Sighting) string {
	if s.MAC.IsZero() {
		return s.Addr.String()
	}
	return s.MAC.String()
}

// join adds to what was known what is seen now; what is left unsaid stays.
func join(old, next state.Sighting) state.Sighting {
	out := next
	out.First = old.First
	if old.Last.After(out.Last) {
		out.Last = old.Last
	}
	if out.Network == old.Network && (!out.Addr.IsValid() || out.Addr.Is6() && old.Addr.Is4()) {
		out.Addr = old.Addr // of one that has both, the IPv4 address stands
	}
	if out.Network == "" {
		out.Network = old.Network
	}
	if !out.Relay.IsValid() && out.Network == old.Network {
		out.Relay, out.Port, out.Switch = old.Relay, old.Port, old.Switch // a renewal goes past the relay
	}
	// Firmware tells more than the operating system or the loader that follows.
	if (!firmware(out.VendorClass) || strings.HasPrefix(out.Client, "iPXE")) && firmware(old.VendorClass) {
		out.VendorClass, out.Client = old.VendorClass, old.Client
	}
	out.VendorClass = cmp.Or(out.VendorClass, old.VendorClass)
	out.Client = cmp.Or(out.Client, old.Client)
	out.Hostname = cmp.Or(out.Hostname, old.Hostname)
	out.UUID = cmp.Or(out.UUID, old.UUID)
	if old.Sort == state.SortBMC {
		out.Sort = state.SortBMC
	}
	if old.BMC != nil {
		f := *old.BMC
		if b := next.BMC; b != nil {
			f = state.BMCFacts{
				Vendor: cmp.Or(b.Vendor, f.Vendor), Model: cmp.Or(b.Model, f.Model), Serial: cmp.Or(b.Serial, f.Serial),
				Firmware: cmp.Or(b.Firmware, f.Firmware), UUID: cmp.Or(b.UUID, f.UUID), Redfish: cmp.Or(b.Redfish, f.Redfish),
				IPMI: b.IPMI || f.IPMI, Plain: b.Plain || f.Plain && b.Fingerprint == "",
				Fingerprint: cmp.Or(b.Fingerprint, f.Fingerprint), Certificate: cmp.Or(b.Certificate, f.Certificate),
			}
		}
		out.BMC = &f
	}
	return out
}

// firmware tells the vendor class of what boots from the network.
func firmware(class string) bool {
	return strings.HasPrefix(class, "PXEClient") || strings.HasPrefix(class, "HTTPClient")
}

// same tells whether two sightings say the same, but for their times.
func same(a, b state.Sighting) bool {
	fa, fb := a.BMC, b.BMC
	a.BMC, b.BMC = nil, nil
	a.First, a.Last, b.First, b.Last = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return a == b && (fa == nil) == (fb == nil) && (fa == nil || *fa == *fb)
}

// sightingText is a sighting in words.
func sightingText(s state.Sighting) string {
	var parts []string
	if s.Sort == state.SortBMC {
		parts = append(parts, strings.TrimSpace("a BMC "+strings.TrimSpace(s.BMC.Vendor+" "+s.BMC.Model)))
	} else {
		parts = append(parts, s.Client)
	}
	if s.Network != "" {
		parts[0] += " on network " + s.Network
	}
	if s.Addr.IsValid() {
		parts = append(parts, "at "+s.Addr.String())
	}
	if s.Relay.IsValid() {
		at := "through relay " + s.Relay.String()
		if s.Port != "" {
			at += ", port " + s.Port
		}
		if s.Switch != "" {
			at += " of " + s.Switch
		}
		parts = append(parts, at)
	}
	if s.VendorClass != "" && s.Sort == state.SortBMC {
		parts = append(parts, fmt.Sprintf("vendor class %q", s.VendorClass))
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

// loadSeen reads the sightings that the state remembers.
func (p *Provisioner) loadSeen(ctx context.Context) error {
	docs, err := p.c.Store.List(ctx, seenPrefix)
	if err != nil {
		return fmt.Errorf("reading sightings from the state: %w", err)
	}
	seen := make(map[string]state.Sighting, len(docs))
	for key, b := range docs {
		var s state.Sighting
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("state document %s is not a sighting: %w", key, err)
		}
		seen[strings.TrimPrefix(key, seenPrefix)] = s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = seen
	return nil
}
