package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

func labFlag() cli.Flag {
	return &cli.StringFlag{Name: "lab", EnvVars: []string{"FETTLE_LAB"}, Usage: "name of the lab (default: the only one there is)"}
}

func labsFlag() cli.Flag {
	return &cli.StringFlag{Name: "labs", EnvVars: []string{"FETTLE_LABS"}, Usage: "folder of this user's labs (default: /var/lib/fettle/labs for root, else below $XDG_STATE_HOME)"}
}

func labCommands(e *env) []*cli.Command {
	where := []cli.Flag{labFlag(), labsFlag()}
	yes := &cli.BoolFlag{Name: "yes", Usage: "do it without asking"}
	return []*cli.Command{{
		Name: "lab", Usage: "run a site's machines as virtual machines on this one",
		Subcommands: []*cli.Command{
			{
				Name: "up", Usage: "make or resume a lab, and deploy its machines",
				Description: `Builds the images that the site's profiles need (once), makes a virtual machine
for each machine of the site with the site's own MACs, addresses and serial
numbers, powers them on through virtual BMCs, and takes them through the same
boot path as hardware until they are ready. Run it again to go on after a
Ctrl-C, or to change nothing.`,
				Flags: []cli.Flag{
					siteFlag(), storeFlag(),
					&cli.StringSliceFlag{Name: "machines", Usage: "only these: names, gpu-[01-04], rack=r1 (repeatable, or with commas)"},
					&cli.StringFlag{Name: "memory", Usage: "memory of a machine (default: 2GiB)"},
					&cli.IntFlag{Name: "cpus", Usage: "CPUs of a machine", DefaultText: "2"},
					&cli.StringFlag{Name: "disk-size", Usage: "largest virtual disk; disks are sparse (default: 8GiB)"},
					&cli.StringFlag{Name: "accel", Usage: "kvm or tcg (default: kvm where a guest runs with it)"},
					&cli.StringFlag{Name: "connect", Usage: "libvirt URI (default: qemu:///session, or qemu:///system for root)"},
					&cli.StringFlag{Name: "network", Usage: "bridge=NAME attaches the boot network to a bridge of this machine: for those who mean it"},
					&cli.BoolFlag{Name: "no-deploy", Usage: "make the machines, but leave them off"},
					&cli.StringFlag{Name: "lab", EnvVars: []string{"FETTLE_LAB"}, Usage: "name of the lab (default: the site's)"},
					labsFlag(),
				},
				Action: func(c *cli.Context) error { return labUp(c, e) },
			},
			{Name: "ls", Usage: "list the labs of this machine", Flags: []cli.Flag{labsFlag()}, Action: func(c *cli.Context) error { return labList(c, e) }},
			{Name: "status", Usage: "show a lab's machines", Flags: where, Action: func(c *cli.Context) error { return labStatus(c, e) }},
			{Name: "ssh", Usage: "log in to a machine", ArgsUsage: "NAME [COMMAND...]", Flags: where, Action: func(c *cli.Context) error { return labSSH(c, e, true) }},
			{Name: "exec", Usage: "run a command on a machine and print its output", ArgsUsage: "NAME [--] COMMAND...", Flags: where, Action: func(c *cli.Context) error { return labSSH(c, e, false) }},
			faultCommand(e),
			{Name: "console", Usage: "show and use a machine's serial console; leave with Ctrl-]", ArgsUsage: "NAME",
				Flags:  append([]cli.Flag{&cli.BoolFlag{Name: "log", Usage: "print what it has said so far, and stop"}}, where...),
				Action: func(c *cli.Context) error { return labConsole(c, e) }},
			{Name: "stop", Usage: "stop a lab's daemon; machines go on, without network", Flags: append([]cli.Flag{yes}, where...), Action: func(c *cli.Context) error { return labStop(c, e) }},
			{Name: "down", Usage: "remove a lab: its machines, disks and daemon, and nothing else", Flags: append([]cli.Flag{yes}, where...), Action: func(c *cli.Context) error { return labDown(c, e) }},
			{Name: "daemon", Hidden: true, Flags: []cli.Flag{&cli.StringFlag{Name: "dir", Required: true}}, Action: func(c *cli.Context) error { return labDaemon(c, e) }},
			{Name: "dial", Hidden: true, ArgsUsage: "HOST PORT", Flags: []cli.Flag{&cli.StringFlag{Name: "dir", Required: true}}, Action: func(c *cli.Context) error { return labDial(c, e) }},
		},
	}}
}

