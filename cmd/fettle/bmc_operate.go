package main

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
)

// operateCommands are the operations on machines beyond power, and on the BMCs
// themselves.
func (b *bmcCommand) operateCommands(which func(...cli.Flag) []cli.Flag, yes cli.Flag) []*cli.Command {
	const sel = "SELECTOR..."
	return []*cli.Command{
		{Name: "media", Usage: "show, insert and eject virtual CDs", Subcommands: []*cli.Command{
			{Name: "show", Usage: "show what the virtual drives hold", ArgsUsage: sel, Flags: which(), Action: b.mediaShow},
			{Name: "insert", Usage: "insert an image that the BMC fetches; then fettle bmc boot cd", ArgsUsage: sel,
				Flags: which(&cli.StringFlag{Name: "image", Required: true, Usage: "`URI`, such as http://HOST/rescue.iso"}), Action: b.mediaInsert},
			{Name: "eject", Usage: "empty the drive", ArgsUsage: sel, Flags: which(), Action: b.mediaEject},
		}},
		{Name: "secure-boot", Usage: "show and set UEFI Secure Boot", Subcommands: []*cli.Command{
			{Name: "show", Usage: "show whether it is on, and will be", ArgsUsage: sel, Flags: which(), Action: b.secureBootShow},
			{Name: "on", Usage: "switch it on from the next boot", ArgsUsage: sel, Flags: which(), Action: b.secureBootSet(true)},
			{Name: "off", Usage: "switch it off from the next boot", ArgsUsage: sel, Flags: which(yes), Action: b.secureBootSet(false)},
			{Name: "reset-keys", Usage: "put the keys back, or delete them", ArgsUsage: sel,
				Flags: which(yes, &cli.StringFlag{Name: "to", Value: "default", Usage: "default, none (setup mode), or no-pk"}), Action: b.secureBootKeys},
		}},
		{Name: "limit", Usage: "show and set the power limit", Subcommands: []*cli.Command{
			{Name: "show", Usage: "show the limit and what is drawn", ArgsUsage: sel, Flags: which(), Action: b.limitShow},
			{Name: "set", Usage: "set it", ArgsUsage: sel, Flags: which(&cli.Float64Flag{Name: "watts", Required: true, Usage: "of each machine"}), Action: b.limitSet},
			{Name: "off", Usage: "lift it", ArgsUsage: sel, Flags: which(), Action: b.limitOff},
		}},
		{Name: "telemetry", Usage: "show the metric reports, those of GPU baseboards too", ArgsUsage: sel,
			Flags: which(&cli.StringFlag{Name: "name", Usage: "only metrics with `TEXT` in their id"}), Action: b.telemetry},
		{Name: "network", Usage: "show and set the BMCs' own network", Subcommands: []*cli.Command{
			{Name: "show", Usage: "show addresses", ArgsUsage: sel, Flags: which(), Action: b.networkShow},
			{Name: "set", Usage: "give the BMC another address: fettle reaches it there once the site file says so", ArgsUsage: "MACHINE",
				Flags: which(yes, &cli.BoolFlag{Name: "dhcp", Usage: "by DHCP"}, &cli.StringFlag{Name: "address", Usage: "`PREFIX`, such as 192.0.2.9/24"},
					&cli.StringFlag{Name: "gateway", Usage: "its router's `ADDRESS`"}, &cli.StringFlag{Name: "interface", Usage: "its `ID`; default: the one that answers"}),
				Action: b.networkSet},
		}},
		{Name: "clock", Usage: "show and set the BMCs' clocks", Subcommands: []*cli.Command{
			{Name: "show", Usage: "show the time and how far it is off", ArgsUsage: sel, Flags: which(), Action: b.clockShow},
			{Name: "set", Usage: "set it to this machine's time", ArgsUsage: sel, Flags: which(), Action: b.clockSet},
		}},
		{Name: "reset", Usage: "restart the BMCs themselves, not the machines", ArgsUsage: sel, Flags: which(yes), Action: b.resetBMC},
		{Name: "firmware", Usage: "show and update firmware", Subcommands: []*cli.Command{
			{Name: "show", Usage: "show what is installed", ArgsUsage: sel, Flags: which(), Action: b.firmwareShow},
			{Name: "update", Usage: "install an image, wait for the BMC's task, and compare the versions", ArgsUsage: sel,
				Flags: which(yes, &cli.StringFlag{Name: "file", TakesFile: true, Usage: "the image, pushed to the BMCs"}, &cli.StringFlag{Name: "uri", Usage: "the image, fetched by the BMCs"},
					&cli.StringSliceFlag{Name: "target", Usage: "`ID` of the firmware that it is for, as fettle bmc firmware show lists it"}), Action: b.firmwareUpdate},
		}},
		{Name: "users", Usage: "show the BMCs' users, and change passwords", Subcommands: []*cli.Command{
			{Name: "show", Usage: "show the users", ArgsUsage: sel, Flags: which(), Action: b.usersShow},
			b.rotateCommand(which, yes),
		}},
	}
}

