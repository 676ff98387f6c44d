package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
)

// OpRotate is the operation that gives BMCs new passwords. It is none of
// bmc.Tasks, which are done in one session: this one logs in with the old
// password, the new one, and the old one again. See Rotations.
var OpRotate = bmc.Operation[RotateOrder, Rotated]{Name: "users-rotate", Effect: bmc.Owns, Asks: "change the BMC password of"}

// RotateOrder are its arguments.
type RotateOrder struct {
	Canary string `json:"canary,omitempty"` // goes first; "" = the first that was selected
}

// Rotated is what came of one machine.
type Rotated struct {
	Secret string `json:"secret"`
	State  string `json:"state"` // "changed"
	File   string `json:"file"`  // where the secret is
}

// Passwords are where those of BMCs are kept: "user:password" under the name of
// a secret. Its methods may be called concurrently.
type Passwords interface {
	Vault
	// Secret is the name under which a machine's is kept.
	Secret(machine string) string
	// Shared are those of the machines whose secret others use too.
	Shared(machines []string) []string
	// Own gives each of these machines a secret of its own with the password
	// that it has now. When it returns they are in force.
	Own(machines []string) error
	// File is where they are kept, for people.
	File() string
}

// Rotations change the passwords of many BMCs, each as a Rotation does: one
// machine goes first, the canary; when it fails, no other is touched. Later the
// first failure lets no further one begin. What was begun is brought to its end.
type Rotations struct {
	Passwords Passwords
	Target    func(machine string) (bmc.Target, error) // asked in the machine's turn
	Parallel  int
	// Take takes a machine's BMC until it is released; nil: nobody else has it.
	Take func(ctx context.Context, machine string) (release func(), err error)
	// Within is the context of a machine's change once it was begun; nil: that of
	// Run.
	Within func(context.Context) (context.Context, context.CancelFunc)
	// Step is told of each step; an error stops that machine there. May be nil.
	Step func(machine string, s RotateStep) error
	// Done is told of each machine once; may be called concurrently, may be nil.
	Done func(machine string, err error)
}

// Errors of a machine.
var (
	ErrNotBegun         = errors.New("not begun, because another machine failed")
	ErrOldPasswordWorks = errors.New("the new password works, and so does the old one still: look at its users with fettle bmc users show")
)

// Order puts the canary first.
func (o RotateOrder) Order(machines []string) ([]string, error) {
	if o.Canary == "" {
		return machines, nil
	}
	i := slices.Index(machines, o.Canary)
	if i < 0 {
		return nil, fmt.Errorf("the canary %s is none of the selected machines", o.Canary)
	}
	return slices.Concat(machines[i:i+1], machines[:i], machines[i+1:]), nil
}

