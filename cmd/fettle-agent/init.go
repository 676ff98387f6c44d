package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/agent"
)

// mountPoint is one file system that init mounts.
type mountPoint struct {
	kind, at string
	flags    uintptr
	data     string
}

var initMounts = [...]mountPoint{
	{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
	{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
}

// runInit is process 1. The kernel panics when it ends, so it does little: it
// mounts, then starts the worker and starts it again, for ever.
func runInit() {
	con := newConsole()
	defer func() {
		// A panic of process 1 would take the machine with it.
		con.print(fmt.Sprintf("fettle-agent: init failed: %v: restart the machine", recover()))
		for {
			time.Sleep(time.Hour)
		}
	}()
	var problems []error
	for _, m := range initMounts {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			problems = append(problems, err)
		}
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.data); err != nil && err != unix.EBUSY {
			problems = append(problems, fmt.Errorf("mounting %s at %s: %w", m.kind, m.at, err))
		}
	}
	con.open("/sys/class/tty/console/active", "/dev")
	// Only the kernel's errors may come between our lines (syslog(2), action 8;
	// the level is the length argument).
	if _, err := unix.Klogctl(8, make([]byte, 4)); err != nil {
		problems = append(problems, fmt.Errorf("quieting the kernel: %w", err))
	}
	os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	os.Setenv("HOME", "/")
	if slowAES() {
		// The worker's TLS then takes ChaCha20 (crypto/tls goes by the CPU's
		// flags, which an emulated CPU has without the speed).
		os.Setenv("GODEBUG", "cpu.aes=off")
	}
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		problems = append(problems, err)
	}
	for _, p := range problems {
		con.print("fettle-agent: " + p.Error())
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		con.print("fettle-agent: " + err.Error())
	}
	s := supervisor{con: con, ended: make(chan ending, 16), memory: memory{dir: runDir}}
	boot, err := agent.ParseCmdline(string(line))
	s.rescue = err == nil && boot.Rescue || strings.Contains(string(line), "fettle.rescue")
	s.run()
}

type ending struct {
	pid    int
	status unix.WaitStatus
}

// supervisor keeps the worker, and the rescue shell if it was asked for.
type supervisor struct {
	con    *console
	memory memory
	rescue bool
	ended  chan ending
}

func (s *supervisor) run() {
	worker, shell, fails := 0, 0, 0
	var tail *tail
	start := make(chan struct{}, 1)
	start <- struct{}{}
	go s.reap()
	var began time.Time
	for {
		select {
		case <-start:
			began = time.Now()
			var err error
			if worker, tail, err = s.startWorker(); err != nil {
				s.con.print("fettle-agent: starting the worker: " + err.Error())
				fails++
				again(start, fails)
			}
			if s.rescue && shell == 0 {
				if shell, err = startShell(); err != nil {
					s.con.print("fettle-agent: starting the rescue shell: " + err.Error())
				}
			}
		case e := <-s.ended:
			switch e.pid {
			case worker:
				if time.Since(began) > 5*time.Minute {
					fails = 0
				}
				fails++
				words := tail.lastWords(e.status)
				if err := s.memory.crashed(words); err != nil {
					s.con.print("fettle-agent: " + err.Error())
				}
				s.con.print(fmt.Sprintf("fettle-agent: the worker ended (%s); starting it again", words))
				worker = 0
				again(start, fails)
			case shell:
				var err error
				if shell, err = startShell(); err != nil {
					s.con.print("fettle-agent: starting the rescue shell: " + err.Error())
				}
			}
		}
	}
}

// again starts the worker after a jittered wait: 1 s doubling to a minute.
func again(start chan<- struct{}, fails int) {
	d := min(time.Second<<min(fails-1, 6), time.Minute)
	time.AfterFunc(d/2+rand.N(d/2), func() { start <- struct{}{} })
}

// reap waits for every child, ours and those that lost their parents.
func (s *supervisor) reap() {
	for {
		var st unix.WaitStatus
		pid, err := unix.Wait4(-1, &st, 0, nil)
		if pid > 0 && (st.Exited() || st.Signaled()) {
			s.ended <- ending{pid, st}
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // no children now
		}
	}
}

// startWorker starts this program again; what it prints goes to the consoles.
func (s *supervisor) startWorker() (int, *tail, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return 0, nil, err
	}
	defer null.Close()
	pid, err := forkExec("/proc/self/exe", []string{"fettle-agent", "work"}, []uintptr{null.Fd(), uintptr(p[1]), uintptr(p[1])}, false)
	unix.Close(p[1])
	if err != nil {
		unix.Close(p[0])
		return 0, nil, err
	}
	t := &tail{done: make(chan struct{})}
	go t.copy(os.NewFile(uintptr(p[0]), "worker"), s.con)
	return pid, t, nil
}

// startShell starts busybox on the last console.
func startShell() (int, error) {
	con, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer con.Close()
	for _, sh := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if _, err := os.Stat(sh); err == nil {
			return forkExec(sh, []string{filepath.Base(sh), "sh"}, []uintptr{con.Fd(), con.Fd(), con.Fd()}, true)
		}
	}
	return 0, fmt.Errorf("the ramdisk has no busybox")
}
