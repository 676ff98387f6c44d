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
	"github.com/fettle-dev/fettle/airgap/papers"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/site"
)

// bundleCommands are the commands about what crosses the gap.
func bundleCommands(e *env) []*cli.Command {
	public := &cli.StringFlag{Name: "public-key", EnvVars: []string{"FETTLE_PUBLIC_KEY"}, Required: true,
		Usage: "the site's public key, or a file with it: never take it from the medium itself"}
	to := &cli.StringFlag{Name: "to", Value: "other-side", Usage: "name of the destination, whose record is kept"}
	identity := bundleIdentityFlag()
	return []*cli.Command{{
		Name: "bundle", Usage: "carry mirrors over a gap: create, verify, import",
		Description: "airgap/FORMAT.md describes the format.",
		Subcommands: []*cli.Command{
			{
				Name: "key", Usage: "make the site's key if there is none, and print the public key",
				Description: "The secret key goes into the site's secrets as " + airgapKey + ", or into the file that\n--key names. It signs bundles, and the index of filtered apt mirrors.",
				Flags: []cli.Flag{siteFlag(), secretIdentityFlag(), keyFlag(), &cli.BoolFlag{Name: "words", Usage: "print the public key's fingerprint as words, as bundle report does"},
					&cli.BoolFlag{Name: "openpgp", Usage: "print the OpenPGP public key, armoured: filtered apt mirrors and SHA256SUMS.asc are signed with it"}}, Action: e.bundleKey,
			},
			{
				Name: "identity", Usage: "make the identity that opens encrypted bundles, and print its public key",
				Description: "For the disconnected side. The secret part stays in the identity file, or, with --in-secrets,\nin the site's secrets as " + airgapIdentity + ", where whoever opens those has it; the public key goes to the\nconnected side, as a recipient: bundle create --recipient, or bundle: in the site file.",
				Flags:       []cli.Flag{identity, siteFlag(), &cli.BoolFlag{Name: "in-secrets", Usage: "the site's identity, in its secrets"}}, Action: e.bundleIdentity,
			},
			{
				Name: "create", Usage: "write a bundle",
				Description: "What is sent is recorded for its destination, so that --since sent works without any\nway back. A receipt corrects the record: fettle bundle received.",
				Flags: []cli.Flag{siteFlag(), storeFlag(), secretIdentityFlag(), keyFlag(),
					&cli.StringFlag{Name: "out", Required: true, Usage: "folder to be written"},
					&cli.StringFlag{Name: "volume-size", Usage: "cut volumes of at most this size, e.g. 4G"},
					&cli.StringFlag{Name: "since", Usage: "leave out what the other side has: sent (by the record), a receipt's file or code, or a snapshot's name"}, to,
					&cli.BoolFlag{Name: "no-record", Usage: "do not record that it was sent"},
					&cli.StringSliceFlag{Name: "recipient", Usage: "encrypt to this age public key (may be repeated)"},
					&cli.IntFlag{Name: "parity", Usage: "add so many parity volumes: as many may be lost or damaged"},
					&cli.StringSliceFlag{Name: "sign", Usage: "sign SHA256SUMS also for openpgp or cosign"},
					&cli.StringSliceFlag{Name: "program", Usage: "program that goes beside the volumes (default: this one; none: no program)", TakesFile: true},
					&cli.BoolFlag{Name: "licences", Usage: "read the licences of all packages for the papers (slow the first time)"},
					&cli.StringFlag{Name: "snapshot", Usage: "snapshot to be carried (default: the newest)"}},
				Action: e.bundleCreate,
			},
			{
				Name: "report", Usage: "write the page that a security officer reads before a bundle enters", ArgsUsage: "DIR...",
				Description: "What enters, from where, who signed it, what changed since last time, licences, bytes, and the\nfingerprint as words. It says what the bundle's signed papers say: run bundle verify too.",
				Flags: []cli.Flag{public, identity, siteFlag(), &cli.StringFlag{Name: "format", Value: "text", Usage: "html, text or json"},
					&cli.StringFlag{Name: "out", Usage: "file to be written (default: standard output)", TakesFile: true}}, Action: e.bundleReport,
			},
			{
				Name: "received", Usage: "take a receipt of the other side into the record", ArgsUsage: "FILE | CODE",
				Flags: []cli.Flag{siteFlag(), storeFlag(), to}, Action: e.bundleReceived,
			},
			{Name: "sent", Usage: "list what was sent where, and what is known to have arrived", Flags: []cli.Flag{storeFlag()}, Action: e.bundleSent},
			{Name: "receipt", Usage: "print the newest receipt and its code, on the disconnected side", Flags: []cli.Flag{storeFlag()}, Action: e.bundleReceipt},
			{
				Name: "repair", Usage: "write the volumes that are lost or damaged, from parity", ArgsUsage: "DIR...",
				Flags: []cli.Flag{public, identity, siteFlag(), &cli.StringFlag{Name: "out", Required: true, Usage: "folder to write them to"}}, Action: e.bundleRepair,
			},
			{Name: "verify", Usage: "read every byte of a bundle and compare", ArgsUsage: "DIR...", Flags: []cli.Flag{public, identity, siteFlag()}, Action: e.bundleVerify},
			{
				Name: "import", Usage: "take a bundle in and serve it: all of it, or nothing", ArgsUsage: "DIR...",
				Description: "Volumes may come one by one: what is verified stays, and the next import goes on.",
				Flags: []cli.Flag{storeFlag(), public, identity, siteFlag(),
					&cli.BoolFlag{Name: "allow-rollback", Usage: "also take a bundle that is older than what is here"},
					&cli.StringFlag{Name: "receipt", Usage: "also write the receipt to this file", TakesFile: true}},
				Action: e.bundleImport,
			},
			{Name: "ls", Usage: "list what a bundle holds", ArgsUsage: "DIR...", Flags: []cli.Flag{public, identity, siteFlag()}, Action: e.bundleList},
		},
	}}
}

