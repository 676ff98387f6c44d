package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
)

// rotateCommand gives BMCs new passwords.
func (b *bmcCommand) rotateCommand(which func(...cli.Flag) []cli.Flag, yes cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "rotate", Usage: "give every BMC a new random password of its own, and keep it in the site's secrets", ArgsUsage: "SELECTOR...",
		Description: "The new password is in the secrets file, as pending, before the BMC hears of it; it becomes the secret's value\n" +
			"after a fresh login proved it and the old one was refused. Broken off at any moment, the same command goes on.\n" +
			"One machine goes first, the canary; when it fails, no other is touched. Later, the first failure lets no further\n" +
			"one begin. Machines that share a secret get one of their own: bmc-NAME, in the secrets and in the site's files.",
		Flags:  which(yes, &cli.StringFlag{Name: "canary", Usage: "the `MACHINE` that goes first (default: the first selected)"}),
		Action: b.rotate,
	}
}

// rotated is what came of one machine.
type rotated struct {
	Secret string `json:"secret"`
	State  string `json:"state"` // "changed", "not begun"
}

var errNotBegun = errors.New("not begun, because another machine failed")

func (b *bmcCommand) rotate(c *cli.Context) error {
	if c.String("lab") != "" {
		return usage("a lab's BMCs have the lab's own passwords, which end with it: nothing to rotate")
	}
	ts, err := b.past(c)
	if err != nil {
		return err
	}
	s, err := site.Load(c.String("site"))
	if err != nil {
		return fail(exitInput, err)
	}
	secrets, err := b.e.openSecrets(c)
	if err != nil {
		return err
	}
	if err := canaryFirst(ts, c.String("canary")); err != nil {
		return err
	}
	shared := sharing(s, ts)
	names := make([]string, len(ts))
	for i, t := range ts {
		names[i] = t.Name
	}
	ask := "change the BMC password of " + count(names) + ", " + names[0] + " first"
	if len(shared) > 0 {
		ask += fmt.Sprintf(" (%s: the site's files will name a secret of their own)", strings.Join(shared, ", "))
	}
	if err := b.e.confirm(c.Bool("yes"), ask); err != nil {
		return err
	}
	own, err := ownSecrets(c.String("site"), s, secrets, shared)
	if err != nil {
		return fail(exitFailed, err)
	}
	secretOf := func(name string) string {
		if o, ok := own[name]; ok {
			return o
		}
		m, _ := s.Machine(name)
		return m.BMC.Secret
	}
	res := rotateAll(c.Context, ts, c.Int("parallel"), func(ctx context.Context, t bmc.Target) error {
		return b.rotateOne(ctx, t, secretOf(t.Name), secrets)
	})
	out := make([]bmc.Result[rotated], len(res))
	for i, err := range res {
		out[i] = bmc.Result[rotated]{Target: ts[i], Value: rotated{secretOf(ts[i].Name), "changed"}, Err: err}
		if errors.Is(err, errNotBegun) {
			out[i].Value.State = "not begun"
		}
	}
	return report(b.e, out, "password", []string{"MACHINE", "PASSWORD", "SECRET"}, func(r rotated) []string { return []string{r.State, r.Secret} }, nil)
}

// past are the selected BMCs, for what this machine does itself: it changes the
// site folder. Beside a server that runs somebody must say so.
func (b *bmcCommand) past(c *cli.Context) ([]bmc.Target, error) {
	w, err := b.choose(c)
	if err != nil {
		return nil, err
	}
	if w.server != nil {
		return nil, fail(exitRefused, fmt.Errorf("passwords are changed with the site folder, not by the server at %s: see that no run is under way (fettle machine ls), and say --direct", w.server.Where()))
	}
	b.e.noteDirect(c, w.targets, time.Now())
	return w.targets, nil
}

// canaryFirst moves the canary to the front.
func canaryFirst(ts []bmc.Target, name string) error {
	if name == "" {
		return nil
	}
	i := slices.IndexFunc(ts, func(t bmc.Target) bool { return t.Name == name })
	if i < 0 {
		return usage("--canary %s is none of the selected machines", name)
	}
	t := ts[i]
	copy(ts[1:i+1], ts[:i])
	ts[0] = t
	return nil
}

