package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

// eventsCommands is fettle events. connect finds the server to ask.
func eventsCommands(e *env, connect func(c *cli.Context) (*web.Client, error)) []*cli.Command {
	return []*cli.Command{{
		Name:      "events",
		Usage:     "show what happened, oldest first",
		ArgsUsage: "[MACHINE]",
		Description: "Prints a line for each event: its time in UTC, the machine, the kind, and a sentence.\n" +
			"With --output json, a JSON object a line. With --follow it goes on until Ctrl-C.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with each event as it comes"},
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: 100, Usage: "only the newest `N` of the past, 0 for all"},
			&cli.Int64Flag{Name: "after", Usage: "only events with a greater number than `SEQ`"},
			&cli.StringSliceFlag{Name: "kind", Usage: "only events of this `KIND`, e.g. machine.phase; may be repeated"},
		},
		Action: func(c *cli.Context) error { return showEvents(c, e, connect) },
	}}
}

func showEvents(c *cli.Context, e *env, connect func(c *cli.Context) (*web.Client, error)) error {
	switch {
	case c.NArg() > 1:
		return usage("fettle events takes one machine, not %d: %v", c.NArg(), c.Args().Slice())
	case c.Int("limit") < 0:
		return usage("--limit is %d: give 0 for all, or how many", c.Int("limit"))
	}
	q := state.Query{Machine: c.Args().First(), After: c.Int64("after"), Limit: c.Int("limit")}
	for _, k := range c.StringSlice("kind") {
		q.Kinds = append(q.Kinds, state.Kind(k))
	}
	client, err := connect(c)
	if err != nil {
		return err
	}
	if q.Machine != "" { // a name that nobody knows is an error, not silence
		if _, err := client.Machine(c.Context, q.Machine); err != nil {
			return fail(exitFailed, err)
		}
	}
	follow := c.Bool("follow")
	out := bufio.NewWriter(e.stdout)
	for ev, err := range client.Events(c.Context, q, follow) {
		if err != nil {
			// What was read so far is still shown.
			if flushErr := out.Flush(); flushErr != nil {
				return fail(exitFailed, fmt.Errorf("printing events: %w", flushErr))
			}
			return fail(exitFailed, err)
		}
		err = printEvent(out, ev, e.json)
		if err == nil && follow {
			err = out.Flush()
		}
		if err != nil {
			return fail(exitFailed, fmt.Errorf("printing events: %w", err))
		}
	}
	if err := out.Flush(); err != nil {
		return fail(exitFailed, fmt.Errorf("printing events: %w", err))
	}
	if follow && c.Context.Err() != nil {
		return fail(exitInterrupted, fmt.Errorf("interrupted"))
	}
	return nil
}

// printEvent writes one event as a line.
func printEvent(w io.Writer, ev state.Event, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(ev)
	}
	machine := ev.Machine
	if machine == "" {
		machine = "-"
	}
	_, err := fmt.Fprintf(w, "%s %s %s %s\n", ev.Time.UTC().Format("2006-01-02 15:04:05"), machine, ev.Kind, ev.Text)
	return err
}
