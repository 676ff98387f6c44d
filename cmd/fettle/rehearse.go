package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
)

// rehearsal is one run of airgap rehearse, and its result.
type rehearsal struct {
	Version  int             `json:"rehearsal"`
	Site     string          `json:"site"`
	Revision string          `json:"revision"`
	Bundle   string          `json:"bundle,omitempty"`
	Snapshot string          `json:"snapshot,omitempty"`
	Serial   int64           `json:"serial,omitempty"`
	Machine  string          `json:"machine"`
	Image    string          `json:"image"`
	Started  time.Time       `json:"started"`
	Seconds  float64         `json:"seconds"`
	Passed   bool            `json:"passed"`
	Steps    []rehearsalStep `json:"steps"`
	Missing  []string        `json:"missing"` // what was asked for and is not in the bundle
	Notes    []string        `json:"notes"`   // what is no failure and worth knowing
	Requests int             `json:"requests"`
	Outside  *outside        `json:"outside,omitempty"`

	e       *env // prints what goes on to standard error
	site    *site.Site
	machine site.Machine
	work    string // folder of all that is made
	dir     string // the lab's
	snap    airgap.Snapshot
	now     func() time.Time
}

type rehearsalStep struct {
	Name    string  `json:"name"`
	Passed  bool    `json:"passed"`
	Seconds float64 `json:"seconds"`
	Text    string  `json:"text,omitempty"`
}

// errRehearsal says that a rehearsal was made and failed.
var errRehearsal = errors.New("the rehearsal failed")

func (r *rehearsal) store() string { return filepath.Join(r.work, "store") }

// step does one step and notes how it went.
func (r *rehearsal) step(name string, do func() (string, error)) error {
	start := r.now()
	fmt.Fprintf(r.e.stderr, "%s  %s\n", start.Format("15:04:05"), name)
	text, err := do()
	s := rehearsalStep{Name: name, Passed: err == nil, Seconds: r.now().Sub(start).Round(100 * time.Millisecond).Seconds(), Text: text}
	if err != nil {
		s.Text = strings.TrimSpace(strings.Join([]string{text, err.Error()}, "\n"))
	}
	r.Steps = append(r.Steps, s)
	return err
}

func (e *env) rehearse(c *cli.Context) (err error) {
	s, err := e.loadSite(c)
	if err != nil {
		return err
	}
	quiet := *e // progress and plans are no result
	quiet.stdout, quiet.json = e.stderr, false
	r := &rehearsal{Version: 1, e: &quiet, site: s, Site: s.Name, Revision: string(s.Revision()), now: time.Now, Missing: []string{}, Notes: []string{}}
	if r.machine, err = rehearsalMachine(s, c.String("machine")); err != nil {
		return err
	}
	r.Machine, r.Started = r.machine.Name, r.now().UTC().Truncate(time.Second)
	// What cannot be begun is no failed rehearsal.
	if err := labs.Check(c.Context, labs.Options{Name: "rehearsal", URI: c.String("connect")}); err != nil {
		return labError(err)
	}
	remove, err := r.folder(c)
	if err != nil {
		return err
	}
	failed := r.run(c)
	if c.Context.Err() != nil {
		return errors.Join(c.Context.Err(), remove())
	}
	r.Seconds = r.now().Sub(r.Started).Round(time.Second).Seconds()
	r.Passed = failed == nil && len(r.Missing) == 0
	if c.Bool("keep") {
		fmt.Fprintf(e.stderr, "Kept: the lab %s in %s (fettle lab ssh --labs %s %s; fettle lab down --labs %s)\n", filepath.Base(r.dir), r.work, r.work, r.Machine, r.work)
	} else {
		failed = errors.Join(failed, remove())
	}
	return errors.Join(r.report(e, c.String("result")), r.verdict(failed))
}

// verdict is the error of a rehearsal that did not pass; the report has told
// the reasons.
func (r *rehearsal) verdict(failed error) error {
	if r.Passed {
		return failed
	}
	what := "a step did not succeed"
	if n := len(r.Missing); n > 0 {
		what = fmt.Sprintf("%d things were asked for that are not in the bundle", n)
	}
	return fail(max(exitFailed, exitStatus(failed)), fmt.Errorf("%w: %s: %s", errRehearsal, r.Machine, what))
}

