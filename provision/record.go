package provision

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

var (
	_ pxe.Recorder    = (*Provisioner)(nil)
	_ pxe.RecordLimit = (*Provisioner)(nil)
)

// Record puts an exchange on its machine's timeline. It does not block: in a
// flood, and when the state cannot keep up, exchanges are left out and the log
// says so.
func (p *Provisioner) Record(e pxe.Exchange) {
	// An image is fetched in many ranges; the agent's reports tell of it.
	if strings.HasPrefix(e.Kind, "http.") && strings.HasSuffix(e.Name, "/disk.zst") && e.Err == nil {
		return
	}
	now := p.now()
	ok, tell := p.recording.allow(p.index(), &e, now)
	if ok {
		kept := e
		select {
		case p.exchanges <- &kept:
			return
		default:
			tell = p.recording.lost(now)
		}
	}
	p.tellShed(tell, e.MAC)
}

// Wants is a [pxe.RecordLimit]: in a flood nothing is put into words.
func (p *Provisioner) Wants(mac net.HardwareAddr, addr netip.Addr, now time.Time) bool {
	ok, tell := p.recording.look(p.index(), mac, addr, now, 0)
	p.tellShed(tell, mac)
	return ok
}

func (p *Provisioner) tellShed(count int64, mac net.HardwareAddr) {
	if count > 0 {
		p.log.Warn("boot exchanges are not on any timeline: a flood, or a state that is slow", "count", count, "mac", mac)
	}
}

// bmcKind is before the kinds of what BMCs do on the wire.
const bmcKind = "bmc."

