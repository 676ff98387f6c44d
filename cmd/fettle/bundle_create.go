package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/blob"
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
	if err := nargs(c, 0); err != nil {
		return err
	}
	path, err := e.identityPath(c)
	if err != nil {
		return fail(exitUsage, err)
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret, _, merr := airgap.Identity()
		if merr != nil {
			return merr
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), newSecretFile(path, secret)); err != nil {
			return err
		}
		fmt.Fprintf(e.stderr, "Made the identity %s. It opens bundles: keep a copy in a safe place.\n", path)
		text, err = []byte(secret), nil
	}
	if err != nil {
		return fail(exitInput, err)
	}
	keys, err := airgap.PublicOf(string(text))
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
	o, err := createOptions(c, s, key)
	if err != nil {
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
		more += fmt.Sprintf(", encrypted to %d recipients", len(b.Recipients))
	}
	fmt.Fprintf(e.stdout, "%s: snapshot %s (serial %d)%s: %d files, %s in %d volumes%s\nsigned by %s\n",
		c.String("out"), b.Snapshot.Name, b.Serial, since, b.Blobs-1-len(b.Documents), bytesText(size), len(b.Volumes), more, key.Public())
	return nil
}

// baseOf is the snapshot that --since means.
func (e *env) baseOf(store *airgap.Store, siteName, to, since string) (string, blob.Digest, error) {
	if since == "sent" {
		r, err := store.Record(to)
		if err != nil {
			return "", "", err
		}
		held, ok := r.Holds()
		if !ok {
			return "", "", fail(exitInput, fmt.Errorf("nothing was sent to %s yet: make a full bundle without --since", to))
		}
		if held.State != airgap.StateArrived {
			fmt.Fprintf(e.stderr, "Note: %s is believed to hold %s, sent %s; no receipt said so.\n", to, held.Snapshot, held.At.Format(time.DateOnly))
		}
		return held.Snapshot, held.SHA256, nil
	}
	data, err := os.ReadFile(since)
	if err == nil {
		r, err := siteReceipt(siteName, since, data)
		if err != nil {
			return "", "", err
		}
		name, err := store.Base(r)
		return name, r.SHA256, err
	}
	if _, d, serr := store.Snapshot(since); serr == nil {
		return since, d, nil // the sender's own knowledge
	}
	if airgap.LooksLikeCode(since) {
		snap, d, err := store.BaseOfCode(siteName, since)
		return snap.Name, d, fail(exitInput, err)
	}
	return "", "", fail(exitInput, fmt.Errorf("--since is neither sent, nor a receipt's file (%w), its code, or a snapshot: fettle mirror ls", err))
}

func siteReceipt(siteName, path string, data []byte) (airgap.Receipt, error) {
	r, err := airgap.ParseReceipt(data)
	if err != nil {
		return r, fail(exitInput, fmt.Errorf("%s: %w", path, err))
	}
	if r.Site != siteName {
		return r, fail(exitInput, fmt.Errorf("%s is a receipt of site %s, and this is %s", path, r.Site, siteName))
	}
	return r, nil
}

func (e *env) bundleReceived(c *cli.Context) error {
	if c.NArg() == 0 {
		return usage("%s takes FILE or CODE", c.Command.FullName())
	}
	s, err := e.loadSite(c)
	if err != nil {
		return err
	}
	store, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	// A code may be typed in groups.
	text, to := strings.Join(c.Args().Slice(), ""), c.String("to")
	var name string
	var serial int64
	var digest blob.Digest
	if data, rerr := os.ReadFile(text); rerr == nil {
		r, err := siteReceipt(s.Name, text, data)
		if err != nil {
			return err
		}
		if _, err := store.Base(r); err != nil {
			fmt.Fprintf(e.stderr, "Note: %v\n", err)
		}
		name, serial, digest = r.Snapshot, r.Serial, r.SHA256
	} else {
		snap, d, err := store.BaseOfCode(s.Name, text)
		if err != nil {
			return fail(exitInput, err)
		}
		name, serial, digest = snap.Name, snap.Serial, d
	}
	if err := store.Learn(to, s.Name, name, serial, digest, time.Now()); err != nil {
		return airgapFail(err)
	}
	if e.json {
		return e.printJSON(map[string]any{"to": to, "holds": name, "serial": serial})
	}
	fmt.Fprintf(e.stdout, "%s holds snapshot %s (serial %d); bundle create --since sent builds on that\n", to, name, serial)
	return nil
}

func (e *env) bundleSent(c *cli.Context) error {
	if err := nargs(c, 0); err != nil {
		return err
	}
	store, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	records, err := store.Records()
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(append([]airgap.Record{}, records...))
	}
	rows := [][]string{{"TO", "SNAPSHOT", "SERIAL", "ON TOP OF", "SENT", "STATE"}}
	for _, r := range records {
		held, _ := r.Holds()
		for _, b := range r.Sent {
			state := string(b.State)
			if b == held {
				state += ", held"
			}
			rows = append(rows, []string{r.To, b.Snapshot, fmt.Sprint(b.Serial), b.Base, b.At.Local().Format(time.DateTime), state})
		}
	}
	if len(rows) == 1 {
		fmt.Fprintln(e.stdout, "Nothing was sent yet.")
		return nil
	}
	table(e.stdout, rows)
	return nil
}

// withCode is a receipt as it is printed.
func withCode(r airgap.Receipt) any {
	return struct {
		airgap.Receipt
		Code string `json:"code"`
	}{r, r.Code()}
}

func (e *env) bundleReceipt(c *cli.Context) error {
	if err := nargs(c, 0); err != nil {
		return err
	}
	store, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	all, err := store.Receipts()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("nothing was imported here yet: fettle bundle import")
	}
	r := all[len(all)-1]
	if e.json {
		return e.printJSON(withCode(r))
	}
	fmt.Fprintf(e.stdout, "%s\nsite %s, snapshot %s (serial %d)\non the connected side: fettle bundle received %s\n", r.Code(), r.Site, r.Snapshot, r.Serial, r.Code())
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
