package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

func bootCommands(e *env) []*cli.Command {
	return []*cli.Command{{
		Name: "boot", Usage: "record how machines boot from the network, and try it again in memory",
		Subcommands: []*cli.Command{
			{
				Name: "capture", Usage: "write machines' boot conversation as pcapng, from the fettle that serves here", ArgsUsage: "[MACHINE|MAC ...]",
				Description: `Writes DHCP, TFTP and the heads of boot HTTP as the server sees them, until
Ctrl-C or --for: no tcpdump and no mirror port, in a lab too. Wireshark and
tcpdump read the file; fettle boot replay tries it again. Kernel arguments in a
script are not in it. Run it on the machine that serves, as the same user.`,
				Flags: []cli.Flag{
					labFlag(), labsFlag(),
					&cli.StringFlag{Name: "server", EnvVars: []string{"FETTLE_SERVER"}, Usage: "Unix socket of the serving fettle's API (default: the one on this machine, else its only lab)"},
					&cli.StringFlag{Name: "write", Aliases: []string{"w"}, Usage: "`FILE` to write, - for standard output", Required: true, TakesFile: true},
					&cli.DurationFlag{Name: "for", Usage: "end after this `TIME`"},
				},
				Action: func(c *cli.Context) error { return bootCapture(c, e) },
			},
			{
				Name: "replay", Usage: "run the requests of a capture against the boot server in memory, and print the answers", ArgsUsage: "FILE",
				Description: `FILE is pcap or pcapng, from fettle boot capture or tcpdump -w. Nothing is sent
and nothing is remembered: addresses come from the site folder, and machines
boot as --as says. A REQUEST to another DHCP server is replayed as if it took
our offer.`,
				Flags: []cli.Flag{
					siteFlag(), storeFlag(),
					&cli.StringFlag{Name: "network", Usage: "boot network that the requests come in on (default: the one whose server is in the capture, else the only one)"},
					&cli.StringFlag{Name: "as", Value: "agent", Usage: "what known machines boot: agent (a run is under way) or disk"},
				},
				Action: func(c *cli.Context) error { return bootReplay(c, e) },
			},
		},
	}}
}

// bootCapture copies the server's stream into a file.
func bootCapture(c *cli.Context, e *env) (err error) {
	sock, err := e.captureSocketOf(c)
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", sock)
	if err != nil {
		return fail(exitMissing, fmt.Errorf("no fettle streams its boot conversation at %s (%w): start fettle serve or fettle lab up, as this user", sock, err))
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, strings.Join(c.Args().Slice(), " ")); err != nil {
		return fmt.Errorf("asking for a capture: %w", err)
	}
	r := bufio.NewReader(conn)
	// A refusal is a line of text; a capture begins with 0x0a.
	if first, err := r.Peek(1); err != nil {
		return fmt.Errorf("waiting for the capture's first bytes: %w", err)
	} else if first[0] != '\n' {
		line, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("reading the server's refusal: %w", err)
		}
		return fail(exitFailed, errors.New(strings.TrimSpace(line)))
	}
	w := e.stdout
	if name := c.String("write"); name != "-" {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
		if errors.Is(err, os.ErrExist) {
			return fail(exitRefused, fmt.Errorf("%s is there already: name another file, or remove it", name))
		}
		if err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		defer func() {
			if cerr := f.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("capture: %w", cerr)
			}
		}()
		w = f
		fmt.Fprintf(e.stderr, "capturing to %s; Ctrl-C ends it\n", name)
	}
	// Closing one side makes the server send what it holds and end.
	end := func() {
		if u, ok := conn.(*net.UnixConn); ok {
			u.CloseWrite()
		}
	}
	done := make(chan struct{})
	defer close(done)
	var timeout <-chan time.Time
	if d := c.Duration("for"); d > 0 {
		timeout = time.After(d)
	}
	go func() {
		select {
		case <-c.Context.Done():
		case <-timeout:
		case <-done:
			return
		}
		end()
		select {
		case <-time.After(5 * time.Second):
			conn.Close()
		case <-done:
		}
	}()
	n, err := io.Copy(w, r)
	if err != nil {
		return fmt.Errorf("capture of %d bytes broke off: %w", n, err)
	}
	fmt.Fprintf(e.stderr, "%d bytes captured\n", n)
	return nil
}

