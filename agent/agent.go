// Package agent is the program that works on a machine while it runs from RAM:
// it takes the machine's Inventory, asks the server for a Task, writes and
// verifies a Disk, and Reports. It knows nothing of the site file and holds no
// credentials beyond the token of its run. What it says to the server is in
// wire/PROTOCOL.md.
//
// A deployment goes through the stages plan, wipe, write, verify, seed and
// finish; only the last one makes the disk bootable.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
)

// PathCA is where the ramdisk has the CA that the server is verified by.
const PathCA = wire.PathCA

// Inventory is what the agent finds on a machine.
type Inventory = wire.Inventory

// Power restarts or stops the machine; both return only if they fail.
type Power interface {
	Reboot() error
	PowerOff() error
}

// Memory outlives a crash of the agent's process, but not a restart of the
// machine: it tells a new process which task killed the old one.
type Memory interface {
	// Begin records the task being done, "" for none.
	Begin(task string) error
	// Crashed gives the task that a crash interrupted, and the crash's last
	// words; "" when there was none. It forgets them.
	Crashed() (task, words string)
}

// Config is what an agent is made of. Server, Token, Disks, FileSystems, Power
// and Inventory are needed; the rest has defaults.
type Config struct {
	Server      *url.URL
	Token       Token
	CA          []byte // PEM; needed for https
	Inventory   func() (wire.Inventory, error)
	Disks       Disks
	FileSystems FileSystems
	Power       Power
	Clock       Clock
	Memory      Memory
	Logger      *slog.Logger

	Talk  Retry         // for inventory, task and reports
	Fetch Retry         // for images
	Stall time.Duration // a download without bytes for so long is begun again
	Every time.Duration // progress reports at most so often
}

// Agent does tasks, one after the other.
type Agent struct {
	c      Config
	client *client
	uefi   bool        // how the machine boots, as its inventory says
	last   wire.Report // final report of the last task, for when it comes again
}

