package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/images"
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
			{Name: "console", Usage: "show and use a machine's serial console; leave with Ctrl-]", ArgsUsage: "NAME",
				Flags:  append([]cli.Flag{&cli.BoolFlag{Name: "log", Usage: "print what it has said so far, and stop"}}, where...),
				Action: func(c *cli.Context) error { return labConsole(c, e) }},
			{Name: "stop", Usage: "stop a lab's daemon; machines go on, without network", Flags: append([]cli.Flag{yes}, where...), Action: func(c *cli.Context) error { return labStop(c, e) }},
			{Name: "down", Usage: "remove a lab: its machines, disks and daemon, and nothing else", Flags: append([]cli.Flag{yes}, where...), Action: func(c *cli.Context) error { return labDown(c, e) }},
			{Name: "daemon", Hidden: true, Flags: []cli.Flag{&cli.StringFlag{Name: "dir", Required: true}}, Action: func(c *cli.Context) error { return labDaemon(c, e) }},
			{Name: "dial", Hidden: true, Flags: []cli.Flag{&cli.StringFlag{Name: "dir", Required: true}}, Action: func(c *cli.Context) error { return labDial(c, e) }},
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

func labUp(c *cli.Context, e *env) error {
	s, err := site.Load(c.String("site"))
	if err != nil {
		return fail(exitInput, err)
	}
	o, err := labOptions(c, s)
	if err != nil {
		return err
	}
	// A plan made of the bare site finds what is wrong before anything is made.
	if _, err := labs.NewPlan(s, o); err != nil {
		return fail(exitInput, err)
	}
	if err := labs.Check(c.Context, o); err != nil {
		return labError(err)
	}
	// Before a lab is made, all its images are: what cannot be built leaves
	// nothing behind. Later only machines that are to be deployed need theirs,
	// and those on their way need their daemon at once.
	build := func(machines []string) error { return e.buildForSite(c, s, machines) }
	if _, err := os.Stat(filepath.Join(o.Dir, labFileName)); errors.Is(err, fs.ErrNotExist) {
		if err := build(o.Machines); err != nil {
			return err
		}
		build = nil
	}
	siteDir, err := filepath.Abs(s.Dir)
	if err != nil {
		return fmt.Errorf("site folder %s: %w", s.Dir, err)
	}
	store, err := filepath.Abs(storeDir(c, e))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	f := labFile{SiteDir: siteDir, Store: store, Options: o}
	w, err := e.startLab(c.Context, f)
	if err != nil {
		return err
	}
	if c.Bool("no-deploy") {
		return labStatusOf(c.Context, e, o.Dir, w)
	}
	if err := e.labDeploy(c.Context, w, build); err != nil {
		return daemonEnded(c.Context, o.Dir, err)
	}
	if err := e.labPowerOn(c.Context, o.Dir, w); err != nil {
		return err
	}
	return labStatusOf(c.Context, e, o.Dir, w)
}

// daemonEnded says what to do when err comes of a lab's daemon that is gone.
func daemonEnded(ctx context.Context, dir string, err error) error {
	if ctx.Err() != nil || listening(filepath.Join(dir, labAPISocket)) {
		return err
	}
	return fmt.Errorf("%w: the lab's daemon has ended, see %s; fettle lab up starts it again and goes on", err, filepath.Join(dir, labDaemonLog))
}

