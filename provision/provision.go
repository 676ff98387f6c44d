// Package provision is the lifecycle of one machine, from unknown to ready.
//
// A [Run] is one try at doing something to a machine: deploy it, inspect it.
// It goes through the phases of package state; each step is an event on the
// machine's timeline. A [Provisioner] drives the runs: it powers machines
// through their BMCs, decides what they boot (it is a [pxe.Booter]), which
// address they get ([pxe.Leases]) and what files they may load ([pxe.Files]),
// serves the in-RAM agent's endpoint, and reads a timeline back as sentences.
// It sees no packets, knows no vendors and draws no pages.
package provision

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Events is the part of a state store that a Provisioner writes and reads.
// *state.Store is one.
type Events interface {
	// Ready waits while the store can be neither read nor written and mends itself.
	Ready(ctx context.Context) error
	Append(ctx context.Context, events ...state.Event) (int64, error)
	Events(ctx context.Context, q state.Query) ([]state.Event, error)
	Status(ctx context.Context, machine string) (state.Status, error)
	PutLease(ctx context.Context, l state.Lease) error
	LeaseByMAC(ctx context.Context, network string, mac site.MAC) (state.Lease, bool, error)
	LeaseByMAC6(ctx context.Context, network string, mac site.MAC) (state.Lease, bool, error)
	LeaseByAddr(ctx context.Context, network string, addr netip.Addr) (state.Lease, bool, error)
	DropLease(ctx context.Context, network string, addr netip.Addr) error
	ReleaseLease(ctx context.Context, network string, addr netip.Addr, mac site.MAC) error
	Put(ctx context.Context, key string, value []byte) error
	Get(ctx context.Context, key string) ([]byte, bool, error)
	List(ctx context.Context, prefix string) (map[string][]byte, error)
	Delete(ctx context.Context, key string) error
	PutAll(ctx context.Context, docs map[string][]byte, gone ...string) error
}

// Releases finds what machines boot and what is written to them.
type Releases interface {
	// Latest is the newest release of that name.
	Latest(ctx context.Context, name string) (images.Release, bool, error)
	// Find is the release of that name whose inputs' digest is, in hex, inputs.
	Find(ctx context.Context, name, inputs string) (images.Release, bool, error)
	// OpenFile opens one file of a release; the caller closes it.
	OpenFile(ctx context.Context, r images.Release, file string) (io.ReadSeekCloser, int64, error)
}

// BMC is the part of a BMC client that a run needs. *bmc.Client is one.
type BMC interface {
	Power(ctx context.Context) (bmc.Power, error)
	SetPower(ctx context.Context, a bmc.Action) error
	SetNextBoot(ctx context.Context, n bmc.NextBoot) error
	Close(ctx context.Context) error
}

// Config is what a Provisioner is made of. All fields but Logger, Now and
// Limits are required.
type Config struct {
	Site     func() *site.Site // the site as it should be now
	Store    Events
	Releases Releases
	// OpenBMC logs in to a machine's BMC, once.
	OpenBMC func(ctx context.Context, m site.Machine) (BMC, error)
	// Dial opens connections to BMCs for Scan; nil = net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// ListenBMC is a UDP socket at the server's address on a network of BMCs, to
	// ask by multicast; nil: nobody is asked so.
	ListenBMC func(ctx context.Context, n site.Network) (net.PacketConn, error)
	// CA is the PEM of the site's CA, which the agent and the installed OS
	// verify AgentURL by.
	CA []byte
	// AgentPort is the TLS port of the agent's endpoint at every boot
	// network's server address.
	AgentPort uint16
	// HTTPPort is the port of the boot HTTP service there, 0 = 80.
	HTTPPort uint16
	// Clients are files that make an installed system use what this server
	// offers at its address instead of the internet; nil, or none: the system
	// stays as its image is.
	Clients func(server netip.Addr) ([]wire.SeedFile, error)
	Logger  *slog.Logger
	Now     func() time.Time
	Limits  Limits
}