// each does f to every machine and reports a line of each.
func each[T any](b *bmcCommand, c *cli.Context, asks, what string, head []string, f func(context.Context, *bmc.Client) (T, error), row func(T) []string, rows ...func(T) [][]string) error {
	ts, err := b.pick(c, asks)
	if err != nil {
		return err
	}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, f)
	return report(b.e, res, what, append([]string{"MACHINE"}, head...), row, rows...)
}

func (b *bmcCommand) mediaShow(c *cli.Context) error {
	return each(b, c, "", "media", []string{"DRIVE", "TAKES", "HOLDS"}, func(ctx context.Context, cl *bmc.Client) ([]bmc.Media, error) { return cl.Media(ctx) }, nil,
		func(ms []bmc.Media) (rows [][]string) {
			for _, m := range ms {
				holds := m.Image
				if !m.Inserted {
					holds = "-"
				}
				rows = append(rows, []string{m.Slot, strings.Join(m.Types, ", "), holds})
			}
			return rows
		})
}

func (b *bmcCommand) mediaInsert(c *cli.Context) error {
	uri := c.String("image")
	return each(b, c, "", "image", []string{"HOLDS"}, func(ctx context.Context, cl *bmc.Client) (string, error) { return uri, cl.InsertMedia(ctx, uri) },
		func(s string) []string { return []string{s} })
}

func (b *bmcCommand) mediaEject(c *cli.Context) error {
	return each(b, c, "", "image", []string{"HOLDS"}, func(ctx context.Context, cl *bmc.Client) (string, error) { return "-", cl.EjectMedia(ctx) },
		func(s string) []string { return []string{s} })
}

func secureBootRow(s bmc.SecureBoot) []string { return []string{s.String(), s.Mode} }

func (b *bmcCommand) secureBootShow(c *cli.Context) error {
	return each(b, c, "", "secure_boot", []string{"SECURE BOOT", "MODE"}, func(ctx context.Context, cl *bmc.Client) (bmc.SecureBoot, error) { return cl.SecureBoot(ctx) }, secureBootRow)
}

func (b *bmcCommand) secureBootSet(on bool) cli.ActionFunc {
	return func(c *cli.Context) error {
		asks := ""
		if !on {
			asks = "switch Secure Boot off on"
		}
		return each(b, c, asks, "secure_boot", []string{"SECURE BOOT", "MODE"}, func(ctx context.Context, cl *bmc.Client) (bmc.SecureBoot, error) {
			if err := cl.SetSecureBoot(ctx, on); err != nil {
				return bmc.SecureBoot{}, err
			}
			return cl.SecureBoot(ctx)
		}, secureBootRow)
	}
}

func (b *bmcCommand) secureBootKeys(c *cli.Context) error {
	how, ok := map[string]bmc.KeyReset{"default": bmc.DefaultKeys, "none": bmc.NoKeys, "no-pk": bmc.NoPK}[c.String("to")]
	if !ok {
		return usage("--to %q: give default, none or no-pk", c.String("to"))
	}
	return each(b, c, "reset the Secure Boot keys ("+c.String("to")+") of", "secure_boot", []string{"SECURE BOOT", "MODE"}, func(ctx context.Context, cl *bmc.Client) (bmc.SecureBoot, error) {
		if err := cl.ResetSecureBootKeys(ctx, how); err != nil {
			return bmc.SecureBoot{}, err
		}
		return cl.SecureBoot(ctx)
	}, secureBootRow)
}

func limitRow(l bmc.PowerLimit) []string {
	watts := func(f *float64) string {
		if f == nil {
			return "-"
		}
		return strconv.FormatFloat(*f, 'f', -1, 64) + " W"
	}
	limit := "none"
	if l.Watts > 0 {
		limit = watts(&l.Watts)
	}
	return []string{limit, watts(l.Drawn), watts(l.Min), watts(l.Max)}
}

