package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/site"
)

const (
	openpgpFile    = "SHA256SUMS.asc"
	openpgpKeyFile = "site-key.asc"
)

func bundleIdentityFlag() cli.Flag {
	return &cli.StringFlag{Name: "identity", EnvVars: []string{"FETTLE_IDENTITY"}, TakesFile: true,
		Usage: "age identity that opens encrypted bundles (default: fettle/identity.txt in the user's configuration folder)"}
}

func (e *env) bundleIdentity(c *cli.Context) error {
	keep := e.identityFile
	if c.Bool("in-secrets") {
		keep = e.identitySecret
	}
	text, path, err := keep(c)
	if err != nil {
		return err
	}
	keys, err := airgap.PublicOf(text)
	if err != nil {
		return fail(exitInput, fmt.Errorf("%s: %w", path, err))
	}
	if e.json {
		return e.printJSON(map[string]any{"recipients": keys})
	}
	for _, k := range keys {
		fmt.Fprintln(e.stdout, k)
	}
	return nil
}

// identityFile is the identity in the user's file, which is made if there is
// none.
func (e *env) identityFile(c *cli.Context) (text, path string, err error) {
	if path, err = e.identityPath(c); err != nil {
		return "", "", fail(exitUsage, err)
	}
	data, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return string(data), path, fail(exitInput, err)
	}
	if text, _, err = airgap.Identity(); err != nil {
		return "", "", err
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), newSecretFile(path, text)); err != nil {
		return "", "", err
	}
	fmt.Fprintf(e.stderr, "Made the identity %s. It opens bundles: keep a copy in a safe place.\n", path)
	return text, path, nil
}

// identitySecret is the identity in the site's secrets, which is made if there
// is none.
func (e *env) identitySecret(c *cli.Context) (text, path string, err error) {
	secrets, err := e.initSecrets(c)
	if err != nil {
		return "", "", err
	}
	path = "secret " + airgapIdentity
	names, err := secrets.List()
	if err != nil {
		return "", "", fail(exitInput, err)
	}
	if slices.Contains(names, airgapIdentity) {
		v, err := secrets.Get(airgapIdentity)
		if err != nil {
			return "", "", fail(exitInput, err)
		}
		return v.Reveal(), path, nil
	}
	if text, _, err = airgap.Identity(); err != nil {
		return "", "", err
	}
	return text, path, fail(exitInput, secrets.Set(airgapIdentity, site.NewSecret(text)))
}

// bundleIdentities are the identities that may open a bundle: the user's, and
// the one in the site's secrets, which the user's opens. There may be none.
func (e *env) bundleIdentities(c *cli.Context) (text, from string, err error) {
	path, err := e.identityPath(c)
	if err != nil {
		return "", "", fail(exitUsage, err)
	}
	own, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fail(exitInput, fmt.Errorf("reading the identity: %w", err))
	}
	dir := c.String("site")
	if _, err := os.Stat(filepath.Join(dir, "secrets.age")); err != nil {
		return string(own), path, nil // no site folder is needed to open a bundle
	}
	secrets, err := site.OpenSecrets(dir, path)
	var names []string
	if err == nil {
		names, err = secrets.List()
	}
	var others *age.NoIdentityMatchError // secrets of others: the identity is still the user's own
	if err != nil && !errors.As(err, &others) {
		fmt.Fprintf(e.stderr, "Note: only the identity %s is tried: %v\n", path, err)
	}
	if !slices.Contains(names, airgapIdentity) {
		return string(own), path, nil
	}
	shared, err := secrets.Get(airgapIdentity)
	if err != nil {
		return "", "", fail(exitInput, fmt.Errorf("secret %s: %w", airgapIdentity, err))
	}
	return strings.TrimSpace(string(own)) + "\n" + strings.TrimSpace(shared.Reveal()) + "\n", path + " and secret " + airgapIdentity, nil
}

