package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
)

// biosCommand shows, plans and sets firmware settings.
func (b *bmcCommand) biosCommand(which func(...cli.Flag) []cli.Flag, yes cli.Flag) *cli.Command {
	set := &cli.StringSliceFlag{Name: "set", Usage: "`NAME=VALUE`: an attribute of the machine, or a meaning with on or off; may be given again (default: what the machine's profile says)"}
	return &cli.Command{Name: "bios", Usage: "show, plan and set firmware settings", Subcommands: []*cli.Command{
		{Name: "show", Usage: "show the settings and what waits for the next boot", ArgsUsage: "SELECTOR...",
			Flags: which(&cli.StringFlag{Name: "name", Usage: "only settings with `TEXT` in their name or title"}), Action: b.biosShow},
		{Name: "meanings", Usage: "list the settings that are known by what they do, and what makers call them", Action: b.biosMeanings},
		{Name: "plan", Usage: "show what would change", ArgsUsage: "SELECTOR...", Flags: which(set), Action: b.biosPlan},
		{Name: "apply", Usage: "show what would change, and after a yes ask the firmware for it: it changes at the next boot", ArgsUsage: "SELECTOR...",
			Flags: which(set, yes, &cli.BoolFlag{Name: "restart", Usage: "restart the machines at once, without asking the operating system, and wait until the settings are as wanted"},
				&cli.DurationFlag{Name: "wait", Value: 20 * time.Minute, Usage: "how long to wait after --restart"}),
			Action: b.biosApply},
	}}
}

func (b *bmcCommand) biosShow(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.Filter, bmc.BIOS]{op: bmc.OpBIOS, args: bmc.Filter{Name: c.String("name")}, what: "bios", head: []string{"SETTING", "VALUE", "PENDING", "TYPE", "TAKES"}, rows: func(x bmc.BIOS) (rows [][]string) {
		for _, a := range x.Attributes {
			takes := strings.Join(a.Allowed, ", ")
			if a.ReadOnly {
				takes = "read-only"
			}
			rows = append(rows, []string{a.Name, setting(a.Value), setting(a.Pending), a.Type, takes})
		}
		return rows
	}})
}

// setting is a value for people.
func setting(v any) string {
	if v == nil {
		return "-"
	}
	if s := fmt.Sprint(v); s != "" {
		return s
	}
	return `""`
}

func (b *bmcCommand) biosMeanings(c *cli.Context) error {
	all, err := bmc.Meanings()
	if err != nil {
		return err
	}
	if b.e.json {
		return b.e.printJSON(all)
	}
	for _, m := range all {
		fmt.Fprintf(b.e.stdout, "%s: %s\n", m.Name, m.Says)
		for _, a := range m.Attributes {
			fmt.Fprintf(b.e.stdout, "  %s: %s\n", a.Maker, a.Name)
		}
	}
	return nil
}

// wanted are the settings of --set; nil without it.
func wanted(c *cli.Context) (map[string]any, error) {
	if len(c.StringSlice("set")) == 0 {
		return nil, nil
	}
	want := map[string]any{}
	for _, s := range c.StringSlice("set") {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usage("--set %q: give NAME=VALUE", s)
		}
		if old, twice := want[k]; twice && old != v {
			return nil, usage("--set gives %s twice: %v and %s", k, old, v)
		}
		want[k] = v
	}
	return want, nil
}

// ofProfiles are the settings that the machines' profiles name, by machine.
func ofProfiles(s *site.Site, names []string) (map[string]map[string]any, error) {
	var ms []site.Machine
	for _, name := range names {
		m, ok := s.Machine(name)
		if !ok {
			return nil, fail(exitInput, fmt.Errorf("the site has no machine %s: say what is wanted with --set NAME=VALUE", name))
		}
		ms = append(ms, m)
	}
	out, err := provision.ProfileBIOS(s, ms)
	return out, fail(exitUsage, err)
}

// siteOf is the site that the command is about: a lab's, or that of --site.
func siteOf(c *cli.Context) (*site.Site, error) {
	dir := c.String("site")
	if c.String("lab") != "" {
		lab, err := labDir(c)
		if err != nil {
			return nil, err
		}
		f, err := readLabFile(lab)
		if err != nil {
			return nil, err
		}
		dir = f.SiteDir
	}
	s, err := site.Load(dir)
	return s, fail(exitInput, err)
}

var biosPlanOrder = bmcOrder[bmc.BIOSWant, bmc.BIOSPlan]{op: bmc.OpBIOSPlan, what: "plan", head: []string{"SETTING", "NOW", "WANTED", "STATE"},
	rows: func(p bmc.BIOSPlan) (rows [][]string) {
		for _, ch := range p.Changes {
			rows = append(rows, []string{ch.Name, setting(ch.From), setting(ch.To), "to change, at a boot"})
		}
		for _, ch := range p.Waiting {
			rows = append(rows, []string{ch.Name, setting(ch.From), setting(ch.To), "waits for the next boot"})
		}
		for _, n := range p.Same {
			rows = append(rows, []string{n, setting(p.Want[n]), setting(p.Want[n]), "as wanted"})
		}
		return rows
	}}

// plans reads every machine and compares with --set, or with its profile.
func (b *bmcCommand) plans(c *cli.Context) (way, []bmc.Result[bmc.BIOSPlan], error) {
	want, err := wanted(c)
	if err != nil {
		return way{}, nil, err
	}
	w, err := b.pick(c, "")
	if err != nil {
		return w, nil, err
	}
	o := biosPlanOrder
	o.args.Set = want
	if want == nil && w.server == nil { // a server knows the profiles
		s, err := siteOf(c)
		if err != nil {
			return w, nil, err
		}
		if o.args.Machines, err = ofProfiles(s, w.names); err != nil {
			return w, nil, err
		}
	}
	res, err := do(b, c, w, o)
	return w, res, err
}

func (b *bmcCommand) biosPlan(c *cli.Context) error {
	_, res, err := b.plans(c)
	if err != nil {
		return err
	}
	return show(b, res, biosPlanOrder)
}

// biosApply changes nothing unless every machine can have what is wanted.
func (b *bmcCommand) biosApply(c *cli.Context) error {
	w, res, err := b.plans(c)
	if err != nil {
		return err
	}
	todo := map[string]bmc.BIOSPlan{}
	failed := false
	for _, r := range res {
		failed = failed || r.Err != nil
		if r.Err == nil && (len(r.Value.Changes) > 0 || c.Bool("restart") && r.Value.Reboot()) {
			todo[r.Target.Name] = r.Value
		}
	}
	if failed || !b.e.json || len(todo) == 0 {
		if err := show(b, res, biosPlanOrder); err != nil || len(todo) == 0 {
			return err
		}
	}
	asks := bmc.OpBIOSApply.Asks
	if c.Bool("restart") {
		asks += ", and restart,"
	}
	names := slices.Sorted(maps.Keys(todo))
	if err := b.e.confirm(c.Bool("yes"), asks+" "+count(names)); err != nil {
		return err
	}
	o := bmcOrder[bmc.BIOSOrder, string]{op: bmc.OpBIOSApply, args: bmc.BIOSOrder{Plans: todo, Restart: c.Bool("restart"), Wait: c.Duration("wait")},
		what: "bios", head: []string{"BIOS"}, row: func(s string) []string { return []string{s} }, only: names}
	done, err := do(b, c, w, o)
	if err != nil {
		return err
	}
	return show(b, done, o)
}
