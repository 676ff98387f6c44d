package main

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// rotateCommand gives BMCs new passwords.
func (b *bmcCommand) rotateCommand(which func(...cli.Flag) []cli.Flag, yes cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "rotate", Usage: "give every BMC a new random password of its own, and keep it in the site's secrets", ArgsUsage: "SELECTOR...",
		Description: "The new password is in the secrets file, as pending, before the BMC hears of it; it becomes the secret's value\n" +
			"after a fresh login proved it and the old one was refused. Broken off at any moment, the same command goes on.\n" +
			"One machine goes first, the canary; when it fails, no other is touched. Later, the first failure lets no further\n" +
			"one begin. Machines that share a secret get one of their own: bmc-NAME, in the secrets and in the site's files.\n" +
			"By a server it is the server's site folder, or the lab's own secrets; commit the folder there.",
		Flags:  which(yes, &cli.StringFlag{Name: "canary", Usage: "the `MACHINE` that goes first (default: the first selected)"}),
		Action: b.rotate,
	}
}

func (b *bmcCommand) rotate(c *cli.Context) error {
	w, err := b.choose(c)
	if err != nil {
		return err
	}
	if w.names, err = (provision.RotateOrder{Canary: c.String("canary")}).Order(w.names); err != nil {
		return usage("--canary: %v", err)
	}
	if w.server != nil {
		return b.rotateServed(c, w)
	}
	if c.String("lab") != "" {
		return usage("a lab's BMCs get new passwords by the lab's daemon: without --direct")
	}
	s, err := site.Load(c.String("site"))
	if err != nil {
		return fail(exitInput, err)
	}
	secrets, err := b.e.openSecrets(c)
	if err != nil {
		return err
	}
	b.e.noteDirect(c, w.targets, time.Now())
	var now atomic.Pointer[site.Site]
	now.Store(s)
	passwords := &provision.SitePasswords{Secrets: secrets, Site: now.Load, Reread: func() (*site.Site, error) {
		s, err := site.Load(c.String("site"))
		if err == nil {
			now.Store(s)
		}
		return s, err
	}}
	shared := passwords.Shared(w.names)
	if err := b.confirmRotate(c, w.names, shared); err != nil {
		return err
	}
	if len(shared) > 0 {
		if err := passwords.Own(shared); err != nil {
			return fail(exitFailed, err)
		}
	}
	targets := map[string]bmc.Target{}
	for _, t := range w.targets {
		targets[t.Name] = t
	}
	errs := provision.Rotations{
		Passwords: passwords, Parallel: c.Int("parallel"),
		Target: func(name string) (bmc.Target, error) { return targets[name], nil },
		Step: func(name string, st provision.RotateStep) error {
			if !b.e.json {
				fmt.Fprintf(b.e.stderr, "%-12s %s\n", name, st)
			}
			return nil
		},
	}.Run(c.Context, w.names)
	res := make([]bmc.Result[provision.Rotated], len(errs))
	for i, err := range errs {
		name := w.names[i]
		res[i] = bmc.Result[provision.Rotated]{Target: targets[name], Value: provision.Rotated{Secret: passwords.Secret(name), State: "changed", File: passwords.File()}, Err: err}
	}
	return b.showRotated(c, res)
}

// rotateServed has a server do it: the passwords are in its site folder.
func (b *bmcCommand) rotateServed(c *cli.Context, w way) error {
	var shared []string
	err := w.server.Operate(c.Context, provision.OpRotate.Name, state.BMCRequest{Machines: w.names, Dry: true}, func(s state.BMCStep) {
		if s.Text != "" {
			shared = append(shared, s.Machine)
		}
	})
	if err != nil {
		return servedError(err)
	}
	if err := b.confirmRotate(c, w.names, shared); err != nil {
		return err
	}
	res, err := do(b, c, w, bmcOrder[provision.RotateOrder, provision.Rotated]{op: provision.OpRotate, args: provision.RotateOrder{Canary: c.String("canary")}})
	if err != nil {
		return err
	}
	return b.showRotated(c, res)
}

func (b *bmcCommand) confirmRotate(c *cli.Context, names, shared []string) error {
	ask := provision.OpRotate.Asks + " " + count(names) + ", " + names[0] + " first"
	if len(shared) > 0 {
		ask += fmt.Sprintf(" (%s: the site's files will name a secret of their own)", strings.Join(shared, ", "))
	}
	return b.e.confirm(c.Bool("yes"), ask)
}

func (b *bmcCommand) showRotated(c *cli.Context, res []bmc.Result[provision.Rotated]) error {
	err := report(b.e, res, "password", []string{"MACHINE", "PASSWORD", "SECRET"}, func(r provision.Rotated) []string { return []string{r.State, r.Secret} }, nil)
	if i := slices.IndexFunc(res, func(r bmc.Result[provision.Rotated]) bool { return r.Err == nil }); i >= 0 && !b.e.json && c.String("lab") == "" { // a lab's end with it
		fmt.Fprintf(b.e.stderr, "the new passwords are in %s: commit it, with the site's files, so that other copies of the folder have them\n", res[i].Value.File)
	}
	return err
}
