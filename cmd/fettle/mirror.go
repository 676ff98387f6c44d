package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/helm"
	"github.com/fettle-dev/fettle/airgap/oci"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/site"
)

const (
	lockFile       = "mirrors.lock"
	airgapKey      = "airgap-key"      // name of the secret with the site key
	airgapIdentity = "airgap-identity" // name of the secret with the identity that opens the site's bundles
)

// mirrorCommands are the commands about what is fetched from upstream and
// served to machines.
func mirrorCommands(e *env) []*cli.Command {
	lock := &cli.StringFlag{Name: "lock", Usage: "lock file (default: " + lockFile + " in the site folder)", TakesFile: true}
	work := func(more ...cli.Flag) []cli.Flag {
		return append([]cli.Flag{siteFlag(), storeFlag(), secretIdentityFlag(), keyFlag(), lock,
			&cli.StringSliceFlag{Name: "only", Usage: "leave out all mirrors of the site but this (may be repeated)"},
			&cli.BoolFlag{Name: "from-site", Usage: "take all that the site's machines need: packages of their images and profiles with what those depend on, and what fettle built; a mirror without packages then holds no more than that"},
			&cli.IntFlag{Name: "per-host", Value: 6, Usage: "requests at once to one host"}}, more...)
	}
	return []*cli.Command{{
		Name: "mirror", Usage: "fetch, keep and serve what machines install from",
		Description: "A mirror of the site is resolved to a lock: every file by URL, size and digest.\nA sync fetches what the lock names and keeps it as a snapshot, which is served.",
		Subcommands: []*cli.Command{
			{Name: "resolve", Usage: "ask upstream and write the lock", Flags: work(), Action: e.mirrorResolve},
			{
				Name: "sync", Usage: "resolve, fetch, and keep a new snapshot",
				Flags: work(&cli.BoolFlag{Name: "locked", Usage: "fetch what the lock file names; do not resolve"},
					&cli.StringFlag{Name: "name", Usage: "name of the snapshot (default: the time)"}),
				Action: e.mirrorSync,
			},
			{Name: "ls", Usage: "list snapshots", Flags: []cli.Flag{storeFlag()}, Action: e.mirrorList},
			{Name: "diff", Usage: "say what changed between two snapshots or lock files", ArgsUsage: "OLD NEW", Flags: []cli.Flag{storeFlag()}, Action: e.mirrorDiff},
			{Name: "why", Usage: "say what brought a package in", ArgsUsage: "NAME",
				Description: "NAME is a package, an image or a path. Where there is no lock file, the snapshot\nthat is served is asked.",
				Flags:       []cli.Flag{siteFlag(), storeFlag(), lock}, Action: e.mirrorWhy},
			{
				Name: "verify", Usage: "read every file of a snapshot and compare", ArgsUsage: "[SNAPSHOT]",
				Flags:  []cli.Flag{storeFlag(), &cli.BoolFlag{Name: "mend", Usage: "remove what is damaged, so that the next sync or import brings it again"}},
				Action: e.mirrorVerify,
			},
			{Name: "use", Usage: "serve another snapshot, also an older one", ArgsUsage: "SNAPSHOT", Flags: []cli.Flag{storeFlag()}, Action: e.mirrorUse},
			{
				Name: "pin", Usage: "keep a snapshot whatever gc removes", ArgsUsage: "SNAPSHOT",
				Flags: []cli.Flag{storeFlag(), &cli.BoolFlag{Name: "off", Usage: "do not keep it any more"}}, Action: e.mirrorPin,
			},
			{
				Name: "gc", Usage: "remove old snapshots and what no snapshot needs",
				Flags: []cli.Flag{storeFlag(), &cli.IntFlag{Name: "keep", Value: 3, Usage: "newest snapshots to keep; pinned and served ones stay too"},
					&cli.BoolFlag{Name: "dry-run", Usage: "only say what would go"}},
				Action: e.mirrorCollect,
			},
			{
				Name: "serve", Usage: "serve the current snapshot over HTTP",
				Flags: []cli.Flag{storeFlag(), siteFlag(), secretIdentityFlag(), &cli.StringFlag{Name: "listen", Value: "127.0.0.1:8480", Usage: "ADDRESS:PORT"}, pushFlag()}, Action: e.mirrorServe,
			},
			{
				Name: "selftest", Usage: "have this program mirror a hostile upstream, and see that it refuses",
				Description: "Starts upstreams on loopback that lie in every way that is known, and bundles that were\ntampered with, and runs this program against each. Status 1: it was taken in.",
				Flags:       []cli.Flag{&cli.StringFlag{Name: "program", Usage: "another fettle to test (default: this one)", TakesFile: true}}, Action: e.mirrorSelftest,
			},
			{
				Name: "client-config", Usage: "print or install what a client of the mirrors needs", ArgsUsage: "CLIENT",
				Description: "CLIENT is " + strings.Join(clientNames(), ", ") + ".",
				Flags:       clientConfigFlags(), Action: e.mirrorClientConfig,
			},
		},
	}}
}

