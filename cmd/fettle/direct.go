package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
)

// auditFile is below the state's home: a line of JSON for each command that
// went to real BMCs past a server's events.
const auditFile = "bmc-direct.jsonl"

// auditLine is one line of it.
type auditLine struct {
	Time     time.Time `json:"time"`
	User     string    `json:"user"`
	Command  string    `json:"command"`
	Machines []string  `json:"machines"`
}

func directFlag() cli.Flag {
	return &cli.BoolFlag{Name: "direct", Usage: "go to the BMCs past the fettle serve that runs here: no event tells of it, and nothing keeps its runs away"}
}

// noteDirect says that a command goes past the server, and leaves a line of it
// on this machine. Where the line cannot be written the command still goes on:
// it is for the day when nothing else works.
func (e *env) noteDirect(c *cli.Context, targets []bmc.Target, now time.Time) {
	l := auditLine{Time: now.UTC(), User: e.userName(), Command: commandName(c), Machines: []string{}}
	for _, t := range targets {
		l.Machines = append(l.Machines, t.Name)
	}
	file := filepath.Join(stateHome(e), auditFile)
	if err := appendAudit(file, l); err != nil {
		fmt.Fprintf(e.stderr, "directly to %s; no line is left of it: %v\n", countBMCs(len(targets)), err)
		return
	}
	fmt.Fprintf(e.stderr, "directly to %s, past any server's events; noted in %s\n", countBMCs(len(targets)), file)
}

func countBMCs(n int) string {
	if n == 1 {
		return "the BMC"
	}
	return fmt.Sprintf("%d BMCs", n)
}

// commandName is the command's words without flags: "bmc power off".
func commandName(c *cli.Context) string {
	var words []string
	for _, l := range c.Lineage() {
		if l.Command != nil && l.Command.Name != "" && l.Command.Name != c.App.Name {
			words = append([]string{l.Command.Name}, words...)
		}
	}
	return strings.Join(words, " ")
}

// userName is who types: behind sudo, the person.
func (e *env) userName() string {
	if s := e.getenv("SUDO_USER"); s != "" {
		return s
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Geteuid())
}

// appendAudit adds a line in one write, so that commands at once do not mix
// theirs, and waits until it is on the disk.
func appendAudit(file string, l auditLine) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encoding a line for %s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
