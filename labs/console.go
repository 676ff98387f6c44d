package labs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Console is a machine's serial port. The guest's QEMU connects to a socket of
// the daemon, and again when the daemon was restarted; what it says goes to a
// log file and to everybody who is attached.
type Console struct {
	machine string
	log     *slog.Logger
	file    *os.File
	guests  net.Listener // QEMU connects here
	users   net.Listener // people connect here

	mu    sync.Mutex
	guest net.Conn
	taps  map[*tap]struct{}
}

// tap is somebody who is attached. What a slow one cannot take is dropped for
// it: the guest never waits.
type tap struct{ c chan []byte }

// tapBuffer is how many writes of the guest a slow listener may lag behind.
const tapBuffer = 1024

// openConsole listens on the machine's sockets. owner is the user that QEMU
// runs as, or -1 for the caller's own.
func openConsole(dir folder, machine string, owner int, log *slog.Logger) (c *Console, err error) {
	c = &Console{machine: machine, log: log, taps: map[*tap]struct{}{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("console of %s: %w", machine, err), c.close())
		}
	}()
	if c.file, err = os.OpenFile(dir.consoleLog(machine), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return c, err
	}
	if c.guests, err = listenUnix(dir.consoleGuest(machine), owner); err != nil {
		return c, err
	}
	c.users, err = listenUnix(dir.consoleUser(machine), -1)
	return c, err
}

// listenUnix replaces a socket that a daemon which was killed left behind; the
// caller holds the lab's lock.
func listenUnix(path string, owner int) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if owner >= 0 {
		if err := os.Chown(path, owner, -1); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

func (c *Console) close() error {
	var errs []error
	for _, l := range []net.Listener{c.guests, c.users} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if c.file != nil {
		if err := c.file.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// run serves until ctx ends.
func (c *Console) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() {
		c.guests.Close()
		c.users.Close()
	})
	defer stop()
	wg.Go(func() {
		defer cancel()
		for {
			conn, err := c.users.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				if err := c.Attach(ctx, conn); err != nil && ctx.Err() == nil {
					c.log.Debug("console attachment ended", "machine", c.machine, "err", err)
				}
			})
		}
	})
	var failed error
	for {
		conn, err := c.guests.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				failed = fmt.Errorf("console of %s: %w", c.machine, err)
			}
			break
		}
		// One QEMU at a time: a new one is the machine started again.
		c.mu.Lock()
		if c.guest != nil {
			c.guest.Close()
		}
		c.guest = conn
		c.mu.Unlock()
		wg.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			c.listen(conn)
		})
	}
	cancel()
	wg.Wait()
	return failed
}

// listen copies what the guest says.
func (c *Console) listen(conn net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := conn.Read(b)
		if n > 0 {
			said := append([]byte(nil), b[:n]...)
			c.mu.Lock()
			if _, err := c.file.Write(said); err != nil {
				c.log.Warn("the console's log cannot be written", "machine", c.machine, "err", err)
			}
			for t := range c.taps {
				select {
				case t.c <- said:
				default:
				}
			}
			c.mu.Unlock()
		}
		if err != nil {
			c.mu.Lock()
			if c.guest == conn {
				c.guest = nil
			}
			c.mu.Unlock()
			return
		}
	}
}

// Write types p on the machine's console. When the machine is off, nobody
// reads it, as with a real one.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	conn := c.guest
	c.mu.Unlock()
	if conn == nil {
		return len(p), nil
	}
	if err := conn.SetWriteDeadline(deadline(5 * time.Second)); err != nil {
		return 0, fmt.Errorf("console of %s: %w", c.machine, err)
	}
	n, err := conn.Write(p)
	if err != nil {
		return n, fmt.Errorf("console of %s: %w", c.machine, err)
	}
	return n, nil
}

// deadline is an instant for the network's own clock.
func deadline(d time.Duration) time.Time { return time.Now().Add(d) }

// Attach copies the console to rw and what rw says to the console, until ctx
// or rw's reader ends. It may be called any number of times at once. When ctx
// ends first, the caller closes rw.
func (c *Console) Attach(ctx context.Context, rw io.ReadWriter) error {
	t := &tap{c: make(chan []byte, tapBuffer)}
	c.mu.Lock()
	c.taps[t] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.taps, t)
		c.mu.Unlock()
	}()
	typed := make(chan error, 1)
	go func() { // ends with rw's reader
		_, err := io.Copy(c, rw)
		typed <- err
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-typed:
			return err
		case b := <-t.c:
			if _, err := rw.Write(b); err != nil {
				return fmt.Errorf("console of %s: %w", c.machine, err)
			}
		}
	}
}

// Connected says whether a guest is on the other end.
func (c *Console) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.guest != nil
}

// DialConsole attaches to the console of a lab's machine from another process
// than the lab's daemon. dir is the lab's folder.
func DialConsole(ctx context.Context, dir, machine string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", folder(dir).consoleUser(machine))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("the console of %s needs the lab's daemon, and none runs for %s: fettle lab up starts it: %w", machine, dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("console of %s: %w", machine, err)
	}
	return conn, nil
}

// ConsoleLog is the file that holds everything that the machine's serial port
// said while the lab's daemon ran.
func ConsoleLog(dir, machine string) string { return folder(dir).consoleLog(machine) }
