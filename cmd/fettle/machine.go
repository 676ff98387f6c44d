package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

func machineCommands(e *env) []*cli.Command {
	yes := &cli.BoolFlag{Name: "yes", Usage: "do it without asking"}
	wait := &cli.BoolFlag{Name: "wait", Value: true, Usage: "follow until every machine's run has ended"}
	return []*cli.Command{
		{
			Name: "machine", Usage: "what machines are, and what happens to them",
			Subcommands: []*cli.Command{
				{Name: "ls", Usage: "list machines and their phases", ArgsUsage: "[SELECTOR...]", Description: selectorHelp, Action: withClient(e, machineList)},
				{Name: "show", Usage: "show all that is known of a machine", ArgsUsage: "NAME", Action: withClient(e, machineShow)},
				{Name: "why", Usage: "tell what happened to a machine, as sentences", ArgsUsage: "NAME", Action: withClient(e, machineWhy)},
				machineHealthCommand(e),
				{Name: "deploy", Usage: "write each machine's image and start it", ArgsUsage: "SELECTOR...", Flags: []cli.Flag{yes, wait},
					Description: "Shows the plan (disks that are wiped, machines that restart) and asks, or needs --yes.\n" + selectorHelp,
					Action:      withClient(e, machineDeploy)},
				{Name: "inspect", Usage: "boot machines into the agent and record what they are", ArgsUsage: "SELECTOR...", Flags: []cli.Flag{yes, wait},
					Description: "Nothing is written to a disk. A machine with an installed system is restarted into it\nafterwards; any other is switched off.\n" + selectorHelp,
					Action:      withClient(e, machineInspect)},
				{Name: "abort", Usage: "end a machine's run; the machine is left as it is", ArgsUsage: "NAME", Action: withClient(e, machineAbort)},
			},
		},
		{Name: "plan", Usage: "show what deploying machines would do", ArgsUsage: "SELECTOR...", Description: selectorHelp, Action: withClient(e, planShow)},
	}
}

const selectorHelp = "SELECTOR is a name, a range such as gpu-[01-32], rack=NAME, profile=NAME, or all."

// withClient connects to the serving fettle before a command runs.
func withClient(e *env, do func(c *cli.Context, e *env, w *web.Client) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		w, err := e.connect(c)
		if err != nil {
			return err
		}
		return do(c, e, w)
	}
}

// oneArg is a command's only argument.
func oneArg(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", usage("%s takes one %s", c.Command.HelpName, what)
	}
	return c.Args().First(), nil
}

// selectors are a command's arguments, of which there must be some: nothing is
// done to all machines by accident.
func selectors(c *cli.Context) ([]string, error) {
	if c.NArg() == 0 {
		return nil, usage("%s takes machines: names, gpu-[01-32], rack=r1, profile=train, or all", c.Command.HelpName)
	}
	return c.Args().Slice(), nil
}

func machineList(c *cli.Context, e *env, w *web.Client) error {
	ms, err := w.Machines(c.Context, c.Args().Slice()...)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(ms)
	}
	rows := [][]string{{"MACHINE", "PHASE", "SINCE", "IMAGE", "REASON"}}
	for _, m := range ms {
		reason := m.Status.Reason
		if h := m.Status.Health; reason == "" && h != nil {
			reason = h.Problem
		}
		rows = append(rows, []string{m.Name, string(m.Status.Phase), sinceText(m.Status.Since), m.Status.Image, reason})
	}
	table(e.stdout, rows)
	return nil
}

func sinceText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func machineShow(c *cli.Context, e *env, w *web.Client) error {
	name, err := oneArg(c, "machine")
	if err != nil {
		return err
	}
	m, err := w.Machine(c.Context, name)
	if err != nil {
		return err
	}
	return e.printJSON(m)
}

func machineWhy(c *cli.Context, e *env, w *web.Client) error {
	name, err := oneArg(c, "machine")
	if err != nil {
		return err
	}
	lines, err := w.Why(c.Context, name)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(lines)
	}
	for _, l := range lines {
		fmt.Fprintln(e.stdout, l)
	}
	return nil
}

func planShow(c *cli.Context, e *env, w *web.Client) error {
	sel, err := selectors(c)
	if err != nil {
		return err
	}
	p, err := w.Plan(c.Context, sel)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(p)
	}
	printPlan(e.stdout, p)
	return nil
}

// printPlan tells a plan to people.
func printPlan(w io.Writer, p state.Plan) {
	for _, m := range p.Machines {
		fmt.Fprintf(w, "%s (now %s)\n", m.Machine, m.Phase)
		for _, ch := range m.Changes {
			fmt.Fprintf(w, "  - %s\n", ch)
		}
	}
	fmt.Fprintf(w, "plan %.19s of site revision %.19s\n", p.Digest, p.Revision)
}

func machineDeploy(c *cli.Context, e *env, w *web.Client) error {
	sel, err := selectors(c)
	if err != nil {
		return err
	}
	p, err := w.Plan(c.Context, sel)
	if err != nil {
		return err
	}
	if !e.json {
		printPlan(e.stderr, p)
	}
	if err := e.confirm(c.Bool("yes"), fmt.Sprintf("wipe the disks above and restart %d machines", len(p.Machines))); err != nil {
		return err
	}
	return e.deploy(c.Context, w, p, sel, c.Bool("wait"))
}

