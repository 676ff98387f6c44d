package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/labs"
)

// labSSH runs ssh to a machine of the lab, through its daemon.
func labSSH(c *cli.Context, e *env, interactive bool) error {
	dir, err := labDir(c)
	if err != nil {
		return err
	}
	if c.NArg() == 0 || (!interactive && c.NArg() < 2) {
		return usage("%s takes a machine and a command", c.Command.HelpName)
	}
	info, err := labInfoOf(c.Context, dir)
	if err != nil {
		return fmt.Errorf("lab %s: its daemon does not answer (%w): fettle lab up starts it", filepath.Base(dir), err)
	}
	name, command := c.Args().First(), c.Args().Tail()
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	i := slices.IndexFunc(info.Machines, func(m labMachine) bool { return m.Name == name })
	if i < 0 {
		return usage("lab %s has no machine %q", info.Name, name)
	}
	m := info.Machines[i]
	if m.Address == "" {
		return fmt.Errorf("machine %s has no fixed address in the site file: give its boot port one (address: or ipv6:)", name)
	}
	args, err := sshArgs(dir, m)
	if err != nil {
		return err
	}
	ssh := exec.CommandContext(c.Context, "ssh", append(args, command...)...)
	ssh.Stdin, ssh.Stdout, ssh.Stderr = e.stdin, e.stdout, e.stderr
	err = ssh.Run()
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee) && ee.ExitCode() > 0 && ee.ExitCode() != 255:
		return &exitError{ee.ExitCode(), fmt.Errorf("the command on %s ended with status %d", name, ee.ExitCode())}
	case errors.Is(err, exec.ErrNotFound):
		return fail(exitMissing, fmt.Errorf("%w: install openssh-client", err))
	case err != nil:
		return fmt.Errorf("ssh to %s: %w: fettle machine why %s tells whether it is ready", name, err, name)
	}
	return nil
}

// sshArgs are ssh's arguments for a machine: the lab's key, the host keys that
// the machine's installed system reported, and the way through the daemon.
func sshArgs(dir string, m labMachine) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	strict := "yes"
	var known strings.Builder
	for _, k := range m.HostKeys {
		fmt.Fprintf(&known, "%s %s\n", m.Name, k)
	}
	if len(m.HostKeys) == 0 {
		strict = "accept-new"
	}
	file := filepath.Join(dir, labKeysFolder, "known_hosts."+m.Name)
	if err := os.WriteFile(file, []byte(known.String()), 0o600); err != nil {
		return nil, fmt.Errorf("writing known hosts: %w", err)
	}
	return []string{
		"-F", "none", "-i", filepath.Join(dir, labKeysFolder, "id_ed25519"),
		"-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + file, "-o", "GlobalKnownHostsFile=none",
		"-o", "HostKeyAlias=" + m.Name, "-o", "StrictHostKeyChecking=" + strict, "-o", "LogLevel=ERROR",
		"-o", "ConnectTimeout=60",
		"-o", "ProxyCommand=" + shellQuote(self) + " lab dial --dir " + shellQuote(dir) + " %h %p",
		m.User + "@" + m.Address,
	}, nil
}

// shellQuote quotes a word for the shell that ssh gives ProxyCommand to; % is
// ssh's own.
func shellQuote(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// labConsole shows a console, or joins it with the terminal.
func labConsole(c *cli.Context, e *env) error {
	dir, err := labDir(c)
	if err != nil {
		return err
	}
	name, err := oneArg(c, "machine")
	if err != nil {
		return err
	}
	if c.Bool("log") {
		f, err := os.Open(labs.ConsoleLog(dir, name))
		if err != nil {
			return fmt.Errorf("console log of %s: %w", name, err)
		}
		defer f.Close()
		_, err = io.Copy(e.stdout, f)
		return err
	}
	conn, err := labs.DialConsole(c.Context, dir, name)
	if err != nil {
		return err
	}
	defer conn.Close()
	return e.attach(c.Context, conn)
}