func keyFlag() cli.Flag {
	return &cli.StringFlag{Name: "key", EnvVars: []string{"FETTLE_AIRGAP_KEY"}, TakesFile: true,
		Usage: "file with the site's secret key (default: the secret " + airgapKey + ")"}
}

// airgapFail gives errors of airgap their exit status.
func airgapFail(err error) error {
	switch {
	case errors.Is(err, airgap.ErrRollback), errors.Is(err, airgap.ErrBusy), errors.Is(err, airgap.ErrPolicy):
		return fail(exitRefused, err)
	case errors.Is(err, airgap.ErrSignature), errors.Is(err, airgap.ErrDamaged), errors.Is(err, airgap.ErrNoBundle), errors.Is(err, airgap.ErrIdentity), errors.Is(err, pgp.ErrSignature),
		errors.Is(err, oci.ErrSignature), errors.Is(err, oci.ErrMoved), errors.Is(err, helm.ErrReplaced), errors.Is(err, blob.ErrMismatch):
		return fail(exitInput, err)
	}
	return err
}

// mirrorStore is the store of snapshots, beside the images.
func mirrorStore(c *cli.Context, e *env) (*airgap.Store, error) {
	s, err := airgap.OpenStore(filepath.Join(storeDir(c, e), mirrorFolder))
	if err != nil {
		return nil, fmt.Errorf("%w; name another folder with --store", err)
	}
	return s, nil
}

// siteKey is the site's secret key, from --key or from the secrets. It is nil
// when there is none and need is false.
func (e *env) siteKey(c *cli.Context, need bool) (*airgap.Key, error) {
	missing := func(err error) (*airgap.Key, error) {
		if !need {
			return nil, nil
		}
		return nil, fail(exitInput, fmt.Errorf("there is no site key; make one with fettle bundle key: %w", err))
	}
	text := ""
	if p := c.String("key"); p != "" {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, fail(exitInput, fmt.Errorf("reading the site key: %w", err))
		}
		text = string(b)
	} else {
		if _, err := os.Stat(filepath.Join(c.String("site"), "secrets.age")); errors.Is(err, fs.ErrNotExist) {
			return missing(err)
		}
		secrets, err := e.openSecrets(c)
		if err != nil {
			return nil, err
		}
		names, err := secrets.List()
		if err != nil {
			return nil, fail(exitInput, err)
		}
		if !slices.Contains(names, airgapKey) {
			return missing(fmt.Errorf("no secret is called %s", airgapKey))
		}
		v, err := secrets.Get(airgapKey)
		if err != nil {
			return nil, fail(exitInput, err)
		}
		text = v.Reveal()
	}
	k, err := airgap.ParseKey(text)
	return k, fail(exitInput, err)
}