func (e *env) bundleKey(c *cli.Context) error {
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
		return e.printJSON(map[string]string{"publicKey": key.Public().String(), "id": key.Public().ID(), "words": papers.Words(key.Public().Fingerprint())})
	}
	if c.Bool("openpgp") {
		public, err := pgp.PublicKey(key)
		if err != nil {
			return err
		}
		_, err = e.stdout.Write(public)
		return err
	}
	if c.Bool("words") {
		fmt.Fprintln(e.stdout, papers.Words(key.Public().Fingerprint()))
		return nil
	}
	fmt.Fprintln(e.stdout, key.Public())
	return nil
}

// keepKey puts a new key into a file, or into the site's secrets.
func (e *env) keepKey(c *cli.Context, path string, key *airgap.Key) error {
	if path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return fail(exitInput, fmt.Errorf("--key: the new key cannot be kept there: %w", err))
		}
		_, err = fmt.Fprintln(f, key.Reveal())
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("writing the new key to %s: %w", path, errors.Join(err, os.Remove(path)))
		}
		return nil
	}
	secrets, err := e.initSecrets(c)
	if err != nil {
		return err
	}
	return fail(exitInput, secrets.Set(airgapKey, site.NewSecret(key.Reveal())))
}

// initSecrets opens the site's secrets; it makes them if there are none.
func (e *env) initSecrets(c *cli.Context) (*site.Secrets, error) {
	dir := c.String("site")
	if _, err := os.Stat(filepath.Join(dir, "site.yaml")); err != nil {
		return nil, fail(exitInput, fmt.Errorf("%s is no site folder; name one with --site, or a file with --key: %w", dir, err))
	}
	identity, err := e.identityPath(c)
	if err != nil {
		return nil, fail(exitUsage, err)
	}
	secrets, made, err := site.InitSecrets(dir, identity)
	if err != nil {
		return nil, fail(exitInput, err)
	}
	if made {
		fmt.Fprintf(e.stderr, "Made the identity %s. It opens the secrets: keep a copy in a safe place, never in git.\n", identity)
	}
	return secrets, nil
}

