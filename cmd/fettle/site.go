package main

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/site"
)

// siteCommands are the commands about a site folder and its secrets.
func siteCommands(e *env) []*cli.Command {
	return []*cli.Command{
		{
			Name: "init", Usage: "write a commented starter site folder", ArgsUsage: "DIR",
			Description: "Writes site.yaml, machines/, profiles/, the schema for editors, secrets.age and the site's CA.\nThe identity that opens the secrets is made if there is none; it stays outside the folder.\nNothing is overwritten.",
			Flags:       []cli.Flag{secretIdentityFlag()},
			Action:      e.siteInit,
		},
		{
			Name: "site", Usage: "check, show and compare site folders",
			Subcommands: []*cli.Command{
				{Name: "check", Usage: "say everything that is wrong with a site folder", Flags: []cli.Flag{siteFlag()}, Action: e.siteCheck},
				{Name: "show", Usage: "show a site, or one thing of it", ArgsUsage: "[machine|network|profile|image|rack|mirror|secret NAME]", Flags: []cli.Flag{siteFlag()}, Action: e.siteShow},
				{Name: "schema", Usage: "print the JSON Schema of site.yaml, for editors", Flags: []cli.Flag{
					&cli.BoolFlag{Name: "part", Usage: "of the files beside it, such as machines/*.yaml"},
				}, Action: e.siteSchema},
				{Name: "diff", Usage: "say what changes from one site folder to another", ArgsUsage: "DIR_A DIR_B", Action: e.siteDiff},
			},
		},
		{
			Name: "secret", Usage: "keep passwords and keys in the site's secrets.age",
			Subcommands: []*cli.Command{
				{Name: "set", Usage: "set a secret; the value comes from standard input, or is asked for", ArgsUsage: "NAME", Flags: secretFlags(), Action: e.secretSet},
				{Name: "get", Usage: "print the value of a secret", ArgsUsage: "NAME", Flags: secretFlags(), Action: e.secretGet},
				{Name: "ls", Usage: "list the names of secrets, and those that the site lacks", Flags: secretFlags(), Action: e.secretList},
				{Name: "rm", Usage: "remove a secret", ArgsUsage: "NAME", Flags: secretFlags(), Action: e.secretRemove},
				{Name: "rotate-key", Usage: "encrypt the secrets to a new identity", Flags: secretFlags(), Action: e.secretRotate},
			},
		},
	}
}

// loadSite reads the folder that --site names.
func (e *env) loadSite(c *cli.Context) (*site.Site, error) {
	s, err := site.Load(c.String("site"))
	return s, fail(exitInput, err)
}

// nargs refuses another number of arguments.
func nargs(c *cli.Context, n int) error {
	if slices.Contains(c.Args().Slice(), "") {
		return usage("%s: an argument is empty: it takes %s", c.Command.HelpName, c.Command.ArgsUsage)
	}
	if c.NArg() == n {
		return nil
	}
	for _, a := range c.Args().Slice() {
		if strings.HasPrefix(a, "-") {
			return usage("%s: put %s before the arguments", c.Command.HelpName, a)
		}
	}
	want := c.Command.ArgsUsage
	if want == "" {
		want = "no arguments"
		for _, f := range []struct{ flag, hint string }{{"machines", "name machines with --machines"}, {"lab", "name a lab with --lab"}, {"site", "name a site folder with --site"}} {
			if slices.ContainsFunc(c.Command.Flags, func(have cli.Flag) bool { return slices.Contains(have.Names(), f.flag) }) {
				want += "; " + f.hint
				break
			}
		}
	}
	return usage("%s takes %s", c.Command.HelpName, want)
}

func (e *env) siteInit(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	identity, err := e.identityPath(c)
	if err != nil {
		return fail(exitUsage, err)
	}
	dir := c.Args().First()
	if err := site.Init(dir); err != nil {
		return fail(exitRefused, err)
	}
	s, err := site.Load(dir)
	if err != nil {
		return fail(exitFailed, fmt.Errorf("the starter folder is wrong; this is a fault of fettle, please report it: %w", err))
	}
	secrets, made, err := site.InitSecrets(dir, identity)
	if err != nil {
		return fail(exitInput, err)
	}
	if _, err := site.InitCA(dir, s.Name, secrets, time.Now()); err != nil {
		return err
	}
	if e.json {
		return e.printJSON(map[string]any{"dir": dir, "identity": identity, "identity_made": made, "revision": s.Revision()})
	}
	fmt.Fprintf(e.stdout, "Site folder %s is ready: put it in git.\n", dir)
	if made {
		fmt.Fprintf(e.stdout, "Made the identity %s. It opens the secrets: keep a copy in a safe place, never in git.\n", identity)
	} else {
		fmt.Fprintf(e.stdout, "The secrets open with the identity %s.\n", identity)
	}
	fmt.Fprintf(e.stdout, "Next: edit %s and machines/, then\n  fettle secret set --site %s bmc-default\n  fettle site check --site %s\n", filepath.Join(dir, "site.yaml"), dir, dir)
	return nil
}

