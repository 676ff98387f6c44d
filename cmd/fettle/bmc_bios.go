package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
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
	ts, err := b.pick(c, "")
	if err != nil {
		return err
	}
	part := strings.ToLower(c.String("name"))
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bmc.BIOS, error) {
		all, err := cl.BIOS(ctx)
		all.Attributes = slices.DeleteFunc(all.Attributes, func(a bmc.Attribute) bool {
			return !strings.Contains(strings.ToLower(a.Name), part) && !strings.Contains(strings.ToLower(a.Title), part)
		})
		return all, err
	})
	return report(b.e, res, "bios", []string{"MACHINE", "SETTING", "VALUE", "PENDING", "TYPE", "TAKES"}, nil, func(x bmc.BIOS) (rows [][]string) {
		for _, a := range x.Attributes {
			takes := strings.Join(a.Allowed, ", ")
			if a.ReadOnly {
				takes = "read-only"
			}
			rows = append(rows, []string{a.Name, setting(a.Value), setting(a.Pending), a.Type, takes})
		}
		return rows
	})
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
	if c.Args().Present() {
		return usage("bios meanings takes no arguments; got %q", c.Args().First())
	}
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
func ofProfiles(s *site.Site, ts []bmc.Target) (map[string]map[string]any, error) {
	all, err := bmc.Meanings()
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]any{}
	for _, t := range ts {
		m, ok := s.Machine(t.Name)
		if !ok {
			return nil, fail(exitInput, fmt.Errorf("the site has no machine %s: say what is wanted with --set NAME=VALUE", t.Name))
		}
		p, ok := s.Profile(m.Profile)
		if !ok || len(p.BIOS) == 0 {
			return nil, usage("machine %s: its profile says no firmware settings: add bios: to it in the site file, or say what is wanted with --set NAME=VALUE; fettle bmc bios show lists the names", t.Name)
		}
		want := map[string]any{}
		for k, v := range p.BIOS {
			// A meaning is on or off; YAML may have made a boolean of it.
			if on, ok := v.(bool); ok && slices.ContainsFunc(all, func(m bmc.Meaning) bool { return m.Name == k }) {
				v = map[bool]string{true: "on", false: "off"}[on]
			}
			want[k] = v
		}
		out[t.Name] = want
	}
	return out, nil
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

// plans reads every machine and compares with --set, or with its profile.
func (b *bmcCommand) plans(c *cli.Context) ([]bmc.Result[bmc.BIOSPlan], error) {
	want, err := wanted(c)
	if err != nil {
		return nil, err
	}
	ts, err := b.pick(c, "")
	if err != nil {
		return nil, err
	}
	by := map[string]map[string]any{}
	if want == nil {
		s, err := siteOf(c)
		if err != nil {
			return nil, err
		}
		if by, err = ofProfiles(s, ts); err != nil {
			return nil, err
		}
	}
	return bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bmc.BIOSPlan, error) {
		now, err := cl.BIOS(ctx)
		if err != nil {
			return bmc.BIOSPlan{}, err
		}
		mine := want
		if mine == nil {
			mine = by[cl.Name()]
		}
		p, err := bmc.PlanBIOS(now, mine)
		if err != nil {
			return p, fmt.Errorf("%s: %w", cl.Name(), err)
		}
		return p, nil
	}), nil
}

func (b *bmcCommand) reportPlans(res []bmc.Result[bmc.BIOSPlan]) error {
	return report(b.e, res, "plan", []string{"MACHINE", "SETTING", "NOW", "WANTED", "STATE"}, nil, func(p bmc.BIOSPlan) (rows [][]string) {
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
	})
}

func (b *bmcCommand) biosPlan(c *cli.Context) error {
	res, err := b.plans(c)
	if err != nil {
		return err
	}
	return b.reportPlans(res)
}

// biosApply changes nothing unless every machine can have what is wanted.
func (b *bmcCommand) biosApply(c *cli.Context) error {
	res, err := b.plans(c)
	if err != nil {
		return err
	}
	todo := map[string]bmc.BIOSPlan{}
	var ts []bmc.Target
	failed := false
	for _, r := range res {
		failed = failed || r.Err != nil
		if r.Err == nil && (len(r.Value.Changes) > 0 || c.Bool("restart") && r.Value.Reboot()) {
			todo[r.Target.Name], ts = r.Value, append(ts, r.Target)
		}
	}
	if failed || !b.e.json || len(ts) == 0 {
		if err := b.reportPlans(res); err != nil || len(ts) == 0 {
			return err
		}
	}
	asks := "change BIOS settings of"
	if c.Bool("restart") {
		asks = "change BIOS settings of, and restart,"
	}
	if err := b.e.confirm(c.Bool("yes"), asks+" "+count(slices.Sorted(maps.Keys(todo)))); err != nil {
		return err
	}
	done := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (string, error) {
		p := todo[cl.Name()]
		if err := cl.SetBIOS(ctx, p); err != nil {
			return "", err
		}
		if !c.Bool("restart") {
			return "changes at the next boot", nil
		}
		if err := restart(ctx, cl); err != nil {
			return "", err
		}
		return "changed and verified", cl.VerifyBIOS(ctx, p.Want, c.Duration("wait"))
	})
	return report(b.e, done, "bios", []string{"MACHINE", "BIOS"}, func(s string) []string { return []string{s} })
}

// restart boots a machine, whether it is on or off.
func restart(ctx context.Context, cl *bmc.Client) error {
	now, err := cl.Power(ctx)
	if err != nil {
		return err
	}
	switch now {
	case bmc.On:
		return cl.SetPower(ctx, bmc.Reset)
	case bmc.Off:
		return cl.SetPower(ctx, bmc.PowerOn)
	}
	return errors.New(cl.Name() + ": its power state is not known: restart it by hand")
}