// mirrorsOf are a site's mirrors, or those that only names. One of a format
// that cannot be mirrored is an error: half a mirror is found out too late.
func mirrorsOf(s *site.Site, formats []airgap.Format, only []string) ([]airgap.Mirror, error) {
	var out []airgap.Mirror
	var known, unknown []string
	for _, name := range only {
		if !slices.ContainsFunc(s.Mirrors, func(m site.Mirror) bool { return m.Name == name }) {
			return nil, usage("--only: the site has no mirror %s", name)
		}
	}
	for _, m := range s.Mirrors {
		if len(only) > 0 && !slices.Contains(only, m.Name) {
			continue
		}
		if !slices.ContainsFunc(formats, func(f airgap.Format) bool { return f.Name() == m.Format }) {
			unknown = append(unknown, m.Name+" ("+m.Format+")")
			continue
		}
		known = append(known, m.Name)
		am := airgap.Mirror{Name: m.Name, Format: m.Format, URLs: m.URLs, Suites: m.Suites, Components: m.Components, Archs: m.Archs,
			Packages: m.Packages, Recommends: m.Recommends, Resign: m.Resign, Sources: m.Sources, Installer: m.Installer, Udebs: m.Udebs, Bootstrap: m.Bootstrap, Keyrings: m.Keyrings,
			Images: m.Images, Moving: m.Moving, Secret: m.Secret,
			Lockfiles: m.Lockfiles, Python: m.Python, Omit: m.Omit, Signed: m.Signed, Metalink: m.Metalink}
		for _, f := range m.Files {
			am.Files = append(am.Files, airgap.WantFile{URL: f.URL, SHA256: blob.Digest("sha256:" + f.SHA256), Path: f.Path, Also: f.Also})
		}
		for _, c := range m.Checksums {
			am.Checksums = append(am.Checksums, airgap.WantChecked(c))
		}
		for _, w := range m.Models {
			am.Models = append(am.Models, airgap.WantSnapshot(w))
		}
		out = append(out, am)
	}
	switch {
	case len(unknown) > 0:
		return nil, fail(exitInput, fmt.Errorf("this fettle cannot mirror the format of %s; name the mirrors that you want with --only (%s)", strings.Join(unknown, ", "), strings.Join(known, ", ")))
	case len(out) == 0:
		return nil, fail(exitInput, errors.New("the site file has no mirrors: add some, or take what the machines need with --from-site"))
	}
	return out, nil
}

// mirroring is what resolve and sync work with.
type mirroring struct {
	*airgap.Syncer
	mirrors  []airgap.Mirror
	lockPath string
	old      airgap.Lock // what the lock file says now
	hasLock  bool
	bar      *transferBar
	policy   airgap.Policy
}

func (e *env) mirroring(c *cli.Context) (*mirroring, error) {
	s, err := e.loadSite(c)
	if err != nil {
		return nil, err
	}
	store, err := mirrorStore(c, e)
	if err != nil {
		return nil, err
	}
	key, err := e.siteKey(c, false)
	if err != nil {
		return nil, err
	}
	bar := newTransferBar(e, "fetch", time.Now)
	m := &mirroring{bar: bar, policy: policyOf(s), lockPath: lockPath(c), Syncer: &airgap.Syncer{
		Store: store, Formats: mirrorFormats(s.Dir), Key: key, Now: time.Now,
		Fetch: &airgap.Fetcher{Local: atHand(storeDir(c, e)), Blobs: store.Blobs(), Dir: store.Dir(), PerHost: c.Int("per-host"), Log: e.log, Progress: func(p airgap.Progress) {
			bar.step(p.Bytes, p.BytesTotal, fmt.Sprintf("%d of %d files", p.Files, p.FilesTotal))
		}},
	}}
	if err := e.useLogins(c, s, m.Syncer); err != nil {
		return nil, err
	}
	m.old, err = readLock(m.lockPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fail(exitInput, err)
	}
	m.hasLock = err == nil
	only := c.StringSlice("only")
	if c.Bool("from-site") && len(only) > 0 {
		return nil, usage("--from-site and --only exclude each other: what machines need may be in any mirror")
	}
	if c.Bool("from-site") && len(s.Mirrors) == 0 {
		m.mirrors, err = nil, nil // all come from the machines
	} else {
		m.mirrors, err = mirrorsOf(s, m.Formats, only)
	}
	switch {
	case err != nil:
		return nil, err
	case c.Bool("locked"):
	case c.Bool("from-site"):
		var images airgap.Format
		if m.mirrors, images, err = e.siteMirrors(c, s, m.mirrors); err != nil {
			return nil, err
		}
		for i, f := range m.Formats {
			if f.Name() == images.Name() {
				m.Formats[i] = images
			}
		}
	case !c.IsSet("from-site") && slices.ContainsFunc(m.old.Mirrors, func(lm airgap.LockedMirror) bool { return len(lm.Spec.Needs) > 0 }):
		return nil, fail(exitRefused, fmt.Errorf("%s was made with --from-site: say it again, or --from-site=false to mirror what the site file says and no more", m.lockPath))
	}
	return m, nil
}

func lockPath(c *cli.Context) string {
	if p := c.String("lock"); p != "" {
		return p
	}
	return filepath.Join(c.String("site"), lockFile)
}

