package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
)

// targetsFunc finds the BMCs of selected machines.
type targetsFunc func(c *cli.Context, sel []string) ([]bmc.Target, error)

// bmcCommands speak to BMCs.
func bmcCommands(e *env, targets func(c *cli.Context, sel []string) ([]bmc.Target, error)) []*cli.Command {
	b := &bmcCommand{e: e, targets: targets}
	which := func(more ...cli.Flag) []cli.Flag {
		return append([]cli.Flag{siteFlag(), secretIdentityFlag(), labFlag(), labsFlag(), directFlag(),
			&cli.IntFlag{Name: "parallel", Value: 32, Usage: "BMCs spoken to at once"}}, more...)
	}
	yes := &cli.BoolFlag{Name: "yes", Usage: "do it without asking"}
	var power, boot, identify []*cli.Command
	power = append(power, &cli.Command{Name: "status", Usage: "show the power state", ArgsUsage: "SELECTOR...", Flags: which(), Action: b.powerStatus})
	for _, p := range []struct {
		a     bmc.Action
		usage string
		asks  string
	}{
		{bmc.PowerOn, "switch on", ""},
		{bmc.PowerOff, "switch off at once, without asking the operating system", "power off"},
		{bmc.Shutdown, "ask the operating system to shut down", "shut down"},
		{bmc.PowerCycle, "switch off, then on", "power off and on again"},
		{bmc.Reset, "restart at once, without asking the operating system", "restart"},
	} {
		flags := which()
		if p.asks != "" {
			flags = which(yes)
		}
		power = append(power, &cli.Command{Name: string(p.a), Usage: p.usage, ArgsUsage: "SELECTOR...", Flags: flags,
			Action: func(c *cli.Context) error { return b.power(c, p.a, p.asks) }})
	}
	power = append(power, &cli.Command{Name: "nmi", Usage: "send a non-maskable interrupt, for a crash dump", ArgsUsage: "SELECTOR...", Flags: which(yes), Action: b.nmi})
	for _, d := range []struct {
		dev   bmc.Device
		usage string
	}{
		{bmc.BootDisk, "the first disk"}, {bmc.BootPXE, "the network, by PXE"}, {bmc.BootHTTP, "the network, by UEFI HTTP boot"},
		{bmc.BootCD, "the CD drive"}, {bmc.BootSetup, "the firmware's setup pages"}, {bmc.BootNone, "what the firmware's own order says: no override"},
	} {
		boot = append(boot, &cli.Command{Name: string(d.dev), Usage: d.usage, ArgsUsage: "SELECTOR...",
			Flags: which(&cli.BoolFlag{Name: "permanent", Usage: "for every boot from now on, not only the next"},
				&cli.BoolFlag{Name: "uefi", Usage: "boot by UEFI, not legacy BIOS"}),
			Action: func(c *cli.Context) error { return b.boot(c, d.dev) }})
	}
	for _, on := range []string{"on", "off"} {
		identify = append(identify, &cli.Command{Name: on, Usage: "switch the identify light " + on, ArgsUsage: "SELECTOR...", Flags: which(),
			Action: func(c *cli.Context) error { return b.identify(c, on == "on") }})
	}
	return []*cli.Command{{
		Name: "bmc", Usage: "speak to machines' BMCs: power, next boot, sensors, event log, BIOS settings, media, firmware, users and more",
		Description: "Goes to the BMCs of the site itself, not through fettle serve, and notes that in a file on this\n" +
			"machine; while fettle serve runs here it needs --direct. With --lab, to the lab's virtual BMCs.\n" +
			"SELECTOR is a name, a range such as gpu-[01-32], rack=NAME or profile=NAME. Flags go before it.\n" +
			"One login per BMC; every change is read back. Exit status: 0 when every machine did it, 1 when one did not,\n" +
			"4 when a program is missing, 5 when a yes is needed.",
		Subcommands: append([]*cli.Command{
			{Name: "power", Usage: "show or change power", Subcommands: power},
			{Name: "boot", Usage: "say what machines boot next", Subcommands: boot},
			{Name: "identify", Usage: "switch the identify light", Subcommands: identify},
			{Name: "status", Usage: "show power, next boot, health and what the machine is", ArgsUsage: "SELECTOR...", Flags: which(), Action: b.status},
			{Name: "inventory", Usage: "show processors, memory, network cards, drives, GPUs and firmware", ArgsUsage: "SELECTOR...", Flags: which(), Action: b.inventory},
			serveVirtualCommand(e),
			b.recordCommand(which),
			b.consoleCommand(which),
			b.biosCommand(which, yes),
		}, append(b.sensorCommands(which, yes), b.operateCommands(which, yes)...)...),
	}}
}