// sharing are those of the targets whose secret another machine of the site
// uses too.
func sharing(s *site.Site, ts []bmc.Target) (out []string) {
	users := map[string]int{}
	for _, m := range s.Machines {
		users[m.BMC.Secret]++
	}
	for _, t := range ts {
		if m, ok := s.Machine(t.Name); ok && users[m.BMC.Secret] > 1 {
			out = append(out, t.Name)
		}
	}
	return out
}

// ownSecrets gives machines a secret of their own with the password that they
// have now: first the secrets, then the site's files, so that at every moment
// the site names a secret that works.
func ownSecrets(dir string, s *site.Site, secrets *site.Secrets, machines []string) (map[string]string, error) {
	if len(machines) == 0 {
		return nil, nil
	}
	own := map[string]string{}
	edit, err := site.OpenEdit(dir)
	if err != nil {
		return nil, err
	}
	defer edit.Close()
	have, err := secrets.List()
	if err != nil {
		return nil, err
	}
	for _, name := range machines {
		m, _ := s.Machine(name)
		now, err := secrets.Get(m.BMC.Secret)
		if err != nil {
			return nil, fmt.Errorf("machine %s: %w", name, err)
		}
		to := "bmc-" + name
		if slices.Contains(have, to) {
			v, err := secrets.Get(to)
			if err != nil {
				return nil, err
			}
			if v.Reveal() != now.Reveal() {
				return nil, fmt.Errorf("the secret %s exists with another value than %s, which machine %s uses: let the site's file name the right one", to, m.BMC.Secret, name)
			}
		} else if err := secrets.Set(to, now); err != nil {
			return nil, err
		}
		if err := edit.AddSecret(site.SecretName{Name: to, Description: "user:password of the BMC of " + name}); err != nil {
			return nil, err
		}
		if err := edit.SetBMCSecret(name, to); err != nil {
			return nil, err
		}
		own[name] = to
	}
	return own, edit.Commit()
}

// rotateAll does the first alone, then the others, several at once, until one
// fails. What was begun is brought to its end.
func rotateAll(ctx context.Context, ts []bmc.Target, parallel int, one func(context.Context, bmc.Target) error) []error {
	res := make([]error, len(ts))
	for i := range res {
		res[i] = errNotBegun
	}
	if res[0] = one(ctx, ts[0]); res[0] != nil {
		return res
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := false
	slots := make(chan struct{}, parallel)
	for i, t := range ts[1:] {
		slots <- struct{}{}
		mu.Lock()
		stop := failed || ctx.Err() != nil
		mu.Unlock()
		if stop {
			break
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			err := one(ctx, t)
			mu.Lock()
			defer mu.Unlock()
			res[i+1], failed = err, failed || err != nil
		}()
	}
	wg.Wait()
	return res
}

// oldPasswordWorks means that a BMC takes both passwords.
var errOldPasswordWorks = errors.New("the new password works, and so does the old one still: look at its users with fettle bmc users show")

// rotateOne changes one BMC's password; see provision.Rotation.
func (b *bmcCommand) rotateOne(ctx context.Context, t bmc.Target, secret string, vault provision.Vault) error {
	login := func(ctx context.Context, user string, pw bmc.Password) (provision.Accounts, error) {
		t := t
		t.User, t.Password = user, pw
		return bmc.Open(ctx, t)
	}
	p, begun, err := vault.GetPending(secret)
	if err != nil {
		return err
	}
	user, was := t.User, t.Password
	if begun {
		u, w, ok := strings.Cut(p.Was.Reveal(), ":")
		if ok {
			user, was = u, bmc.Password(w)
		}
	}
	err = provision.Rotation{Vault: vault, Secret: secret, User: user, Was: was, Login: login, Step: func(st provision.RotateStep) error {
		if !b.e.json {
			fmt.Fprintf(b.e.stderr, "%s  %-12s %s\n", time.Now().Format("15:04:05"), t.Name, st)
		}
		return nil
	}}.Rotate(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	// One login that must be refused: far from what locks an account.
	old, err := login(ctx, user, was)
	switch {
	case errors.Is(err, bmc.ErrPassword):
		return nil
	case err != nil:
		return fmt.Errorf("%s: the password is changed, and whether the old one is refused is not known: %w", t.Name, err)
	}
	return errors.Join(fmt.Errorf("%s: %w", t.Name, errOldPasswordWorks), old.Close(ctx))
}