// labRoot is the folder that holds labs.
func labRoot(c *cli.Context) (string, error) {
	if d := c.String("labs"); d != "" {
		return filepath.Abs(d)
	}
	return labs.Root()
}

// labDir is the folder of the lab that a command means.
func labDir(c *cli.Context) (string, error) {
	root, err := labRoot(c)
	if err != nil {
		return "", err
	}
	names, err := labNames(root)
	if err != nil {
		return "", err
	}
	name := c.String("lab")
	switch {
	case name != "" && slices.Contains(names, name):
	case name != "":
		return "", usage("there is no lab %q in %s; there are: %s", name, root, listOr(names, "none"))
	case len(names) == 1:
		name = names[0]
	case len(names) == 0:
		return "", usage("%w in %s: fettle lab up --site DIR makes one", errNoLab, root)
	default:
		return "", usage("say which lab with --lab: %s", strings.Join(names, ", "))
	}
	return filepath.Join(root, name), nil
}

var errNoLab = errors.New("there is no lab")

func listOr(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}

func labNames(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing labs: %w", err)
	}
	var names []string
	for _, en := range entries {
		if _, err := os.Stat(filepath.Join(root, en.Name(), labFileName)); err == nil {
			names = append(names, en.Name())
		}
	}
	return names, nil
}

// labOptions reads the flags of lab up.
func labOptions(c *cli.Context, s *site.Site) (labs.Options, error) {
	root, err := labRoot(c)
	if err != nil {
		return labs.Options{}, err
	}
	o := labs.Options{
		Name: c.String("lab"), Machines: c.StringSlice("machines"), CPUs: c.Int("cpus"),
		Accel: labs.Accel(c.String("accel")), URI: c.String("connect"),
	}
	if o.Name == "" {
		o.Name = s.Name
	}
	if o.URI != "" && !strings.HasPrefix(o.URI, "qemu:///") && !strings.HasPrefix(o.URI, "qemu+unix:///") {
		return o, usage("--connect is a libvirt of this machine, qemu:///session or qemu:///system, not %q: a lab's network is in this machine's memory", o.URI)
	}
	o.Dir = filepath.Join(root, o.Name)
	for flag, v := range map[string]*site.Bytes{"memory": &o.Memory, "disk-size": &o.DiskSize} {
		if t := c.String(flag); t != "" {
			if *v, err = site.ParseBytes(t); err != nil {
				return o, usage("--%s: %w", flag, err)
			}
		}
	}
	if n := c.String("network"); n != "" {
		name, ok := strings.CutPrefix(n, "bridge=")
		if !ok || name == "" {
			return o, usage("--network is bridge=NAME, not %q", n)
		}
		o.BridgeNetwork = name
	}
	return o, nil
}

// labList prints the labs of this machine.
func labList(c *cli.Context, e *env) error {
	root, err := labRoot(c)
	if err != nil {
		return err
	}
	names, err := labNames(root)
	if err != nil {
		return err
	}
	type row struct {
		Name    string `json:"name"`
		Dir     string `json:"dir"`
		Daemon  string `json:"daemon"`
		PID     int    `json:"pid,omitempty"`
		Machine int    `json:"machines"`
	}
	rows := []row{}
	for _, n := range names {
		r := row{Name: n, Dir: filepath.Join(root, n), Daemon: "stopped"}
		if info, err := labInfoOf(c.Context, r.Dir); err == nil {
			r.Daemon, r.PID, r.Machine = fmt.Sprintf("pid %d", info.PID), info.PID, len(info.Machines)
		}
		rows = append(rows, r)
	}
	if e.json {
		return e.printJSON(rows)
	}
	out := [][]string{{"LAB", "DAEMON", "MACHINES", "FOLDER"}}
	for _, r := range rows {
		out = append(out, []string{r.Name, r.Daemon, fmt.Sprint(r.Machine), r.Dir})
	}
	table(e.stdout, out)
	return nil
}

