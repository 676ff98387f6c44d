package pxe

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An engine waits for its sockets in one of two ways.
//
// Usually they are in an epoll set of its own, which the runtime watches as it
// watches a socket. In the runtime's set each block would be two events, for
// that is asked of writing too, and each event a change of goroutines.
//
// While packets come thick and fast nobody sleeps, and being watched is what
// costs: for every packet that comes, and for every one that has gone, the kernel
// calls the set, and that the runtime's. Then the sockets are taken out of it,
// and the engine asks them all with poll(2), which does not wait. Others have
// their turn after every few packets, the runtime's sockets among them. When
// nothing comes for some tens of microseconds the set watches again.
//
// Figures are in BENCH.md.
type engineWait struct {
	set  *os.File // the epoll set, which the runtime watches
	raw  syscall.RawConn
	fd   int // set's
	tick int // an eventfd in the set
	one  [8]byte

	events [128]unix.EpollEvent
	ready  []*engineWire

	polls []unix.PollFd // of engine.all, in their order, while hot
	hot   bool
	came  int       // packets since
	since time.Time // the rate is counted
	idle  int       // polls in a row that found nothing
	busy  int       // packets since others had their turn
}

const (
	tftpHotRate  = 100 // packets in a millisecond: asking costs less than being told
	tftpHotMost  = 128 // sockets: to ask more takes too long
	tftpHotIdle  = 10  // polls that find nothing, of 5 µs at most
	tftpHotBatch = 64  // packets before others have their turn: a quarter of a millisecond
)

func newTFTPEngine(now func() time.Time) (*tftpEngine, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile has the runtime watch what does not block.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	set := os.NewFile(uintptr(fd), "epoll")
	raw, err := set.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, set.Close())
	}
	tick, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("eventfd", err), set.Close())
	}
	e := &tftpEngine{now: now, byFD: map[int32]*engineWire{}, engineWait: engineWait{set: set, raw: raw, fd: fd, tick: tick}}
	binary.NativeEndian.PutUint64(e.one[:], 1)
	if err := e.control(unix.EPOLL_CTL_ADD, tick); err != nil {
		return nil, errors.Join(err, set.Close(), unix.Close(tick))
	}
	return e, nil
}

// wait calls look whenever there may be something to read, again at once while
// it says that there is more, until the set is closed. It is one long Read,
// whose function returns false to wait.
func (e *engineWait) wait(look func() (more bool)) {
	e.raw.Read(func(uintptr) bool {
		for look() {
		}
		return false
	})
}

// others lets other goroutines go on, and the runtime look at its sockets: to
// wait is what does both, and there is something to wait for.
func (e *engineWait) others() {
	unix.Write(e.tick, e.one[:]) // it is never full: it counts to 2^64
}

// look finds the sockets that have something to read. Without more the engine
// is to wait.
func (e *tftpEngine) look() (ready []*engineWire, more bool) {
	if e.hot {
		return e.ask()
	}
	// Nothing is waited for: the scheduler need not know.
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.events[0])), uintptr(len(e.events)), 0, 0, 0)
	if errno != 0 {
		return nil, errno == unix.EINTR
	}
	e.ready = e.ready[:0]
	for _, ev := range e.events[:n] {
		if w := e.byFD[ev.Fd]; w != nil { // else it is the tick, or has left
			e.ready = append(e.ready, w)
		}
	}
	e.came += len(e.ready)
	if now := e.now(); now.Sub(e.since) >= time.Millisecond {
		if e.came >= tftpHotRate && len(e.all) <= tftpHotMost {
			e.heat()
		}
		e.came, e.since = 0, now
	}
	if int(n) == len(e.events) {
		e.others() // there may be more of which the runtime was told before
	}
	return e.ready, e.hot
}

// ask is look while it is hot.
func (e *tftpEngine) ask() (ready []*engineWire, more bool) {
	if len(e.polls) == 0 {
		e.cool()
		return nil, false
	}
	n, _, errno := unix.RawSyscall(unix.SYS_POLL, uintptr(unsafe.Pointer(&e.polls[0])), uintptr(len(e.polls)), 0)
	if errno != 0 || n == 0 {
		if e.idle++; e.idle >= tftpHotIdle {
			e.cool()
			return nil, false
		}
		return nil, true
	}
	e.ready, e.idle = e.ready[:0], 0
	for i := range e.polls {
		if e.polls[i].Revents != 0 {
			e.ready = append(e.ready, e.all[i])
		}
	}
	if e.busy += int(n); e.busy < tftpHotBatch {
		return e.ready, true
	}
	e.busy = 0
	e.others()
	return e.ready, false
}

// heat goes over to asking.
func (e *tftpEngine) heat() {
	e.polls = e.polls[:0]
	for _, w := range e.all {
		e.forget(w)
		e.polls = append(e.polls, w.question())
	}
	e.hot, e.idle, e.busy = true, 0, 0
}

// cool goes back to being told.
func (e *tftpEngine) cool() {
	e.hot, e.came, e.since = false, 0, e.now()
	for _, w := range e.all {
		err := e.watch(w)
		if err != nil && !w.away && !w.ended { // one that is away fails when it comes back
			e.finish(w, err)
		}
	}
}

// watch begins to wait for a socket: the last of all.
func (e *tftpEngine) watch(w *engineWire) error {
	if !e.hot {
		return e.control(unix.EPOLL_CTL_ADD, w.fd)
	}
	e.polls = append(e.polls, w.question())
	if len(e.all) > tftpHotMost {
		e.cool()
	}
	return nil
}

// forget ends waiting for a socket, which is in all still.
func (e *tftpEngine) forget(w *engineWire) {
	if !e.hot {
		e.control(unix.EPOLL_CTL_DEL, w.fd) // if it was there at all
		return
	}
	e.polls[w.place] = e.polls[len(e.polls)-1]
	e.polls = e.polls[:len(e.polls)-1]
}

// again has the engine look at a socket though nothing new may come.
func (e *tftpEngine) again(w *engineWire) error {
	if e.hot {
		e.polls[w.place] = w.question()
		return nil
	}
	return e.control(unix.EPOLL_CTL_MOD, w.fd)
}

// rest keeps a socket that is not served from being found again and again.
func (e *tftpEngine) rest(w *engineWire) {
	if e.hot {
		e.polls[w.place] = w.question()
	}
}

// question is what is asked of a socket: nothing, while it is not served.
func (w *engineWire) question() unix.PollFd {
	if w.away || w.ended {
		return unix.PollFd{Fd: -1}
	}
	return unix.PollFd{Fd: int32(w.fd), Events: unix.POLLIN}
}

func (e *engineWait) control(op, fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.fd, op, fd, &ev))
}