// siteProblem is one error of a site file in JSON.
type siteProblem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Path    string `json:"path"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *env) siteCheck(c *cli.Context) error {
	s, err := e.loadSite(c)
	var wrong site.Errors
	if errors.As(err, &wrong) && e.json {
		out := make([]siteProblem, len(wrong))
		for i, w := range wrong {
			out[i] = siteProblem{w.Pos.File, w.Pos.Line, w.Pos.Column, w.Path, w.Msg, w.Hint}
		}
		return errors.Join(e.printJSON(map[string]any{"ok": false, "errors": out}), err)
	}
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(map[string]any{"ok": true, "name": s.Name, "revision": s.Revision(), "machines": len(s.Machines), "errors": []siteProblem{}})
	}
	fmt.Fprintf(e.stdout, "Site %s is right: %s, %s, %s, %s.\nRevision %s\n",
		s.Name, counted(len(s.Machines), "machine"), counted(len(s.Networks), "network"), counted(len(s.Profiles), "profile"), counted(len(s.Images), "image"), s.Revision())
	return nil
}

func (e *env) siteShow(c *cli.Context) error {
	if c.NArg() != 0 {
		if err := nargs(c, 2); err != nil {
			return err
		}
	}
	s, err := e.loadSite(c)
	if err != nil {
		return err
	}
	if c.NArg() == 2 {
		entry, err := s.Entry(c.Args().Get(0), c.Args().Get(1))
		if err != nil {
			return fail(exitUsage, err)
		}
		if e.json {
			return e.printJSON(entry)
		}
		text, err := entry.YAML()
		if err != nil {
			return err
		}
		_, err = e.stdout.Write(text)
		return err
	}
	if e.json {
		_, err := e.stdout.Write(s.Canonical())
		return err
	}
	fmt.Fprintf(e.stdout, "%s (%s)  %s\n", s.Name, s.Domain, s.Revision())
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nNETWORK\tPURPOSE\tPREFIX\tVLAN\tSERVER\tPOOLS")
	for _, n := range s.Networks {
		var prefix, prefix6, server, server6 string
		if n.Prefix.IsValid() {
			prefix = n.Prefix.String()
		}
		if n.IPv6.Prefix.IsValid() {
			prefix6 = n.IPv6.Prefix.String()
		}
		if n.Server.IsValid() {
			server = n.Server.String()
		}
		if n.IPv6.Server.IsValid() {
			server6 = n.IPv6.Server.String()
		}
		vlan := "-"
		if n.VLAN != 0 {
			vlan = fmt.Sprint(n.VLAN)
		}
		var pools []string
		for _, p := range slices.Concat(n.Pools, n.IPv6.Pools) {
			pools = append(pools, p.From.String()+"-"+p.To.String())
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Purpose, both(prefix, prefix6), vlan, dash(both(server, server6)), dash(strings.Join(pools, " ")))
	}
	fmt.Fprintln(w, "\nMACHINE\tRACK\tUNIT\tSERIAL\tFIRMWARE\tADDRESS\tBMC\tPROFILE\tOWNER")
	for _, m := range s.Machines {
		bmc, unit := "-", "-"
		address := dash(both(bootAddresses(m)))
		if m.BMC.Address.IsValid() {
			bmc = m.BMC.Address.String()
		}
		if m.Unit > 0 {
			unit = fmt.Sprint(m.Unit)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, dash(m.Rack), unit, m.Serial, m.Firmware, address, bmc, dash(m.Profile), dash(m.Owner))
	}
	fmt.Fprintln(w, "\nPROFILE\tIMAGE\tDISK\tUSERS\tPACKAGES")
	for _, p := range s.Profiles {
		var users []string
		for _, u := range p.Users {
			users = append(users, u.Name)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.Image, diskOf(p.Layout), dash(strings.Join(users, " ")), dash(strings.Join(p.Packages, " ")))
	}
	return w.Flush()
}

// bootAddresses are a machine's fixed addresses on its boot network: the one to
// reach it at, and that of IPv6.
func bootAddresses(m site.Machine) (address, six string) {
	nic, ok := m.BootNIC()
	if ok && nic.IPv6.IsValid() {
		six = nic.IPv6.String()
	}
	if ok && nic.Address.IsValid() {
		return nic.Address.String(), six
	}
	return six, six
}

// both is what IPv4 and IPv6 have, in one cell of a table.
func both(four, six string) string {
	if four == "" || six == "" || four == six {
		return cmp.Or(four, six)
	}
	return four + ", " + six
}

// dash stands for an empty cell of a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (e *env) siteSchema(c *cli.Context) error {
	schema := site.Schema()
	if c.Bool("part") {
		schema = site.PartSchema()
	}
	_, err := e.stdout.Write(schema)
	return err
}

func (e *env) siteDiff(c *cli.Context) error {
	if err := nargs(c, 2); err != nil {
		return err
	}
	var sites [2]*site.Site
	for i := range sites {
		s, err := site.Load(c.Args().Get(i))
		if err != nil {
			return fail(exitInput, fmt.Errorf("site folder %s:\n%w", c.Args().Get(i), err))
		}
		sites[i] = s
	}
	changes := site.Diff(sites[0], sites[1])
	if e.json {
		if changes == nil {
			changes = []site.Change{}
		}
		return e.printJSON(map[string]any{"from": sites[0].Revision(), "to": sites[1].Revision(), "changes": changes})
	}
	for _, ch := range changes {
		fmt.Fprintln(e.stdout, ch)
	}
	if len(changes) == 0 {
		fmt.Fprintln(e.stdout, "No difference.")
	}
	return nil
}

// diskOf is the disk that a layout chooses, in a word or two.
func diskOf(l site.Layout) string {
	if l.RAID == 1 {
		return l.Disk + " (RAID 1)"
	}
	return l.Disk
}
