package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/oci"
)

// snapshotRow is one line of mirror ls.
type snapshotRow struct {
	Name    string    `json:"name"`
	Serial  int64     `json:"serial"`
	Created time.Time `json:"created"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`
	Served  bool      `json:"served"`
	Pinned  bool      `json:"pinned"`
}

func (e *env) mirrorList(c *cli.Context) error {
	s, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	snaps, err := s.Snapshots()
	if err != nil {
		return err
	}
	served, err := s.Served()
	if err != nil {
		return err
	}
	rows := []snapshotRow{}
	for _, snap := range snaps {
		n, size := snap.Size()
		rows = append(rows, snapshotRow{snap.Name, snap.Serial, snap.Created, n, size, snap.Name == served, s.Pinned(snap.Name)})
	}
	if e.json {
		return e.printJSON(rows)
	}
	if len(rows) == 0 {
		fmt.Fprintf(e.stdout, "No snapshots in %s: fettle mirror sync, or fettle bundle import\n", s.Dir())
		return nil
	}
	out := [][]string{{"SNAPSHOT", "SERIAL", "CREATED", "FILES", "SIZE", ""}}
	for _, r := range rows {
		var notes []string
		if r.Served {
			notes = append(notes, "served")
		}
		if r.Pinned {
			notes = append(notes, "pinned")
		}
		out = append(out, []string{r.Name, fmt.Sprint(r.Serial), r.Created.Local().Format(time.DateTime), fmt.Sprint(r.Files), bytesText(r.Bytes), strings.Join(notes, ", ")})
	}
	table(e.stdout, out)
	return nil
}

// lockNamed is the lock in a file, or of a snapshot.
func lockNamed(s *airgap.Store, name string) (airgap.Lock, error) {
	if _, err := os.Stat(name); err == nil {
		l, err := readLock(name)
		return l, fail(exitInput, err)
	}
	snap, _, err := s.Snapshot(name)
	if errors.Is(err, airgap.ErrNoSnapshot) {
		err = fail(exitInput, fmt.Errorf("%s is neither a lock file nor a snapshot of %s: %w", name, s.Dir(), err))
	}
	return snap.Lock, err
}

func (e *env) mirrorDiff(c *cli.Context) error {
	if err := nargs(c, 2); err != nil {
		return err
	}
	s, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	a, err := lockNamed(s, c.Args().Get(0))
	if err != nil {
		return err
	}
	b, err := lockNamed(s, c.Args().Get(1))
	if err != nil {
		return err
	}
	changes := airgap.Diff(a, b)
	if e.json {
		return e.printJSON(append([]string{}, changes...))
	}
	for _, l := range changes {
		fmt.Fprintln(e.stdout, l)
	}
	if len(changes) == 0 {
		fmt.Fprintln(e.stdout, "Nothing changed.")
	}
	return nil
}