// bmcCommand is what the commands share.
type bmcCommand struct {
	e       *env
	targets targetsFunc
}

// pick are the BMCs that the arguments select. asks is what a person must
// agree to first, or "". What goes past a server's events is noted.
func (b *bmcCommand) pick(c *cli.Context, asks string) ([]bmc.Target, error) {
	sel := c.Args().Slice()
	if len(sel) == 0 {
		return nil, usage("say which machines: names, a range such as gpu-[01-32], rack=NAME or profile=NAME")
	}
	if i := slices.IndexFunc(sel, func(s string) bool { return strings.HasPrefix(s, "-") }); i >= 0 {
		return nil, usage("flags go before the machines: put %s before %s", sel[i], sel[0])
	}
	if c.Int("parallel") < 1 {
		return nil, usage("--parallel %d: give 1 or more", c.Int("parallel"))
	}
	ts, err := b.targets(c, sel)
	if err != nil {
		return nil, err
	}
	if len(ts) == 0 {
		return nil, fail(exitInput, fmt.Errorf("no machine matches %s", strings.Join(sel, " ")))
	}
	if asks != "" {
		names := make([]string, len(ts))
		for i, t := range ts {
			names[i] = t.Name
		}
		if err := b.e.confirm(c.Bool("yes"), fmt.Sprintf("%s %s", asks, count(names))); err != nil {
			return nil, err
		}
	}
	if c.String("lab") == "" {
		b.e.noteDirect(c, ts, time.Now())
	}
	return ts, nil
}

func (b *bmcCommand) powerStatus(c *cli.Context) error {
	ts, err := b.pick(c, "")
	if err != nil {
		return err
	}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bmc.Power, error) {
		return cl.Power(ctx)
	})
	return report(b.e, res, "power", []string{"MACHINE", "POWER"}, func(p bmc.Power) []string { return []string{string(p)} })
}

func (b *bmcCommand) power(c *cli.Context, a bmc.Action, asks string) error {
	ts, err := b.pick(c, asks)
	if err != nil {
		return err
	}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bmc.Power, error) {
		if err := cl.SetPower(ctx, a); err != nil {
			return bmc.PowerUnknown, err
		}
		return cl.Power(ctx)
	})
	return report(b.e, res, "power", []string{"MACHINE", "POWER"}, func(p bmc.Power) []string { return []string{string(p)} })
}

// count is "gpu-01" or "3 machines: gpu-01, gpu-02, gpu-03".
func count(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%d machines: %s", len(names), strings.Join(names, ", "))
}

func (b *bmcCommand) boot(c *cli.Context, d bmc.Device) error {
	ts, err := b.pick(c, "")
	if err != nil {
		return err
	}
	nb := bmc.NextBoot{Device: d, Permanent: c.Bool("permanent"), UEFI: c.Bool("uefi") || d == bmc.BootHTTP}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bmc.NextBoot, error) {
		return nb, cl.SetNextBoot(ctx, nb)
	})
	return report(b.e, res, "boot", []string{"MACHINE", "NEXT BOOT"}, func(n bmc.NextBoot) []string { return []string{n.String()} })
}

func (b *bmcCommand) identify(c *cli.Context, on bool) error {
	ts, err := b.pick(c, "")
	if err != nil {
		return err
	}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bool, error) {
		return on, cl.Identify(ctx, on)
	})
	return report(b.e, res, "identify", []string{"MACHINE", "LIGHT"}, func(on bool) []string { return []string{light(on)} })
}

func light(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (b *bmcCommand) status(c *cli.Context) error {
	ts, err := b.pick(c, "")
	if err != nil {
		return err
	}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bmc.Status, error) {
		return cl.Status(ctx)
	})
	return report(b.e, res, "status", []string{"MACHINE", "POWER", "HEALTH", "NEXT BOOT", "LIGHT", "VENDOR", "MODEL", "SERIAL", "BIOS", "BMC"}, func(s bmc.Status) []string {
		return []string{string(s.Power), s.Health, s.Boot.String(), light(s.Identify), s.Vendor, s.Model, s.Serial, s.BIOS, s.Firmware}
	})
}

