package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/site"
)

// bundleCommands are the commands about what crosses the gap.
func bundleCommands(e *env) []*cli.Command {
	public := &cli.StringFlag{Name: "public-key", EnvVars: []string{"FETTLE_PUBLIC_KEY"}, Required: true,
		Usage: "the site's public key, or a file with it: never take it from the medium itself"}
	return []*cli.Command{{
		Name: "bundle", Usage: "carry mirrors over a gap: create, verify, import",
		Description: "airgap/FORMAT.md describes the format.",
		Subcommands: []*cli.Command{
			{
				Name: "key", Usage: "make the site's key if there is none, and print the public key",
				Description: "The secret key goes into the site's secrets as " + airgapKey + ", or into the file that\n--key names. It signs bundles, and the index of filtered apt mirrors.",
				Flags:       []cli.Flag{siteFlag(), secretIdentityFlag(), keyFlag()}, Action: e.bundleKey,
			},
			{
				Name: "create", Usage: "write a bundle",
				Flags: []cli.Flag{siteFlag(), storeFlag(), secretIdentityFlag(), keyFlag(),
					&cli.StringFlag{Name: "out", Required: true, Usage: "folder to be written"},
					&cli.StringFlag{Name: "volume-size", Usage: "cut volumes of at most this size, e.g. 4G"},
					&cli.StringFlag{Name: "since", Usage: "leave out what the other side has: a receipt's file, or a snapshot's name"},
					&cli.StringFlag{Name: "snapshot", Usage: "snapshot to be carried (default: the newest)"}},
				Action: e.bundleCreate,
			},
			{Name: "verify", Usage: "read every byte of a bundle and compare", ArgsUsage: "DIR...", Flags: []cli.Flag{public}, Action: e.bundleVerify},
			{
				Name: "import", Usage: "take a bundle in and serve it: all of it, or nothing", ArgsUsage: "DIR...",
				Description: "Volumes may come one by one: what is verified stays, and the next import goes on.",
				Flags: []cli.Flag{storeFlag(), public,
					&cli.BoolFlag{Name: "allow-rollback", Usage: "also take a bundle that is older than what is here"},
					&cli.StringFlag{Name: "receipt", Usage: "also write the receipt to this file", TakesFile: true}},
				Action: e.bundleImport,
			},
			{Name: "ls", Usage: "list what a bundle holds", ArgsUsage: "DIR...", Flags: []cli.Flag{public}, Action: e.bundleList},
		},
	}}
}

func (e *env) bundleKey(c *cli.Context) error {
	if err := nargs(c, 0); err != nil {
		return err
	}
	path := c.String("key")
	_, statErr := os.Stat(path)
	fresh := path != "" && errors.Is(statErr, fs.ErrNotExist)
	var key *airgap.Key
	var err error
	if !fresh {
		if key, err = e.siteKey(c, false); err != nil {
			return err
		}
	}
	if key == nil {
		if key, err = airgap.NewKey(); err != nil {
			return err
		}
		if err := e.keepKey(c, path, key); err != nil {
			return err
		}
	}
	if e.json {
		return e.printJSON(map[string]string{"publicKey": key.Public().String(), "id": key.Public().ID()})
	}
	fmt.Fprintln(e.stdout, key.Public())
	return nil
}

// keepKey puts a new key into a file, or into the site's secrets.
func (e *env) keepKey(c *cli.Context, path string, key *airgap.Key) error {
	if path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, key.Reveal())
		return errors.Join(err, f.Sync(), f.Close())
	}
	dir := c.String("site")
	if _, err := os.Stat(filepath.Join(dir, "site.yaml")); err != nil {
		return fail(exitInput, fmt.Errorf("%s is no site folder; name one with --site, or a file with --key: %w", dir, err))
	}
	identity, err := e.identityPath(c)
	if err != nil {
		return fail(exitUsage, err)
	}
	secrets, made, err := site.InitSecrets(dir, identity)
	if err != nil {
		return fail(exitInput, err)
	}
	if made {
		fmt.Fprintf(e.stderr, "Made the identity %s. It opens the secrets: keep a copy in a safe place, never in git.\n", identity)
	}
	return fail(exitInput, secrets.Set(airgapKey, site.NewSecret(key.Reveal())))
}

func (e *env) bundleCreate(c *cli.Context) error {
	if err := nargs(c, 0); err != nil {
		return err
	}
	s, err := e.loadSite(c)
	if err != nil {
		return err
	}
	key, err := e.siteKey(c, true)
	if err != nil {
		return err
	}
	store, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	bar := newTransferBar(e, "pack", time.Now)
	o := airgap.CreateOptions{Site: s.Name, Snapshot: c.String("snapshot"), Progress: func(done, total int64) { bar.step(done, total, "") }}
	if v := c.String("volume-size"); v != "" {
		n, err := site.ParseBytes(v)
		if err != nil {
			return usage("--volume-size: %w", err)
		}
		o.VolumeSize = int64(n)
	}
	if v := c.String("since"); v != "" {
		if o.Base, err = baseOf(store, s.Name, v); err != nil {
			return err
		}
	}
	b, err := store.Create(c.Context, key, c.String("out"), o)
	bar.end()
	if err != nil {
		return airgapFail(err)
	}
	var size int64
	for _, v := range b.Volumes {
		size += v.Size
	}
	if e.json {
		return e.printJSON(b)
	}
	since := ""
	if b.Base != nil {
		since = ", on top of " + b.Base.Name
	}
	fmt.Fprintf(e.stdout, "%s: snapshot %s (serial %d)%s: %d files, %s in %d volumes\nsigned by %s\n",
		c.String("out"), b.Snapshot.Name, b.Serial, since, b.Blobs-1, bytesText(size), len(b.Volumes), key.Public())
	return nil
}

