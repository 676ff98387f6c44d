package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap/drill"
)

// mirrorSelftest runs the hostile-upstream drill against this very program.
func (e *env) mirrorSelftest(c *cli.Context) error {
	program := c.String("program")
	if program == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		program = self
	}
	dir, err := os.MkdirTemp("", "fettle-selftest-")
	if err != nil {
		return fmt.Errorf("a folder for the drill: %w", err)
	}
	if !e.json {
		fmt.Fprintf(e.stdout, "%s, against a hostile upstream on loopback:\n\n", program)
	}
	d := &drill.Drill{Dir: dir, Now: time.Now(), Run: runProgram(program), Each: func(r drill.Result) {
		if !e.json {
			e.printResult(r)
		}
	}}
	results, err := d.All(c.Context)
	if rerr := os.RemoveAll(dir); err == nil {
		err = rerr
	}
	if err != nil {
		return err
	}
	bad := 0
	for _, r := range results {
		if !r.Passed {
			bad++
		}
	}
	if e.json {
		if err := e.printJSON(map[string]any{"program": program, "cases": results, "failed": bad}); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d cases failed: do not use %s for an air gap, and report this", bad, len(results), program)
	}
	if !e.json {
		fmt.Fprintf(e.stdout, "\nAll %d cases are as they should be.\n", len(results))
	}
	return nil
}

func (e *env) printResult(r drill.Result) {
	mark := "ok    "
	if !r.Passed {
		mark = "FAILED"
	}
	fmt.Fprintf(e.stdout, "%s  %s %s\n", mark, r.Want, r.Name)
	said := strings.TrimPrefix(r.Said, "fettle: ")
	if r.Want == "refuses" && said != "" {
		fmt.Fprintf(e.stdout, "          status %d: %s\n", r.Status, printable(said))
	}
	if r.Why != "" {
		fmt.Fprintf(e.stdout, "          %s\n", printable(r.Why))
	}
}

// runProgram runs a program with arguments. What a person set for it in the
// environment is left out.
func runProgram(program string) func(ctx context.Context, args ...string) (int, string, error) {
	return func(ctx context.Context, args ...string) (int, string, error) {
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		for _, v := range os.Environ() {
			name, _, _ := strings.Cut(v, "=")
			if !strings.HasPrefix(name, "FETTLE_") && !strings.HasSuffix(strings.ToLower(name), "_proxy") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.WaitDelay = 5 * time.Second
		err := cmd.Run()
		var ee *exec.ExitError
		if errors.As(err, &ee) && ctx.Err() == nil {
			return ee.ExitCode(), out.String(), nil
		}
		if ctx.Err() != nil {
			return -1, out.String(), fmt.Errorf("fettle %s did not end: %w", strings.Join(args[:min(2, len(args))], " "), ctx.Err())
		}
		return 0, out.String(), err
	}
}
