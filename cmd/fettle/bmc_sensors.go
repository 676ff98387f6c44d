package main

import (
	"math"
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
	return ask(b, c, bmcOrder[bmc.Filter, bmc.Readings]{op: bmc.OpSensors, args: bmc.Filter{Problems: c.Bool("problems")}, what: "readings",
		head: []string{"SENSOR", "KIND", "READING", "UNIT", "LOW", "HIGH", "HEALTH"}, rows: sensorRows})
}

// sensorRows are a line a sensor; "-" is what there is not.
func sensorRows(r bmc.Readings) (rows [][]string) {
	number := func(f *float64) string {
		if f == nil {
			return "-"
		}
		return strconv.FormatFloat(math.Round(*f*1000)/1000, 'f', -1, 64) // 44.70588235294118 % of a fan
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
	op := bmc.OpLog
	if c.Bool("clear") {
		op = bmc.OpClearLog
	}
	return ask(b, c, bmcOrder[bmc.None, []bmc.LogEntry]{op: op, what: "log", head: []string{"TIME", "SEVERITY", "SENSOR", "EVENT"}, rows: func(es []bmc.LogEntry) (rows [][]string) {
		for _, e := range es {
			when := "-"
			if !e.Time.IsZero() {
				when = e.Time.Format(time.RFC3339)
			}
			rows = append(rows, []string{when, e.Severity, e.Sensor, e.Message})
		}
		return rows
	}})
}
