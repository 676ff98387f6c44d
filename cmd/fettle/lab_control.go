package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// labInfoOf asks a lab's daemon what it runs.
func labInfoOf(ctx context.Context, dir string) (labInfo, error) {
	var info labInfo
	return info, askLab(ctx, dir, "/lab", &info)
}

// askLab asks a lab's daemon.
func askLab(ctx context.Context, dir, path string, v any) error {
	return tellLab(ctx, dir, http.MethodGet, path, v)
}

// tellLab sends a request to a lab's daemon and reads its answer into v.
func tellLab(ctx context.Context, dir, method, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	hc := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, labCtlSocket))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, nil)
	if err != nil {
		return err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return fmt.Errorf("asking the lab's daemon: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // the status says enough
		return fmt.Errorf("asking the lab's daemon: %s: %s", resp.Status, strings.TrimSpace(string(said)))
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("reading the lab daemon's answer: %w", err)
	}
	return nil
}

// dialLab opens a connection to an address on a lab's fabric.
func dialLab(ctx context.Context, dir, addr string) (net.Conn, *bufio.Reader, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, labCtlSocket))
	if err != nil {
		return nil, nil, fmt.Errorf("reaching the lab's daemon: %w", err)
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr); err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("asking the lab's daemon for %s: %w", addr, err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("asking the lab's daemon for %s: %w", addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		conn.Close()
		return nil, nil, fmt.Errorf("the lab cannot reach %s: %s", addr, b)
	}
	return conn, br, nil
}

// bufferedConn reads what a bufio.Reader has already taken first.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (b bufferedConn) Read(p []byte) (int, error) { return b.r.Read(p) }

// labDial joins stdin and stdout with an address on a lab's fabric: ssh's
// ProxyCommand.
func labDial(c *cli.Context, e *env) error {
	if c.NArg() != 2 {
		return usage("lab dial takes HOST and PORT")
	}
	conn, br, err := dialLab(c.Context, c.String("dir"), net.JoinHostPort(c.Args().Get(0), c.Args().Get(1)))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		io.Copy(conn, e.stdin)
		closeWrite(conn)
	}()
	_, err = io.Copy(e.stdout, br)
	return err
}

// writeLabFile writes what a lab's daemon is started from.
func writeLabFile(dir string, f labFile) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the lab's options: %w", err)
	}
	tmp := filepath.Join(dir, labFileName+".new")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the lab's options: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, labFileName))
}

// stopDaemon ends a lab's daemon and waits for it, within a bound.
func stopDaemon(ctx context.Context, pid int, dir string) error {
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stopping the lab's daemon (pid %d): %w", pid, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(30 * time.Second); ; {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) || isZombie(pid) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return fmt.Errorf("the lab's daemon (pid %d) did not end within 30 s: see %s", pid, filepath.Join(dir, labDaemonLog))
		case <-tick.C:
		}
	}
}

// isZombie tells whether a process has ended and only waits to be reaped.
func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	var p int
	var comm, st string
	if _, err := fmt.Sscanf(string(b), "%d %s %s", &p, &comm, &st); err != nil {
		return false
	}
	return st == "Z"
}

// escape leaves a console: Ctrl-].
const escape = 0x1d

// attach joins the terminal with a console until Ctrl-] or the end of input.
func (e *env) attach(ctx context.Context, conn io.ReadWriter) error {
	if f, ok := e.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("setting up the terminal: %w", err)
		}
		defer term.Restore(int(f.Fd()), old)
		fmt.Fprint(e.stderr, "connected; leave with Ctrl-]\r\n")
	}
	ended := make(chan error, 2)
	go func() {
		_, err := io.Copy(e.stdout, conn)
		ended <- err
	}()
	go func() {
		buf := make([]byte, 1024)
		for {
			n, err := e.stdin.Read(buf)
			for i, b := range buf[:n] {
				if b == escape {
					conn.Write(buf[:i])
					ended <- nil
					return
				}
			}
			if _, werr := conn.Write(buf[:n]); werr != nil || err != nil {
				ended <- nil
				return
			}
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}
