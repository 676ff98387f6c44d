package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/pxe/load"
)

func benchCommands(e *env) []*cli.Command {
	return []*cli.Command{{
		Name: "bench", Usage: "prove what a boot server bears, before the racks arrive",
		Subcommands: []*cli.Command{{
			Name: "storm", Usage: "boot many machines at once that are not there",
			Description: `Plays --count machines with BIOS, UEFI and iPXE firmware that all start at
once: DHCP, the boot loader by TFTP, DHCP again as iPXE, the script, and what
the script loads, by HTTP. It prints how long each stage took and why machines
failed, and fails when one did.

It sends only to --server and --also, and takes no other server's offers. Run it
as root on a machine of the boot network that is not the server; --interface has
an address there that is no machine's. The machines' addresses (--addresses, the
pool or a part of it) are this machine's for as long as it runs; they are given
back at the end. The server sees machines that it does not know, with MAC
addresses 02:fe:...: fettle serve inspects them when the site says
unknown_machines: inspect, and lists them afterwards.`,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "server", Usage: "`ADDRESS` of the boot server", Required: true},
				&cli.StringFlag{Name: "interface", Usage: "`NAME` of the interface to the boot network", Required: true},
				&cli.StringFlag{Name: "addresses", Usage: "`PREFIX` of the addresses that machines may be given, such as 10.77.0.128/25", Required: true},
				&cli.StringSliceFlag{Name: "also", Usage: "further `ADDRESS` that files may be fetched from (repeatable)"},
				&cli.IntFlag{Name: "count", Value: 100, Usage: "machines, 60000 at most"},
				&cli.StringSliceFlag{Name: "firmware", Usage: "bios, edk2 or ipxe; several take turns (default: all)"},
				&cli.DurationFlag{Name: "ramp", Usage: "start the machines within this `TIME`, not at once"},
				&cli.DurationFlag{Name: "limit", Value: 2 * time.Minute, Usage: "`TIME` after which machines that are not done have failed; one hour at most"},
				&cli.StringFlag{Name: "bytes", Usage: "fetch this much of each file of the script, such as 50M (default: all of it)"},
				&cli.StringFlag{Name: "report", Usage: "`URL` that each machine fetches last"},
				&cli.IntFlag{Name: "series", Value: 1, Usage: "machines of another number are other machines"},
			},
			Action: func(c *cli.Context) error { return benchStorm(c, e) },
		}},
	}}
}

// stormOf reads a storm from flags.
func stormOf(c *cli.Context) (s load.Storm, err error) {
	addr := func(text, flag string) netip.Addr {
		a, perr := netip.ParseAddr(text)
		if err == nil && (perr != nil || !a.Is4()) {
			err = usage("--%s %s is not an IPv4 address", flag, text)
		}
		return a
	}
	s = load.Storm{
		Server: addr(c.String("server"), "server"), Count: c.Int("count"), Ramp: c.Duration("ramp"),
		Limit: c.Duration("limit"), Series: uint16(c.Int("series")), Report: c.String("report"),
	}
	for _, a := range c.StringSlice("also") {
		s.Also = append(s.Also, addr(a, "also"))
	}
	if err != nil {
		return s, err
	}
	if s.Allowed, err = netip.ParsePrefix(c.String("addresses")); err != nil || !s.Allowed.Addr().Is4() {
		return s, usage("--addresses %s is not an IPv4 prefix such as 10.77.0.128/25", c.String("addresses"))
	}
	for _, f := range c.StringSlice("firmware") {
		if !slices.Contains(load.Firmwares(), load.Firmware(f)) {
			return s, usage("--firmware %s: there are bios, edk2 and ipxe", f)
		}
		s.Firmware = append(s.Firmware, load.Firmware(f))
	}
	if s.Bytes, err = byteCount(c.String("bytes")); err != nil {
		return s, usage("--bytes %s is not a number of bytes such as 50M", c.String("bytes"))
	}
	switch {
	case s.Count < 1 || s.Count > 60000:
		return s, usage("--count %d: 1 to 60000 machines are possible", s.Count)
	case s.Limit <= 0 || s.Limit > time.Hour:
		return s, usage("--limit %v: up to an hour is possible", s.Limit)
	case s.Ramp < 0 || s.Ramp >= s.Limit:
		return s, usage("--ramp %v is not below --limit %v", s.Ramp, s.Limit)
	case c.Int("series") < 0 || c.Int("series") > 65535:
		return s, usage("--series is a number up to 65535")
	case s.Allowed.Contains(s.Server):
		return s, usage("--addresses %v contains the server %v: name a part of the pool", s.Allowed, s.Server)
	}
	return s, nil
}

// byteCount reads 50M as people write it; "" is 0.
func byteCount(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	factor := int64(1)
	for i, unit := range []string{"K", "M", "G"} {
		if t, ok := strings.CutSuffix(strings.ToUpper(text), unit); ok {
			text, factor = t, 1000
			for range i {
				factor *= 1000
			}
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (n < 1 || n > (1<<62)/factor) {
		err = strconv.ErrRange
	}
	return n * factor, err
}

func benchStorm(c *cli.Context, e *env) (err error) {
	s, err := stormOf(c)
	if err != nil {
		return err
	}
	wire, err := load.OpenInterface(c.Context, c.String("interface"), s.Allowed)
	if err != nil {
		return fail(exitMissing, err)
	}
	defer func() {
		// After Ctrl-C too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), 5*time.Second)
		defer cancel()
		if cerr := wire.Close(ctx); err == nil {
			err = cerr
		}
	}()
	s.Wire = wire
	fmt.Fprintf(e.stderr, "booting %d machines from %v, for %v at most\n", s.Count, s.Server, s.Limit)
	var mu sync.Mutex
	var drawn time.Time
	s.Progress = func(done, failed int) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if done < s.Count && now.Sub(drawn) < time.Second {
			return
		}
		drawn = now
		end := "\n"
		if e.tty && done < s.Count {
			end = "\r"
		}
		fmt.Fprintf(e.stderr, "%d of %d done, %d failed%s", done, s.Count, failed, end)
	}
	r, err := s.Run(c.Context)
	if err != nil {
		return err
	}
	if e.json {
		err = e.printJSON(r)
	} else {
		_, err = fmt.Fprint(e.stdout, r.Summary())
	}
	switch {
	case err != nil:
		return err
	case c.Context.Err() != nil:
		return c.Context.Err()
	case r.Booted < r.Machines:
		return fmt.Errorf("%d of %d machines did not boot", r.Machines-r.Booted, r.Machines)
	}
	return nil
}
