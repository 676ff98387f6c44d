package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/fettle-dev/fettle/site"
)

// maxSecret bounds the value of one secret.
const maxSecret = 1 << 20

func secretIdentityFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "identity", EnvVars: []string{"FETTLE_IDENTITY"}, TakesFile: true,
		Usage: "age identity that opens the secrets (default: fettle/identity.txt in the user's configuration folder)"}
}

func secretFlags() []cli.Flag { return []cli.Flag{siteFlag(), secretIdentityFlag()} }

// identityPath is the flag's value, or the default place.
func (e *env) identityPath(c *cli.Context) (string, error) {
	if p := c.String("identity"); p != "" {
		return p, nil
	}
	return site.DefaultIdentity(e.getenv)
}

// openSecrets opens the secrets of the folder that --site names.
func (e *env) openSecrets(c *cli.Context) (*site.Secrets, error) {
	identity, err := e.identityPath(c)
	if err != nil {
		return nil, fail(exitUsage, err)
	}
	s, err := site.OpenSecrets(c.String("site"), identity)
	return s, fail(exitInput, err)
}

func (e *env) secretSet(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	name, dir := c.Args().First(), c.String("site")
	identity, err := e.identityPath(c)
	if err != nil {
		return fail(exitUsage, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "site.yaml")); err != nil {
		return fail(exitInput, fmt.Errorf("%s is no site folder; name one with --site: %w", dir, err))
	}
	value, err := e.readSecret(name)
	if err != nil {
		return fail(exitInput, err)
	}
	s, siteErr := site.Load(dir) // a site that is wrong yet takes secrets too
	if siteErr == nil {
		if err := fitsBMC(s, name, value); err != nil {
			return err
		}
	}
	secrets, made, err := site.InitSecrets(dir, identity)
	if err != nil {
		return fail(exitInput, err)
	}
	if made {
		fmt.Fprintf(e.stderr, "Made the identity %s. It opens the secrets: keep a copy in a safe place, never in git.\n", identity)
	}
	if err := secrets.Set(name, value); err != nil {
		return fail(exitInput, err)
	}
	if siteErr == nil && !slices.ContainsFunc(s.Secrets, func(n site.SecretName) bool { return n.Name == name }) {
		fmt.Fprintf(e.stderr, "Note: site.yaml does not name %s under secrets:, so no machine can refer to it yet.\n", name)
	}
	return nil
}

// fitsBMC refuses a value that cannot be the login of the BMCs whose secret it is.
func fitsBMC(s *site.Site, name string, value site.Secret) error {
	i := slices.IndexFunc(s.Machines, func(m site.Machine) bool { return m.BMC.Secret == name })
	if i < 0 || strings.Contains(value.Reveal(), ":") || value.Reveal() == "" { // that it is empty is told by who keeps it
		return nil
	}
	return fail(exitInput, fmt.Errorf("secret %s is the login of the BMC of %s: give it as USER:PASSWORD; nothing was changed", name, s.Machines[i].Name))
}

// readSecret takes a value from standard input, or asks for it without echo.
func (e *env) readSecret(name string) (site.Secret, error) {
	if f, ok := e.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(e.stderr, "Value of %s: ", name)
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(e.stderr)
		if err != nil {
			return site.Secret{}, fmt.Errorf("reading the value of %s: %w", name, err)
		}
		return site.NewSecret(string(b)), nil
	}
	b, err := io.ReadAll(io.LimitReader(e.stdin, maxSecret+1))
	if err != nil {
		return site.Secret{}, fmt.Errorf("reading the value of %s from standard input: %w", name, err)
	}
	if len(b) > maxSecret {
		return site.Secret{}, fmt.Errorf("the value of %s is larger than %s: secrets are passwords and keys", name, site.Bytes(maxSecret))
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	return site.NewSecret(text), nil
}

func (e *env) secretGet(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	secrets, err := e.openSecrets(c)
	if err != nil {
		return err
	}
	v, err := secrets.Get(c.Args().First())
	if err != nil {
		return fail(exitInput, err)
	}
	if e.json {
		return e.printJSON(map[string]string{"name": c.Args().First(), "value": v.Reveal()})
	}
	fmt.Fprintln(e.stdout, v.Reveal())
	return nil
}

// secretRow is one line of secret ls.
type secretRow struct {
	Name        string `json:"name"`
	Set         bool   `json:"set"`
	Description string `json:"description,omitempty"`
}

func (e *env) secretList(c *cli.Context) error {
	secrets, err := e.openSecrets(c)
	if err != nil {
		return err
	}
	names, err := secrets.List()
	if err != nil {
		return fail(exitInput, err)
	}
	s, err := e.loadSite(c)
	if err != nil {
		return err
	}
	rows := []secretRow{}
	for _, n := range s.Secrets {
		rows = append(rows, secretRow{n.Name, slices.Contains(names, n.Name), n.Description})
	}
	for _, n := range names {
		if !slices.ContainsFunc(rows, func(r secretRow) bool { return r.Name == n }) {
			rows = append(rows, secretRow{Name: n, Set: true})
		}
	}
	if e.json {
		return e.printJSON(rows)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SECRET\tSET\tDESCRIPTION")
	for _, r := range rows {
		set := "yes"
		if !r.Set {
			set = "no: fettle secret set " + r.Name
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name, set, r.Description)
	}
	return w.Flush()
}

func (e *env) secretRemove(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	secrets, err := e.openSecrets(c)
	if err != nil {
		return err
	}
	return fail(exitInput, secrets.Remove(c.Args().First()))
}

func (e *env) secretRotate(c *cli.Context) error {
	secrets, err := e.openSecrets(c)
	if err != nil {
		return err
	}
	recipient, err := secrets.RotateKey(time.Now())
	if err != nil {
		return fail(exitInput, err)
	}
	if e.json {
		return e.printJSON(map[string]string{"recipient": recipient})
	}
	fmt.Fprintf(e.stdout, "The secrets are encrypted to the new identity %s.\nOlder commits still open with the old one: change the values too if others may have it.\n", recipient)
	return nil
}
