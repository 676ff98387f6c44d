package fabric

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Port is a switch's side of a link.
type Port struct {
	s     *Switch
	name  string
	vlan  int
	trunk [maxVLAN/64 + 1]uint64 // a bit per VLAN that crosses tagged
	link  Link

	fault atomic.Pointer[Fault]
	count struct {
		inFrames, inBytes, outFrames, outBytes               atomic.Uint64
		malformed, wrongVLAN, faulted, overflow, writeErrors atomic.Uint64
	}
	line delayLine

	gone  atomic.Bool
	close sync.Once
	err   error // of closing
	wg    sync.WaitGroup
}

func newPort(s *Switch, c PortConfig, link Link) (*Port, error) {
	if c.Name == "" {
		return nil, errors.New("attaching a port: it has no name")
	}
	if c.VLAN < 0 || c.VLAN > maxVLAN {
		return nil, fmt.Errorf("attaching port %s: VLAN %d is not in 0 to %d", c.Name, c.VLAN, maxVLAN)
	}
	p := &Port{s: s, name: c.Name, vlan: c.VLAN, link: link}
	for _, v := range c.Trunk {
		if v < 1 || v > maxVLAN {
			return nil, fmt.Errorf("attaching port %s: trunk VLAN %d is not in 1 to %d", c.Name, v, maxVLAN)
		}
		p.trunk[v/64] |= 1 << (v % 64)
	}
	p.line.init(p)
	return p, nil
}

// Name is the port's name.
func (p *Port) Name() string { return p.name }

// Stats returns the port's counters.
func (p *Port) Stats() Stats {
	c := &p.count
	return Stats{
		InFrames: c.inFrames.Load(), InBytes: c.inBytes.Load(),
		OutFrames: c.outFrames.Load(), OutBytes: c.outBytes.Load(),
		Malformed: c.malformed.Load(), WrongVLAN: c.wrongVLAN.Load(),
		Faulted: c.faulted.Load(), Overflow: c.overflow.Load(),
		WriteErrors: c.writeErrors.Load(),
	}
}

// Close unplugs the port, closes its link, forgets its addresses and waits for
// its goroutines. It may be called twice.
func (p *Port) Close() error {
	p.close.Do(func() {
		p.gone.Store(true)
		p.s.detach(p)
		p.err = p.link.Close()
		p.line.stop()
	})
	p.wg.Wait()
	return p.err
}

func (p *Port) carriesTagged(vlan int) bool { return p.trunk[vlan/64]&(1<<(vlan%64)) != 0 }

// read moves frames from the link into the switch until the link ends.
func (p *Port) read() {
	b := make([]byte, maxFrame)
	for {
		n, err := p.link.ReadFrame(b)
		if err != nil {
			if !p.gone.Load() && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
				p.s.log.Error("the port's link ended", "port", p.name, "err", err)
			}
			return
		}
		p.receive(b[:n])
	}
}

// receive takes a frame from the link.
func (p *Port) receive(b []byte) {
	if f := p.fault.Load(); f != nil && p.faulty(f, b, inbound) {
		return
	}
	p.s.forward(p, b)
}

// transmit gives a frame to the link.
func (p *Port) transmit(b []byte) {
	if f := p.fault.Load(); f != nil && p.faulty(f, b, outbound) {
		return
	}
	p.output(b)
}

func (p *Port) output(b []byte) {
	switch err := p.link.WriteFrame(b); {
	case err == nil:
	case errors.Is(err, errQueueFull):
		p.count.overflow.Add(1)
		return
	default:
		p.count.writeErrors.Add(1)
		return
	}
	p.count.outFrames.Add(1)
	p.count.outBytes.Add(uint64(len(b)))
	if taps := *p.s.taps.Load(); len(taps) > 0 {
		p.s.tap(taps, p, b, outbound)
	}
}
