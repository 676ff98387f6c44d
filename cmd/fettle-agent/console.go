package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// console prints lines on every console of the kernel. A serial line that
// nobody drains must not stop the machine: lines are dropped instead.
type console struct {
	lines chan string
	mu    sync.Mutex
	ttys  []*os.File
}

func newConsole() *console {
	c := &console{lines: make(chan string, 1000)}
	go c.run()
	return c
}

// open opens the consoles: the kernel lists the active ones, the console=
// arguments that it understood, or the serial port that the firmware of an arm64
// machine names. The screen is written to in any case.
func (c *console) open(active, dev string) {
	b, err := os.ReadFile(active)
	names := strings.Fields(string(b))
	if err != nil || len(names) == 0 {
		names = []string{"console"}
	}
	names = append(names, "tty0")
	slices.Sort(names)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range slices.Compact(names) {
		if f, err := os.OpenFile(filepath.Join(dev, n), os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
			c.ttys = append(c.ttys, f)
		}
	}
}

func (c *console) print(line string) {
	select {
	case c.lines <- line:
	default:
	}
}

func (c *console) run() {
	for l := range c.lines {
		c.mu.Lock()
		for _, f := range c.ttys {
			io.WriteString(f, l+"\r\n")
		}
		c.mu.Unlock()
	}
}

// tail copies a worker's output to the consoles and keeps the end of it.
type tail struct {
	mu    sync.Mutex
	lines []string
	done  chan struct{}
}

const tailLines = 200

func (t *tail) copy(r io.ReadCloser, con *console) {
	defer close(t.done)
	defer r.Close()
	b := bufio.NewReader(r)
	for {
		line, err := b.ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			con.print(line)
			t.mu.Lock()
			if t.lines = append(t.lines, line); len(t.lines) > tailLines {
				t.lines = t.lines[1:]
			}
			t.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// lastWords says in a sentence why a worker ended: its panic, its last line,
// or the signal.
func (t *tail) lastWords(st unix.WaitStatus) string {
	select {
	case <-t.done:
	case <-time.After(time.Second): // a child of it still holds the pipe
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.lines {
		if strings.HasPrefix(l, "panic:") || strings.HasPrefix(l, "fatal error:") {
			return l
		}
	}
	if st.Signaled() {
		return fmt.Sprintf("killed by signal %d (%s)", st.Signal(), st.Signal())
	}
	if len(t.lines) > 0 {
		return strings.TrimPrefix(t.lines[len(t.lines)-1], "fettle-agent: ")
	}
	return fmt.Sprintf("exit status %d", st.ExitStatus())
}

// forkExec starts a program in a session of its own; ctty makes its standard
// input its controlling terminal.
func forkExec(path string, argv []string, files []uintptr, ctty bool) (int, error) {
	return syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: ctty, Ctty: 0},
	})
}