func (b *bmcCommand) inventory(c *cli.Context) error {
	ts, err := b.pick(c, "")
	if err != nil {
		return err
	}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bmc.Inventory, error) {
		return cl.Inventory(ctx)
	})
	return report(b.e, res, "inventory", []string{"MACHINE", "PART", "ID", "MODEL", "SERIAL OR MAC", "SIZE", "HEALTH"}, nil, inventoryRows)
}

// inventoryRows are a line a part.
func inventoryRows(in bmc.Inventory) (rows [][]string) {
	row := func(cells ...string) { rows = append(rows, cells) }
	s := in.Status
	row("system", "", strings.TrimSpace(s.Vendor+" "+s.Model), s.Serial, fmt.Sprintf("%d MiB", in.MemoryMiB), s.Health)
	for _, x := range in.CPUs {
		row("cpu", x.ID, x.Model, "", fmt.Sprintf("%d threads", x.Threads), x.Health)
	}
	for _, x := range in.Memory {
		row("memory", x.ID, x.Type, x.Serial, fmt.Sprintf("%d MiB", x.MiB), x.Health)
	}
	for _, x := range in.NICs {
		link := "link down"
		if x.Link {
			link = "link up"
		}
		row("nic", x.ID, "", x.MAC, link, "")
	}
	for _, x := range in.Drives {
		row("drive", x.ID, x.Model, x.Serial, fmt.Sprintf("%.0f GB", float64(x.Bytes)/1e9), x.Health)
	}
	for _, x := range in.GPUs {
		row("gpu", x.ID, strings.TrimSpace(x.Model+" "+x.PCI), x.Serial, "", x.Health)
	}
	for _, x := range in.Firmware {
		row("firmware", x.ID, x.Name, x.Version, "", "")
	}
	for _, m := range in.Missing {
		row("missing", "", m, "", "", "")
	}
	return rows
}

// report prints a result per machine and a summary, and gives the exit status
// by the worst. rows may print several lines a machine instead of one.
func report[T any](e *env, res []bmc.Result[T], what string, head []string, row func(T) []string, rows ...func(T) [][]string) error {
	failed := 0
	worst := exitOK
	for _, r := range res {
		if r.Err != nil {
			failed++
			worst = max(worst, bmcStatus(r.Err))
		}
	}
	sum := fmt.Sprintf("%d of %d machines failed", failed, len(res))
	if e.json {
		list := make([]map[string]any, len(res))
		for i, r := range res {
			list[i] = map[string]any{"machine": r.Target.Name, "ok": r.Err == nil}
			if r.Err != nil {
				list[i]["error"] = r.Err.Error()
			} else {
				list[i][what] = r.Value
			}
		}
		if err := e.printJSON(map[string]any{"machines": list, "ok": len(res) - failed, "failed": failed}); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, strings.Join(head, "\t"))
		for _, r := range res {
			switch {
			case r.Err != nil:
				fmt.Fprintf(w, "%s\tfailed\n", r.Target.Name)
			case row != nil:
				fmt.Fprintf(w, "%s\t%s\n", r.Target.Name, strings.Join(row(r.Value), "\t"))
			default:
				for _, l := range rows[0](r.Value) {
					fmt.Fprintf(w, "%s\t%s\n", r.Target.Name, strings.Join(l, "\t"))
				}
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, r := range res {
			if r.Err != nil && len(res) > 1 {
				fmt.Fprintln(e.stderr, r.Err)
			}
		}
	}
	switch {
	case failed == 0:
		if len(res) > 1 && !e.json {
			fmt.Fprintf(e.stderr, "%d machines, none failed\n", len(res))
		}
		return nil
	case len(res) == 1:
		return fail(worst, res[0].Err)
	}
	return fail(worst, errors.New(sum))
}

// bmcStatus is the exit status of one machine's error.
func bmcStatus(err error) int {
	switch {
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, exec.ErrNotFound):
		return exitMissing
	}
	return exitFailed
}