// Limits bound how long a phase may take: Agent is without a sign of life, the
// others are whole, because a machine that starts over and over is heard from
// often. Zero fields take the defaults.
type Limits struct {
	Firmware  time.Duration // from power-on to the first DHCP packet; default 5 min
	Netboot   time.Duration // from there to the agent's inventory; default 10 min
	Agent     time.Duration // without a report while deploying; default 5 min
	FirstBoot time.Duration // from restart to phone-home; default 20 min
	Attempts  int           // power-ons of one run before it fails; default 3
	PowerPoll time.Duration // how often a waiting run looks at the power; default 30 s
}

func (l Limits) withDefaults() Limits {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&l.Firmware, 5*time.Minute)
	def(&l.Netboot, 10*time.Minute)
	def(&l.Agent, 5*time.Minute)
	def(&l.FirstBoot, 20*time.Minute)
	def(&l.PowerPoll, 30*time.Second)
	if l.Attempts <= 0 {
		l.Attempts = 3
	}
	return l
}

// Provisioner drives the runs of a site's machines. Make it with New; its
// methods may be called concurrently. Run must be running for anything to
// happen.
type Provisioner struct {
	c      Config
	limits Limits
	log    *slog.Logger
	now    func() time.Time

	exchanges chan *pxe.Exchange
	starts    chan *run

	loaded  chan struct{} // closed when runs are what the state remembers
	stopped chan struct{} // closed when Run has returned

	mu      sync.Mutex
	runs    map[string]*run // by machine: the latest run
	tokens  map[string]*run // by token: runs under way, and for a while those that ended
	retired []retired       // tokens of ended runs, oldest first
	offers  map[offerKey]offer
	forgot  time.Time                 // when offers were last looked through
	pools   map[poolsOf]poolSearch    // by network
	seen    map[string]state.Sighting // by MAC, or by address
	stored  map[string]time.Time      // their Last as it is in the state

	sighting  sync.Mutex // one change of what was seen at a time
	forgotten []string   // documents of sightings that are to be removed; of sighting
	scanning  sync.Mutex // one search for BMCs at a time
	healing   sync.Mutex // one report of an installed system at a time

	indexed   atomic.Pointer[siteIndex]
	recording recordLimit
	soon      sync.Pool // of *soonLease
	leased    atomic.Int64
}