// rehearsalMachine is the machine called name, or the first that can be used.
func rehearsalMachine(s *site.Site, name string) (site.Machine, error) {
	for _, m := range s.Machines {
		nic, ok := m.BootNIC()
		usable := m.Profile != "" && ok && nic.Address.IsValid()
		switch {
		case name == "" && usable, name == m.Name && usable:
			return m, nil
		case name == m.Name:
			return m, usage("--machine %s: it must have a profile, and a fixed IPv4 address at its boot port", name)
		}
	}
	if name != "" {
		return site.Machine{}, usage("--machine %s: the site has no machine of that name", name)
	}
	return site.Machine{}, fail(exitInput, errors.New("the site has no machine with a profile and a fixed IPv4 address at its boot port: there is nothing to rehearse"))
}

// folder makes the folder of the rehearsal, below that of the user's labs, so
// that guests can reach it.
func (r *rehearsal) folder(c *cli.Context) (remove func() error, err error) {
	root, err := labRoot(c)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("folder of the rehearsal: %w", err)
	}
	if r.work, err = os.MkdirTemp(root, "rh-"); err != nil {
		return nil, fmt.Errorf("folder of the rehearsal: %w", err)
	}
	if err := os.Chmod(r.work, 0o711); err != nil {
		return nil, fmt.Errorf("folder of the rehearsal: %w", err)
	}
	r.dir = filepath.Join(r.work, filepath.Base(r.work))
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), 2*time.Minute)
		defer cancel()
		if f, err := readLabFile(r.dir); err == nil {
			if info, err := labInfoOf(ctx, r.dir); err == nil {
				if err := stopDaemon(ctx, info.PID, r.dir); err != nil {
					return err
				}
			}
			if err := labs.Down(ctx, f.Options, nil); err != nil {
				return fmt.Errorf("removing the rehearsal's lab: %w; what is left is in %s", err, r.work)
			}
		}
		return os.RemoveAll(r.work)
	}, nil
}

// run does all steps until one fails that others build on.
func (r *rehearsal) run(c *cli.Context) error {
	ctx := c.Context
	for _, dir := range c.StringSlice("base") {
		err := r.step("import the base "+dir, func() (string, error) { return r.take(c, false, dir) })
		if err != nil {
			return err
		}
	}
	if err := r.step("verify the bundle and import it", func() (string, error) { return r.take(c, true, c.Args().Slice()...) }); err != nil {
		return err
	}
	if err := r.step("find in it what the machine boots and what is written to it", func() (string, error) { return r.images(ctx) }); err != nil {
		return err
	}
	if err := r.install(c); err != nil {
		return errors.Join(err, r.look(ctx))
	}
	var errs []error
	for _, t := range r.trials(c) {
		if ctx.Err() != nil {
			break
		}
		if t.Needs != "" {
			if _, err := r.shell(ctx, "command -v "+airgap.ShellWord(t.Needs)); err != nil {
				var ok bool
				if t, ok = withoutClient(t); !ok {
					r.Notes = append(r.Notes, t.Name)
					continue
				}
			}
		}
		errs = append(errs, r.step(t.Name, func() (string, error) {
			text, err := r.shell(ctx, t.Command)
			for _, p := range lackedPackages(text) {
				r.Missing = append(r.Missing, "package "+p+": "+t.Name)
			}
			return text, err
		}))
	}
	return errors.Join(append(errs, r.look(ctx))...)
}

// take imports a bundle into the empty side.
func (r *rehearsal) take(c *cli.Context, verify bool, dirs ...string) (string, error) {
	b, err := r.e.openBundleIn(c, dirs)
	if err != nil {
		return "", err
	}
	if b.Site != r.Site {
		return "", fail(exitInput, fmt.Errorf("the bundle is of site %s, and the site folder of %s", b.Site, r.Site))
	}
	store, err := airgap.OpenStore(filepath.Join(r.store(), mirrorFolder))
	if err != nil {
		return "", err
	}
	if verify {
		bar := newTransferBar(r.e, "verify", time.Now)
		err = b.Verify(c.Context, func(done, total int64) { bar.step(done, total, "") })
		bar.end()
		if err != nil {
			return "", airgapFail(err)
		}
	}
	bar := newTransferBar(r.e, "import", time.Now)
	got, err := store.Import(c.Context, b, airgap.ImportOptions{Now: time.Now, Progress: func(done, total int64) { bar.step(done, total, "") }})
	bar.end()
	if err != nil {
		return "", airgapFail(err)
	}
	r.Bundle, r.Snapshot, r.Serial = string(got.Bundle), got.Snapshot, got.Serial
	if r.snap, _, err = store.Snapshot(got.Snapshot); err != nil {
		return "", err
	}
	if _, err := adoptImages(c.Context, r.store(), store, r.snap); err != nil {
		return "", err
	}
	n, size := r.snap.Size()
	return fmt.Sprintf("snapshot %s (serial %d): %d files, %s", got.Snapshot, got.Serial, n, bytesText(size)), nil
}