var limitHead = []string{"LIMIT", "DRAWN", "LEAST", "MOST"}

func (b *bmcCommand) limitShow(c *cli.Context) error {
	return each(b, c, "", "power_limit", limitHead, func(ctx context.Context, cl *bmc.Client) (bmc.PowerLimit, error) { return cl.PowerLimit(ctx) }, limitRow)
}

func (b *bmcCommand) setLimit(c *cli.Context, watts float64) error {
	return each(b, c, "", "power_limit", limitHead, func(ctx context.Context, cl *bmc.Client) (bmc.PowerLimit, error) {
		if err := cl.SetPowerLimit(ctx, watts); err != nil {
			return bmc.PowerLimit{}, err
		}
		return cl.PowerLimit(ctx)
	}, limitRow)
}

func (b *bmcCommand) limitSet(c *cli.Context) error {
	if c.Float64("watts") <= 0 {
		return usage("--watts %g: give more than 0; fettle bmc limit off lifts the limit", c.Float64("watts"))
	}
	return b.setLimit(c, c.Float64("watts"))
}

func (b *bmcCommand) limitOff(c *cli.Context) error { return b.setLimit(c, 0) }

func (b *bmcCommand) telemetry(c *cli.Context) error {
	part := strings.ToLower(c.String("name"))
	return each(b, c, "", "metrics", []string{"METRIC", "VALUE", "REPORT"}, func(ctx context.Context, cl *bmc.Client) ([]bmc.MetricValue, error) {
		all, err := cl.Telemetry(ctx)
		out := []bmc.MetricValue{}
		for _, v := range all {
			if strings.Contains(strings.ToLower(v.ID+" "+v.Property), part) {
				out = append(out, v)
			}
		}
		return out, err
	}, nil, func(vs []bmc.MetricValue) (rows [][]string) {
		for _, v := range vs {
			id := v.ID
			if id == "" {
				id = v.Property
			}
			rows = append(rows, []string{id, v.Value, v.Report})
		}
		return rows
	})
}

func (b *bmcCommand) networkShow(c *cli.Context) error {
	return each(b, c, "", "networks", []string{"INTERFACE", "MAC", "ADDRESS", "BY", "GATEWAY", "VLAN"}, func(ctx context.Context, cl *bmc.Client) ([]bmc.Network, error) { return cl.Networks(ctx) }, nil,
		func(ns []bmc.Network) (rows [][]string) {
			for _, n := range ns {
				by, addr, gw, vlan := "static", "-", "-", "-"
				if n.DHCP {
					by = "DHCP"
				}
				if n.Address.IsValid() {
					addr = n.Address.String()
				}
				if n.Gateway.IsValid() {
					gw = n.Gateway.String()
				}
				if n.VLAN > 0 {
					vlan = strconv.Itoa(n.VLAN)
				}
				rows = append(rows, []string{n.ID, n.MAC, addr, by, gw, vlan})
			}
			return rows
		})
}

func (b *bmcCommand) networkSet(c *cli.Context) error {
	n := bmc.Network{ID: c.String("interface"), DHCP: c.Bool("dhcp")}
	if (c.String("address") == "") != n.DHCP {
		return usage("give --address PREFIX or --dhcp")
	}
	if c.NArg() != 1 {
		return usage("set one machine's BMC at a time; %d were given", c.NArg())
	}
	var err error
	if a := c.String("address"); a != "" {
		if n.Address, err = netip.ParsePrefix(a); err != nil {
			return usage("--address %q: give an address with its network's length, such as 192.0.2.9/24", a)
		}
	}
	if g := c.String("gateway"); g != "" {
		if n.Gateway, err = netip.ParseAddr(g); err != nil {
			return usage("--gateway %q: give an address", g)
		}
	}
	to := "DHCP"
	if !n.DHCP {
		to = n.Address.String()
	}
	return each(b, c, "change the BMC's address to "+to+" on", "address", []string{"NOW"}, func(ctx context.Context, cl *bmc.Client) (string, error) { return to, cl.SetNetwork(ctx, n) },
		func(s string) []string { return []string{s + "; write it into the site file"} })
}

// clockState is a BMC's clock beside ours.
type clockState struct {
	Time time.Time `json:"time"`
	Off  float64   `json:"off_seconds"`
}

func clockRow(s clockState) []string {
	return []string{s.Time.UTC().Format(time.RFC3339), (time.Duration(s.Off) * time.Second).String()}
}

