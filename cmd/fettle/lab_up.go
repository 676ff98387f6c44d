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
	plan, err := labs.NewPlan(s, o)
	if err != nil {
		return fail(exitInput, err)
	}
	if _, err := bridgeStack(plan); err != nil {
		return err
	}
	for _, m := range plan.Site.Machines {
		if _, err := twinTree(s.Dir, m.Name, m.BMC.Twin); err != nil {
			return fail(exitInput, err)
		}
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

// daemonEnded says what to do when err comes of a lab's daemon that is gone. A
// process that is killed closes its connections a moment before its sockets.
func daemonEnded(ctx context.Context, dir string, err error) error {
	limit := time.Duration(0)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		limit = 2 * time.Second
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); listening(filepath.Join(dir, labAPISocket)); {
		if ctx.Err() != nil || time.Now().After(end) {
			return err // it is there: the error is about something else
		}
		<-tick.C
	}
	if ctx.Err() != nil {
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
			printPlan(e.stderr, p)
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
	return e.buildImages(c, site.Archs(ms, nil), specs)
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
