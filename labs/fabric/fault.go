package fabric

import (
	"sync"
	"time"
)

// direction is a frame's way through a port, seen from the switch; the values
// are those of pcapng's epb_flags.
type direction uint32

const (
	inbound  direction = 1
	outbound direction = 2
)

// maxDelayed bounds the frames under way in one port's delay line.
const maxDelayed = 1 << 14

// SetFault replaces the port's fault; the zero Fault heals it. Frames under way
// in a delay still arrive.
func (p *Port) SetFault(f Fault) {
	if f == (Fault{}) {
		p.fault.Store(nil)
		return
	}
	p.fault.Store(&f)
}

// Fault returns the port's present fault.
func (p *Port) Fault() Fault {
	if f := p.fault.Load(); f != nil {
		return *f
	}
	return Fault{}
}

// faulty reports whether the fault dropped the frame or took it to deliver
// later.
func (p *Port) faulty(f *Fault, b []byte, d direction) bool {
	if f.Down || f.Loss > 0 && p.s.random() < f.Loss {
		p.count.faulted.Add(1)
		return true
	}
	if f.Delay <= 0 {
		return false
	}
	if !p.line.push(p.s.now().Add(f.Delay), b, d) {
		p.count.overflow.Add(1)
	}
	return true
}

type delayed struct {
	due   time.Time
	frame []byte
	d     direction
}

// delayLine keeps frames in order until they are due. Its goroutine starts with
// the first frame.
type delayLine struct {
	port *Port
	mu   sync.Mutex
	q    []delayed
	on   bool // the goroutine runs
	off  bool // stopped for good
	wake chan struct{}
	done chan struct{}
}

func (l *delayLine) init(p *Port) {
	l.port, l.wake, l.done = p, make(chan struct{}, 1), make(chan struct{})
}

func (l *delayLine) push(due time.Time, b []byte, d direction) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.off || len(l.q) >= maxDelayed {
		return false
	}
	l.q = append(l.q, delayed{due, append([]byte(nil), b...), d})
	if !l.on {
		l.on = true
		l.port.wg.Go(l.run)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

func (l *delayLine) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.off {
		l.off = true
		close(l.done)
	}
}

func (l *delayLine) run() {
	for {
		l.mu.Lock()
		var next delayed
		if len(l.q) > 0 {
			next = l.q[0]
		}
		l.mu.Unlock()
		if next.frame == nil {
			select {
			case <-l.wake:
				continue
			case <-l.done:
				return
			}
		}
		if wait := next.due.Sub(l.port.s.now()); wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-l.done:
				t.Stop()
				return
			}
		}
		l.mu.Lock()
		l.q = l.q[1:]
		l.mu.Unlock()
		if next.d == inbound {
			l.port.s.forward(l.port, next.frame)
		} else {
			l.port.output(next.frame)
		}
	}
}