// openBundle opens the bundle that the arguments name.
func (e *env) openBundle(c *cli.Context) (*airgap.OpenedBundle, error) {
	return e.openBundleIn(c, c.Args().Slice())
}

// openBundleIn opens the bundle whose volumes are in dirs.
func (e *env) openBundleIn(c *cli.Context, dirs []string) (*airgap.OpenedBundle, error) {
	if len(dirs) == 0 {
		return nil, usage("%s takes DIR...", c.Command.FullName())
	}
	given := c.String("public-key")
	text := given
	if data, err := os.ReadFile(given); err == nil {
		text = string(data)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fail(exitInput, fmt.Errorf("--public-key: %w", err))
	}
	key, err := airgap.ParsePublicKey(strings.TrimSpace(text))
	if err != nil {
		if text == given {
			err = fmt.Errorf("--public-key %s is neither a file nor a key: %w", given, err)
		} else {
			err = fmt.Errorf("--public-key %s: %w", given, err)
		}
		return nil, fail(exitUsage, err)
	}
	b, err := airgap.OpenBundle(key, dirs...)
	if err != nil || !b.Encrypted() {
		return b, airgapFail(err)
	}
	ids, from, err := e.bundleIdentities(c)
	if err != nil || ids == "" {
		return b, err // without one, it says to whom it is encrypted when it is read
	}
	if err := b.Unlock(ids); err != nil {
		return nil, fail(exitInput, fmt.Errorf("%s: %w", from, err))
	}
	return b, nil
}

// noteRestored says which volumes parity made up for.
func (e *env) noteRestored(b *airgap.OpenedBundle) {
	if lost := b.Restored(); len(lost) > 0 {
		fmt.Fprintf(e.stderr, "Note: %s could not be used and came from parity; fettle bundle repair writes a new copy.\n", strings.Join(lost, ", "))
	}
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
	e.noteRestored(b)
	if err := checkOpenPGP(c.Args().Slice()); err != nil {
		return airgapFail(err)
	}
	if e.json {
		return e.printJSON(b.Bundle)
	}
	fmt.Fprintf(e.stdout, "The bundle is whole and signed: site %s, snapshot %s (serial %d), %s, %s with its papers, %s\n", b.Site, b.Snapshot.Name, b.Serial, counted(b.Files(), "file"), bytesText(b.Bytes), counted(len(b.Volumes), "volume"))
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
	e.noteRestored(b)
	if p := c.String("receipt"); p != "" {
		data, err := airgap.MarshalReceipt(r)
		if err != nil {
			return err
		}
		if err := replaceFile(p, data); err != nil {
			return fmt.Errorf("snapshot %s is here and served, but without its receipt, which fettle bundle receipt prints: %w", r.Snapshot, err)
		}
	}
	if e.json {
		return e.printJSON(withCode(r))
	}
	fmt.Fprintf(e.stdout, "snapshot %s (serial %d) of site %s is here and served\nreceipt: %s\n", r.Snapshot, r.Serial, r.Site, r.Code())
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
	fmt.Fprintf(e.stdout, "site %s, snapshot %s (serial %d), %s\n", b.Site, b.Snapshot.Name, b.Serial, counted(len(b.Volumes), "volume"))
	rows := [][]string{{"MIRROR", "FORMAT", "SIZE", "DIGEST", "PATH"}}
	for _, t := range snap.Trees {
		for _, f := range t.Files {
			rows = append(rows, []string{t.Mirror, t.Format, bytesText(f.Size), f.SHA256.Short(), f.Path})
		}
	}
	table(e.stdout, rows)
	return nil
}
