package pxe

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelWire is a transfer over a kernel's socket that is connected to the
// client. In lockstep a packet comes and goes for every 1,468 bytes, so
// nothing is done for one that could be spared: the socket is not asked for
// an answer that cannot be there yet (what else may wait in it is read with
// the next packet, or when the answer is late), the deadline moves only when it
// comes or has to come earlier, and calls that never block are made without
// telling the scheduler.
type kernelWire struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	fd      uintptr // while run has it
	buf     [tftpMaxAnswer]byte
	armed   time.Time // the deadline; zero: there is none
	noBurst bool
}

// tftpTurn is how many packets that are of no use a transfer reads before
// others have their turn.
const tftpTurn = 64

// connectedWire connects a socket; nil if it is not of the client's family.
func connectedWire(conn *net.UDPConn, to netip.AddrPort) tftpCarrier {
	raw, err := conn.SyscallConn()
	if err != nil || connect(raw, to) != nil {
		return nil
	}
	return &kernelWire{conn: conn, raw: raw}
}

// connect makes a socket one client's alone: the kernel drops what others send
// to it, and looks its route up once.
func connect(raw syscall.RawConn, to netip.AddrPort) error {
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	var cerr error
	err := raw.Control(func(fd uintptr) { cerr = unix.Connect(int(fd), sa) })
	return errors.Join(err, cerr)
}

// run is one long Read of the connection: its function is called when the
// socket has become readable, and returns false to wait for that again.
func (w *kernelWire) run(t *sender) error {
	started, late := false, false
	for {
		var err error
		rerr := w.raw.Read(func(fd uintptr) bool {
			w.fd = fd
			if !started {
				started = true
				err = t.start()
			}
			for err == nil && !t.done {
				at := t.at
				k, errno := w.receive()
				switch {
				case errno == 0:
					sent := t.sent
					err = t.packet(w.buf[:k])
					if t.useless%tftpTurn == tftpTurn-1 {
						runtime.Gosched() // others have clients too
					}
					if t.sent == sent || t.window > 1 {
						continue
					}
					at = t.at
				case errno == unix.ECONNREFUSED:
					// The client's port is closed: it has gone, or says so too early.
					continue
				case errno != unix.EAGAIN:
					err = os.NewSyscallError("recv", errno)
				case late:
					// What had come was read first: the wait is over, or was prolonged.
					late, at = false, t.now()
					if !at.Before(t.due) {
						err = t.expired()
						at = t.at
					}
				}
				if err == nil && !t.done {
					err = w.arm(t.due, at)
					return err != nil
				}
			}
			return true
		})
		switch {
		case rerr == nil:
			return err
		case !errors.Is(rerr, os.ErrDeadlineExceeded):
			return rerr
		}
		late, w.armed = true, time.Time{}
		if err := w.conn.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
	}
}

// arm sees to it that the wait, which begins now, ends by due. Most deadlines
// are never reached: one that has moved on is set anew when it comes.
func (w *kernelWire) arm(due, now time.Time) error {
	if !w.armed.IsZero() && !due.Before(w.armed) {
		return nil
	}
	w.armed = due
	return w.conn.SetReadDeadline(time.Now().Add(due.Sub(now))) // wall time, whatever clock the logic has
}

// receive does not wait.
func (w *kernelWire) receive() (int, syscall.Errno) {
	for {
		k, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, w.fd, uintptr(unsafe.Pointer(&w.buf[0])), uintptr(len(w.buf)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(k), errno
		}
	}
}

func (w *kernelWire) send(b []byte) error {
	for range 2 { // the first may report what became of a packet before
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, w.fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EAGAIN, unix.EINTR: // rare: as the net package does it
			_, err := w.conn.Write(b)
			return err
		case unix.ECONNREFUSED:
		default:
			return os.NewSyscallError("send", errno)
		}
	}
	return nil // as if it were lost: the client is asked again in time
}

func (w *kernelWire) burst(blocks [][]byte) (int, error) {
	if len(blocks) > 1 && !w.noBurst {
		k, err := sendBurst(w.raw, blocks)
		if err == nil {
			return k, nil
		}
		w.noBurst = true // a device or a kernel that cannot: one by one, then
	}
	return 1, w.send(blocks[0])
}