// captureSocketOf finds the socket of the serving fettle that a command means.
func (e *env) captureSocketOf(c *cli.Context) (string, error) {
	if s := c.String("server"); strings.HasPrefix(s, "https://") {
		return "", usage("fettle boot capture reads a socket of the machine that serves: run it there, without --server %s", s)
	} else if s != "" {
		return captureSocket(s), nil
	}
	if c.String("lab") == "" {
		if sock := captureSocket(defaultSocket(e)); listening(sock) {
			return sock, nil
		}
	}
	dir, err := labDir(c)
	if err != nil {
		if c.String("lab") == "" {
			return "", fail(exitMissing, fmt.Errorf("%w: start fettle serve or fettle lab up, or say --server or --lab", errNoServer))
		}
		return "", err
	}
	return captureSocket(filepath.Join(dir, labAPISocket)), nil
}

// bootReplay prints what the server would answer.
func bootReplay(c *cli.Context, e *env) error {
	if c.NArg() != 1 {
		return usage("fettle boot replay takes one capture, not %d arguments", c.NArg())
	}
	as := c.String("as")
	if as != "agent" && as != "disk" {
		return usage("--as is agent or disk, not %q", as)
	}
	s, err := site.Load(c.String("site"))
	if err != nil {
		return fail(exitInput, err)
	}
	file := c.Args().First()
	f, err := os.Open(file)
	if err != nil {
		return fail(exitInput, fmt.Errorf("capture: %w", err))
	}
	defer f.Close()
	packets, err := pxe.ReadCapture(f)
	if err != nil {
		return fail(exitInput, fmt.Errorf("capture %s: %w", file, err))
	}
	nets := (&services{}).bootNetworksOf(s)
	n, err := replayNetwork(nets, c.String("network"), packets)
	if err != nil {
		return err
	}
	r, err := newReplaySite(s, storeDir(c, e), as == "disk")
	if err != nil {
		return err
	}
	answers, err := pxe.Replay(c.Context, pxe.Config{Networks: pxeNetworks(nets), Booter: r, Leases: r, Files: r}, n, packets)
	if err != nil {
		return err
	}
	if len(answers) == 0 {
		return fail(exitInput, fmt.Errorf("capture %s has %d packets and no request of DHCP, TFTP or boot HTTP among them", file, len(packets)))
	}
	if e.json {
		for _, a := range answers {
			if err := e.printLine(a); err != nil {
				return err
			}
		}
		return nil
	}
	w := bufio.NewWriter(e.stdout)
	for _, a := range answers {
		who := a.Machine
		if m, _, ok := s.MachineByMAC(site.MAC(macArray(a.MAC))); ok {
			who = m.Name
		}
		fmt.Fprintf(w, "%s #%d %s: %s\n", a.Time.UTC().Format("15:04:05.000"), a.Number, who, a.Request)
		for _, t := range a.Said {
			fmt.Fprintf(w, "    %s\n", t)
		}
		fmt.Fprintf(w, "  → %s\n", a.Reply)
		for _, o := range a.Options {
			fmt.Fprintf(w, "      %s\n", o)
		}
	}
	return w.Flush()
}

func macArray(b net.HardwareAddr) (a [6]byte) {
	copy(a[:], b)
	return a
}

// replayNetwork chooses where a capture's broadcasts come in.
func replayNetwork(nets []site.Network, named string, packets []pxe.Packet) (string, error) {
	var names []string
	for _, n := range nets {
		names = append(names, n.Name)
	}
	switch {
	case named != "" && slices.Contains(names, named), len(names) == 1 && named == "":
		if named == "" {
			named = names[0]
		}
		return named, nil
	case named != "":
		return "", usage("--network %s: the site has no boot network of that name; there are: %s", named, listOr(names, "none"))
	case len(nets) == 0:
		return "", fail(exitInput, errors.New("the site has no network with purpose: boot"))
	}
	for _, p := range packets {
		for _, n := range nets {
			if p.Sent && p.From.Addr() == n.Here() {
				return n.Name, nil
			}
		}
	}
	return "", usage("say which network the requests came in on, with --network: %s", strings.Join(names, ", "))
}
