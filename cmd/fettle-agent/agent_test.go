package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCommandUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"nonsense"}, {"work", "more"}} {
		var out, errs bytes.Buffer
		if got := command(args, &out, &errs); got != 2 || !strings.Contains(errs.String(), "usage") {
			t.Errorf("command(%q) = %d, %q; want 2 and the usage", args, got, errs.String())
		}
	}
}

func TestCommandInventory(t *testing.T) {
	var out, errs bytes.Buffer
	if got := command([]string{"inventory"}, &out, &errs); got != 0 || !strings.Contains(out.String(), `"cpu"`) {
		t.Errorf("command(inventory) = %d, %q, %q; want 0 and an inventory", got, out.String(), errs.String())
	}
}

// fakeSys is a sysfs whose devices appear as modules are loaded.
type fakeSys struct {
	t     *testing.T
	dir   string
	then  map[string]string // when this alias is asked for, that device appears
	asked []string
}

func (f *fakeSys) device(name, alias string) {
	f.t.Helper()
	dir := filepath.Join(f.dir, "devices", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "modalias"), []byte(alias+"\n"), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeSys) modprobe(_ context.Context, args ...string) error {
	i := slices.Index(args, "--")
	for _, a := range args[i+1:] {
		f.asked = append(f.asked, a)
		if next := f.then[a]; next != "" {
			f.device("later/"+next, next)
		}
	}
	return nil
}

func TestDriversSettle(t *testing.T) {
	f := &fakeSys{t: t, dir: t.TempDir(), then: map[string]string{"pci:bridge": "virtio:block", "virtio:block": "scsi:disk"}}
	f.device("pci0000:00/0000:00:01.0", "pci:bridge")
	f.device("pci0000:00/0000:00:02.0", "pci:bridge")
	d := newDrivers(f.dir, slog.New(slog.DiscardHandler))
	d.run = f.modprobe
	d.load(t.Context())
	for _, want := range []string{"pci:bridge", "virtio:block", "scsi:disk", "ext4", "ipmi_devintf"} {
		n := 0
		for _, a := range f.asked {
			if a == want {
				n++
			}
		}
		if n != 1 {
			t.Errorf("modprobe was asked for %s %d times; want 1 (asked: %v)", want, n, f.asked)
		}
	}
	before := len(f.asked)
	d.load(t.Context())
	if len(f.asked) != before {
		t.Errorf("a second load asked for %v; want nothing new", f.asked[before:])
	}
}

// TestDriversBounded: a machine whose devices never stop coming does not hold
// the agent for ever.
func TestDriversBounded(t *testing.T) {
	f := &fakeSys{t: t, dir: t.TempDir()}
	f.device("first", "n0")
	d := newDrivers(f.dir, slog.New(slog.DiscardHandler))
	n := 0
	d.run = func(context.Context, ...string) error {
		n++
		f.device(fmt.Sprint("d", n), fmt.Sprint("n", n))
		return nil
	}
	d.load(t.Context())
	if n > maxRounds+1 {
		t.Errorf("load ran modprobe %d times; want at most %d", n, maxRounds+1)
	}
}

func TestMemory(t *testing.T) {
	m := memory{dir: t.TempDir()}
	if task, _ := m.Crashed(); task != "" {
		t.Errorf("Crashed() = %q; want nothing at first", task)
	}
	if err := m.crashed("panic: x"); err != nil {
		t.Fatal(err)
	}
	if task, _ := m.Crashed(); task != "" {
		t.Errorf("Crashed() = %q after a crash without a task; want nothing", task)
	}
	if err := m.Begin("t1"); err != nil {
		t.Fatal(err)
	}
	if err := m.crashed("panic: y\n"); err != nil {
		t.Fatal(err)
	}
	if task, words := m.Crashed(); task != "t1" || words != "panic: y" {
		t.Errorf("Crashed() = %q, %q; want t1, panic: y", task, words)
	}
	if task, _ := m.Crashed(); task != "" {
		t.Errorf("second Crashed() = %q; want it forgotten", task)
	}
	if err := m.Begin("t2"); err != nil {
		t.Fatal(err)
	}
	if err := m.Begin(""); err != nil {
		t.Fatal(err)
	}
	if err := m.crashed("late"); err != nil {
		t.Fatal(err)
	}
	if task, _ := m.Crashed(); task != "" {
		t.Errorf("Crashed() = %q after the task ended; want nothing", task)
	}
}

func TestLastWords(t *testing.T) {
	for _, c := range []struct {
		name, out string
		status    unix.WaitStatus
		want      string
	}{
		{"panic", "starting\npanic: runtime error: index out of range\n\ngoroutine 1 [running]:\n", 2 << 8, "panic: runtime error: index out of range"},
		{"error", "level=INFO\nfettle-agent: no network port has the MAC\n", 1 << 8, "no network port has the MAC"},
		{"killed", "level=INFO msg=x\n", 9, "killed by signal 9 (killed)"},
		{"silent", "", 3 << 8, "exit status 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tl := &tail{done: make(chan struct{})}
			con := &console{lines: make(chan string, 100)}
			tl.copy(io.NopCloser(strings.NewReader(c.out)), con)
			if got := tl.lastWords(c.status); got != c.want {
				t.Errorf("lastWords = %q; want %q", got, c.want)
			}
		})
	}
}

func TestConsoleNeverBlocks(t *testing.T) {
	c := &console{lines: make(chan string, 2)} // nobody drains it
	for range 100 {
		c.print("line")
	}
	if len(c.lines) != 2 {
		t.Errorf("%d lines kept; want 2", len(c.lines))
	}
}

func TestConsoleOpensEachOnce(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"tty0", "ttyS0"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	active := filepath.Join(dir, "active")
	if err := os.WriteFile(active, []byte("tty0 ttyS0 ttyS0 ttyS9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := &console{lines: make(chan string, 1)}
	c.open(active, dir)
	if len(c.ttys) != 2 {
		t.Errorf("opened %d consoles; want 2", len(c.ttys))
	}
}
