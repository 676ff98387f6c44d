package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tftpEngines carry the transfers that have a socket of the kernel's.
type tftpEngines struct {
	all  []*tftpEngine
	runs sync.WaitGroup
	next atomic.Uint32
}

// tftpMaxEngines bounds the goroutines that send: one keeps a processor busy.
const tftpMaxEngines = 8

// newTFTPEngines starts an engine for each processor.
func newTFTPEngines(now func() time.Time) (*tftpEngines, error) {
	s := &tftpEngines{}
	for range min(runtime.GOMAXPROCS(0), tftpMaxEngines) {
		e, err := newTFTPEngine(now)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening an epoll set for TFTP: %w", err), s.close())
		}
		s.all = append(s.all, e)
		s.runs.Go(e.run)
	}
	return s, nil
}

// close ends the engines, of which no transfer is left.
func (s *tftpEngines) close() error {
	var err error
	for _, e := range s.all {
		err = errors.Join(err, e.set.Close())
	}
	s.runs.Wait()
	for _, e := range s.all {
		err = errors.Join(err, unix.Close(e.tick))
	}
	return err
}

// carry takes a connection over, and closes it; nil if it cannot.
func (s *tftpEngines) carry(conn *net.UDPConn, to netip.AddrPort) tftpCarrier {
	if s == nil {
		return nil
	}
	sock, err := takeSocket(conn, to)
	if err != nil {
		return nil
	}
	e := s.all[int(s.next.Add(1))%len(s.all)]
	return &engineWire{kernelSocket: sock, engine: e, turn: make(chan struct{}, 1)}
}

// tftpEngine is one goroutine that serves many transfers, none of which it waits
// for: what would have to wait for a file goes to the transfer's own goroutine.
// How it waits for sockets is in tftp_wait_linux.go.
type tftpEngine struct {
	now func() time.Time

	mu   sync.Mutex // held while transfers are served
	all  []*engineWire
	byFD map[int32]*engineWire
	buf  [tftpMaxAnswer]byte

	engineWait
}

// tftpTurn is how many packets of one transfer are read before others have
// their turn.
const tftpTurn = 64

// run serves transfers until the engine is closed.
func (e *tftpEngine) run() {
	e.wait(func() (more bool) {
		e.mu.Lock()
		defer e.mu.Unlock()
		ready, more := e.look()
		for _, w := range ready {
			e.serve(w)
		}
		return more
	})
}

// engineWire is a transfer that an engine carries. All but the socket is the
// engine's, under its mu, unless away: then the transfer's own goroutine has it.
type engineWire struct {
	*kernelSocket
	engine *tftpEngine
	t      *sender
	turn   chan struct{} // the own goroutine's: it has ended, or is away
	place  int           // in engine.all
	err    error
	ended  bool
	away   bool
	timer  *time.Timer
	timed  time.Time // when the timer comes
	late   bool      // it came
}

// run gives the transfer to the engine and waits for its end. It begins here:
// it may have to wait for the file.
func (w *engineWire) run(ctx context.Context, t *sender) error {
	defer w.close()
	e := w.engine
	w.t, t.mayWait = t, true
	err := t.start()
	if err != nil {
		return err
	}
	defer e.leave(w)
	if err := e.join(w); err != nil {
		return err
	}
	for {
		select {
		case <-w.turn:
		case <-ctx.Done():
			return ctx.Err()
		}
		if w.ended {
			return w.err
		}
		t.mayWait = true
		if err := t.goOn(); err != nil {
			return err
		}
		if err := e.back(w); err != nil {
			return err
		}
	}
}

// join takes a transfer that has started.
func (e *tftpEngine) join(w *engineWire) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	w.t.mayWait = false
	w.timed = w.t.due
	w.timer = time.AfterFunc(w.t.due.Sub(e.now()), func() { e.expire(w) })
	w.place = len(e.all)
	e.all = append(e.all, w)
	e.byFD[int32(w.fd)] = w
	return e.watch(w)
}

// back takes a transfer that was away.
func (e *tftpEngine) back(w *engineWire) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	w.t.mayWait, w.away = false, false
	e.arm(w)
	return e.again(w)
}

// leave takes a transfer from the engine: when it returns, it is not touched.
func (e *tftpEngine) leave(w *engineWire) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	e.forget(w)
	last := e.all[len(e.all)-1]
	e.all[w.place], last.place = last, w.place
	e.all[len(e.all)-1] = nil
	e.all = e.all[:len(e.all)-1]
	delete(e.byFD, int32(w.fd))
}

// expire is called when a transfer's timer comes. What has come is read first.
func (e *tftpEngine) expire(w *engineWire) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w.late, w.timed = true, time.Time{}
	e.serve(w)
}

// arm sees to it that a transfer's wait ends by its due. Most waits do not last
// that long: the timer is set anew when it comes.
func (e *tftpEngine) arm(w *engineWire) {
	if w.timed.IsZero() || w.t.due.Before(w.timed) {
		w.timed = w.t.due
		w.timer.Reset(w.t.due.Sub(e.now()))
	}
}

// serve gives a transfer what its client sent. In lockstep a packet comes and
// goes for every 1,468 bytes: the socket is not asked for an answer that cannot
// be there yet. What else may wait in it is read with the next packet, or when
// that is late.
func (e *tftpEngine) serve(w *engineWire) {
	if w.away || w.ended {
		return
	}
	t := w.t
	var err error
	for n := 0; err == nil && !t.done; n++ {
		if n == tftpTurn { // others have clients too
			err = e.again(w)
			break
		}
		k, errno := w.receive(e.buf[:])
		if errno == unix.ECONNREFUSED {
			// The client's port is closed: it has gone, or says so too early.
			continue
		}
		if errno == unix.EAGAIN {
			// The wait is over, or was prolonged.
			if w.late && !e.now().Before(t.due) {
				err = t.expired()
			}
			w.late = false
			break
		}
		if errno != 0 {
			err = os.NewSyscallError("recv", errno)
			break
		}
		sent := t.sent
		err = t.packet(e.buf[:k])
		if t.sent != sent && t.window == 1 {
			break
		}
	}
	switch {
	case errors.Is(err, errWait):
		w.away = true
		e.rest(w)
		w.turn <- struct{}{}
	case err != nil || t.done:
		e.finish(w, err)
	default:
		e.arm(w)
	}
}

// finish gives a transfer's end to its own goroutine.
func (e *tftpEngine) finish(w *engineWire, err error) {
	w.err, w.ended = err, true
	e.rest(w)
	w.turn <- struct{}{}
}