func (e *env) mirrorWhy(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	l, where, err := e.lockHere(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	out := l.Why(name)
	if len(out) == 0 {
		hint := ""
		if alike := l.Alike(name); len(alike) > 0 {
			hint = "; there is " + strings.Join(alike, ", ")
		}
		return fmt.Errorf("%s is in no mirror of %s%s", name, where, hint)
	}
	if e.json {
		return e.printJSON(out)
	}
	for _, r := range out {
		fmt.Fprintf(e.stdout, "%s: %s: %s\n", r.Mirror, strings.Join(strings.Fields(strings.Join([]string{cmp.Or(r.Name, r.Path), r.Version, r.Arch}, " ")), " "), strings.Join(r.Chain, " <- "))
	}
	return nil
}

// lockHere is the lock file, or on a side that has none, what is served.
func (e *env) lockHere(c *cli.Context) (airgap.Lock, string, error) {
	path := lockPath(c)
	l, err := readLock(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || c.String("lock") != "" {
		return l, path, fail(exitInput, err)
	}
	s, serr := mirrorStore(c, e)
	if serr != nil {
		return l, "", serr
	}
	snap, serr := servedSnapshot(s)
	if serr != nil {
		return l, "", fail(exitInput, fmt.Errorf("%w, and %w", err, serr))
	}
	return snap.Lock, "snapshot " + snap.Name, nil
}

func (e *env) mirrorVerify(c *cli.Context) error {
	if c.NArg() > 1 {
		return usage("%s takes [SNAPSHOT]", c.Command.FullName())
	}
	s, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	name := c.Args().First()
	if name == "" {
		if name, err = s.Served(); err != nil {
			return err
		}
	}
	if name == "" {
		return errors.New("nothing is served yet: name a snapshot, see fettle mirror ls")
	}
	bar := newTransferBar(e, "verify", time.Now)
	bad, err := s.CheckBlobs(c.Context, name, c.Bool("mend"), func(done, total int64) { bar.step(done, total, "") })
	bar.end()
	if err != nil {
		return airgapFail(err)
	}
	if e.json {
		if err := e.printJSON(map[string]any{"snapshot": name, "damaged": append([]airgap.File{}, bad...)}); err != nil {
			return err
		}
	}
	if len(bad) == 0 {
		if !e.json {
			fmt.Fprintf(e.stdout, "snapshot %s is intact\n", name)
		}
		return nil
	}
	var paths []string
	for _, f := range bad[:min(len(bad), 10)] {
		paths = append(paths, f.Path)
	}
	next := "fettle mirror verify --mend removes them; then sync, or import the bundle, again"
	if c.Bool("mend") {
		next = "they are removed: sync, or import the bundle, again"
	}
	return fail(exitInput, fmt.Errorf("snapshot %s: %s damaged or gone (%s): %s", name, counted(len(bad), "file"), strings.Join(paths, ", "), next))
}

func (e *env) mirrorUse(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	s, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	if err := s.Use(c.Args().First()); err != nil {
		return err
	}
	if err := e.adoptNamed(c, s, c.Args().First()); err != nil || e.json {
		return err
	}
	fmt.Fprintf(e.stdout, "snapshot %s is served\n", c.Args().First())
	return nil
}

func (e *env) mirrorPin(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	s, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	name, what := c.Args().First(), "is kept whatever gc removes"
	if c.Bool("off") {
		what = "is not pinned"
	}
	if err := s.Pin(name, !c.Bool("off")); err != nil || e.json {
		return err
	}
	fmt.Fprintf(e.stdout, "snapshot %s %s\n", name, what)
	return nil
}

func (e *env) mirrorCollect(c *cli.Context) error {
	if c.Int("keep") < 1 {
		return usage("--keep is at least 1")
	}
	s, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	got, err := s.Collect(c.Context, c.Int("keep"), c.Bool("dry-run"))
	if err != nil {
		return airgapFail(err)
	}
	if e.json {
		return e.printJSON(got)
	}
	verb := "removed"
	if c.Bool("dry-run") {
		verb = "would remove"
	}
	fmt.Fprintf(e.stdout, "%s %s and %s with %s\n", verb, counted(len(got.Snapshots), "snapshot"), counted(got.Blobs, "file"), bytesText(got.Bytes))
	for _, n := range got.Snapshots {
		fmt.Fprintln(e.stdout, "  "+n)
	}
	return nil
}

func (e *env) mirrorServe(c *cli.Context) (err error) {
	s, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(c.Context, "tcp", c.String("listen"))
	if err != nil {
		return listenFailed("--listen", c.String("listen"), err)
	}
	name, err := s.Served()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if name == "" {
		name = "nothing yet: fettle mirror sync, or fettle bundle import"
	}
	fmt.Fprintf(e.stdout, "Serving http://%s/ (%s)\n", l.Addr(), name)
	push, err := e.pushers(c)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	reg, err := oci.OpenRegistry(s, oci.Options{Push: push, Log: e.log})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	srv := &http.Server{Handler: mirrorAnswers(s, reg, e.log), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-c.Context.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		err = errors.Join(err, srv.Close())
		e.log.Info("stopped with downloads under way", "error", err)
	}
	<-failed
	return nil
}