// labPowerOn switches ready machines on that have no power, as after a restart
// of the computer that the lab runs on.
func (e *env) labPowerOn(ctx context.Context, dir string, w *web.Client) error {
	ms, err := w.Machines(ctx)
	if err != nil {
		return err
	}
	var ready []string
	for _, m := range ms {
		if m.Known && m.Status.Phase == state.Ready {
			ready = append(ready, m.Name)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	targets, err := labTargetsOf(dir, ready)
	if err != nil {
		return err
	}
	was := bmc.Each(ctx, targets, bmc.EachOptions{}, func(ctx context.Context, cl *bmc.Client) (bmc.Power, error) {
		p, err := cl.Power(ctx)
		if err == nil && p == bmc.Off {
			err = cl.SetPower(ctx, bmc.PowerOn)
		}
		return p, err
	})
	var errs []error
	for _, r := range was {
		switch {
		case r.Err != nil:
			errs = append(errs, fmt.Errorf("power of %s: %w", r.Target.Name, r.Err))
		case r.Value == bmc.Off:
			fmt.Fprintf(e.stderr, "%s was off: switched on, it starts from its disk\n", r.Target.Name)
		}
	}
	return errors.Join(errs...)
}

// labDeploy deploys the machines of a lab that are not ready, and follows
// those that are on their way. A machine that is ready is left alone: what is
// on it is lost only by fettle machine deploy. build, unless nil, makes sure of
// the images of machines before they are deployed.
func (e *env) labDeploy(ctx context.Context, w *web.Client, build func(machines []string) error) error {
	after, statuses, err := snapshot(ctx, w)
	if err != nil {
		return err
	}
	ms, err := w.Machines(ctx)
	if err != nil {
		return err
	}
	var start, follow []string
	var left error
	for _, m := range ms {
		switch st := statuses[m.Name]; {
		case !m.Known, st.Phase == state.Ready:
		case st.Phase == state.Failed && st.Action == "inspect" && st.Image != "":
			// Its disk may have what nobody asked to lose.
			left = errors.Join(left, fmt.Errorf("%s failed to be inspected and is left alone, with image %s on its disk: fettle machine inspect %s tries again, fettle machine deploy %s writes it anew", m.Name, st.Image, m.Name, m.Name))
		case st.Phase == state.Unknown, st.Phase == state.Failed, st.Phase == state.Discovered, st.Phase == state.Inspected && st.Action == "inspect" && !st.RunEnd.IsZero():
			start = append(start, m.Name)
			follow = append(follow, m.Name)
		case st.Action == "inspect":
			fmt.Fprintf(e.stderr, "%s is being inspected: fettle lab up deploys it once that has ended\n", m.Name)
		default:
			follow = append(follow, m.Name)
		}
	}
	if len(follow) == 0 {
		return left
	}
	if len(start) > 0 && build != nil {
		if err := build(start); err != nil {
			return err
		}
	}
	if len(start) > 0 {
		p, err := w.Plan(ctx, start)
		if err != nil {
			return err
		}
		if !e.json {
			if err := e.printPlan(p); err != nil {
				return err
			}
		}
		if _, err := w.Deploy(ctx, p.Digest, start); err != nil {
			return err
		}
	}
	if err := e.follow(ctx, w, follow, after, statuses); err != nil {
		return errors.Join(err, left)
	}
	return left
}

// startLab makes sure that the lab's daemon runs, with the site as it is now.
func (e *env) startLab(ctx context.Context, f labFile) (*web.Client, error) {
	dir := f.Options.Dir
	if info, err := labInfoOf(ctx, dir); err == nil {
		_, plan, err := planLab(f, dir)
		if err != nil {
			return nil, err
		}
		old, err := readLabFile(dir)
		if err == nil && info.Revision == string(plan.Site.Revision()) && sameLab(old, f) {
			return web.NewUnixClient(filepath.Join(dir, labAPISocket)), nil
		}
		fmt.Fprintf(e.stderr, "lab %s: the site or the options changed: restarting its daemon (machines go on)\n", f.Options.Name)
		if err := stopDaemon(ctx, info.PID, dir); err != nil {
			return nil, err
		}
	}
	if err := labs.Claim(f.Options, time.Now()); err != nil {
		return nil, labError(err)
	}
	if err := writeLabFile(dir, f); err != nil {
		return nil, err
	}
	if err := spawnDaemon(ctx, dir); err != nil {
		return nil, err
	}
	return web.NewUnixClient(filepath.Join(dir, labAPISocket)), nil
}

func sameLab(a, b labFile) bool {
	return a.SiteDir == b.SiteDir && a.Store == b.Store && fmt.Sprintf("%+v", a.Options) == fmt.Sprintf("%+v", b.Options)
}

// labConsole shows a console, or joins it with the terminal.
func labConsole(c *cli.Context, e *env) error {
	dir, err := labDir(c)
	if err != nil {
		return err
	}
	name, err := oneArg(c, "machine")
	if err != nil {
		return err
	}
	if c.Bool("log") {
		f, err := os.Open(labs.ConsoleLog(dir, name))
		if err != nil {
			return fmt.Errorf("console log of %s: %w", name, err)
		}
		defer f.Close()
		_, err = io.Copy(e.stdout, f)
		return err
	}
	conn, err := labs.DialConsole(c.Context, dir, name)
	if err != nil {
		return err
	}
	defer conn.Close()
	return e.attach(c.Context, conn)
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
		out = append(out, []string{r.Name, r.Firmware, string(r.Phase), r.Image, r.Address, r.BMCLocal})
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

// labSSH runs ssh to a machine of the lab, through its daemon.
func labSSH(c *cli.Context, e *env, interactive bool) error {
	dir, err := labDir(c)
	if err != nil {
		return err
	}
	if c.NArg() == 0 || (!interactive && c.NArg() < 2) {
		return usage("%s takes a machine and a command", c.Command.HelpName)
	}
	info, err := labInfoOf(c.Context, dir)
	if err != nil {
		return fmt.Errorf("lab %s: its daemon does not answer (%w): fettle lab up starts it", filepath.Base(dir), err)
	}
	name, command := c.Args().First(), c.Args().Tail()
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	i := slices.IndexFunc(info.Machines, func(m labMachine) bool { return m.Name == name })
	if i < 0 {
		return usage("lab %s has no machine %q", info.Name, name)
	}
	m := info.Machines[i]
	if m.Address == "" {
		return fmt.Errorf("machine %s has no fixed address in the site file: give its boot port one", name)
	}
	args, err := sshArgs(dir, m)
	if err != nil {
		return err
	}
	ssh := exec.CommandContext(c.Context, "ssh", append(args, command...)...)
	ssh.Stdin, ssh.Stdout, ssh.Stderr = e.stdin, e.stdout, e.stderr
	err = ssh.Run()
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee) && ee.ExitCode() > 0 && ee.ExitCode() != 255:
		return &exitError{ee.ExitCode(), fmt.Errorf("the command on %s ended with status %d", name, ee.ExitCode())}
	case errors.Is(err, exec.ErrNotFound):
		return fail(exitMissing, fmt.Errorf("%w: install openssh-client", err))
	case err != nil:
		return fmt.Errorf("ssh to %s: %w: fettle machine why %s tells whether it is ready", name, err, name)
	}
	return nil
}

// sshArgs are ssh's arguments for a machine: the lab's key, the host keys that
// the machine's installed system reported, and the way through the daemon.
func sshArgs(dir string, m labMachine) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	strict := "yes"
	var known strings.Builder
	for _, k := range m.HostKeys {
		fmt.Fprintf(&known, "%s %s\n", m.Name, k)
	}
	if len(m.HostKeys) == 0 {
		strict = "accept-new"
	}
	file := filepath.Join(dir, labKeysFolder, "known_hosts."+m.Name)
	if err := os.WriteFile(file, []byte(known.String()), 0o600); err != nil {
		return nil, fmt.Errorf("writing known hosts: %w", err)
	}
	return []string{
		"-F", "none", "-i", filepath.Join(dir, labKeysFolder, "id_ed25519"),
		"-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + file, "-o", "GlobalKnownHostsFile=none",
		"-o", "HostKeyAlias=" + m.Name, "-o", "StrictHostKeyChecking=" + strict, "-o", "LogLevel=ERROR",
		"-o", "ConnectTimeout=60",
		"-o", "ProxyCommand=" + shellQuote(self) + " lab dial --dir " + shellQuote(dir) + " %h %p",
		m.User + "@" + m.Address,
	}, nil
}

