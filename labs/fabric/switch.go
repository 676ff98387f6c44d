package fabric

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultAging = 300 * time.Second
	agingSteps   = 10 // ticks in one Aging
)

// Switch is an Ethernet switch. Frames move as soon as ports are attached; Run
// ages addresses and closes everything when its context ends. All methods may
// be called concurrently.
type Switch struct {
	log    *slog.Logger
	aging  time.Duration
	now    func() time.Time
	random func() float64

	table *table
	ports atomic.Pointer[[]*Port]    // copied on write, under mu
	taps  atomic.Pointer[[]*capture] // copied on write, under mu
	bufs  sync.Pool                  // *[]byte, for frames whose tag changes

	mu      sync.Mutex
	hosts   []*Host
	closed  bool
	running bool
}

// NewSwitch makes a switch without ports.
func NewSwitch(c Config) *Switch {
	s := &Switch{log: c.Logger, aging: c.Aging, now: c.Now, random: c.Random, table: newTable()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.aging <= 0 {
		s.aging = defaultAging
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.random == nil {
		s.random = rand.Float64
	}
	s.bufs.New = func() any { b := make([]byte, 0, 2048); return &b }
	s.ports.Store(new([]*Port))
	s.taps.Store(new([]*capture))
	return s
}

// Run ages learnt addresses until ctx ends, then closes hosts, ports and
// captures and waits for their goroutines. It returns nil for a context that
// ended. It may be called once.
func (s *Switch) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running || s.closed {
		s.mu.Unlock()
		return errors.New("the switch was already run: make a new one")
	}
	s.running = true
	s.mu.Unlock()

	tick := time.NewTicker(max(s.aging/agingSteps, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.table.age(agingSteps)
		case <-ctx.Done():
			return s.Close()
		}
	}
}

// Close closes hosts, ports and captures and waits for their goroutines. It may
// be called twice, and instead of ending Run's context.
func (s *Switch) Close() error {
	s.mu.Lock()
	s.closed = true
	hosts, ports, taps := slices.Clone(s.hosts), *s.ports.Load(), *s.taps.Load()
	s.mu.Unlock()

	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.Close())
	}
	for _, p := range ports {
		errs = append(errs, p.Close())
	}
	for _, c := range taps {
		errs = append(errs, s.stopCapture(c))
	}
	return errors.Join(errs...)
}

// Attach plugs link into a new port and owns it from now on, also when it
// returns an error: the link is closed with the port.
func (s *Switch) Attach(c PortConfig, link Link) (*Port, error) {
	p, err := s.attach(c, link, true)
	if err != nil {
		return nil, errors.Join(err, link.Close())
	}
	return p, nil
}

// attach adds the port; a link that calls receive itself has no reader.
func (s *Switch) attach(c PortConfig, link Link, reader bool) (*Port, error) {
	p, err := newPort(s, c, link)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("attaching port %s: %w", c.Name, ErrClosed)
	}
	old := *s.ports.Load()
	for _, q := range old {
		if q.name == c.Name {
			return nil, fmt.Errorf("attaching port %s: the switch has a port of that name: close it first", c.Name)
		}
	}
	ports := append(slices.Clone(old), p)
	s.ports.Store(&ports)
	if reader {
		p.wg.Go(p.read)
	}
	return p, nil
}

func (s *Switch) detach(p *Port) {
	s.mu.Lock()
	ports := slices.DeleteFunc(slices.Clone(*s.ports.Load()), func(q *Port) bool { return q == p })
	s.ports.Store(&ports)
	s.mu.Unlock()
	s.table.forget(p)
}

// Ports returns the attached ports, hosts' ports included, in the order in
// which they were attached.
func (s *Switch) Ports() []*Port { return slices.Clone(*s.ports.Load()) }

// Port returns the port of that name, or nil.
func (s *Switch) Port(name string) *Port {
	for _, p := range *s.ports.Load() {
		if p.name == name {
			return p
		}
	}
	return nil
}

// forward switches the frame b, which came in on from (IEEE 802.1Q §8.6). It
// does not allocate, and keeps nothing of b.
func (s *Switch) forward(from *Port, b []byte) {
	m, ok := parseFrame(b)
	if !ok {
		from.count.malformed.Add(1)
		return
	}
	vlan := from.vlan
	switch {
	case m.tagged && m.vid() == 0:
		// A priority tag names no VLAN (IEEE 802.1Q table 9-2). It goes, and
		// the priority with it.
		buf := s.bufs.Get().(*[]byte)
		defer s.bufs.Put(buf)
		*buf = appendUntagged((*buf)[:0], b)
		b, m.tagged = *buf, false
	case m.tagged:
		vlan = m.vid()
		if !from.carriesTagged(vlan) {
			from.count.wrongVLAN.Add(1)
			return
		}
	}
	from.count.inFrames.Add(1)
	from.count.inBytes.Add(uint64(len(b)))
	if taps := *s.taps.Load(); len(taps) > 0 {
		s.tap(taps, from, b, inbound)
	}
	if !s.table.learn(stationKey(vlan, m.src), from) {
		from.count.malformed.Add(1) // another station's address
		return
	}
	f := framing{s: s, b: b, m: m, vlan: vlan}
	switch {
	case reserved(m.dst):
	case group(m.dst):
		s.flood(from, &f)
	default:
		if to := s.table.lookup(stationKey(vlan, m.dst)); to == nil {
			s.flood(from, &f)
		} else if to != from {
			f.send(to)
		}
	}
	f.release()
}

func (s *Switch) flood(from *Port, f *framing) {
	for _, p := range *s.ports.Load() {
		if p != from {
			f.send(p)
		}
	}
}

// framing holds a frame in its two forms: with and without a tag. The second
// form is made when the first port wants it.
type framing struct {
	s    *Switch
	b    []byte
	m    meta
	vlan int
	alt  *[]byte
}

func (f *framing) send(p *Port) {
	var tag bool
	switch {
	case p.vlan == f.vlan:
	case p.carriesTagged(f.vlan):
		tag = true
	default:
		return
	}
	p.transmit(f.form(tag))
}

func (f *framing) form(tag bool) []byte {
	if tag == f.m.tagged {
		return f.b
	}
	if f.alt == nil {
		f.alt = f.s.bufs.Get().(*[]byte)
		if tag {
			*f.alt = appendTagged((*f.alt)[:0], f.b, uint16(f.vlan))
		} else {
			*f.alt = appendUntagged((*f.alt)[:0], f.b)
		}
	}
	return *f.alt
}

func (f *framing) release() {
	if f.alt != nil {
		f.s.bufs.Put(f.alt)
	}
}
