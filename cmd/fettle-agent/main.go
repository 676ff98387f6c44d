// Command fettle-agent is what runs on a machine while it is in fettle's RAM:
// the init of the agent's ramdisk, and the worker that init starts.
//
// As process 1 it is init: it mounts, keeps the consoles, reaps, and starts
// itself again as the worker ("fettle-agent work") whenever that ends. The
// worker loads drivers, configures the network and does what the server says.
//
//	fettle-agent work        the worker (needs root; used by init)
//	fettle-agent inventory   print this machine's inventory as JSON
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/agent"
)

// runDir holds what outlives a worker.
const runDir = "/run/fettle"

func main() {
	if os.Getpid() == 1 {
		runInit() // never returns
	}
	os.Exit(command(os.Args[1:], os.Stdout, os.Stderr))
}

// command is the whole command line; it returns the exit status.
func command(args []string, stdout, stderr io.Writer) int {
	what := ""
	if len(args) == 1 {
		what = args[0]
	}
	var err error
	switch what {
	case "work":
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		err = work(ctx, slog.New(slog.NewTextHandler(stderr, nil)))
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	case "inventory":
		var inv any
		if inv, err = agent.SystemRoots().Inventory(version()); err == nil {
			enc := json.NewEncoder(stdout)
			enc.SetIndent("", "  ")
			err = enc.Encode(inv)
		}
	default:
		fmt.Fprintln(stderr, "usage: fettle-agent inventory | work (exit status 0 = done, 1 = failed, 2 = wrong use); it is meant to be the init of fettle's ramdisk")
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, "fettle-agent:", err)
		return 1
	}
	return 0
}

// work is the worker: it only returns when it cannot go on, and init starts
// another.
func work(ctx context.Context, log *slog.Logger) error {
	log.Info("fettle-agent starts", "version", version())
	clock := agent.SystemClock{}
	if built := buildTime(); clock.Now().Before(built) {
		log.Warn("the clock is behind this program's own date; set to that", "was", clock.Now().Format(time.DateTime), "is", built.Format(time.DateTime))
		if err := clock.Set(built); err != nil {
			log.Error("setting the clock", "error", err)
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	boot, err := agent.ParseCmdline(string(line))
	if err != nil {
		return err
	}
	drivers := newDrivers("/sys", log)
	drivers.load(ctx)
	addressed, err := startNetwork(ctx, boot.MAC, boot.ServerAddr(), drivers, log)
	if err != nil {
		return err
	}
	waitForLinks(ctx, linksWait)
	log.Info("network is up", "port", addressed.port, "address", addressed.addr)
	ca, err := os.ReadFile(agent.PathCA)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	roots := agent.SystemRoots()
	a, err := agent.New(agent.Config{
		Server: boot.Server, Token: boot.Token, CA: ca, Clock: clock, Logger: log,
		Inventory: func() (agent.Inventory, error) {
			drivers.load(ctx)
			bringUp(log)
			inv, err := roots.Inventory(version())
			addressed.mark(&inv)
			return inv, err
		},
		Disks:       agent.BlockDisks{Roots: roots},
		FileSystems: agent.Tools{Dir: runDir + "/root"},
		Power:       power{},
		Memory:      memory{dir: runDir},
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// power is the kernel's own way to restart, reboot(2).
type power struct{}

func (power) Reboot() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func (power) PowerOff() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// Set by the linker where the go command does not stamp programs:
// -ldflags "-X main.linkVersion=... -X main.linkTime=2006-01-02T15:04:05Z".
var linkVersion, linkTime string

// version is the commit that this program was built from.
func version() string {
	if linkVersion != "" {
		return linkVersion
	}
	if v := setting("vcs.revision"); v != "" {
		if setting("vcs.modified") == "true" {
			return v[:min(12, len(v))] + "+changed"
		}
		return v[:min(12, len(v))]
	}
	return "unknown"
}

// buildTime is the date of that commit: no clock may be earlier.
func buildTime() time.Time {
	stamp := linkTime
	if stamp == "" {
		stamp = setting("vcs.time")
	}
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return time.Time{}
	}
	return t
}

func setting(key string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
