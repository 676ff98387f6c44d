package images

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrMissingTool says that this machine lacks a program.
var ErrMissingTool = errors.New("program not found")

// tool is one run of a program: an argument list, never a shell.
type tool struct {
	args  []string
	pkg   string   // Debian package that brings it, for the error
	env   []string // added to the environment
	stdin io.Reader
	out   io.Writer // stdout; nil: to the log
	dir   string
	lines func(string)  // told each line of stderr, for progress
	grace time.Duration // between SIGTERM and SIGKILL; 0 = ten seconds
}

// lookTool finds a program, also where ordinary users' PATH does not look.
func lookTool(name, pkg string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin"} {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s; install it with: apt-get install %s", ErrMissingTool, name, pkg)
}

// run runs a program in its own process group. When ctx is done the group
// gets SIGTERM, so that the program can clean up, and after its
// grace SIGKILL. The error carries the last lines that the program wrote to stderr.
func (b *Builder) run(ctx context.Context, t tool) error {
	path, err := lookTool(t.args[0], t.pkg)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, t.args[1:]...)
	cmd.Dir = t.dir
	cmd.Stdin = t.stdin
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Env = append(cmd.Env, t.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	if cmd.WaitDelay = t.grace; t.grace == 0 {
		cmd.WaitDelay = 10 * time.Second
	}
	fmt.Fprintf(b.log(), "+ %s\n", strings.Join(t.args, " "))
	tail := &tailWriter{log: b.log(), each: t.lines}
	cmd.Stderr = tail
	cmd.Stdout = t.out
	if t.out == nil {
		cmd.Stdout = b.log()
	}
	err = cmd.Run()
	if ctx.Err() != nil {
		if cmd.Process != nil {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of the group
		}
		return fmt.Errorf("running %s: %w", t.args[0], ctx.Err())
	}
	switch words := tail.last(); {
	case err == nil:
		return nil
	case strings.Contains(words, "No space left on device"): // as the C library words it, LC_ALL=C
		return fmt.Errorf("running %s: %w (%w): %s", t.args[0], syscall.ENOSPC, err, words)
	default:
		return fmt.Errorf("running %s: %w: %s", t.args[0], err, words)
	}
}

// output runs a program and returns what it printed.
func (b *Builder) output(ctx context.Context, t tool) ([]byte, error) {
	var out bytes.Buffer
	t.out = &out
	err := b.run(ctx, t)
	return out.Bytes(), err
}

// tailWriter passes on what is written and remembers the last lines. One
// goroutine of os/exec writes to it.
type tailWriter struct {
	log  io.Writer
	each func(string)
	part []byte
	keep []string
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.log.Write(p)
	w.part = append(w.part, p...)
	for {
		i := bytes.IndexAny(w.part, "\r\n")
		if i < 0 {
			return len(p), nil
		}
		line := strings.TrimSpace(string(w.part[:i]))
		w.part = w.part[i+1:]
		if line == "" {
			continue
		}
		if w.each != nil {
			w.each(line)
		}
		if w.keep = append(w.keep, line); len(w.keep) > 6 {
			w.keep = w.keep[1:]
		}
	}
}

func (w *tailWriter) last() string {
	lines := w.keep
	if s := strings.TrimSpace(string(w.part)); s != "" {
		lines = append(lines, s)
	}
	if len(lines) == 0 {
		return "it said nothing"
	}
	return strings.Join(lines, "; ")
}

// removeTree removes a work folder of ours. It refuses while anything is
// mounted below it: a bootstrap that was killed may leave the host's /dev or
// /proc bound there.
func removeTree(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is kept because %s is still mounted in it; unmount it, then remove the folder", dir, strings.Join(mounts, ", "))
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	return nil
}

// mountsBelow lists mount points at or below dir, from /proc/self/mountinfo
// (proc(5): the fifth field, with octal escapes).
func mountsBelow(dir string) ([]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("looking for mounts below %s: %w", dir, err)
	}
	defer f.Close()
	return parseMounts(f, dir)
}

func parseMounts(r io.Reader, dir string) ([]string, error) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []string
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 5 {
			continue
		}
		if at := unescape.Replace(fields[4]); at == dir || strings.HasPrefix(at, dir+"/") {
			out = append(out, at)
		}
	}
	return out, sc.Err()
}
