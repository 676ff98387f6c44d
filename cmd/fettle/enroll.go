package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

func enrollCommands(e *env) []*cli.Command {
	return []*cli.Command{{
		Name: "enroll", Usage: "take discovered machines and their BMCs into the site folder",
		ArgsUsage: "NAME WHAT  or  --name NAMES WHAT...",
		Description: `WHAT is a MAC address, a serial number, the address of a BMC, or a name of fettle
discover; all is every machine that was inspected. NAMES may have a range: gpu-[05-12].

The machine is written where its siblings are, in their style, and the rest of the
files stays as it is. Shows the change as a diff and asks, or needs --yes; refuses
what the site has already. Then the serving fettle reads its site again.

Nodes of one chassis may share a BMC: enrol them by its address, with as many NAMES as
it has machines, or one with --system. Those that were inspected are found in it by
their serial numbers.

The certificate of a machine's BMC is pinned, and its password is changed to a random
one: the one that --bmc-user and --bmc-password-file give, or that of the factory,
where the maker has one for all, of which one login is tried. The new password is
stored as pending before the BMC hears of it, and proven by a fresh login: stopped at
any moment, the same command goes on. This goes from here to the BMC itself.`,
		Flags: append([]cli.Flag{
			siteFlag(), secretIdentityFlag(),
			&cli.StringFlag{Name: "name", Usage: "names of the machines, such as gpu-[05-12]"},
			&cli.StringFlag{Name: "profile", Usage: "what they become (default: they are only inspected)"},
			&cli.StringFlag{Name: "rack", Usage: "where they stand"},
			&cli.IntFlag{Name: "unit", Usage: "lowest U of the first; the others stand above it"},
			&cli.IntFlag{Name: "height", Usage: "in U (default: the siblings')"},
			&cli.StringFlag{Name: "owner", Usage: "whose they are"},
			&cli.StringFlag{Name: "purpose", Usage: "what they are for"},
			&cli.StringFlag{Name: "address", Usage: "address of the first's boot port, the others get those behind it; or pool (default: as the siblings have it)"},
			&cli.StringFlag{Name: "boot-mac", Usage: "the port that boots, when it is not the one that was seen to"},
			&cli.StringFlag{Name: "firmware", Usage: "bios or uefi, where nobody found it out"},
			&cli.StringFlag{Name: "file", Usage: "file of the site to write to (default: where the siblings are)"},
			&cli.StringFlag{Name: "bmc", Usage: "address of the machine's BMC, when it was not found out"},
			&cli.StringFlag{Name: "system", Usage: "which of its BMC's machines it is, where nodes share a BMC: the last part of its system's URI, its serial number or UUID"},
			&cli.StringFlag{Name: "bmc-protocol", Usage: "redfish or ipmi (default: redfish where it answers)"},
			&cli.StringFlag{Name: "bmc-secret", Usage: "secret that holds the BMC's user and password already; they are left as they are"},
			&cli.StringFlag{Name: "bmc-user", Usage: "the BMC's present user"},
			&cli.StringFlag{Name: "bmc-password-file", TakesFile: true, Usage: "file with the BMC's present password"},
			&cli.BoolFlag{Name: "keep-password", Usage: "leave the given password as it is"},
			&cli.BoolFlag{Name: "no-bmc", Usage: "leave the BMC out"},
			&cli.BoolFlag{Name: "yes", Usage: "do it without asking"},
		}, connFlags()...),
		Action: withClient(e, enroll),
	}}
}

// enrollee is a machine on its way into the site.
type enrollee struct {
	name    string
	found   state.Discovery
	machine site.Machine
	adopt   *provision.Adoption // nil: without a BMC
	from    string              // whose login its BMC is opened with
	facts   *state.BMCFacts
}

