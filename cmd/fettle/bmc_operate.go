package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
			{Name: "show", Usage: "show whether it is on, and will be", ArgsUsage: sel, Flags: which(), Action: b.secureBoot(bmc.OpSecureBoot)},
			{Name: "on", Usage: "switch it on from the next boot", ArgsUsage: sel, Flags: which(), Action: b.secureBoot(bmc.OpSecureBootOn)},
			{Name: "off", Usage: "switch it off from the next boot", ArgsUsage: sel, Flags: which(yes), Action: b.secureBoot(bmc.OpSecureBootOff)},
			b.secureBootKeysCommand(which, yes),
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
			{Name: "show", Usage: "show the time and how far it is off", ArgsUsage: sel, Flags: which(), Action: b.clock(bmc.OpClock)},
			{Name: "set", Usage: "set it to this machine's time", ArgsUsage: sel, Flags: which(), Action: b.clock(bmc.OpSetClock)},
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

func (b *bmcCommand) mediaShow(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, []bmc.Media]{op: bmc.OpMedia, what: "media", head: []string{"DRIVE", "TAKES", "HOLDS"}, rows: func(ms []bmc.Media) (rows [][]string) {
		for _, m := range ms {
			holds := m.Image
			if !m.Inserted {
				holds = "-"
			}
			rows = append(rows, []string{m.Slot, strings.Join(m.Types, ", "), holds})
		}
		return rows
	}})
}

func holds(s string) []string { return []string{s} }

func (b *bmcCommand) mediaInsert(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.Image, string]{op: bmc.OpInsertMedia, args: bmc.Image{URI: c.String("image")}, what: "image", head: []string{"HOLDS"}, row: holds})
}

func (b *bmcCommand) mediaEject(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, string]{op: bmc.OpEjectMedia, what: "image", head: []string{"HOLDS"}, row: holds})
}

var secureBootHead = []string{"SECURE BOOT", "MODE"}

func secureBootRow(s bmc.SecureBoot) []string { return []string{s.String(), s.Mode} }

func (b *bmcCommand) secureBoot(op bmc.Operation[bmc.None, bmc.SecureBoot]) cli.ActionFunc {
	return func(c *cli.Context) error {
		return ask(b, c, bmcOrder[bmc.None, bmc.SecureBoot]{op: op, what: "secure_boot", head: secureBootHead, row: secureBootRow})
	}
}

func (b *bmcCommand) secureBootKeys(c *cli.Context) error {
	how, ok := map[string]bmc.KeyReset{"default": bmc.DefaultKeys, "none": bmc.NoKeys, "no-pk": bmc.NoPK}[c.String("to")]
	if !ok {
		return usage("--to %q: give default, none or no-pk", c.String("to"))
	}
	return ask(b, c, bmcOrder[bmc.Keys, bmc.SecureBoot]{op: bmc.OpSecureBootKeys, args: bmc.Keys{To: how}, asks: "reset the Secure Boot keys (" + c.String("to") + ") of",
		what: "secure_boot", head: secureBootHead, row: secureBootRow})
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
	return ask(b, c, bmcOrder[bmc.None, bmc.PowerLimit]{op: bmc.OpLimit, what: "power_limit", head: limitHead, row: limitRow})
}

func (b *bmcCommand) setLimit(c *cli.Context, watts float64) error {
	return ask(b, c, bmcOrder[bmc.PowerCap, bmc.PowerLimit]{op: bmc.OpSetLimit, args: bmc.PowerCap{Watts: watts}, what: "power_limit", head: limitHead, row: limitRow})
}

func (b *bmcCommand) limitSet(c *cli.Context) error {
	if c.Float64("watts") <= 0 {
		return usage("--watts %g: give more than 0; fettle bmc limit off lifts the limit", c.Float64("watts"))
	}
	return b.setLimit(c, c.Float64("watts"))
}

func (b *bmcCommand) limitOff(c *cli.Context) error { return b.setLimit(c, 0) }

