package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Modules that no device asks for by name, or whose device shows up too late.
var wantedModules = [...]string{"ext4", "vfat", "nls_cp437", "nls_ascii", "efivarfs", "nvme", "sd_mod", "ipmi_si", "ipmi_devintf", "virtio_rng"}

// drivers loads kernel modules for the devices that sysfs shows: there is no
// udev in the ramdisk. A module can make more devices appear, so it goes on
// until nothing new comes.
type drivers struct {
	sys string
	log *slog.Logger
	run func(ctx context.Context, args ...string) error

	mu    sync.Mutex
	asked map[string]bool
	first bool
}

func newDrivers(sys string, log *slog.Logger) *drivers {
	return &drivers{sys: sys, log: log, asked: map[string]bool{}, first: true, run: func(ctx context.Context, args ...string) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "modprobe", args...).CombinedOutput()
		if err != nil && len(out) > 0 {
			log.Debug("modprobe", "error", err, "output", string(out))
		}
		return err
	}}
}

// Bounds of the settling: rounds with something new, and the quiet ones that
// end it (a SCSI bus is scanned behind our back).
const (
	maxRounds   = 20
	quietRounds = 3
	quietWait   = 100 * time.Millisecond
)

// load loads what new devices ask for. A driver that is missing is no error:
// its device will be.
func (d *drivers) load(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	started := time.Now()
	var count int
	for round, quiet := 0, 0; round < maxRounds && quiet < quietRounds && ctx.Err() == nil; round++ {
		news := d.news()
		if len(news) == 0 && !d.first {
			if quiet++; quiet < quietRounds {
				time.Sleep(quietWait)
			}
			continue
		}
		quiet = 0
		count += len(news)
		for len(news) > 0 {
			n := min(len(news), 100)
			d.try(ctx, append([]string{"-a", "-b", "-q", "--"}, news[:n]...))
			news = news[n:]
		}
		if d.first {
			d.first = false
			d.try(ctx, append([]string{"-a", "-b", "-q", "--"}, wantedModules[:]...))
			mountEFIVars(d.sys, d.log)
		}
	}
	if count > 0 {
		d.log.Info("drivers loaded", "device_names", count, "seconds", time.Since(started).Seconds())
	}
}

// try runs modprobe; its exit status says only that one of many names has no
// module, which is usual.
func (d *drivers) try(ctx context.Context, args []string) {
	err := d.run(ctx, args...)
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		d.log.Error("loading drivers; without them disks and network ports may be missing: build the agent image again", "error", err)
	}
}

// news are the modaliases that were not asked for yet.
func (d *drivers) news() []string {
	var news []string
	err := filepath.WalkDir(filepath.Join(d.sys, "devices"), func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // devices come and go
		}
		if e.Name() != "modalias" || e.IsDir() {
			return nil
		}
		b, err := os.ReadFile(p)
		if a := strings.TrimSpace(string(b)); err == nil && a != "" && !d.asked[a] {
			d.asked[a] = true
			news = append(news, a)
		}
		return nil
	})
	if err != nil {
		d.log.Error("looking for devices", "error", err)
	}
	return news
}

// mountEFIVars mounts the firmware's variables on a machine started by UEFI.
func mountEFIVars(sys string, log *slog.Logger) {
	at := filepath.Join(sys, "firmware/efi/efivars")
	if _, err := os.Stat(at); err != nil {
		return
	}
	if err := unix.Mount("efivarfs", at, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		log.Warn("mounting the firmware's variables", "error", err)
	}
}
