package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/images"
)

// storeDir is the folder of images.
func storeDir(c *cli.Context, e *env) string {
	if d := c.String("store"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/fettle"
	}
	if d := e.getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "fettle")
	}
	return filepath.Join(e.getenv("HOME"), ".local", "share", "fettle")
}

// builder is a builder of images into the command's store.
func (e *env) builder(c *cli.Context) (*images.Builder, error) {
	dir := storeDir(c, e)
	store, err := images.OpenStore(dir)
	if err != nil {
		return nil, err
	}
	return &images.Builder{Store: store, Cache: filepath.Join(dir, "cache"), Progress: newBuildProgress(e, time.Now).step}, nil
}

// buildImages builds the agent and the loaders of architectures and OS images,
// each only if the store lacks it.
func (e *env) buildImages(c *cli.Context, archs []string, specs []images.DiskSpec) error {
	b, err := e.builder(c)
	if err != nil {
		return err
	}
	var jobs []func(context.Context) (images.Release, bool, error)
	for _, arch := range archs {
		jobs = append(jobs, func(ctx context.Context) (images.Release, bool, error) { return b.AgentFor(ctx, arch) },
			func(ctx context.Context) (images.Release, bool, error) { return b.LoadersFor(ctx, arch) })
	}
	for _, s := range specs {
		jobs = append(jobs, func(ctx context.Context) (images.Release, bool, error) { return b.Disk(ctx, s) })
	}
	for _, build := range jobs {
		start := time.Now()
		r, cached, err := build(c.Context)
		if err != nil {
			return imageFail(err)
		}
		if e.json {
			if err := e.printLine(map[string]any{"image": r.Name, "inputs": r.Inputs, "cached": cached, "bytes": r.Size()}); err != nil {
				return err
			}
			continue
		}
		how := fmt.Sprintf("built in %s", time.Since(start).Round(time.Second))
		if cached {
			how = "is there already"
		}
		fmt.Fprintf(e.stderr, "image %s %s (%s)\n", r.Name, how, bytesText(r.Size()))
	}
	return nil
}

// buildProgress draws a build: one line that is redrawn on a terminal, a line
// per stage otherwise.
type buildProgress struct {
	e     *env
	now   func() time.Time
	last  images.Progress
	drawn time.Time
}

func newBuildProgress(e *env, now func() time.Time) *buildProgress {
	return &buildProgress{e: e, now: now}
}

func (b *buildProgress) step(p images.Progress) {
	changed := p.Stage != b.last.Stage || p.Name != b.last.Name
	b.last = p
	amount := ""
	if p.Total > 0 {
		amount = fmt.Sprintf("%3d%%  %s of %s", p.Done*100/p.Total, bytesText(p.Done), bytesText(p.Total))
	}
	switch {
	case b.e.json:
		if changed {
			_ = b.e.printLine(p)
		}
	case b.e.tty:
		now := b.now()
		if !changed && now.Sub(b.drawn) < 200*time.Millisecond {
			return
		}
		b.drawn = now
		end := ""
		if p.Stage == images.StageDone || p.Stage == images.StageCached {
			end = "\r\x1b[K"
			fmt.Fprint(b.e.stderr, end)
			return
		}
		fmt.Fprintf(b.e.stderr, "\r\x1b[K%-12s %-10s %s %s", p.Name, p.Stage, p.Text, amount)
	case changed && p.Stage != images.StageDone && p.Stage != images.StageCached:
		fmt.Fprintf(b.e.stderr, "%s  %-12s %-12s %s\n", b.now().Format("15:04:05"), p.Name, p.Stage, p.Text)
	}
}