var clockHead = []string{"TIME", "AHEAD BY"}

func readClock(ctx context.Context, cl *bmc.Client) (clockState, error) {
	t, err := cl.Clock(ctx)
	return clockState{t, float64(int(time.Until(t).Seconds()))}, err
}

func (b *bmcCommand) clockShow(c *cli.Context) error {
	return each(b, c, "", "clock", clockHead, readClock, clockRow)
}

func (b *bmcCommand) clockSet(c *cli.Context) error {
	return each(b, c, "", "clock", clockHead, func(ctx context.Context, cl *bmc.Client) (clockState, error) {
		if err := cl.SetClock(ctx, time.Now); err != nil {
			return clockState{}, err
		}
		return readClock(ctx, cl)
	}, clockRow)
}

func (b *bmcCommand) resetBMC(c *cli.Context) error {
	return each(b, c, "restart the BMC of", "reset", []string{"BMC"}, func(ctx context.Context, cl *bmc.Client) (bool, error) { return true, cl.ResetBMC(ctx) },
		func(bool) []string { return []string{"restarts; it answers again in a minute or more"} })
}

func (b *bmcCommand) nmi(c *cli.Context) error {
	return each(b, c, "send a non-maskable interrupt, which may crash the system, to", "nmi", []string{"NMI"}, func(ctx context.Context, cl *bmc.Client) (bool, error) { return true, cl.Interrupt(ctx) },
		func(bool) []string { return []string{"sent"} })
}

func (b *bmcCommand) firmwareShow(c *cli.Context) error {
	return each(b, c, "", "firmware", []string{"ID", "NAME", "VERSION"}, func(ctx context.Context, cl *bmc.Client) ([]bmc.Firmware, error) {
		in, err := cl.Inventory(ctx)
		return in.Firmware, err
	}, nil, func(fs []bmc.Firmware) (rows [][]string) {
		for _, f := range fs {
			rows = append(rows, []string{f.ID, f.Name, f.Version})
		}
		return rows
	})
}

func (b *bmcCommand) firmwareUpdate(c *cli.Context) error {
	file, uri := c.String("file"), c.String("uri")
	if (file == "") == (uri == "") {
		return usage("give --file or --uri")
	}
	src := bmc.UpdateSource{URI: uri, Targets: c.StringSlice("target")}
	what := uri
	if file != "" {
		src, what = bmc.FileSource(file, c.StringSlice("target")), file
		f, err := src.Open()
		if err != nil {
			return fail(exitInput, fmt.Errorf("--file: %w", err))
		}
		_ = f.Close() // it was only looked at
	}
	var mu sync.Mutex
	said := map[string]string{}
	progress := func(machine string) func(bmc.UpdateState) {
		return func(s bmc.UpdateState) {
			text := s.Task
			switch {
			case s.Task == "" && s.Size > 0:
				text = fmt.Sprintf("sent %d%% of %s", s.Sent*100/s.Size/10*10, bytesText(s.Size))
			case s.Task != "":
				text = fmt.Sprintf("%s %d%%", s.Task, s.Percent)
			}
			mu.Lock()
			defer mu.Unlock()
			if text != "" && said[machine] != text && !b.e.json {
				said[machine] = text
				fmt.Fprintf(b.e.stderr, "%-12s %s\n", machine, text)
			}
		}
	}
	return each(b, c, "install the firmware "+what+" on", "update", []string{"CHANGED"}, func(ctx context.Context, cl *bmc.Client) (bmc.Update, error) {
		return cl.UpdateFirmware(ctx, src, progress(cl.Name()))
	}, func(u bmc.Update) []string {
		if u.Pending {
			return []string{"nothing yet: the versions read as before; many parts start new firmware at the next restart"}
		}
		return []string{strings.Join(u.Changed(), "; ")}
	})
}

func (b *bmcCommand) usersShow(c *cli.Context) error {
	return each(b, c, "", "users", []string{"SLOT", "USER", "ROLE", "STATE"}, func(ctx context.Context, cl *bmc.Client) ([]bmc.Account, error) { return cl.Accounts(ctx) }, nil,
		func(as []bmc.Account) (rows [][]string) {
			for _, a := range as {
				st := "enabled"
				if !a.Enabled {
					st = "disabled"
				}
				if a.Locked {
					st += ", locked"
				}
				rows = append(rows, []string{a.ID, a.User, a.Role, st})
			}
			return rows
		})
}