// newSecretFile writes a file that must not be there yet.
func newSecretFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// createOptions are the flags of bundle create, and bundle: of the site file
// where they say nothing.
func createOptions(c *cli.Context, s *site.Site, key *airgap.Key) (airgap.CreateOptions, error) {
	o := airgap.CreateOptions{Site: s.Name, Snapshot: c.String("snapshot"), VolumeSize: int64(s.Bundle.VolumeSize),
		Recipients: s.Bundle.Recipients, Parity: s.Bundle.Parity, Programs: map[string]string{}, Sign: map[string]airgap.SignFunc{}}
	if v := c.String("volume-size"); v != "" {
		n, err := site.ParseBytes(v)
		if err != nil {
			return o, usage("--volume-size: %w", err)
		}
		o.VolumeSize = int64(n)
	}
	if c.IsSet("parity") {
		o.Parity = c.Int("parity")
	}
	if c.IsSet("recipient") {
		o.Recipients = c.StringSlice("recipient")
	}
	signs := s.Bundle.Sign
	if c.IsSet("sign") {
		signs = c.StringSlice("sign")
	}
	for _, sign := range signs {
		switch sign {
		case "cosign":
			o.Cosign = true
		case "openpgp":
			public, err := pgp.PublicKey(key)
			if err != nil {
				return o, err
			}
			o.Beside = map[string][]byte{openpgpKeyFile: public}
			o.Sign[openpgpFile] = func(data []byte, at time.Time) ([]byte, error) { return pgp.SignDetached(key, data, at) }
		default:
			return o, usage("--sign knows openpgp and cosign, not %q", sign)
		}
	}
	programs := c.StringSlice("program")
	if slices.Equal(programs, []string{"none"}) {
		return o, nil
	}
	for _, p := range programs {
		o.Programs[filepath.Base(p)] = p
	}
	if len(programs) == 0 {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("finding this program, which goes into the bundle (--program none leaves it out): %w", err)
		}
		o.Programs["fettle-"+runtime.GOOS+"-"+runtime.GOARCH] = self
	}
	return o, nil
}

func (e *env) bundleCreate(c *cli.Context) error {
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
	o, err := createOptions(c, s, key)
	if err != nil {
		return err
	}
	if err := e.papers(c, s, store, &o); err != nil {
		return err
	}
	bar := newTransferBar(e, "pack", time.Now)
	o.Progress = func(done, total int64) { bar.step(done, total, "") }
	to := c.String("to")
	if v := c.String("since"); v != "" {
		if o.Base, o.BaseDigest, err = e.baseOf(store, s.Name, to, v); err != nil {
			return err
		}
	}
	// Papers are many small things; collected sooner they cost a tenth of the
	// memory less and a few milliseconds.
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	b, err := store.Create(c.Context, key, c.String("out"), o)
	bar.end()
	if err != nil {
		return airgapFail(err)
	}
	if !c.Bool("no-record") {
		if err := store.RecordSent(to, b, time.Now()); err != nil {
			return airgapFail(fmt.Errorf("the bundle is whole, but recording it failed: %w", err))
		}
	}
	if e.json {
		return e.printJSON(b)
	}
	var size int64
	for _, v := range b.Volumes {
		size += v.Stored
	}
	since, more := "", ""
	if b.Base != nil {
		since = ", on top of " + b.Base.Name
	}
	if b.Parity != nil {
		more = fmt.Sprintf(" and %d of parity", len(b.Parity.Files))
	}
	if b.Encrypted() {
		more += ", encrypted to " + counted(len(b.Recipients), "recipient")
	}
	fmt.Fprintf(e.stdout, "%s: snapshot %s (serial %d)%s: %s, %s in %s%s\nsigned by %s\n",
		c.String("out"), b.Snapshot.Name, b.Serial, since, counted(b.Files(), "file"), bytesText(size), counted(len(b.Volumes), "volume"), more, key.Public())
	return nil
}

func (e *env) bundleRepair(c *cli.Context) error {
	b, err := e.openBundle(c)
	if err != nil {
		return err
	}
	out := c.String("out")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	bar := newTransferBar(e, "repair", time.Now)
	names, err := b.Repair(c.Context, out, func(done, total int64) { bar.step(done, total, "") })
	bar.end()
	if err != nil {
		return airgapFail(err)
	}
	if e.json {
		return e.printJSON(map[string]any{"restored": append([]string{}, names...)})
	}
	if len(names) == 0 {
		fmt.Fprintln(e.stdout, "No volume is lost or damaged.")
		return nil
	}
	fmt.Fprintf(e.stdout, "%s: restored %s\n", out, strings.Join(names, ", "))
	return nil
}

// checkOpenPGP verifies the OpenPGP signatures in folders of a bundle by the
// key beside them, which SHA256SUMS vouches for.
func checkOpenPGP(dirs []string) error {
	for _, dir := range dirs {
		path := filepath.Join(dir, openpgpFile)
		sig, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		public, err := os.ReadFile(filepath.Join(dir, openpgpKeyFile))
		if err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, airgap.SumsFile))
		if err != nil {
			return err
		}
		if err := pgp.VerifyArmored(public, data, sig); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