// enrolled is one that is in the site, for --output json.
type enrolled struct {
	Name        string `json:"name"`
	Serial      string `json:"serial"`
	File        string `json:"file,omitempty"`
	BMC         string `json:"bmc,omitempty"`
	Secret      string `json:"secret,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Error       string `json:"error,omitempty"`
}

func enroll(c *cli.Context, e *env, w *web.Client) error {
	list, err := e.enrollees(c, w)
	if err != nil {
		return err
	}
	dir := c.String("site")
	edit, err := site.OpenEdit(dir)
	if err != nil {
		return fail(exitInput, err)
	}
	defer func() { _ = edit.Close() }() // read only: Commit has its own files
	if err := e.findBMCs(c, edit.Before(), list); err != nil {
		return err
	}
	if err := draft(c, edit.Before(), list); err != nil {
		return err
	}
	if err := write(edit, list, c.String("file")); err != nil {
		return fail(exitInput, err)
	}
	e.showEnrolment(edit, list)
	if err := e.confirm(c.Bool("yes"), question(list)); err != nil {
		return err
	}
	taken, stopped := e.takeOver(c, list)
	if stopped != nil && len(taken) > 0 && len(taken) < len(list) {
		// Those that were taken over are written down, without the others.
		_ = edit.Close()
		if edit, err = site.OpenEdit(dir); err == nil {
			err = write(edit, taken, c.String("file"))
		}
	}
	if err == nil && len(taken) > 0 {
		err = edit.Commit()
	}
	if err != nil {
		return errors.Join(stopped, fail(exitInput, fmt.Errorf("the site was not changed: %w; passwords of BMCs that were changed are in its secrets, and the same command goes on", err)))
	}
	if len(taken) > 0 {
		e.rereadSite(c, w, edit)
	}
	return errors.Join(e.tellEnrolled(edit, list, taken, stopped), stopped)
}

// enrollees joins names with what was discovered.
func (e *env) enrollees(c *cli.Context, w *web.Client) ([]*enrollee, error) {
	what, expr := c.Args().Slice(), c.String("name")
	if expr == "" {
		if len(what) != 2 {
			return nil, usage("fettle enroll takes NAME and WHAT, or --name NAMES and a WHAT for each: see fettle enroll --help")
		}
		expr, what = what[0], what[1:]
	}
	names, err := site.ExpandNames(expr)
	if err != nil {
		return nil, fail(exitUsage, err)
	}
	all, err := w.Discovered(c.Context, true)
	if err != nil {
		return nil, err
	}
	var found []state.Discovery
	if len(what) == 1 && what[0] == "all" {
		for _, d := range all {
			if d.Sort == state.SortMachine && d.State == state.WasInspected {
				found = append(found, d)
			}
		}
	} else {
		for _, x := range what {
			d, ok := provision.Find(all, x)
			if !ok {
				return nil, fail(exitInput, fmt.Errorf("nothing that was seen is %s: fettle discover lists what was", x))
			}
			if d.State == state.EnrolledInSite && !(d.Sort == state.SortBMC && hasNodes(c.String("site"), d.Name)) {
				return nil, fail(exitInput, fmt.Errorf("%s is machine %s of the site already%s", x, d.Name, placeIn(c.String("site"), d.Name)))
			}
			if slices.ContainsFunc(found, func(o state.Discovery) bool { return o.Name == d.Name }) {
				return nil, usage("%s is named twice: it is %s, as is another of them", x, d.Name)
			}
			found = append(found, d)
		}
	}
	if len(found) == 1 && found[0].Sort == state.SortBMC { // nodes may share it
		found = slices.Repeat(found, len(names))
	}
	if len(names) != len(found) {
		return nil, usage("%d names for %d machines: give as many", len(names), len(found))
	}
	if len(names) > 1 && (c.String("bmc") != "" || c.String("boot-mac") != "" || c.String("system") != "") {
		return nil, usage("--bmc, --system and --boot-mac are for one machine")
	}
	var out []*enrollee
	for i, d := range found {
		out = append(out, &enrollee{name: names[i], found: d})
	}
	return out, nil
}

// placeIn is where a machine stands in a site folder, for a sentence.
func placeIn(dir, name string) string {
	s, err := site.Load(dir)
	if err != nil {
		return ""
	}
	m, ok := s.Machine(name)
	if !ok {
		return ""
	}
	return fmt.Sprintf(" (%s:%d)", m.Pos.File, m.Pos.Line)
}

// findBMCs looks at the BMCs of machines: who answers, and with which login.
func (e *env) findBMCs(c *cli.Context, s *site.Site, list []*enrollee) error {
	if c.Bool("no-bmc") {
		return nil
	}
	var user string
	var pw bmc.Password
	if file := c.String("bmc-password-file"); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return fail(exitInput, fmt.Errorf("--bmc-password-file: %w", err))
		}
		pw = bmc.Password(strings.TrimRight(string(b), "\r\n"))
	}
	if user = c.String("bmc-user"); (user == "") != (pw == "") || c.Bool("keep-password") && user == "" {
		return usage("--bmc-user, --bmc-password-file and --keep-password: give the first two together")
	}
	given := netip.Addr{}
	if v := c.String("bmc"); v != "" {
		a, err := netip.ParseAddr(v)
		if err != nil {
			return usage("--bmc is an address, not %q", v)
		}
		given = a
	}
	protocol := site.BMCProtocol(c.String("bmc-protocol"))
	if protocol != "" && protocol != site.Redfish && protocol != site.IPMI {
		return usage("--bmc-protocol is redfish or ipmi, not %q", protocol)
	}
	secrets, err := e.openSecrets(c)
	if err != nil {
		return err
	}
	var roots *x509.CertPool
	if ca, err := site.LoadCA(s.Dir, secrets); err == nil {
		roots = ca.Pool() // without a CA every certificate is pinned
	}
	nodes := bmcNodes{s: s, list: list, want: c.String("system")}
	for i, x := range list {
		at := given
		if b := x.found.BMC; b != nil && !at.IsValid() {
			at = b.Addr
		}
		if !at.IsValid() {
			fmt.Fprintf(e.stderr, "%s: no BMC of it is known, so that nobody can switch it on from here: give --bmc ADDRESS, or add it later\n", x.name)
			continue
		}
		name := c.String("bmc-secret")
		if name == "" {
			name = nodesSecret(s, list[:i], at, "bmc-"+x.name)
		}
		x.adopt = &provision.Adoption{Machine: x.name, Addr: at, Protocol: protocol, Keys: secrets, Secret: name,
			User: user, Password: pw, Keep: c.Bool("keep-password"), RootCAs: roots, Timeout: 20 * time.Second}
		b, facts, err := x.adopt.Look(c.Context)
		if err != nil {
			return fail(exitFailed, fmt.Errorf("%w, or leave it out with --no-bmc", err))
		}
		if d := x.found.BMC; d != nil && b.MAC.IsZero() && d.Addr == at {
			b.MAC = d.MAC
		}
		x.machine.BMC, x.facts = b, facts
		if x.from, err = x.adopt.Known(); err != nil {
			return fail(exitInput, fmt.Errorf("%w: give --bmc-user and --bmc-password-file, or --no-bmc", err))
		}
		if c.String("bmc-secret") != "" && x.from != "the stored one" {
			return fail(exitInput, fmt.Errorf("secret %s is not set: fettle secret set %s, or leave --bmc-secret out", name, name))
		}
		if err := nodes.choose(c.Context, x); err != nil {
			return err
		}
		if x.found.Sort == state.SortBMC {
			inv, err := x.adopt.Inventory(c.Context)
			if err != nil {
				return err
			}
			provision.FromBMC(&x.found, inv)
		}
	}
	return nil
}

// draft makes the machines that will be written.
func draft(c *cli.Context, s *site.Site, list []*enrollee) error {
	o := provision.DraftOptions{
		Profile: c.String("profile"), Rack: c.String("rack"), Unit: c.Int("unit"), Height: c.Int("height"), Owner: c.String("owner"),
		Purpose: c.String("purpose"), Firmware: site.Firmware(c.String("firmware")), Pool: c.String("address") == "pool",
	}
	if v := c.String("address"); v != "" && !o.Pool {
		a, err := netip.ParseAddr(v)
		if err != nil {
			return usage("--address is an address or pool, not %q", v)
		}
		o.Address = a
	}
	if v := c.String("boot-mac"); v != "" {
		mac, err := site.ParseMAC(v)
		if err != nil {
			return usage("--boot-mac: %w", err)
		}
		o.BootMAC = mac
	}
	s = s.Clone()
	for _, x := range list {
		o.Name = x.name
		m, err := provision.Draft(s, x.found, o)
		if err != nil {
			return fail(exitInput, err)
		}
		m.BMC = x.machine.BMC
		x.machine = m
		s.Machines = append(s.Machines, m) // the next one's address is another
		if o.Unit > 0 {
			o.Unit += max(m.Height, 1)
		}
		if o.Address.IsValid() {
			o.Address = o.Address.Next()
		}
	}
	return nil
}

// write adds machines, and the names of their secrets, to the site's files.
func write(edit *site.Edit, list []*enrollee, file string) error {
	added := map[string]bool{} // nodes that share a BMC share its secret
	for _, x := range list {
		if x.machine.BMC.Secret == "" || added[x.machine.BMC.Secret] {
			continue
		}
		added[x.machine.BMC.Secret] = true
		if err := edit.AddSecret(site.SecretName{Name: x.machine.BMC.Secret, Description: "user:password of the BMC of " + x.name}); err != nil {
			return err
		}
	}
	for _, x := range list {
		if err := edit.AddMachine(x.machine, file); err != nil {
			return err
		}
	}
	return nil
}

// showEnrolment shows what would be done.
func (e *env) showEnrolment(edit *site.Edit, list []*enrollee) {
	out := e.stdout
	if e.json {
		out = e.stderr
	}
	fmt.Fprint(out, edit.Diff())
	for _, x := range list {
		if p, ok := edit.Before().Profile(x.machine.Profile); ok && len(x.machine.Disks) > 0 && p.Layout.Disk == "first" {
			fmt.Fprintf(out, "%s: profile %s would write to disk %s (%s), the smallest\n", x.name, p.Name, x.machine.Disks[0].Serial, x.machine.Disks[0].Size)
			if disks := x.machine.Targets(p.Layout); len(disks) > 1 {
				fmt.Fprintf(out, "%s: and mirror it on disk %s (%s), the next\n", x.name, disks[1].Serial, disks[1].Size)
			}
		}
		if x.adopt == nil {
			continue
		}
		pin := "whose certificate is the site CA's"
		switch {
		case x.machine.BMC.Protocol == site.IPMI:
			pin = "over IPMI, which has no certificate"
		case x.machine.BMC.Fingerprint != "":
			pin = "whose certificate is pinned: sha256 " + x.machine.BMC.Fingerprint
		}
		fmt.Fprintf(out, "%s: BMC %s at %s, %s; login: %s\n", x.name, makeText(x.facts.Vendor, x.facts.Model), x.machine.BMC.Address, pin, x.from)
	}
}

// question is what a person agrees to.
func question(list []*enrollee) string {
	var names, changed []string
	for _, x := range list {
		names = append(names, x.name)
		if at := x.machine.BMC.Address.String(); x.adopt != nil && x.from != "the stored one" && !x.adopt.Keep && !slices.Contains(changed, at) {
			changed = append(changed, at)
		}
	}
	q := "write " + count(names) + " into the site"
	if len(changed) > 0 {
		q += ", and change the password of the BMC at " + strings.Join(changed, ", ")
	}
	return q
}

// takeOver takes the BMCs over, one after the other: the first that fails ends
// it, so that what is wrong with all is done to one only. It gives those that
// are ready to be written.
func (e *env) takeOver(c *cli.Context, list []*enrollee) (taken []*enrollee, stopped error) {
	var targets []bmc.Target
	for _, x := range list {
		if x.adopt != nil {
			targets = append(targets, bmc.Target{Name: x.name})
		}
	}
	if len(targets) > 0 {
		e.noteDirect(c, targets, time.Now())
	}
	for _, x := range list {
		if x.adopt != nil {
			x.adopt.Step = func(s provision.RotateStep) error {
				if !e.json {
					fmt.Fprintf(e.stderr, "%s: %s\n", x.name, s)
				}
				return nil
			}
			if err := x.adopt.TakeOver(c.Context, x.found.Serial); err != nil {
				if errors.Is(err, bmc.ErrPassword) {
					err = fmt.Errorf("%w: %s login was refused, and is not tried again: give --bmc-user and --bmc-password-file", err, x.from)
				}
				return taken, err
			}
		}
		taken = append(taken, x)
	}
	return taken, nil
}

// rereadSite has the serving fettle read its site again, or says how.
func (e *env) rereadSite(c *cli.Context, w *web.Client, edit *site.Edit) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), 30*time.Second)
	defer cancel()
	r, err := w.Reload(ctx)
	if err != nil {
		fmt.Fprintf(e.stderr, "the serving fettle has not read the site again (%v): send it SIGHUP, or start it again\n", err)
		return
	}
	if s, err := edit.Site(); err == nil && s.Revision() != r.Revision {
		fmt.Fprintf(e.stderr, "the serving fettle reads another folder than %s: bring the change there, and send it SIGHUP\n", c.String("site"))
	}
}

// tellEnrolled prints what came of each.
func (e *env) tellEnrolled(edit *site.Edit, list, taken []*enrollee, stopped error) error {
	after, err := edit.Site()
	if err != nil {
		return err
	}
	rows := []enrolled{}
	text := [][]string{{"MACHINE", "SERIAL", "FILE", "BMC", "SECRET"}}
	for _, x := range list {
		r := enrolled{Name: x.name, Serial: x.machine.Serial, Secret: x.machine.BMC.Secret, Fingerprint: x.machine.BMC.Fingerprint}
		if x.machine.BMC.Address.IsValid() {
			r.BMC = x.machine.BMC.Address.String()
		}
		if m, ok := after.Machine(x.name); ok && slices.Contains(taken, x) {
			r.File = fmt.Sprintf("%s:%d", m.Pos.File, m.Pos.Line)
		} else {
			r.Error = "not enrolled"
			if stopped != nil {
				r.Error = stopped.Error()
			}
		}
		rows = append(rows, r)
		if r.Error == "" {
			text = append(text, []string{r.Name, r.Serial, r.File, r.BMC, r.Secret})
		}
	}
	if e.json {
		return e.printJSON(rows)
	}
	if len(text) > 1 {
		table(e.stdout, text)
	}
	return nil
}
