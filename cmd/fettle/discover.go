package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

func discoverCommands(e *env) []*cli.Command {
	d := &cli.Command{
		Name: "discover", Usage: "list machines and BMCs that were seen and are not in the site",
		Description: "Machines that asked for an address on a boot network, with what the agent found in them, and BMCs:\n" +
			"those that asked for an address, by vendor class, network or MAC prefix, and those that a search\n" +
			"found (fettle discover bmc). fettle enroll takes them into the site.\n" +
			"With --output json a list; with --follow too, an object a line as things change, until Ctrl-C.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "also what the site has meanwhile"},
			outputFlag(), // it has subcommands: finish leaves it alone
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with each that is seen or changes"},
		}, connFlags()...),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage("fettle discover has no %q: see fettle discover --help", c.Args().First())
			}
			if c.IsSet("output") {
				if err := e.setOutput(c.String("output")); err != nil {
					return err
				}
			}
			return withClient(e, discoverList)(c)
		},
		Subcommands: withFlags(connFlags, []*cli.Command{
			{Name: "bmc", Usage: "look for BMCs at every address of a prefix",
				Description: "Asks each address for a Redfish service root (HTTPS, then HTTP) and by an RMCP presence ping.\n" +
					"No login is tried. The serving fettle asks, from its own network; what it finds stays in\n" +
					"fettle discover. Ctrl-C ends the search.",
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "prefix", Usage: "addresses to ask, such as 10.0.4.0/24 (repeatable; default: the site's networks of purpose bmc)"},
					&cli.BoolFlag{Name: "ssdp", Usage: "ask by multicast on the site's networks of purpose bmc, and then only who answers: seconds, but many BMCs have no SSDP"},
					&cli.IntFlag{Name: "parallel", Value: 64, Usage: "addresses at once"},
					&cli.IntFlag{Name: "rate", Value: 200, Usage: "addresses begun in a second"},
					&cli.DurationFlag{Name: "timeout", Value: 3 * time.Second, Usage: "of one address"},
				}, Action: withClient(e, discoverBMC)},
			{Name: "forget", Usage: "forget what was seen, so that it is inspected anew when it boots next", ArgsUsage: "NAME|MAC", Action: withClient(e, discoverForget)},
		}),
	}
	return []*cli.Command{d}
}

func discoverList(c *cli.Context, e *env, w *web.Client) error {
	if c.Bool("follow") {
		return e.discoverFollow(c.Context, w, c.Bool("all"))
	}
	list, err := w.Discovered(c.Context, c.Bool("all"))
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(e.stderr, "nothing was seen that the site does not know; fettle discover bmc looks for BMCs")
		return nil
	}
	printDiscovered(e.stdout, list)
	return nil
}

// printDiscovered tells what was seen to people.
func printDiscovered(w io.Writer, list []state.Discovery) {
	machines := [][]string{{"MACHINE", "STATE", "SERIAL", "MODEL", "CPUS", "MEMORY", "DISKS", "GPUS", "WHERE", "FIRST SEEN", "LAST SEEN"}}
	bmcs := [][]string{{"BMC", "STATE", "VENDOR", "MODEL", "SERIAL", "FIRMWARE", "SPEAKS", "MAC", "WHERE", "FIRST SEEN", "LAST SEEN"}}
	for _, d := range list {
		if d.Sort == state.SortBMC {
			bmcs = append(bmcs, bmcRow(d))
		} else {
			machines = append(machines, machineRow(d))
		}
	}
	if len(machines) > 1 {
		table(w, machines)
	}
	if len(bmcs) > 1 {
		if len(machines) > 1 {
			fmt.Fprintln(w)
		}
		table(w, bmcs)
	}
}

func machineRow(d state.Discovery) []string {
	var disks, gpus, where []string
	for _, k := range d.Disks {
		disks = append(disks, strings.TrimSpace(k.Serial+" "+provision.DiskSize(k.Bytes).String()))
	}
	for _, g := range d.GPUs {
		gpus = append(gpus, fmt.Sprintf("%d×%s", g.Count, g.PCI))
	}
	for _, s := range d.Sightings {
		where = append(where, strings.TrimSpace(s.MAC.String()+" "+placeText(s)))
	}
	cpus, memory := "", ""
	if d.CPUs > 0 {
		cpus = strconv.Itoa(d.CPUs)
	}
	if d.Memory > 0 {
		memory = provision.MemorySize(d.Memory).String()
	}
	return []string{d.Name, string(d.State), d.Serial, makeText(d.Vendor, d.Model), cpus, memory,
		strings.Join(disks, ", "), strings.Join(gpus, ", "), strings.Join(where, "; "), sinceText(d.First), sinceText(d.Last)}
}

// makeText is maker and model; many models begin with their maker.
func makeText(vendor, model string) string {
	if strings.HasPrefix(strings.ToLower(model), strings.ToLower(vendor)) {
		return model
	}
	return strings.TrimSpace(vendor + " " + model)
}

// placeText is where a port is plugged in.
func placeText(s state.Sighting) string {
	at := s.Network
	if s.Port != "" {
		at += ", port " + s.Port
	}
	if s.Switch != "" {
		at += " of " + s.Switch
	}
	return at
}