// images looks for what the installation needs. Nothing is built here.
func (r *rehearsal) images(ctx context.Context) (string, error) {
	prof, ok := r.site.Profile(r.machine.Profile)
	if !ok {
		return "", fail(exitInput, fmt.Errorf("machine %s has no profile", r.Machine))
	}
	spec, err := images.SpecFor(r.site, prof)
	if err != nil {
		return "", fail(exitInput, err)
	}
	r.Image = spec.Name
	store, err := images.OpenStore(r.store())
	if err != nil {
		return "", err
	}
	var have []string
	for _, name := range []string{images.AgentName(spec.Arch), images.LoadersName(spec.Arch), spec.Name} {
		rel, ok, err := store.Latest(ctx, name)
		if err != nil {
			return "", err
		}
		if !ok {
			r.Missing = append(r.Missing, "image "+name+": mirror sync --from-site takes it")
			continue
		}
		have = append(have, fmt.Sprintf("%s (%s)", name, bytesText(rel.Size())))
	}
	if len(r.Missing) > 0 {
		return "", errors.New("the bundle does not hold what the machine is installed from")
	}
	return strings.Join(have, ", "), nil
}

// install takes the machine from bare metal to ready.
func (r *rehearsal) install(c *cli.Context) error {
	siteDir, err := filepath.Abs(r.site.Dir)
	if err != nil {
		return err
	}
	f := labFile{SiteDir: siteDir, Store: r.store(), Options: labs.Options{Name: filepath.Base(r.dir), Dir: r.dir, Machines: []string{r.Machine},
		Accel: labs.Accel(c.String("accel")), URI: c.String("connect"), Trap: true}}
	if _, err := labs.NewPlan(r.site, f.Options); err != nil {
		return fail(exitInput, err)
	}
	return r.step("install "+r.Machine+" from bare metal", func() (string, error) {
		w, err := r.e.startLab(c.Context, f)
		if err != nil {
			return "", err
		}
		if err := r.e.labDeploy(c.Context, w, nil); err != nil {
			return "", daemonEnded(c.Context, r.dir, err)
		}
		out, err := r.shell(c.Context, "cat /etc/os-release; uname -r")
		if err != nil {
			return "", err
		}
		return "it runs " + osText(out), nil
	})
}

// osText is what a system says that it is: os-release(5), and its kernel.
func osText(out string) string {
	name, kernel := "an unknown system", ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			name = strings.Trim(v, `"`)
		}
		if line != "" && !strings.Contains(line, "=") {
			kernel = line
		}
	}
	return strings.TrimSpace(name + ", kernel " + kernel)
}

// shell runs a command on the machine, as root if its user may become that. It
// returns the end of what the command said.
func (r *rehearsal) shell(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	info, err := labInfoOf(ctx, r.dir)
	if err != nil {
		return "", fmt.Errorf("the lab's daemon does not answer: %w", err)
	}
	i := slices.IndexFunc(info.Machines, func(m labMachine) bool { return m.Name == r.Machine })
	if i < 0 {
		return "", fmt.Errorf("the lab has no machine %s", r.Machine)
	}
	args, err := sshArgs(r.dir, info.Machines[i])
	if err != nil {
		return "", err
	}
	become := ""
	if info.Machines[i].User != "root" {
		become = "sudo -n "
	}
	var out bytes.Buffer
	ssh := exec.CommandContext(ctx, "ssh", append(args, become+"sh -c "+airgap.ShellWord(command)+" </dev/null 2>&1")...)
	ssh.Stdout, ssh.Stderr = &out, &out
	ssh.WaitDelay = 10 * time.Second
	err = ssh.Run()
	text := lastLines(out.String(), 12)
	var ee *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return text, fail(exitMissing, fmt.Errorf("%w: install openssh-client", err))
	case ctx.Err() != nil:
		return text, fmt.Errorf("it did not end in time: %w", ctx.Err())
	case errors.As(err, &ee):
		return text, fmt.Errorf("it ended with status %d", ee.ExitCode())
	}
	return text, err
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