func readLock(path string) (airgap.Lock, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return airgap.Lock{}, fmt.Errorf("reading the lock: %w", err)
	}
	l, err := airgap.ParseLock(data)
	if err != nil {
		return airgap.Lock{}, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// resolve resolves, says what changed and writes the lock.
func (e *env) resolve(c *cli.Context, m *mirroring) (airgap.Lock, error) {
	lock, err := m.Resolve(c.Context, m.mirrors, m.old)
	m.bar.end()
	if err != nil {
		return airgap.Lock{}, airgapFail(err)
	}
	if err := m.policy.Check(lock, time.Now(), nil); err != nil {
		return airgap.Lock{}, airgapFail(err)
	}
	changes := airgap.Diff(m.old, lock)
	// What is no change to people, such as a newer form of inputs, counts too.
	if !m.hasLock || !reflect.DeepEqual(m.old, lock) {
		data, err := airgap.MarshalLock(lock)
		if err != nil {
			return airgap.Lock{}, err
		}
		if err := replaceFile(m.lockPath, data); err != nil {
			return airgap.Lock{}, err
		}
	}
	n, size := lock.Size()
	need := lock.Estimate(m.Store.Blobs().Has)
	if e.json {
		return lock, e.printLine(map[string]any{"lock": m.lockPath, "changes": append([]string{}, changes...), "files": n, "bytes": size, "toFetch": need.Files, "bytesToFetch": need.Bytes, "ofUnknownSize": need.Unknown})
	}
	for _, s := range changes {
		fmt.Fprintln(e.stdout, s)
	}
	if len(changes) == 0 {
		fmt.Fprintln(e.stdout, "Nothing changed upstream.")
	}
	e.warnUntil(lock)
	unknown := ""
	if need.Unknown > 0 {
		unknown = fmt.Sprintf(", not counting %d whose size upstream has not said", need.Unknown)
	}
	fmt.Fprintf(e.stdout, "%s: %s, %s; to be fetched: %s, %s%s\n", m.lockPath, counted(n, "file"), bytesText(size), counted(need.Files, "file"), bytesText(need.Bytes), unknown)
	return lock, nil
}

// warnUntil names whole mirrors that clients will refuse after a time.
func (e *env) warnUntil(l airgap.Lock) {
	for _, m := range l.Mirrors {
		for _, t := range m.Trust {
			if t.Until != "" && m.Spec.Whole() && !m.Spec.Resign {
				fmt.Fprintf(e.stderr, "Note: upstream's index of %s, %s, is valid until %s; clients behind the gap refuse it afterwards. resign: true in the site file avoids that.\n", m.Name, t.What, t.Until)
			}
		}
	}
}

// noFolder says why a file cannot be made beside which a temporary one was to be.
func noFolder(path string, err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err // its path is the temporary file's
	}
	return fail(exitInput, fmt.Errorf("writing %s: its folder takes no file: %w", path, err))
}

// replaceFile writes a file whole, or not at all.
func replaceFile(path string, data []byte) error { return replaceFileMode(path, data, 0o644) }

func replaceFileMode(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return noFolder(path, err)
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

func (e *env) mirrorResolve(c *cli.Context) error {
	m, err := e.mirroring(c)
	if err != nil {
		return err
	}
	_, err = e.resolve(c, m)
	return err
}

func (e *env) mirrorSync(c *cli.Context) error {
	m, err := e.mirroring(c)
	if err != nil {
		return err
	}
	lock := m.old
	if c.Bool("locked") {
		if !m.hasLock {
			return fail(exitInput, fmt.Errorf("there is no lock %s: fettle mirror resolve", m.lockPath))
		}
		if err := m.policy.Check(lock, time.Now(), nil); err != nil {
			return airgapFail(err)
		}
	} else if lock, err = e.resolve(c, m); err != nil {
		return err
	}
	defer waitForDisks()()
	snap, made, err := m.Sync(c.Context, lock, c.String("name"))
	m.bar.end()
	if err != nil {
		return airgapFail(err)
	}
	n, size := snap.Size()
	if e.json {
		return e.printLine(map[string]any{"snapshot": snap.Name, "serial": snap.Serial, "new": made, "files": n, "bytes": size})
	}
	what := "is as it was"
	if made {
		what = "is new"
	}
	fmt.Fprintf(e.stdout, "snapshot %s (serial %d) %s: %s, %s\n", snap.Name, snap.Serial, what, counted(n, "file"), bytesText(size))
	return nil
}
