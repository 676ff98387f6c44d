package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// limit of one run of one program.
const runLimit = 4 * time.Minute

// command is a program to be measured.
type command struct {
	name  string
	needs []string // programs that must be there
	setup func(dir string) error
	args  func(dir string) []string // in dir
	env   []string
	ours  bool
	note  string
}

// measure runs a program under GNU time. What wait4 tells of a child of a
// large program counts the parent's memory too, from before its exec; time is
// small.
func (b *bench) measure(ctx context.Context, dir string, env, args []string) (row, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	figures := filepath.Join(b.dir, "figures")
	cmd := exec.CommandContext(ctx, "time", append([]string{"-q", "-o", figures, "-f", "%e %U %S %M"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start).Seconds()
	if err != nil {
		tail := out.String()
		return row{}, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, tail[max(0, len(tail)-600):])
	}
	data, err := os.ReadFile(figures)
	if err != nil {
		return row{}, err
	}
	var e, u, s, m float64
	if _, err := fmt.Sscan(string(data), &e, &u, &s, &m); err != nil {
		return row{}, fmt.Errorf("what time says of %s: %w", args[0], err)
	}
	return row{Wall: wall, CPU: u + s, MB: m / 1000}, nil
}

// compete measures programs at one work, and each again where again is not
// "": the same with nothing changed. They take turns, so that a noisy moment
// does not meet one only.
//
// What a run wrote is put aside until the end, and made durable. Removed at
// once it would burden the next one: ext4 passes over inodes that were deleted
// within the last half minute one by one, which took a third of the CPU of a
// sync of 2,010 files.
func (b *bench) compete(ctx context.Context, work, again string, cs []command) (err error) {
	best, second := map[string]row{}, map[string]row{}
	aside := filepath.Join(b.dir, "aside")
	defer func() { err = errors.Join(err, os.RemoveAll(aside)) }()
	var errs []error
	gone := map[string]bool{}
	for round := range b.rounds {
		for _, c := range cs {
			if gone[c.name] || !b.has(c) {
				gone[c.name] = true
				continue
			}
			fmt.Fprintf(b.log, "%s: %s, round %d\n", work, c.name, round+1)
			dir := filepath.Join(b.work, strings.Map(plain, c.name))
			err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755), os.MkdirAll(aside, 0o755))
			if err == nil && c.setup != nil {
				err = c.setup(dir)
			}
			if err != nil {
				return err
			}
			keep := func(into map[string]row) error {
				r, err := b.measure(ctx, dir, c.env, c.args(dir))
				r.Program, r.Note, r.Ours = c.name, c.note, c.ours
				if old, ok := into[c.name]; err == nil && (!ok || r.Wall < old.Wall) {
					into[c.name] = r
				}
				return err
			}
			err = keep(best)
			for range 2 {
				if err == nil && again != "" {
					err = keep(second)
				}
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				errs, gone[c.name] = append(errs, err), true
			}
			if err := errors.Join(prepareWith("sync", "-f", dir), os.Rename(dir, filepath.Join(aside, fmt.Sprintf("%d-%s", round, filepath.Base(dir))))); err != nil {
				return err
			}
		}
	}
	b.add(work, cs, best)
	if again != "" {
		b.add(again, cs, second)
	}
	return errors.Join(errs...)
}

// plain leaves what a shell does not split.
func plain(r rune) rune {
	if r == ' ' || r == ',' {
		return '-'
	}
	return r
}

func (b *bench) add(work string, cs []command, from map[string]row) {
	for _, c := range cs {
		if r, ok := from[c.name]; ok {
			r.Work = work
			b.rows = append(b.rows, r)
		}
	}
}

// has tells whether a program's needs are there, and says so if not.
func (b *bench) has(c command) bool {
	for _, n := range append([]string{"time"}, c.needs...) {
		if _, err := exec.LookPath(n); err != nil {
			fmt.Fprintf(b.log, "%s is left out: %v\n", c.name, err)
			return false
		}
	}
	return true
}
