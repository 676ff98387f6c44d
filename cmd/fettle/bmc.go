package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/web"
)

// targetsFunc finds the BMCs of selected machines.
type targetsFunc func(c *cli.Context, sel []string) ([]bmc.Target, error)

// bmcCommands speak to BMCs.
func bmcCommands(e *env, targets targetsFunc, server serverFunc) []*cli.Command {
	b := &bmcCommand{e: e, targets: targets, server: server}
	which := func(more ...cli.Flag) []cli.Flag {
		return slices.Concat([]cli.Flag{siteFlag(), secretIdentityFlag(), directFlag(),
			&cli.IntFlag{Name: "parallel", Value: 128, Usage: "BMCs spoken to at once, at most; as many as bring more done"}}, connFlags(), more)
	}
	yes := &cli.BoolFlag{Name: "yes", Usage: "do it without asking"}
	var power, boot, identify []*cli.Command
	power = append(power, &cli.Command{Name: "status", Usage: "show the power state", ArgsUsage: "SELECTOR...", Flags: which(),
		Action: func(c *cli.Context) error { return b.power(c, bmc.OpPower) }})
	for _, p := range []struct {
		name  string
		op    bmc.Operation[bmc.None, bmc.Power]
		usage string
	}{
		{"on", bmc.OpPowerOn, "switch on"},
		{"off", bmc.OpPowerOff, "switch off at once, without asking the operating system"},
		{"soft", bmc.OpShutdown, "ask the operating system to shut down"},
		{"cycle", bmc.OpPowerCycle, "switch off, then on"},
		{"reset", bmc.OpReset, "restart at once, without asking the operating system"},
	} {
		flags := which()
		if p.op.Asks != "" {
			flags = which(yes)
		}
		power = append(power, &cli.Command{Name: p.name, Usage: p.usage, ArgsUsage: "SELECTOR...", Flags: flags,
			Action: func(c *cli.Context) error { return b.power(c, p.op) }})
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
		Description: "Goes by the fettle serve of this machine, or of --server, where one runs: it keeps the passwords, lets one at a\n" +
			"time at each BMC, and writes who did what into the events. Where none runs, or with --direct, goes to the BMCs\n" +
			"of the site folder itself, and notes that in a file on this machine. With --lab, to the lab's virtual BMCs.\n" +
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
			b.recordCommand(which), b.screenshotCommand(which),
			b.consoleCommand(which),
			b.biosCommand(which, yes),
		}, append(b.sensorCommands(which, yes), b.operateCommands(which, yes)...)...),
	}}
}

// serverFunc finds the server that a command goes to; nil: directly.
type serverFunc func(c *cli.Context) (*web.Client, error)

// bmcCommand is what the commands share.
type bmcCommand struct {
	e       *env
	targets targetsFunc
	server  serverFunc // nil: there is none
}

func (b *bmcCommand) power(c *cli.Context, op bmc.Operation[bmc.None, bmc.Power]) error {
	return ask(b, c, bmcOrder[bmc.None, bmc.Power]{op: op, what: "power", head: []string{"POWER"}, row: func(p bmc.Power) []string { return []string{string(p)} }})
}

// count is "gpu-01" or "3 machines: gpu-01, gpu-02, gpu-03".
func count(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%d machines: %s", len(names), strings.Join(names, ", "))
}

func (b *bmcCommand) boot(c *cli.Context, d bmc.Device) error {
	nb := bmc.NextBoot{Device: d, Permanent: c.Bool("permanent"), UEFI: c.Bool("uefi") || d == bmc.BootHTTP}
	return ask(b, c, bmcOrder[bmc.NextBoot, bmc.NextBoot]{op: bmc.OpBoot, args: nb, what: "boot", head: []string{"NEXT BOOT"},
		row: func(n bmc.NextBoot) []string { return []string{n.String()} }})
}

func (b *bmcCommand) identify(c *cli.Context, on bool) error {
	return ask(b, c, bmcOrder[bmc.Switch, bool]{op: bmc.OpIdentify, args: bmc.Switch{On: on}, what: "identify", head: []string{"LIGHT"},
		row: func(on bool) []string { return []string{light(on)} }})
}

func light(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (b *bmcCommand) status(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, bmc.Status]{op: bmc.OpStatus, what: "status",
		head: []string{"POWER", "HEALTH", "NEXT BOOT", "LIGHT", "VENDOR", "MODEL", "SERIAL", "BIOS", "BMC"},
		row: func(s bmc.Status) []string {
			return []string{string(s.Power), s.Health, s.Boot.String(), light(s.Identify), s.Vendor, s.Model, s.Serial, s.BIOS, s.Firmware}
		}})
}

func (b *bmcCommand) inventory(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, bmc.Inventory]{op: bmc.OpInventory, what: "inventory",
		head: []string{"PART", "ID", "MODEL", "SERIAL OR MAC", "SIZE", "HEALTH"}, rows: inventoryRows})
}

// inventoryRows are a line a part.
func inventoryRows(in bmc.Inventory) (rows [][]string) {
	row := func(cells ...string) { rows = append(rows, cells) }
	s := in.Status
	row("system", "", strings.TrimSpace(s.Vendor+" "+s.Model), s.Serial, fmt.Sprintf("%d MiB", in.MemoryMiB), s.Health)
	for _, x := range in.CPUs {
		size := ""
		switch {
		case x.Threads > 0:
			size = fmt.Sprintf("%d threads", x.Threads)
		case x.Cores > 0:
			size = fmt.Sprintf("%d cores", x.Cores)
		}
		row("cpu", x.ID, x.Model, "", size, x.Health)
	}
	for _, x := range in.Memory {
		row("memory", x.ID, x.Type, x.Serial, fmt.Sprintf("%d MiB", x.MiB), x.Health)
	}
	for _, x := range in.NICs {
		link := "link down"
		if x.Link {
			link = "link up"
		}
		row("nic", x.ID, "", cmp.Or(x.MAC, x.GUID), link, "")
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
func report[T any](e *env, res []bmc.Result[T], what string, head []string, row func(T) []string, rows func(T) [][]string) error {
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
		text := [][]string{head}
		for _, r := range res {
			lines := [][]string{{"failed"}}
			switch {
			case r.Err != nil:
			case row != nil:
				lines = [][]string{row(r.Value)}
			default:
				if lines = rows(r.Value); len(lines) == 0 {
					lines = [][]string{{"none"}} // it was asked, and has none
				}
			}
			for _, l := range lines {
				text = append(text, append([]string{r.Target.Name}, l...))
			}
		}
		table(e.stdout, text)
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