// baseOf is the snapshot that --since means.
func baseOf(store *airgap.Store, siteName, since string) (string, error) {
	data, err := os.ReadFile(since)
	if err != nil {
		// The sender's own record: a snapshot that it knows to have arrived.
		if _, _, serr := store.Snapshot(since); serr != nil {
			return "", fail(exitInput, fmt.Errorf("--since is neither a receipt's file (%w) nor a snapshot (%w)", err, serr))
		}
		return since, nil
	}
	r, err := airgap.ParseReceipt(data)
	if err != nil {
		return "", fail(exitInput, fmt.Errorf("%s: %w", since, err))
	}
	if r.Site != siteName {
		return "", fail(exitInput, fmt.Errorf("%s is a receipt of site %s, and this is %s", since, r.Site, siteName))
	}
	return store.Base(r)
}

// openBundle opens the bundle that the arguments name.
func (e *env) openBundle(c *cli.Context) (*airgap.OpenedBundle, error) {
	if c.NArg() == 0 {
		return nil, usage("%s takes DIR...", c.Command.FullName())
	}
	text := c.String("public-key")
	if data, err := os.ReadFile(text); err == nil {
		text = string(data)
	}
	key, err := airgap.ParsePublicKey(strings.TrimSpace(text))
	if err != nil {
		return nil, fail(exitUsage, err)
	}
	b, err := airgap.OpenBundle(key, c.Args().Slice()...)
	return b, airgapFail(err)
}

func (e *env) bundleVerify(c *cli.Context) error {
	b, err := e.openBundle(c)
	if err != nil {
		return err
	}
	bar := newTransferBar(e, "verify", time.Now)
	err = b.Verify(c.Context, func(done, total int64) { bar.step(done, total, "") })
	bar.end()
	if err != nil {
		return airgapFail(err)
	}
	if e.json {
		return e.printJSON(b.Bundle)
	}
	fmt.Fprintf(e.stdout, "The bundle is whole and signed: site %s, snapshot %s (serial %d), %d files, %s, %d volumes\n", b.Site, b.Snapshot.Name, b.Serial, b.Blobs-1, bytesText(b.Bytes), len(b.Volumes))
	if b.Base != nil {
		fmt.Fprintf(e.stdout, "It builds on snapshot %s, which the other side must have.\n", b.Base.Name)
	}
	return nil
}

func (e *env) bundleImport(c *cli.Context) error {
	b, err := e.openBundle(c)
	if err != nil {
		return err
	}
	store, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	bar := newTransferBar(e, "import", time.Now)
	r, err := store.Import(c.Context, b, airgap.ImportOptions{AllowRollback: c.Bool("allow-rollback"), Now: time.Now,
		Progress: func(done, total int64) { bar.step(done, total, "") }})
	bar.end()
	if err != nil {
		return airgapFail(err)
	}
	if err := e.adoptNamed(c, store, r.Snapshot); err != nil {
		return err
	}
	if p := c.String("receipt"); p != "" {
		data, err := airgap.MarshalReceipt(r)
		if err != nil {
			return err
		}
		if err := replaceFile(p, data); err != nil {
			return err
		}
	}
	if e.json {
		return e.printJSON(r)
	}
	fmt.Fprintf(e.stdout, "snapshot %s (serial %d) of site %s is here and served\nreceipt: %s serial %d check %s\n", r.Snapshot, r.Serial, r.Site, r.SHA256.Short(), r.Serial, r.Check)
	return nil
}

func (e *env) bundleList(c *cli.Context) error {
	b, err := e.openBundle(c)
	if err != nil {
		return err
	}
	snap, err := b.List(c.Context)
	if err != nil {
		return airgapFail(err)
	}
	if e.json {
		return e.printJSON(map[string]any{"bundle": b.Bundle, "trees": snap.Trees})
	}
	fmt.Fprintf(e.stdout, "site %s, snapshot %s (serial %d), %d volumes\n", b.Site, b.Snapshot.Name, b.Serial, len(b.Volumes))
	rows := [][]string{{"MIRROR", "FORMAT", "SIZE", "DIGEST", "PATH"}}
	for _, t := range snap.Trees {
		for _, f := range t.Files {
			rows = append(rows, []string{t.Mirror, t.Format, bytesText(f.Size), f.SHA256.Short(), f.Path})
		}
	}
	table(e.stdout, rows)
	return nil
}