func (b *bmcCommand) telemetry(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.Filter, []bmc.MetricValue]{op: bmc.OpTelemetry, args: bmc.Filter{Name: c.String("name")}, what: "metrics", head: []string{"METRIC", "VALUE", "REPORT"}, rows: func(vs []bmc.MetricValue) (rows [][]string) {
		for _, v := range vs {
			id := v.ID
			if id == "" {
				id = v.Property
			}
			rows = append(rows, []string{id, v.Value, v.Report})
		}
		return rows
	}})
}

func (b *bmcCommand) networkShow(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, []bmc.Network]{op: bmc.OpNetworks, what: "networks", head: []string{"INTERFACE", "MAC", "ADDRESS", "BY", "GATEWAY", "VLAN"}, rows: func(ns []bmc.Network) (rows [][]string) {
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
	}})
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
	return ask(b, c, bmcOrder[bmc.Network, string]{op: bmc.OpSetNetwork, args: n, asks: "change the BMC's address to " + to + " on", what: "address", head: []string{"NOW"},
		row: func(s string) []string { return []string{s + "; write it into the site file"} }})
}

func (b *bmcCommand) clock(op bmc.Operation[bmc.None, bmc.ClockState]) cli.ActionFunc {
	return func(c *cli.Context) error {
		return ask(b, c, bmcOrder[bmc.None, bmc.ClockState]{op: op, what: "clock", head: []string{"TIME", "AHEAD BY"}, row: func(s bmc.ClockState) []string {
			return []string{s.Time.UTC().Format(time.RFC3339), (time.Duration(s.Off) * time.Second).String()}
		}})
	}
}

func (b *bmcCommand) resetBMC(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, bool]{op: bmc.OpResetBMC, what: "reset", head: []string{"BMC"},
		row: func(bool) []string { return []string{"restarts; it answers again in a minute or more"} }})
}

func (b *bmcCommand) nmi(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, bool]{op: bmc.OpInterrupt, what: "nmi", head: []string{"NMI"}, row: func(bool) []string { return []string{"sent"} }})
}

func (b *bmcCommand) firmwareShow(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, []bmc.Firmware]{op: bmc.OpFirmware, what: "firmware", head: []string{"ID", "NAME", "VERSION"}, rows: func(fs []bmc.Firmware) (rows [][]string) {
		for _, f := range fs {
			rows = append(rows, []string{f.ID, f.Name, f.Version})
		}
		return rows
	}})
}

func (b *bmcCommand) firmwareUpdate(c *cli.Context) error {
	file, uri := c.String("file"), c.String("uri")
	if (file == "") == (uri == "") {
		return usage("give --file or --uri")
	}
	o := bmcOrder[bmc.FirmwareOrder, bmc.Update]{op: bmc.OpUpdateFirmware, args: bmc.FirmwareOrder{URI: uri, Targets: c.StringSlice("target")}, what: "update", head: []string{"CHANGED"},
		row: func(u bmc.Update) []string {
			if u.Pending {
				return []string{"nothing yet: the versions read as before; many parts start new firmware at the next restart"}
			}
			return []string{strings.Join(u.Changed(), "; ")}
		}}
	if file != "" {
		if err := checkImage(file); err != nil {
			return fail(exitInput, fmt.Errorf("--file: %w", err))
		}
		o.file, o.args.File, o.args.Name = file, file, filepath.Base(file)
	}
	shown := file
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil { // which repeats it, with its password
			return usage("--uri is no address: give one such as http://HOST/image.bin")
		}
		shown = u.Redacted()
	}
	w, err := b.pick(c, "install the firmware "+shown+" on")
	if err != nil {
		return err
	}
	if w.server != nil && file != "" {
		if o.args.File, err = b.sendImage(c.Context, w.server, file); err != nil {
			return err
		}
	}
	res, err := do(b, c, w, o)
	if err != nil {
		return err
	}
	return show(b, res, o)
}

// checkImage refuses what can be no firmware before a BMC is asked.
func checkImage(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // it is only looked at
	fi, err := f.Stat()
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() == 0) {
		err = fmt.Errorf("%s is no firmware image: it is empty, or no file", path)
	}
	return err
}

func (b *bmcCommand) usersShow(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, []bmc.Account]{op: bmc.OpUsers, what: "users", head: []string{"SLOT", "USER", "ROLE", "STATE"}, rows: func(as []bmc.Account) (rows [][]string) {
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
	}})
}
