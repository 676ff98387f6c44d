package bmc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// echoPort is a serial port whose machine says what was typed, in capitals.
type echoPort struct{ hello string }

func (e echoPort) Attach(ctx context.Context, rw io.ReadWriter) error {
	if _, err := io.WriteString(rw, e.hello); err != nil {
		return err
	}
	b := make([]byte, 256)
	for {
		n, err := rw.Read(b)
		if n > 0 {
			if _, err := rw.Write(bytes.ToUpper(b[:n])); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// screen is a terminal: a pipe to type into, and a buffer.
type screen struct {
	io.Reader
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) shows(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		s.mu.Lock()
		text := s.buf.String()
		s.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the screen shows %.200q (%d bytes); want %.60q", text, len(text), want)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestConsole(t *testing.T) {
	hello := strings.Repeat("0123456789abcdef", 300) + "|login: "
	r := newIPMIRig(t, vbmc.Config{Console: echoPort{hello}})
	c := r.open(t)
	in, type_ := io.Pipe()
	s := &screen{Reader: in}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Console(ctx, s, false) }()
	s.shows(t, hello)
	if _, err := io.WriteString(type_, "root "+strings.Repeat("z", 500)+"!"); err != nil {
		t.Fatal(err)
	}
	s.shows(t, "ROOT "+strings.Repeat("Z", 500)+"!")
	// Somebody else is told, and may take it.
	other := r.open(t)
	in2, type2 := io.Pipe()
	s2 := &screen{Reader: in2}
	if err := other.Console(t.Context(), s2, false); !errors.Is(err, ErrConsoleBusy) {
		t.Errorf("a second console: %v; want %v", err, ErrConsoleBusy)
	}
	done2 := make(chan error, 1)
	go func() { done2 <- other.Console(t.Context(), s2, true) }()
	s2.shows(t, "login: ")
	if err := <-done; err != nil {
		t.Errorf("the console that was taken ended with %v; want nil", err)
	}
	cancel()
	if err := type2.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done2; err != nil {
		t.Errorf("the console whose keyboard ended: %v; want nil", err)
	}
	if _, err := other.Power(t.Context()); err != nil {
		t.Errorf("the session after the console: %v", err)
	}
	none := newIPMIRig(t, vbmc.Config{}).open(t)
	if err := none.Console(t.Context(), s, false); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Console of a BMC without a serial port: %v; want %v", err, ErrUnsupported)
	}
	if err := newRig(t).open(t).Console(t.Context(), s, false); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Console by Redfish: %v; want %v", err, ErrUnsupported)
	}
}

// lossyConn loses every fourth datagram each way.
type lossyConn struct {
	net.Conn
	mu       sync.Mutex
	in, out  int
	lossless bool
}

func (l *lossyConn) lose(n *int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	*n++
	return !l.lossless && *n%4 == 0
}

func (l *lossyConn) Write(p []byte) (int, error) {
	if l.lose(&l.out) {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

func (l *lossyConn) Read(p []byte) (int, error) {
	for {
		n, err := l.Conn.Read(p)
		if err != nil || !l.lose(&l.in) {
			return n, err
		}
	}
}

func TestConsoleOverALossyWay(t *testing.T) {
	r := newIPMIRig(t, vbmc.Config{Console: echoPort{strings.Repeat("x", 1000) + "|"}})
	tg := r.Target
	lossy := &lossyConn{lossless: true}
	tg.DialUDP = func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", addr)
		lossy.Conn = conn
		return lossy, err
	}
	c, err := Open(t.Context(), tg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	in, keys := io.Pipe()
	s := &screen{Reader: in}
	done := make(chan error, 1)
	go func() { done <- c.Console(t.Context(), s, false) }()
	lossy.mu.Lock()
	lossy.lossless = false
	lossy.mu.Unlock()
	s.shows(t, strings.Repeat("x", 1000)+"|")
	for _, word := range []string{"one ", "two ", "three "} {
		if _, err := io.WriteString(keys, word); err != nil {
			t.Fatal(err)
		}
	}
	s.shows(t, "ONE TWO THREE ")
	lossy.mu.Lock()
	lossy.lossless = true
	lossy.mu.Unlock()
	keys.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