func labStatus(c *cli.Context, e *env) error {
	dir, err := labDir(c)
	if err != nil {
		return err
	}
	return labStatusOf(c.Context, e, dir, web.NewUnixClient(filepath.Join(dir, labAPISocket)))
}

// labStatusOf prints a lab's machines: the table at the end of lab up.
func labStatusOf(ctx context.Context, e *env, dir string, w *web.Client) error {
	info, err := labInfoOf(ctx, dir)
	if err != nil {
		return fmt.Errorf("lab %s: its daemon does not answer (%w): fettle lab up starts it again", filepath.Base(dir), err)
	}
	ms, err := w.Machines(ctx)
	if err != nil {
		return err
	}
	type row struct {
		labMachine
		state.Status
	}
	var rows []row
	for _, lm := range info.Machines {
		r := row{labMachine: lm}
		for _, m := range ms {
			if m.Name == lm.Name {
				r.Status = m.Status
			}
		}
		r.Status.Inventory = nil
		rows = append(rows, r)
	}
	if e.json {
		return e.printJSON(map[string]any{"lab": info.Name, "accel": info.Accel, "revision": info.Revision, "machines": rows})
	}
	out := [][]string{{"MACHINE", "FIRMWARE", "PHASE", "IMAGE", "ADDRESS", "BMC ON LOOPBACK"}}
	var runs []state.Status
	for _, r := range rows {
		out = append(out, []string{r.Name, r.Firmware, string(r.Phase), r.Image, both(r.Address, r.IPv6), r.BMCLocal})
		r.Status.Machine = r.Name
		runs = append(runs, r.Status)
	}
	table(e.stdout, out)
	if sec := secondsTable(runs); len(sec) > 1 {
		fmt.Fprintln(e.stdout, "\nseconds in each phase:")
		table(e.stdout, sec)
	}
	for _, r := range rows {
		if r.Reason != "" {
			fmt.Fprintf(e.stdout, "%s: %s\n", r.Name, r.Reason)
		}
	}
	return nil
}

// secondsTable is the seconds that each machine's latest run spent in each
// phase, in the phases' order; phases that none was in are left out.
func secondsTable(runs []state.Status) [][]string {
	head := []string{"MACHINE"}
	var phases []state.Phase
	for _, ph := range order[:len(order)-1] {
		if slices.ContainsFunc(runs, func(s state.Status) bool { return s.Seconds[ph] >= 0.5 }) {
			phases = append(phases, ph)
			head = append(head, strings.ToUpper(string(ph)))
		}
	}
	out := [][]string{append(head, "ALL")}
	for _, s := range runs {
		if len(s.Seconds) == 0 {
			continue
		}
		row, all := []string{s.Machine}, 0.0
		for _, ph := range phases {
			row = append(row, fmt.Sprintf("%.0f", s.Seconds[ph]))
		}
		for _, v := range s.Seconds {
			all += v
		}
		out = append(out, append(row, fmt.Sprintf("%.0f", all)))
	}
	return out
}

func labStop(c *cli.Context, e *env) error {
	dir, err := labDir(c)
	if err != nil {
		return err
	}
	info, err := labInfoOf(c.Context, dir)
	if err != nil {
		fmt.Fprintln(e.stderr, "the lab's daemon is not running")
		return nil
	}
	if err := e.confirm(c.Bool("yes"), fmt.Sprintf("stop the daemon of lab %s: its machines lose their network until fettle lab up", info.Name)); err != nil {
		return err
	}
	return stopDaemon(c.Context, info.PID, dir)
}

func labDown(c *cli.Context, e *env) error {
	dir, err := labDir(c)
	if err != nil {
		return err
	}
	f, err := readLabFile(dir)
	if err != nil {
		return err
	}
	if err := e.confirm(c.Bool("yes"), fmt.Sprintf("power off and remove all machines of lab %s, with their disks and its folder %s", f.Options.Name, dir)); err != nil {
		return err
	}
	if info, err := labInfoOf(c.Context, dir); err == nil {
		if err := stopDaemon(c.Context, info.PID, dir); err != nil {
			return err
		}
	}
	if err := labs.Down(c.Context, f.Options, nil); err != nil {
		return labError(err)
	}
	fmt.Fprintf(e.stderr, "lab %s is removed\n", f.Options.Name)
	return nil
}
