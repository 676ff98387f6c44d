// Command fettle provisions owned servers and the labs that mirror them.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/urfave/cli/v2"
)

// Exit statuses. They are documented in the help page of fettle.
const (
	exitOK          = 0
	exitFailed      = 1 // the work was tried and failed
	exitUsage       = 2 // flags or arguments are wrong
	exitInput       = 3 // a file that was read is wrong: site, secrets, image
	exitMissing     = 4 // this machine lacks something: see fettle doctor
	exitRefused     = 5 // needs a yes, or a plan has changed
	exitInterrupted = 130
)

// env is what a command may touch of the world. Everything a command prints
// goes through it, so that the whole command line is callable from a test.
type env struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string
	log    *slog.Logger
	json   bool // --output json
	tty    bool // stdout is a terminal
}

// exitError carries an exit status with an error that is already a whole
// sentence for the user.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// fail gives err an exit status.
func fail(status int, err error) error {
	if err == nil {
		return nil
	}
	return &exitError{status, err}
}

// usage is a usage error.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// printJSON writes v as indented JSON to stdout.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// exitStatus maps an error to an exit status: the one switch.
func exitStatus(err error) int {
	if err == nil {
		return exitOK
	}
	var ee *exitError
	if errors.As(err, &ee) {
		return ee.status
	}
	return exitFailed
}

// siteFlag is the flag of every command that reads a site folder.
func siteFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "site", Value: ".", EnvVars: []string{"FETTLE_SITE"}, Usage: "site folder", TakesFile: true}
}

// Each area has its own file with a func xxxCommands(e *env) []*cli.Command:
// site.go, state.go (events), bmc.go, image.go, lab.go, serve.go, machine.go,
// doctor.go; main.go joins them.

// printLine writes v as one line of JSON to stdout.
func (e *env) printLine(v any) error { return json.NewEncoder(e.stdout).Encode(v) }
