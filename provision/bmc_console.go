package provision

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"path/filepath"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/state"
)

// kept is a console whose words are kept.
type kept struct {
	io.ReadWriter
	log io.Writer
}

func (k kept) Write(p []byte) (int, error) {
	if _, err := k.log.Write(p); err != nil {
		return 0, err
	}
	return k.ReadWriter.Write(p)
}

// Console joins what attach returns with a machine's serial console, by IPMI's
// serial over LAN, until either ends. What the machine says is appended to
// consoles/MACHINE.log in the folder, of which one before it is kept. It takes no turn: whoever installs
// firmware wants to watch. take ends the session of somebody else; port is
// IPMI's of a BMC that is spoken to by Redfish, 0 = 623.
func (b *BMCs) Console(ctx context.Context, actor, machine string, take bool, port uint16, attach func() (io.ReadWriter, error)) error {
	s := b.c.Site()
	if err := ConsoleOf(s, machine); err != nil {
		return err
	}
	m, _ := s.Machine(machine)
	t, err := b.c.Target(m)
	if err != nil {
		return err
	}
	if t.Protocol != bmc.IPMI {
		if port == 0 {
			port = 623
		}
		t.Protocol, t.Address = bmc.IPMI, netip.AddrPortFrom(t.Address.Addr(), port)
	}
	f, err := openConsoleLog(filepath.Join(b.c.Dir, "consoles", m.Name+".log"), consoleKeep)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := bmc.Open(ctx, t)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // the BMC ends it by itself, too
	say := func(text string) error {
		_, err := b.c.Append(context.WithoutCancel(ctx), state.Event{Time: b.c.Now(), Machine: m.Name, Actor: actor, Kind: "bmc.console", Text: text})
		return err
	}
	if err := say("opens the serial console"); err != nil {
		return err
	}
	rw, err := attach()
	if err == nil {
		err = c.Console(ctx, kept{rw, f}, take)
	}
	return errors.Join(err, say("left the serial console"))
}