// shellQuote quotes a word for the shell that ssh gives ProxyCommand to; % is
// ssh's own.
func shellQuote(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// buildForSite builds what the selected machines of a site need and the store
// lacks.
func (e *env) buildForSite(c *cli.Context, s *site.Site, sel []string) error {
	if len(sel) == 0 {
		sel = []string{"all"}
	}
	ms, err := s.Select(sel...)
	if err != nil {
		return fail(exitInput, err)
	}
	var specs []images.DiskSpec
	for _, m := range ms {
		prof, ok := s.Profile(m.Profile)
		if !ok {
			return fail(exitInput, fmt.Errorf("%s: machine %s has no profile, so there is nothing to deploy: add profile: NAME", m.Pos, m.Name))
		}
		spec, err := images.SpecFor(s, prof)
		if err != nil {
			return fail(exitInput, err)
		}
		if !slices.ContainsFunc(specs, func(x images.DiskSpec) bool { return x.Name == spec.Name }) {
			specs = append(specs, spec)
		}
	}
	return e.buildImages(c, specs)
}

// spawnDaemon starts the lab's daemon in a session of its own, and waits until
// it says that it is ready.
func spawnDaemon(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dir, labDaemonLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log of the lab's daemon: %w", err)
	}
	defer log.Close()
	r, wpipe, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting the lab's daemon: %w", err)
	}
	defer r.Close()
	d := exec.Command(self, "lab", "daemon", "--dir", dir)
	d.Stdout, d.Stderr, d.ExtraFiles = log, log, []*os.File{wpipe}
	d.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	d.Dir = "/"
	err = d.Start()
	wpipe.Close()
	if err != nil {
		return fmt.Errorf("starting the lab's daemon: %w", err)
	}
	answer := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, 64<<10)) // closed by the daemon, or with it
		answer <- strings.TrimSpace(string(b))
	}()
	select {
	case a := <-answer:
		if a == "ready" {
			return d.Process.Release()
		}
		var status int
		if _, err := fmt.Sscanf(a, "%d", &status); err == nil {
			_, text, _ := strings.Cut(a, " ")
			d.Wait()
			return fail(status, errors.New(text))
		}
		d.Wait()
		return fmt.Errorf("the lab's daemon ended without a word: see %s", log.Name())
	case <-ctx.Done():
		d.Process.Signal(syscall.SIGTERM)
		return ctx.Err()
	case <-time.After(3 * time.Minute):
		d.Process.Signal(syscall.SIGTERM)
		return fmt.Errorf("the lab's daemon was not ready within 3 minutes: see %s", log.Name())
	}
}
