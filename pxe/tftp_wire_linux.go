package pxe

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelSocket is a socket of a transfer's that is connected to its client.
// Nothing here waits, so that its calls are made without telling the scheduler.
type kernelSocket struct {
	fd      int
	noBurst bool
}

// takeSocket connects a connection's socket and takes it from the runtime; the
// connection is closed.
func takeSocket(conn *net.UDPConn, to netip.AddrPort) (*kernelSocket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := connect(raw, to); err != nil {
		return nil, err
	}
	var own int
	var derr error
	if err := raw.Control(func(fd uintptr) { own, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, os.NewSyscallError("fcntl", derr)
	}
	conn.Close() // the socket stays: it is out of the runtime's epoll set
	return &kernelSocket{fd: own}, nil
}

func (w *kernelSocket) close() error { return unix.Close(w.fd) }

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

func (w *kernelSocket) receive(b []byte) (int, syscall.Errno) {
	for {
		k, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(w.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(k), errno
		}
	}
}

// send sends a packet. What the socket has no room for is as if it were lost:
// all that a client is owed at a time has room in it (tftpMaxBurst), so this
// would be the same once more.
func (w *kernelSocket) send(b []byte) error {
	for range 3 { // the first may report what became of a packet before
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(w.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0, unix.EAGAIN:
			return nil
		case unix.ECONNREFUSED, unix.EINTR:
		default:
			return os.NewSyscallError("send", errno)
		}
	}
	return nil // the client is asked again in time
}

func (w *kernelSocket) burst(blocks [][]byte) (int, error) {
	if len(blocks) > 1 && !w.noBurst {
		k, err := sendBurst(w.fd, blocks)
		if err == nil {
			return k, nil
		}
		w.noBurst = true // a device or a kernel that cannot: one by one, then
	}
	return 1, w.send(blocks[0])
}