func bmcRow(d state.Discovery) []string {
	name, mac := d.Name, ""
	if d.BMC.Addr.IsValid() {
		name = d.BMC.Addr.String()
	}
	if !d.BMC.MAC.IsZero() {
		mac = d.BMC.MAC.String()
	}
	where := ""
	if len(d.Sightings) > 0 {
		where = placeText(d.Sightings[0])
	}
	return []string{name, string(d.State), d.Vendor, d.Model, d.Serial, d.Firmware, speaks(d.BMC.BMCFacts), mac, where, sinceText(d.First), sinceText(d.Last)}
}

func speaks(f state.BMCFacts) string {
	var out []string
	if f.Redfish != "" {
		s := "redfish " + f.Redfish
		if f.Plain {
			s += " (no TLS)"
		}
		out = append(out, s)
	}
	if f.IPMI {
		out = append(out, "ipmi")
	}
	return strings.Join(out, ", ")
}

// discoverFollow prints what was seen, and then each that is new or changes,
// until ctx ends, which is what a person does to end it.
func (e *env) discoverFollow(ctx context.Context, w *web.Client, all bool) error {
	after, _, err := snapshot(ctx, w)
	if err != nil {
		return err
	}
	shown := map[string]string{}
	show := func() error {
		list, err := w.Discovered(ctx, all)
		if err != nil {
			return err
		}
		for _, d := range list {
			timeless := d
			timeless.Last, timeless.Sightings = time.Time{}, nil
			for _, s := range d.Sightings {
				s.Last = time.Time{}
				timeless.Sightings = append(timeless.Sightings, s)
			}
			b, err := json.Marshal(timeless)
			if err != nil {
				return err
			}
			if shown[d.Name] == string(b) {
				continue
			}
			shown[d.Name] = string(b)
			if e.json {
				err = e.printLine(d)
			} else {
				_, err = fmt.Fprintln(e.stdout, discoveryLine(d))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := show(); err != nil {
		return err
	}
	kinds := []state.Kind{state.KindSeen, state.KindChanged, "discover.forgotten", state.KindPhase, state.KindInventory, state.KindRunEnd, "site.read"}
	for ev, err := range w.Events(ctx, state.Query{After: after, Kinds: kinds}, true) {
		if err != nil {
			return err
		}
		strange := strings.HasPrefix(ev.Machine, "mac-") || strings.HasPrefix(ev.Machine, "bmc-")
		if !strange && ev.Kind != "site.read" {
			continue
		}
		if err := show(); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return ctx.Err()
}

// discoveryLine is one that was seen, as a line.
func discoveryLine(d state.Discovery) string {
	row, labels := machineRow(d), []string{"", "", "serial", "", "CPUs", "memory", "disks", "GPUs", "at", "", ""}
	if d.Sort == state.SortBMC {
		row, labels = bmcRow(d), []string{"", "", "", "", "serial", "firmware", "speaks", "", "at", "", ""}
	}
	parts := []string{d.Last.Local().Format("15:04:05"), string(d.Sort)}
	for i, cell := range row[:9] {
		if cell == "" {
			continue
		}
		if labels[i] != "" {
			cell = labels[i] + " " + cell
		}
		parts = append(parts, cell)
	}
	return strings.Join(parts, "  ")
}

func discoverBMC(c *cli.Context, e *env, w *web.Client) error {
	if c.Args().Present() {
		return usage("give prefixes by --prefix, not %q", c.Args().First())
	}
	sc := state.Scan{SSDP: c.Bool("ssdp"), Parallel: c.Int("parallel"), Rate: c.Int("rate"), Timeout: int(c.Duration("timeout").Milliseconds())}
	if sc.Parallel < 1 || sc.Rate < 1 || sc.Timeout < 1 {
		return usage("--parallel, --rate and --timeout are greater than 0")
	}
	for _, s := range c.StringSlice("prefix") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return usage("--prefix is such as 10.0.4.0/24, not %q", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		sc.Prefixes = append(sc.Prefixes, p.Masked())
	}
	var found []state.Discovery
	drawn := false
	err := w.Scan(c.Context, sc, func(st state.ScanStep) {
		if st.Found != nil {
			found = append(found, *st.Found)
			if e.json {
				return
			}
			if drawn {
				fmt.Fprint(e.stderr, "\r\x1b[K")
				drawn = false
			}
			fmt.Fprintln(e.stderr, discoveryLine(*st.Found))
		}
		if e.tty && !e.json {
			fmt.Fprintf(e.stderr, "\r\x1b[K%d of %d addresses asked, %d BMCs found", st.Done, st.Total, len(found))
			drawn = true
		}
	})
	if drawn {
		fmt.Fprintln(e.stderr)
	}
	if e.json {
		if jerr := e.printJSON(append([]state.Discovery{}, found...)); jerr != nil {
			return jerr
		}
		return err
	}
	if len(found) > 0 {
		printDiscovered(e.stdout, found)
	} else if err == nil {
		fmt.Fprintln(e.stderr, "no BMC answered")
	}
	return err
}

func discoverForget(c *cli.Context, e *env, w *web.Client) error {
	name, err := oneArg(c, "name or MAC address")
	if err != nil {
		return err
	}
	return w.Forget(c.Context, name)
}
