package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

func machineHealthCommand(e *env) *cli.Command {
	return &cli.Command{Name: "health", Usage: "show what installed systems say of the disks that they run on", ArgsUsage: "[NAME...]",
		Description: "A system that was deployed with a mirror (layout: {raid: 1}) tells at each start, and whenever a disk is lost,\n" +
			"is filled or is whole again. Without names: every machine that did. The exit status is 1 when a mirror lacks a disk.",
		Action: withClient(e, machineHealth)}
}

// machineDisks is a machine with what its system says.
type machineDisks struct {
	Machine string            `json:"machine"`
	Health  *state.HealthData `json:"health"` // nil: it says nothing
}

func machineHealth(c *cli.Context, e *env, w *web.Client) error {
	ms, err := w.Machines(c.Context)
	if err != nil {
		return err
	}
	told, names := []machineDisks{}, c.Args().Slice()
	for _, m := range ms {
		if len(names) == 0 && m.Status.Health != nil || slices.Contains(names, m.Name) {
			told = append(told, machineDisks{m.Name, m.Status.Health})
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(told, func(m machineDisks) bool { return m.Machine == name }) {
			return usage("no machine %q is in the site, and none was seen: see fettle machine ls", name)
		}
	}
	var problems []string
	for _, m := range told {
		if m.Health != nil && m.Health.Problem != "" {
			problems = append(problems, fmt.Sprintf("%s: since %s %s", m.Machine, sinceText(m.Health.Since), m.Health.Problem))
		}
	}
	if e.json {
		if err := e.printJSON(told); err != nil {
			return err
		}
	} else {
		table(e.stdout, healthRows(told))
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "\n"))
	}
	return nil
}

// healthRows are a line a disk of an array.
func healthRows(told []machineDisks) [][]string {
	rows := [][]string{{"MACHINE", "ARRAY", "DISK", "DEVICE", "STATE"}}
	for _, m := range told {
		if m.Health == nil {
			rows = append(rows, []string{m.Machine, "-", "-", "-", "it says nothing"})
			continue
		}
		for _, a := range m.Health.Arrays {
			for _, x := range a.Members {
				how := string(x.State)
				if x.State == state.MemberRebuilding && a.Sync != "" {
					how += fmt.Sprintf(" (%d %%)", a.Percent)
				}
				rows = append(rows, []string{m.Machine, a.Name, cmp.Or(x.Serial, "?"), cmp.Or(x.Device, "-"), how})
			}
		}
	}
	return rows
}