// exchangeData is the data of an exchange's event.
type exchangeData struct {
	MAC     string  `json:"mac,omitempty"`
	Addr    string  `json:"addr,omitempty"`
	Network string  `json:"network,omitempty"`
	Name    string  `json:"name,omitempty"`
	Client  string  `json:"client,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Error   string  `json:"error,omitempty"`

	VendorClass string `json:"vendor_class,omitempty"` // option 60
	Relay       string `json:"relay,omitempty"`        // DHCP relay agent
	Port        string `json:"port,omitempty"`         // of the switch (option 82)
	Switch      string `json:"switch,omitempty"`
}

// recordLoop writes exchanges until ctx ends, many at a time when they come
// quickly, and then what is left.
func (p *Provisioner) recordLoop(ctx context.Context) {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(recordRest, stop) })()
	before, looked := p.leased.Load(), time.Now() // of leases
	for {
		batch := p.gather(ctx)
		if batch == nil {
			return
		}
		// While the state is being opened again exchanges wait, so that the
		// timeline tells of the outage too; what the queue cannot hold is counted.
		if err := p.c.Store.Ready(work); err != nil {
			p.log.Warn("boot exchanges are not on any timeline: the server stopped before the state could be written", "count", len(batch)+len(p.exchanges), "err", err)
			return
		}
		begun := time.Now() // of the work, whatever clock the logic has
		p.recordAll(work, batch)
		if len(batch) < state.MaxAppend || ctx.Err() != nil {
			continue
		}
		// More wait. Leases are written by the same disk and processor, and
		// machines wait for those: the timeline takes a fifth of the time, and a
		// twentieth of it while they come by the thousand.
		took, pause := time.Since(begun), 4
		leased, since := p.leased.Load(), time.Since(looked)
		if float64(leased-before) > manyLeases*since.Seconds() {
			pause = 19
		}
		before, looked = leased, time.Now()
		select {
		case <-time.After(max(time.Duration(pause)*took, recordPause)):
		case <-ctx.Done():
		}
	}
}

// recordAll writes exchanges, and what follows from them.
func (p *Provisioner) recordAll(ctx context.Context, batch []pxe.Exchange) {
	events := make([]state.Event, 0, len(batch))
	var seen []state.Sighting
	for _, e := range batch {
		events = append(events, p.exchangeEvent(ctx, e))
		if s, ok := p.strangerIn(e); ok {
			seen = append(seen, s)
		}
	}
	news := p.sawAll(ctx, seen)
	if _, err := p.c.Store.Append(ctx, events...); err != nil && ctx.Err() == nil {
		p.log.Error("boot exchanges lost", "count", len(events), "err", err)
	}
	if len(news) > 0 {
		if _, err := p.c.Store.Append(ctx, news...); err != nil && ctx.Err() == nil {
			p.log.Error("sightings lost", "count", len(news), "err", err)
		}
	}
	for _, e := range batch {
		p.learnAddress(ctx, e)
		p.sawExchange(ctx, e)
	}
}

// gather waits for an exchange and, a little, for others: machines that boot
// together end their transfers one soon after the other, and a sync of the disk
// for each would hold up those that are not through. When ctx ends it waits as
// long for the last ones, which end with the server; nil: there are none.
func (p *Provisioner) gather(ctx context.Context) (batch []pxe.Exchange) {
	var gathered <-chan time.Time
	ended := ctx.Done()
	for len(batch) < state.MaxAppend {
		select {
		case e := <-p.exchanges:
			if batch = append(batch, *e); gathered == nil {
				gathered = time.After(recordGather)
			}
		case <-gathered:
			if len(batch) == 0 && len(p.exchanges) > 0 { // it took long to look
				gathered = nil
				continue
			}
			return batch
		case <-ended:
			ended, gathered = nil, time.After(recordGather)
		}
	}
	return batch
}

// recordRest is how long a server that stops goes on writing exchanges.
const recordRest = 3 * time.Second

// recordGather is how long an exchange waits for others.
const recordGather = 20 * time.Millisecond

// manyLeases is how many leases a second the timeline gives way to.
const manyLeases = 4000

// recordPause is the least time between two batches while many exchanges wait.
const recordPause = 10 * time.Millisecond

func (p *Provisioner) exchangeEvent(ctx context.Context, e pxe.Exchange) state.Event {
	d := exchangeData{Network: e.Network, Name: e.Name, Client: e.Client, Bytes: e.Bytes, Seconds: e.Took.Seconds()}
	if len(e.MAC) > 0 {
		d.MAC = e.MAC.String()
	}
	if e.Addr.IsValid() {
		d.Addr = e.Addr.String()
	}
	if e.Err != nil {
		d.Error = e.Err.Error()
	}
	d.VendorClass, d.Port, d.Switch = e.Asker.VendorClass, e.Asker.Relay.Circuit, e.Asker.Relay.Remote
	if e.Asker.Relay.Agent.IsValid() {
		d.Relay = e.Asker.Relay.Agent.String()
	}
	name := p.exchangeMachine(ctx, e)
	kind, text := e.Kind, e.Text
	if n, ok := p.c.Site().Network(e.Network); ok && n.Purpose == site.PurposeBMC {
		kind = bmcKind + kind // no part of its machine's boot
		if mac, err := macOf(e.MAC); err == nil && name != state.NameOf(mac) {
			text = "its BMC " + text
		}
	}
	var id string
	if r, ok := p.latest(name); ok && !r.doc().Ended() {
		id = r.doc().ID
	}
	raw, err := json.Marshal(d)
	if err != nil { // strings and numbers always encode
		p.log.Error("exchange data", "err", err)
	}
	return state.Event{Time: e.Time, Machine: name, Run: id, Actor: "pxe", Kind: state.Kind(kind), Text: text, Data: raw}
}

// exchangeMachine names the machine behind an exchange, by MAC, or by the
// address that the site reserves or the state has leased.
func (p *Provisioner) exchangeMachine(ctx context.Context, e pxe.Exchange) string {
	if mac, err := macOf(e.MAC); err == nil {
		if m, _, ok := p.index().machine(mac); ok {
			return m.Name
		}
		if m, ok := p.index().ofBMC(mac); ok {
			return m.Name
		}
		return state.NameOf(mac)
	}
	return p.addrMachine(ctx, e.Addr)
}

// addrMachine names the machine that has an address, by the site's
// reservations or the state's leases; "" when nobody has.
func (p *Provisioner) addrMachine(ctx context.Context, addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	x := p.index()
	if name, ok := x.byNIC[addr]; ok {
		return name
	}
	for _, n := range x.site.Networks {
		if !n.Prefix.Contains(addr) && !(n.IPv6.Prefix.IsValid() && n.IPv6.Prefix.Contains(addr)) {
			continue
		}
		l, ok, err := p.c.Store.LeaseByAddr(ctx, n.Name, addr)
		if err != nil || !ok || p.now().After(l.Expires) {
			continue
		}
		if m, _, ok := x.machine(l.MAC); ok {
			return m.Name
		}
		return state.NameOf(l.MAC)
	}
	return ""
}

// foreignLease is how long an address that another DHCP server gave is known
// to be its machine's, unless that server gives it to somebody else.
const foreignLease = 24 * time.Hour

// learnAddress keeps an address that another DHCP server gave beside our
// ProxyDHCP: the agent is known by it.
func (p *Provisioner) learnAddress(ctx context.Context, e pxe.Exchange) {
	mac, err := macOf(e.MAC)
	if err != nil || e.Kind != "dhcp.address" || !e.Addr.IsValid() {
		return
	}
	l := state.Lease{Network: e.Network, Addr: e.Addr, MAC: mac, Granted: e.Time, Expires: e.Time.Add(foreignLease)}
	err = p.c.Store.PutLease(ctx, l)
	if errors.Is(err, state.ErrAddressTaken) {
		// That server's word counts, not ours.
		if err = p.c.Store.DropLease(ctx, l.Network, l.Addr); err == nil {
			err = p.c.Store.PutLease(ctx, l)
		}
	}
	if err != nil && ctx.Err() == nil {
		p.log.Error("address of another DHCP server not recorded", "mac", mac, "addr", e.Addr, "err", err)
	}
}

// sawExchange moves a run from firmware to netboot at the first packet.
func (p *Provisioner) sawExchange(ctx context.Context, e pxe.Exchange) {
	mac, err := macOf(e.MAC)
	if err != nil {
		return
	}
	m, _, ok := p.index().machine(mac)
	if !ok {
		return
	}
	r, ok := p.latest(m.Name)
	if !ok || r.doc().Ended() {
		return
	}
	r.heard(p.now())
	if r.doc().Phase != state.Firmware {
		return
	}
	err = p.update(ctx, r, "pxe", func(d *Run) (string, bool) {
		if d.Phase != state.Firmware {
			return "", false
		}
		d.Phase = state.Netboot
		return "asked the network for an address", true
	})
	if err != nil && ctx.Err() == nil {
		p.log.Error("phase not recorded", "machine", m.Name, "err", err)
	}
}

// maxStrangers bounds the machines that the site does not know and that are
// remembered: anybody on a boot network can make up MAC addresses.
const maxStrangers = 1024

// discover starts a run for a machine that the site does not know: only to be
// inspected, and nothing is done by any BMC.
func (p *Provisioner) discover(ctx context.Context, s *site.Site, name string, after site.AfterInspection) (*run, error) {
	now := p.now()
	d := Run{
		ID: now.UTC().Format("20060102-150405") + "-" + randomHex(3), Machine: name, Action: ActionInspect,
		Actor: "fettle", Token: randomHex(32), Revision: s.Revision(), Phase: state.Discovered,
		Started: now, Since: now, Heard: now, Attempts: 1, Stranger: true, After: after,
	}
	r := newRun(d)
	close(r.idle)
	r.turn.Lock()
	defer r.turn.Unlock()
	p.mu.Lock()
	if r, ok := p.runs[name]; ok {
		p.mu.Unlock()
		return r, nil
	}
	forgotten := p.oldestStranger()
	if forgotten != "" {
		delete(p.tokens, p.runs[forgotten].doc().Token)
		delete(p.runs, forgotten)
	}
	p.runs[name] = r
	p.tokens[d.Token] = r
	p.mu.Unlock()
	if forgotten != "" {
		if err := p.c.Store.Delete(ctx, runKey(forgotten)); err != nil {
			p.log.Error("run not forgotten", "machine", forgotten, "err", err)
		}
	}
	if err := p.announce(ctx, d, "fettle", "inspects a machine that the site does not know", "pxe", "a machine that the site does not know asked the network"); err != nil {
		return nil, p.unstart(ctx, r, nil, err)
	}
	return r, nil
}

// oldestStranger is the machine to be forgotten for a new one; "" while there
// is room. p.mu is held.
func (p *Provisioner) oldestStranger() string {
	n, oldest, since := 0, "", time.Time{}
	for name, r := range p.runs {
		d := r.doc()
		if !d.Stranger {
			continue
		}
		if n++; oldest == "" || d.Started.Before(since) {
			oldest, since = name, d.Started
		}
	}
	if n < maxStrangers {
		return ""
	}
	return oldest
}