// New checks c and makes a Provisioner.
func New(c Config) (*Provisioner, error) {
	switch {
	case c.Site == nil, c.Store == nil, c.Releases == nil, c.OpenBMC == nil:
		return nil, errors.New("provision: Site, Store, Releases and OpenBMC are required")
	case len(c.CA) == 0:
		return nil, errors.New("provision: the agent cannot verify this server without the site's CA")
	case c.AgentPort == 0:
		return nil, errors.New("provision: AgentPort is not set")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.HTTPPort == 0 {
		c.HTTPPort = 80
	}
	return &Provisioner{
		c: c, limits: c.Limits.withDefaults(), log: c.Logger, now: c.Now,
		exchanges: make(chan *pxe.Exchange, 16384),
		starts:    make(chan *run, 64),
		loaded:    make(chan struct{}),
		stopped:   make(chan struct{}),
		runs:      map[string]*run{},
		tokens:    map[string]*run{},
		offers:    map[offerKey]offer{},
		pools:     map[poolsOf]poolSearch{},
		seen:      map[string]state.Sighting{},
		stored:    map[string]time.Time{},
	}, nil
}

// Run drives runs until ctx ends: those that were under way when the last
// server stopped, and those that Deploy and Inspect start. It returns after
// all its goroutines have. It is called once.
func (p *Provisioner) Run(ctx context.Context) error {
	defer close(p.stopped)
	resumed, err := p.load(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { p.recordLoop(ctx) })
	for _, r := range resumed {
		wg.Go(func() { p.drive(ctx, r) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-p.starts:
			wg.Go(func() { p.drive(ctx, r) })
		}
	}
}

// wait waits until the runs that the state remembers are known: before that, a
// machine under way would look like one that nobody ever started.
func (p *Provisioner) wait(ctx context.Context) error {
	select {
	case <-p.loaded:
		return nil
	case <-p.stopped:
		return errors.New("the server is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// load reads the runs that the state remembers, and returns those that are
// under way. A machine gets the whole time of its phase again: nobody listened
// while there was no server.
func (p *Provisioner) load(ctx context.Context) (resumed []*run, err error) {
	docs, err := p.c.Store.List(ctx, runPrefix)
	if err != nil {
		return nil, fmt.Errorf("reading runs from the state: %w", err)
	}
	if err := p.loadSeen(ctx); err != nil {
		return nil, err
	}
	now := p.now()
	runs := map[string]*run{}
	for key, b := range docs {
		var d Run
		if err := json.Unmarshal(b, &d); err != nil {
			return nil, fmt.Errorf("state document %s is not a run: %w", key, err)
		}
		if err := p.repair(ctx, d); err != nil {
			return nil, err
		}
		d.Since, d.Heard = now, now
		r := newRun(d)
		runs[d.Machine] = r
		if d.Ended() || d.Stranger {
			close(r.idle)
			continue
		}
		resumed = append(resumed, r)
	}
	p.mu.Lock()
	for machine, r := range runs {
		p.runs[machine] = r
		p.tokens[r.doc().Token] = r
	}
	p.mu.Unlock()
	for _, r := range runs {
		if d := r.doc(); d.Ended() {
			p.retire(d.Token)
		}
	}
	close(p.loaded)
	return resumed, nil
}

// repair puts on a machine's timeline what its run's document says and a crash
// kept from it.
func (p *Provisioner) repair(ctx context.Context, d Run) error {
	st, err := p.c.Store.Status(ctx, d.Machine)
	if err != nil {
		return fmt.Errorf("reading the status of %s: %w", d.Machine, err)
	}
	if st.Run != d.ID {
		if err := p.event(ctx, d, state.KindRun, d.Actor, fmt.Sprintf("%s asked to %s this machine", d.Actor, d.Action),
			state.RunData{Action: string(d.Action), Revision: d.Revision, Image: d.Image, Digest: d.Digest}); err != nil {
			return err
		}
		st.Phase, st.RunEnd = state.Unknown, time.Time{}
	}
	if st.Phase != d.Phase {
		if err := p.event(ctx, d, state.KindPhase, "fettle", "as known before the server stopped", state.PhaseData{Phase: d.Phase, Reason: d.Reason}); err != nil {
			return err
		}
	}
	if d.Ended() && st.RunEnd.IsZero() {
		text, data := d.end()
		return p.event(ctx, d, state.KindRunEnd, "fettle", text, data)
	}
	return nil
}

// newEvent is an event of d's machine.
func (p *Provisioner) newEvent(d Run, kind state.Kind, actor, text string, data any) (state.Event, error) {
	e := state.Event{Time: p.now(), Machine: d.Machine, Run: d.ID, Actor: actor, Kind: kind, Text: text}
	if data != nil {
		b, err := json.Marshal(data)
		if err != nil {
			return e, fmt.Errorf("encoding a %s event: %w", kind, err)
		}
		e.Data = b
	}
	return e, nil
}

// event appends one event of d's machine; a failure to write is returned.
func (p *Provisioner) event(ctx context.Context, d Run, kind state.Kind, actor, text string, data any) error {
	e, err := p.newEvent(d, kind, actor, text, data)
	if err != nil {
		return err
	}
	if _, err := p.c.Store.Append(ctx, e); err != nil {
		return fmt.Errorf("writing an event of %s: %w", d.Machine, err)
	}
	return nil
}

// randomHex is n random bytes as hex.
func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails, crypto/rand
	return hex.EncodeToString(b)
}
