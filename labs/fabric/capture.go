package fabric

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// captureDepth is how many frames may wait for a capture's writer. A writer
// that is slower loses frames (counted in the file's statistics blocks); it
// never slows the switch.
const captureDepth = 4096

// capture is one running capture.
type capture struct {
	filter func(string) bool
	frames chan captured
	stop   chan struct{}
	once   sync.Once
	done   chan struct{} // the writer has ended; err is set
	err    error
	drops  atomic.Uint64
	now    func() time.Time
}

type captured struct {
	port  *Port
	t     time.Time
	d     direction
	frame []byte
}

// Capture writes what passes the switch to w as pcapng, one interface per port,
// until stop is called or the switch closes. With a nil filter each frame is
// written once, at the port where it entered; with a filter, the frames of the
// ports whose names it accepts, in both directions, as tcpdump on the machine's
// NIC would show them. filter is called per frame, concurrently.
//
// stop waits until all is written and returns the first error of w; it may be
// called twice. It does not close w.
func (s *Switch) Capture(w io.Writer, filter func(portName string) bool) (stop func() error, err error) {
	c := &capture{
		filter: filter, now: s.now,
		frames: make(chan captured, captureDepth), stop: make(chan struct{}), done: make(chan struct{}),
	}
	pw := &pcapngWriter{w: w}
	if err := pw.section(); err != nil {
		return nil, fmt.Errorf("writing the capture: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("starting a capture: %w", ErrClosed)
	}
	taps := append(slices.Clone(*s.taps.Load()), c)
	s.taps.Store(&taps)
	go c.run(pw) // ended by stopCapture, which waits for it
	return func() error { return s.stopCapture(c) }, nil
}

func (s *Switch) stopCapture(c *capture) error {
	s.mu.Lock()
	taps := slices.DeleteFunc(slices.Clone(*s.taps.Load()), func(o *capture) bool { return o == c })
	s.taps.Store(&taps)
	s.mu.Unlock()
	c.once.Do(func() { close(c.stop) })
	<-c.done
	if c.err != nil {
		return fmt.Errorf("writing the capture: %w", c.err)
	}
	return nil
}

// tap offers a frame to the captures.
func (s *Switch) tap(taps []*capture, p *Port, b []byte, d direction) {
	var copied []byte
	for _, c := range taps {
		if c.filter == nil && d != inbound || c.filter != nil && !c.filter(p.name) {
			continue
		}
		if copied == nil {
			copied = slices.Clone(b)
		}
		select {
		case c.frames <- captured{p, s.now(), d, copied}:
		default:
			c.drops.Add(1)
		}
	}
}

func (c *capture) run(w *pcapngWriter) {
	defer close(c.done)
	ids := map[*Port]uint32{}
	write := func(f captured) {
		if c.err != nil {
			return
		}
		id, known := ids[f.port]
		if !known {
			id = uint32(len(ids))
			ids[f.port] = id
			if c.err = w.iface(f.port.name); c.err != nil {
				return
			}
		}
		c.err = w.packet(id, f.t, f.d, f.frame)
	}
	for {
		select {
		case f := <-c.frames:
			write(f)
			continue
		case <-c.stop:
		}
		break
	}
	for { // what was under way when stop was called
		select {
		case f := <-c.frames:
			write(f)
			continue
		default:
		}
		break
	}
	if len(ids) > 0 && c.err == nil { // one queue serves all: its drops are the first interface's
		c.err = w.stats(0, c.now(), c.drops.Load())
	}
}