// New checks the configuration; it opens nothing.
func New(c Config) (*Agent, error) {
	if c.Server == nil {
		return nil, fmt.Errorf("the kernel command line has no %s=: boot the machine through fettle", wire.ArgServer)
	}
	if c.Token == "" {
		return nil, fmt.Errorf("the kernel command line has no %s=: boot the machine through fettle", wire.ArgToken)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Talk == (Retry{}) {
		c.Talk = Retry{Min: 500 * time.Millisecond, Max: 15 * time.Second}
	}
	if c.Fetch == (Retry{}) {
		c.Fetch = Retry{Min: 500 * time.Millisecond, Max: 15 * time.Second, GiveUp: 10 * time.Minute}
	}
	if c.Stall == 0 {
		c.Stall = time.Minute
	}
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.Clock == nil {
		c.Clock = SystemClock{}
	}
	cl, err := newClient(c.Server, c.Token, c.CA, c.Clock, c.Logger)
	if err != nil {
		return nil, err
	}
	return &Agent{c: c, client: cl}, nil
}

// Run introduces the machine and does tasks until ctx ends. It survives
// whatever server and network do.
func (a *Agent) Run(ctx context.Context) error {
	a.recall()
	for ctx.Err() == nil {
		if err := a.introduce(ctx); err != nil {
			return err
		}
		if a.last.Task != "" {
			a.repeat(ctx)
		}
		if err := a.tasks(ctx); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// recall makes the task that a crash interrupted a failed one, so that it is
// not tried for ever.
func (a *Agent) recall() {
	if a.c.Memory == nil {
		return
	}
	if task, words := a.c.Memory.Crashed(); task != "" {
		a.last = wire.Report{Task: task, Step: wire.StepFailed, Time: a.c.Clock.Now(),
			Error: fmt.Sprintf("the agent crashed (%s): deploy again, and report this with the console's log", words)}
	}
}

// persist calls f until it succeeds or ctx ends; stop names a status that ends
// it too.
func (a *Agent) persist(ctx context.Context, what string, stop int, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if err == nil || (stop != 0 && hasStatus(err, stop)) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d := a.c.Talk.Delay(n)
		msg := what + " failed; trying again"
		if hasStatus(err, http.StatusUnauthorized) || hasStatus(err, http.StatusForbidden) {
			msg = what + ": the server no longer takes this run's token; if the machine is not restarted soon, deploy it again"
			d = max(d, a.c.Talk.Max)
		}
		a.c.Logger.Warn(msg, "error", err, "in", d.Round(time.Millisecond))
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
}

// introduce posts the inventory.
func (a *Agent) introduce(ctx context.Context) error {
	return a.persist(ctx, "sending the inventory", 0, func() error {
		inv, err := a.c.Inventory()
		if err != nil {
			return err
		}
		a.uefi = inv.Firmware.Kind == wire.FirmwareUEFI
		return a.client.call(ctx, wire.PathInventory, inv, nil)
	})
}

// tasks asks for tasks until the server wants the inventory again (409).
func (a *Agent) tasks(ctx context.Context) error {
	for {
		var t wire.Task
		asked := time.Now()
		err := a.persist(ctx, "asking for a task", http.StatusConflict, func() error {
			t = wire.Task{}
			return a.client.call(ctx, wire.PathTask, nil, &t)
		})
		if hasStatus(err, http.StatusConflict) {
			a.c.Logger.Info("the server wants the inventory again")
			if err := sleep(ctx, a.c.Talk.Delay(1)); err != nil {
				return err
			}
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.do(ctx, t); err != nil {
			return err
		}
		// A server that answers at once must not make us spin.
		if t.Kind == wire.TaskWait || t.ID == a.last.Task {
			if rest := a.c.Every - time.Since(asked); rest > 0 {
				if err := sleep(ctx, rest); err != nil {
					return err
				}
			}
		}
	}
}

// do does one task. Its outcome is in the reports; an error means that ctx
// ended.
func (a *Agent) do(ctx context.Context, t wire.Task) error {
	if t.Kind == wire.TaskWait {
		return nil
	}
	a.c.Logger.Info("task", "id", t.ID, "kind", t.Kind)
	if t.ID != "" && t.ID == a.last.Task {
		a.repeat(ctx)
		return ctx.Err()
	}
	switch {
	case t.Kind == wire.TaskDeploy && t.Deploy != nil && t.Deploy.MirrorSerial == "",
		t.Kind == wire.TaskMirror && t.Deploy != nil && t.Deploy.MirrorSerial != "":
		return a.deploy(ctx, t)
	case t.Kind == wire.TaskReboot:
		return a.power(ctx, t, "restarting", a.c.Power.Reboot)
	case t.Kind == wire.TaskPowerOff:
		return a.power(ctx, t, "switching off", a.c.Power.PowerOff)
	case t.Kind == wire.TaskHalt:
		a.c.Logger.Info("waiting until the BMC acts")
		<-ctx.Done()
		return context.Cause(ctx)
	}
	a.finish(ctx, t.ID, fmt.Errorf("this agent cannot do a task of kind %q: build the agent image again and restart the machine", t.Kind))
	return ctx.Err()
}

func (a *Agent) power(ctx context.Context, t wire.Task, what string, act func() error) error {
	a.c.Logger.Info(what)
	if err := act(); err != nil {
		a.finish(ctx, t.ID, fmt.Errorf("%s failed: %w: use the BMC", what, err))
		return ctx.Err()
	}
	<-ctx.Done() // the machine is about to go
	return context.Cause(ctx)
}

// finish reports the outcome of a task that had no other reports.
func (a *Agent) finish(ctx context.Context, task string, err error) {
	a.last = outcome(err)
	a.last.Task, a.last.Time = task, a.c.Clock.Now()
	a.c.Logger.Error("task failed", "id", task, "error", err)
	a.repeat(ctx)
}

// repeat delivers the last final report (again).
func (a *Agent) repeat(ctx context.Context) {
	r := a.newReporter(a.last.Task, func() {})
	r.start(ctx)
	r.add(a.last)
	<-r.done
}

func outcome(err error) wire.Report {
	if err != nil {
		return wire.Report{Step: wire.StepFailed, Error: err.Error()}
	}
	return wire.Report{Step: wire.StepDone, Text: "the disk is written, verified and seeded"}
}

func (a *Agent) newReporter(task string, gone func()) *reporter {
	return &reporter{
		send:  func(ctx context.Context, rep wire.Report) error { return a.client.call(ctx, wire.PathReport, rep, nil) },
		retry: a.c.Talk, every: a.c.Every, now: a.c.Clock.Now, log: a.c.Logger, task: task, gone: gone,
	}
}

var errEnded = errors.New("the server has ended this task")

func (a *Agent) deploy(ctx context.Context, t wire.Task) error {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := a.newReporter(t.ID, func() { cancel(errEnded) })
	r.start(ctx)
	if a.c.Memory != nil {
		if err := a.c.Memory.Begin(t.ID); err != nil {
			a.c.Logger.Warn("a crash could not be told from a restart", "error", err)
		}
	}
	src := &source{get: a.client.get, data: t.Deploy.DataURL, retry: a.c.Fetch, stall: a.c.Stall, log: a.c.Logger}
	started := time.Now()
	err := a.guarded(func() error {
		return deploy(work, t.Deploy, src, a.c.Disks, a.c.FileSystems, a.uefi, a.c.Logger, func(step wire.Step, text string, done, total int64) {
			if text != "" {
				a.c.Logger.Info(text, "step", step)
			}
			r.add(wire.Report{Step: step, Text: text, Done: done, Total: total})
		})
	})
	if ctx.Err() != nil {
		return context.Cause(ctx) // no outcome: the task is done again from the start
	}
	a.last = outcome(err)
	a.last.Task, a.last.Time = t.ID, a.c.Clock.Now()
	a.c.Logger.Info("task ended", "id", t.ID, "seconds", time.Since(started).Seconds(), "error", err)
	r.add(a.last)
	<-r.done
	if a.c.Memory != nil {
		if err := a.c.Memory.Begin(""); err != nil {
			a.c.Logger.Warn("a crash could not be told from a restart", "error", err)
		}
	}
	return ctx.Err()
}

// guarded makes a panic of this goroutine an error. (One in another goroutine
// ends the process: see Memory.)
func (a *Agent) guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			a.c.Logger.Error("panic", "value", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the agent failed inside (%v): deploy again, and report this with the console's log", p)
		}
	}()
	return f()
}