// deploy starts a planned deployment and follows it.
func (e *env) deploy(ctx context.Context, w *web.Client, p state.Plan, sel []string, wait bool) error {
	after, statuses, err := snapshot(ctx, w)
	if err != nil {
		return err
	}
	if _, err := w.Deploy(ctx, p.Digest, sel); err != nil {
		if errors.Is(err, state.ErrPlanChanged) {
			return fail(exitRefused, err)
		}
		return err
	}
	if !wait {
		return nil
	}
	var names []string
	for _, m := range p.Machines {
		names = append(names, m.Machine)
	}
	return e.followStarted(ctx, w, names, after, statuses)
}

func machineInspect(c *cli.Context, e *env, w *web.Client) error {
	sel, err := selectors(c)
	if err != nil {
		return err
	}
	ms, err := w.Machines(c.Context, sel...)
	if err != nil {
		return err
	}
	names := make([]string, len(ms))
	for i, m := range ms {
		names[i] = fmt.Sprintf("%s (now %s)", m.Name, m.Status.Phase)
	}
	if err := e.confirm(c.Bool("yes"), "restart into the agent "+count(names)); err != nil {
		return err
	}
	after, statuses, err := snapshot(c.Context, w)
	if err != nil {
		return err
	}
	runs, err := w.Inspect(c.Context, sel)
	if err != nil || !c.Bool("wait") {
		return err
	}
	names = nil
	for ev, err := range w.Events(c.Context, state.Query{After: after, Kinds: []state.Kind{state.KindRun}}, false) {
		if err != nil {
			return err
		}
		if slices.Contains(runs, ev.Run) {
			names = append(names, ev.Machine)
		}
	}
	return e.followStarted(c.Context, w, names, after, statuses)
}

func machineAbort(c *cli.Context, e *env, w *web.Client) error {
	name, err := oneArg(c, "machine")
	if err != nil {
		return err
	}
	return w.Abort(c.Context, name)
}

// snapshot is the sequence number of the newest event, and machines' statuses
// as they are no earlier.
func snapshot(ctx context.Context, w *web.Client) (after int64, statuses map[string]state.Status, err error) {
	for ev, err := range w.Events(ctx, state.Query{Limit: 1}, false) {
		if err != nil {
			return 0, nil, err
		}
		after = max(after, ev.Seq)
	}
	ms, err := w.Machines(ctx)
	if err != nil {
		return 0, nil, err
	}
	statuses = map[string]state.Status{}
	for _, m := range ms {
		m.Status.Machine = m.Name
		statuses[m.Name] = m.Status
	}
	return after, statuses, nil
}

// leftRunning says that a command was interrupted while it followed runs that
// it had started: they are the server's, and go on.
type leftRunning struct {
	machines []string
	err      error
}

func (l *leftRunning) Error() string {
	return fmt.Sprintf("the server goes on with %s: fettle machine ls shows how far it is, fettle machine abort NAME ends it", count(l.machines))
}
func (l *leftRunning) Unwrap() error { return l.err }

// followStarted follows runs that this command has started.
func (e *env) followStarted(ctx context.Context, w *web.Client, machines []string, after int64, statuses map[string]state.Status) error {
	err := e.follow(ctx, w, machines, after, statuses)
	if ctx.Err() != nil {
		return &leftRunning{machines, ctx.Err()}
	}
	return err
}

// follow draws the progress of machines, whose statuses a snapshot took before
// their runs ended, until each has ended. It fails when one of them failed.
func (e *env) follow(ctx context.Context, w *web.Client, machines []string, after int64, statuses map[string]state.Status) error {
	ctx, cancel := context.WithCancel(ctx)
	var from []state.Status
	open := map[string]bool{}
	for _, m := range machines {
		open[m] = true
		from = append(from, statuses[m])
	}
	pr := newProgress(e, from, time.Now)
	var drawing sync.WaitGroup
	drawing.Go(func() { pr.run(ctx) })
	defer drawing.Wait()
	defer cancel()
	var failed []string
	for ev, err := range w.Events(ctx, state.Query{After: after}, true) {
		if err != nil {
			return err
		}
		if err := pr.event(ev); err != nil {
			return err
		}
		if ev.Kind != state.KindRunEnd || !open[ev.Machine] {
			continue
		}
		delete(open, ev.Machine)
		if pr.of(ev.Machine).Phase == state.Failed {
			failed = append(failed, ev.Machine)
		}
		if len(open) == 0 {
			break
		}
	}
	if len(open) > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the server stopped telling of %s: the runs go on; fettle machine ls shows them", strings.Join(slices.Sorted(maps.Keys(open)), ", "))
	}
	if len(failed) > 0 {
		var lines []string
		for _, m := range slices.Sorted(slices.Values(failed)) {
			lines = append(lines, fmt.Sprintf("%s failed: %s", m, pr.of(m).Reason))
		}
		return errors.New(strings.Join(lines, "\n"))
	}
	return nil
}
