package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// version is set by the Makefile: -ldflags "-X main.version=...".
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := &env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv,
		tty: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb",
	}
	os.Exit(run(ctx, e, os.Args))
}

// run is the whole command line: it never exits the process, so that a test
// can call it.
func run(ctx context.Context, e *env, args []string) int {
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	app := newApp(e)
	err := app.RunContext(ctx, flagsFirst(app, args))
	if err != nil && ctx.Err() != nil {
		// A program that was interrupted with fettle may have ended first.
		if !errors.Is(err, context.Canceled) && exitStatus(err) != exitInterrupted {
			fmt.Fprintf(e.stderr, "fettle: %v\n", err)
		}
		then := "nothing is half-done; the same command goes on where it stopped"
		var left *leftRunning
		if errors.As(err, &left) {
			then = left.Error()
		}
		fmt.Fprintf(e.stderr, "fettle: interrupted: %s\n", then)
		return exitInterrupted
	}
	if err != nil {
		fmt.Fprintf(e.stderr, "fettle: %v\n", err)
	}
	return exitStatus(err)
}

func newApp(e *env) *cli.App {
	app := &cli.App{
		Name:                 "fettle",
		Usage:                "provision owned servers, the labs that mirror them, and air-gapped sites",
		Version:              version,
		Reader:               e.stdin,
		Writer:               e.stdout,
		ErrWriter:            e.stderr,
		HideHelpCommand:      true,
		EnableBashCompletion: true,
		Suggest:              true,
		Description: strings.TrimSpace(`
A site folder says what should be; fettle makes it so, on racks (serve, machine,
bmc) and in a lab on this machine (lab), and remembers what happened (events).

Exit statuses: 0 done; 1 tried and failed; 2 wrong flags or arguments; 3 a file
is wrong (site, secrets, image); 4 this machine lacks something (see fettle
doctor); 5 refused: it needs a yes, or the plan changed; 130 interrupted.`),
		Flags: []cli.Flag{
			outputFlag(),
			&cli.BoolFlag{Name: "verbose", Usage: "log to standard error"},
		},
		Before: func(c *cli.Context) error {
			if err := e.setOutput(c.String("output")); err != nil {
				return err
			}
			if c.Bool("verbose") {
				e.log = slog.New(slog.NewTextHandler(e.stderr, nil))
			}
			return nil
		},
		ExitErrHandler: func(*cli.Context, error) {}, // only main exits
		OnUsageError: func(c *cli.Context, err error, _ bool) error {
			return usage("%w: see %s --help", err, c.App.Name)
		},
		CommandNotFound: func(c *cli.Context, name string) {
			fmt.Fprintf(e.stderr, "fettle: no command %q\n", name)
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage("no command %q: see fettle --help", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	app.Commands = slices.Concat(
		siteCommands(e),
		serveCommands(e),
		tokenCommands(e),
		withFlags(connFlags, machineCommands(e)),
		withFlags(connFlags, eventsCommands(e, e.connect)),
		discoverCommands(e), enrollCommands(e),
		bootCommands(e),
		benchCommands(e),
		bmcCommands(e, e.bmcTargets, e.bmcServer),
		labCommands(e),
		imageCommands(e),
		mirrorCommands(e), bundleCommands(e), airgapCommands(e),
		doctorCommands(e),
	)
	e.finish(app.Commands)
	return app
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json"}
}

func (e *env) setOutput(v string) error {
	switch v {
	case "text", "json":
		e.json = v == "json"
		return nil
	}
	return usage("--output is text or json, not %q", v)
}

// withFlags gives flags to all commands that do something.
func withFlags(flags func() []cli.Flag, cmds []*cli.Command) []*cli.Command {
	for _, c := range cmds {
		if len(c.Subcommands) > 0 {
			withFlags(flags, c.Subcommands)
			continue
		}
		c.Flags = append(c.Flags, flags()...)
	}
	return cmds
}

// finish gives every command what all have: --output behind its name too, the
// same handling of wrong flags, and an error for an unknown subcommand or an
// argument that nothing reads.
func (e *env) finish(cmds []*cli.Command) {
	for _, c := range cmds {
		if c.OnUsageError == nil {
			c.OnUsageError = func(c *cli.Context, err error, _ bool) error {
				return usage("%w: see %s --help", err, c.Command.HelpName)
			}
		}
		c.HideHelpCommand = true
		if len(c.Subcommands) == 0 {
			e.finishLeaf(c)
			continue
		}
		if c.Action == nil {
			c.Action = func(c *cli.Context) error {
				if c.Args().Present() {
					return usage("no command %q in %s: see %s --help", c.Args().First(), c.Command.HelpName, c.Command.HelpName)
				}
				return cli.ShowSubcommandHelp(c)
			}
		}
		e.finish(c.Subcommands)
	}
}

func (e *env) finishLeaf(c *cli.Command) {
	if c.Action == nil {
		return
	}
	has := slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "output") || slices.Contains(f.Names(), "o") })
	if !has {
		c.Flags = append(c.Flags, outputFlag())
	}
	needed := takeRequired(c)
	action := c.Action
	c.Action = func(c *cli.Context) error {
		for _, name := range needed {
			if !c.IsSet(name) {
				return usage("%s needs --%s: see %s --help", c.Command.HelpName, name, c.Command.HelpName)
			}
		}
		if c.Command.ArgsUsage == "" {
			if err := nargs(c, 0); err != nil {
				return err
			}
		}
		if !has && c.IsSet("output") {
			if err := e.setOutput(c.String("output")); err != nil {
				return err
			}
		}
		return action(c)
	}
}

// takeRequired gives the names of a command's required flags, which are looked
// for here: the library's own error is no wrong usage, and with arguments it
// speaks of commands that they are not.
func takeRequired(c *cli.Command) []string {
	var names []string
	c.Flags = slices.Clone(c.Flags)
	for i, f := range c.Flags { // commands share flags: each gets a copy
		switch f := f.(type) {
		case *cli.StringFlag:
			if own := *f; own.Required {
				own.Required, own.Usage = false, own.Usage+" (required)"
				names, c.Flags[i] = append(names, own.Name), &own
			}
		case *cli.Float64Flag:
			if own := *f; own.Required {
				own.Required, own.Usage = false, own.Usage+" (required)"
				names, c.Flags[i] = append(names, own.Name), &own
			}
		}
	}
	return names
}

// confirm asks a person; without a terminal to ask, or with a no, it refuses.
func (e *env) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !e.tty {
		return fail(exitRefused, fmt.Errorf("%s: say --yes", question))
	}
	fmt.Fprintf(e.stderr, "%s? Type yes: ", question)
	var answer string
	if _, err := fmt.Fscanln(e.stdin, &answer); err != nil && !errors.Is(err, io.EOF) && answer == "" {
		return fail(exitRefused, errors.New("not confirmed"))
	}
	if answer != "yes" {
		return fail(exitRefused, errors.New("not confirmed"))
	}
	return nil
}
