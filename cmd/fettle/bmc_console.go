package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/provision"
)

// consoleCommand is a machine's serial console by its BMC.
func (b *bmcCommand) consoleCommand(which func(...cli.Flag) []cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "console", Usage: "show and use a machine's serial console, by IPMI's serial over LAN; leave with Ctrl-]", ArgsUsage: "MACHINE",
		Description: "What the machine says is kept too, in consoles/MACHINE.log in fettle's state folder. A BMC that the site speaks\n" +
			"to by Redfish is asked by IPMI at the same address, port 623.",
		Flags: which(&cli.BoolFlag{Name: "take", Usage: "end the session of somebody else who has the console"},
			&cli.IntFlag{Name: "ipmi-port", Value: 623, Usage: "UDP port of a BMC that the site speaks to by Redfish"}),
		Action: b.console,
	}
}

// logged is a console whose words are kept.
type logged struct {
	io.ReadWriter
	log *os.File
}

func (l logged) Write(p []byte) (int, error) {
	if _, err := l.log.Write(p); err != nil {
		return 0, fmt.Errorf("keeping the console's log: %w", err)
	}
	return l.ReadWriter.Write(p)
}

func (b *bmcCommand) console(c *cli.Context) error {
	w, err := b.pick(c, "")
	if err != nil {
		return err
	}
	if len(w.names) != 1 {
		return usage("one console at a time; %d machines were selected", len(w.names))
	}
	if w.server != nil {
		return b.servedConsole(c, w)
	}
	t := w.targets[0]
	if t.System != "" && c.String("lab") == "" { // a lab's have ports of their own
		s, err := siteOf(c)
		if err != nil {
			return err
		}
		if err := provision.ConsoleOf(s, t.Name); err != nil {
			return fail(exitFailed, err)
		}
	}
	if t.Protocol != bmc.IPMI {
		t.Protocol, t.Address = bmc.IPMI, netip.AddrPortFrom(t.Address.Addr(), uint16(c.Int("ipmi-port")))
	}
	file := filepath.Join(stateHome(b.e), "consoles", t.Name+".log")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fail(exitFailed, fmt.Errorf("the console's log: %w", err))
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fail(exitFailed, fmt.Errorf("the console's log: %w", err))
	}
	defer f.Close()
	cl, err := bmc.Open(c.Context, t)
	if err != nil {
		return fail(bmcStatus(err), err)
	}
	defer func() { _ = cl.Close(context.WithoutCancel(c.Context)) }() // the BMC ends it by itself, too
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := cl.Console(ctx, logged{theirs, f}, c.Bool("take"))
		ended <- errors.Join(err, theirs.Close())
	}()
	attached := make(chan error, 1)
	go func() { attached <- b.e.attach(ctx, ours) }()
	select {
	case err = <-ended: // the BMC, or the way to it
		_ = ours.Close() // nothing is lost: it is a pipe
		<-attached
	case err = <-attached: // the person
		_ = ours.Close()
		cancel()
		err = errors.Join(err, <-ended)
	}
	if err != nil && c.Context.Err() == nil {
		return fail(bmcStatus(err), err)
	}
	return nil
}

// servedConsole is a console that a server opens, and keeps the log of.
func (b *bmcCommand) servedConsole(c *cli.Context, w way) error {
	conn, err := w.server.Console(c.Context, w.names[0], c.Bool("take"), c.Int("ipmi-port"))
	if err != nil {
		return servedError(err)
	}
	err = b.e.attach(c.Context, conn)
	return errors.Join(err, conn.Close())
}