// Run changes them in this order, and tells what came of each, in that order.
func (r Rotations) Run(ctx context.Context, machines []string) []error {
	res := make([]error, len(machines))
	if len(machines) == 0 {
		return res
	}
	for i, name := range machines {
		res[i] = fmt.Errorf("%s: %w", name, ErrNotBegun)
	}
	begun := make([]bool, len(machines))
	defer func() {
		for i, b := range begun {
			if !b {
				r.done(machines[i], res[i])
			}
		}
	}()
	one := func(i int) error {
		err := r.one(ctx, machines[i])
		r.done(machines[i], err)
		return err
	}
	begun[0] = true
	if res[0] = one(0); res[0] != nil {
		return res
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // of res and failed
	failed := false
	slots := make(chan struct{}, max(1, r.Parallel))
	for i := 1; i < len(machines); i++ {
		slots <- struct{}{}
		mu.Lock()
		stop := failed || ctx.Err() != nil
		mu.Unlock()
		if stop {
			break
		}
		begun[i] = true
		wg.Go(func() {
			defer func() { <-slots }()
			err := one(i)
			mu.Lock()
			defer mu.Unlock()
			res[i], failed = err, failed || err != nil
		})
	}
	wg.Wait()
	return res
}

func (r Rotations) done(machine string, err error) {
	if r.Done != nil {
		r.Done(machine, err)
	}
}

// one changes one BMC's password in its turn.
func (r Rotations) one(ctx context.Context, machine string) error {
	if r.Take != nil {
		release, err := r.Take(ctx, machine)
		if err != nil {
			return err
		}
		defer release()
	}
	t, err := r.Target(machine)
	if err != nil {
		return err
	}
	if r.Within != nil {
		var cancel context.CancelFunc
		ctx, cancel = r.Within(ctx)
		defer cancel()
	}
	login := func(ctx context.Context, user string, pw bmc.Password) (Accounts, error) {
		t := t
		t.User, t.Password = user, pw
		return bmc.Open(ctx, t)
	}
	secret := r.Passwords.Secret(machine)
	p, begun, err := r.Passwords.GetPending(secret)
	if err != nil {
		return fmt.Errorf("%s: %w", machine, err)
	}
	user, was := t.User, t.Password
	if begun {
		if u, w, ok := strings.Cut(p.Was.Reveal(), ":"); ok {
			user, was = u, bmc.Password(w)
		}
	}
	rot := Rotation{Vault: r.Passwords, Secret: secret, User: user, Was: was, Login: login}
	if r.Step != nil {
		rot.Step = func(s RotateStep) error { return r.Step(machine, s) }
	}
	if err := rot.Rotate(ctx); err != nil {
		return fmt.Errorf("%s: %w", machine, err)
	}
	// One login that must be refused: far from what locks an account.
	old, err := login(ctx, user, was)
	switch {
	case errors.Is(err, bmc.ErrPassword):
		return nil
	case err != nil:
		return fmt.Errorf("%s: the password is changed, and whether the old one is refused is not known: %w", machine, err)
	}
	return errors.Join(fmt.Errorf("%s: %w", machine, ErrOldPasswordWorks), old.Close(ctx))
}

// SitePasswords are those in the secrets of a site folder, which machines name.
type SitePasswords struct {
	*site.Secrets
	// Site is the site that is in force.
	Site func() *site.Site
	// Reread puts what the folder says now in force.
	Reread func() (*site.Site, error)

	mu sync.Mutex
}

// Secret implements Passwords.
func (p *SitePasswords) Secret(machine string) string {
	m, _ := p.Site().Machine(machine)
	return m.BMC.Secret
}

// File implements Passwords.
func (p *SitePasswords) File() string { return p.Secrets.File() }

// Shared implements Passwords.
func (p *SitePasswords) Shared(machines []string) (out []string) {
	users := map[string]int{}
	for _, m := range p.Site().Machines {
		users[m.BMC.Secret]++
	}
	for _, name := range machines {
		if users[p.Secret(name)] > 1 {
			out = append(out, name)
		}
	}
	return out
}

// Own implements Passwords: first the secrets, then the site's files, so that
// at every moment the site names a secret that works.
func (p *SitePasswords) Own(machines []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.Site()
	edit, err := site.OpenEdit(s.Dir)
	if err != nil {
		return err
	}
	defer edit.Close()
	if edit.Before().Revision() != s.Revision() {
		return fmt.Errorf("the site folder %s says something else than is in force, and machines in it are to be given secrets of their own: have it read again first (SIGHUP, or POST /api/v1/site/reload)", s.Dir)
	}
	have, err := p.List()
	if err != nil {
		return err
	}
	for _, name := range machines {
		m, ok := s.Machine(name)
		if !ok {
			return fmt.Errorf("the site has no machine %s any more", name)
		}
		now, err := p.Get(m.BMC.Secret)
		if err != nil {
			return fmt.Errorf("machine %s: %w", name, err)
		}
		to := "bmc-" + name
		if slices.Contains(have, to) {
			v, err := p.Get(to)
			if err != nil {
				return err
			}
			if v.Reveal() != now.Reveal() {
				return fmt.Errorf("the secret %s exists with another value than %s, which machine %s uses: let the site's file name the right one", to, m.BMC.Secret, name)
			}
		} else if err := p.Set(to, now); err != nil {
			return err
		}
		if err := edit.AddSecret(site.SecretName{Name: to, Description: "user:password of the BMC of " + name}); err != nil {
			return err
		}
		if err := edit.SetBMCSecret(name, to); err != nil {
			return err
		}
	}
	if err := edit.Commit(); err != nil {
		return err
	}
	if _, err := p.Reread(); err != nil {
		return fmt.Errorf("the site's files name secrets of their own for machines, and were not read again: %w", err)
	}
	return nil
}
