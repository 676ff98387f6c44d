package main

import (
	"context"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
)

// sensorCommands read what machines measure and what happened to them.
func (b *bmcCommand) sensorCommands(which func(...cli.Flag) []cli.Flag, yes cli.Flag) []*cli.Command {
	return []*cli.Command{
		{Name: "sensors", Usage: "show temperatures, fans, power and voltages, those of GPUs too", ArgsUsage: "SELECTOR...",
			Flags: which(&cli.BoolFlag{Name: "problems", Usage: "only those that are not OK"}), Action: b.sensors},
		{Name: "sel", Usage: "show the system event log, oldest first", ArgsUsage: "SELECTOR...",
			Flags: which(yes, &cli.BoolFlag{Name: "clear", Usage: "empty it, once it is shown"}), Action: b.sel},
	}
}

func (b *bmcCommand) sensors(c *cli.Context) error {
	ts, err := b.pick(c, "")
	if err != nil {
		return err
	}
	only := c.Bool("problems")
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) (bmc.Readings, error) {
		r, err := cl.Sensors(ctx)
		if only {
			r.Sensors = problems(r.Sensors)
		}
		return r, err
	})
	return report(b.e, res, "readings", []string{"MACHINE", "SENSOR", "KIND", "READING", "UNIT", "LOW", "HIGH", "HEALTH"}, nil, sensorRows)
}

// problems are the sensors that are not OK.
func problems(all []bmc.Sensor) []bmc.Sensor {
	out := []bmc.Sensor{} // an empty list, not null, in JSON
	for _, s := range all {
		if s.Health != "OK" && s.Health != "" {
			out = append(out, s)
		}
	}
	return out
}

// sensorRows are a line a sensor; "-" is what there is not.
func sensorRows(r bmc.Readings) (rows [][]string) {
	number := func(f *float64) string {
		if f == nil {
			return "-"
		}
		return strconv.FormatFloat(*f, 'f', -1, 64)
	}
	for _, s := range r.Sensors {
		rows = append(rows, []string{s.Name, string(s.Kind), number(s.Reading), s.Unit, number(s.Low), number(s.High), s.Health})
	}
	for _, m := range r.Missing {
		rows = append(rows, []string{m, "missing", "", "", "", "", ""})
	}
	return rows
}

func (b *bmcCommand) sel(c *cli.Context) error {
	asks := ""
	if c.Bool("clear") {
		asks = "empty the event log of"
	}
	ts, err := b.pick(c, asks)
	if err != nil {
		return err
	}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: c.Int("parallel")}, func(ctx context.Context, cl *bmc.Client) ([]bmc.LogEntry, error) {
		es, err := cl.Log(ctx)
		if err == nil && asks != "" {
			err = cl.ClearLog(ctx)
		}
		return es, err
	})
	return report(b.e, res, "log", []string{"MACHINE", "TIME", "SEVERITY", "SENSOR", "EVENT"}, nil, func(es []bmc.LogEntry) (rows [][]string) {
		for _, e := range es {
			when := "-"
			if !e.Time.IsZero() {
				when = e.Time.Format(time.RFC3339)
			}
			rows = append(rows, []string{when, e.Severity, e.Sensor, e.Message})
		}
		return rows
	})
}
