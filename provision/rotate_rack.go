package provision

import (
	"cmp"
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
	// Shared are those of the machines whose secret other BMCs use too.
	Shared(machines []string) []string
	// Own gives the BMC of each of these machines a secret of its own with the
	// password that it has now. When it returns they are in force.
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
// Machines of one secret are nodes that share a BMC: it is changed once.
func (r Rotations) Run(ctx context.Context, machines []string) []error {
	res := make([]error, len(machines))
	if len(machines) == 0 {
		return res
	}
	turns, leave := context.WithCancel(ctx)
	defer leave()
	var mu sync.Mutex // of res and failed
	failed := false
	may := func(machine string) error {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return fmt.Errorf("%s: not begun: %w", machine, context.Cause(ctx))
		}
		if failed {
			return fmt.Errorf("%s: %w", machine, ErrNotBegun)
		}
		return nil
	}
	one := func(i int) {
		err := r.one(ctx, turns, machines[i], may)
		mu.Lock()
		res[i], failed = err, failed || err != nil
		mu.Unlock()
		if err != nil {
			leave() // who waits for a turn waits in vain
		}
		r.done(machines[i], err)
	}
	first := r.firstOf(machines)
	one(0)
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, r.Parallel))
	for i := 1; i < len(machines); i++ {
		if first[i] != i {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			one(i)
		})
	}
	wg.Wait()
	for i, f := range first {
		if f == i {
			continue
		}
		if res[f] != nil {
			res[i] = fmt.Errorf("%s: its BMC is also that of %w", machines[i], res[f])
		}
		r.done(machines[i], res[i])
	}
	return res
}

// firstOf is, for each machine, the first one of its secret.
func (r Rotations) firstOf(machines []string) []int {
	out := make([]int, len(machines))
	seen := map[string]int{}
	for i, m := range machines {
		secret := r.Passwords.Secret(m)
		f, ok := seen[secret]
		if !ok || secret == "" {
			seen[secret], f = i, i
		}
		out[i] = f
	}
	return out
}

func (r Rotations) done(machine string, err error) {
	if r.Done != nil {
		r.Done(machine, err)
	}
}

// one changes one BMC's password in its turn, which is waited for within turns,
// unless may forbids it before or then.
func (r Rotations) one(ctx, turns context.Context, machine string, may func(string) error) error {
	if err := may(machine); err != nil {
		return err
	}
	if r.Take != nil {
		release, err := r.Take(turns, machine)
		if err != nil {
			return cmp.Or(may(machine), err)
		}
		defer release()
		if err := may(machine); err != nil {
			return err
		}
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
	if secret == "" {
		return fmt.Errorf("the site has no machine %s any more", machine)
	}
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
	rot := Rotation{Machine: machine, Vault: r.Passwords, Secret: secret, User: user, Was: was, Login: login}
	if r.Step != nil {
		rot.Step = func(s RotateStep) error { return r.Step(machine, s) }
	}
	if err := rot.Rotate(ctx); err != nil {
		return err
	}
	// One login that must be refused: far from what locks an account.
	old, err := login(ctx, user, was)
	switch {
	case errors.Is(err, bmc.ErrPassword):
		return nil
	case err != nil:
		return fmt.Errorf("%s: the password is changed, and whether the old one is refused is not known: %w", machine, bmc.Unnamed(err))
	}
	return named(machine, errors.Join(ErrOldPasswordWorks, bmc.Unnamed(old.Close(ctx))))
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
	s := p.Site()
	users, has := map[string]map[string]bool{}, map[string]string{} // BMCs of a secret; a secret of a BMC
	several := map[string]bool{}                                    // BMCs of which nodes name several
	for _, m := range s.Machines {
		b, secret := bmcOf(m), m.BMC.Secret
		if users[secret] == nil {
			users[secret] = map[string]bool{}
		}
		users[secret][b] = true
		several[b] = several[b] || has[b] != "" && has[b] != secret
		has[b] = secret
	}
	for _, name := range machines {
		if m, ok := s.Machine(name); ok && (len(users[m.BMC.Secret]) > 1 || several[bmcOf(m)]) {
			out = append(out, name)
		}
	}
	return out
}

// bmcOf tells BMCs apart: nodes of one chassis have one, and with it one
// password.
func bmcOf(m site.Machine) string {
	if m.BMC.System != "" && m.BMC.Address.IsValid() {
		return m.BMC.Address.String()
	}
	return m.Name
}

// BMCOf tells BMCs of a site apart: it gives a name for a machine's, which
// nodes that share one have in common.
func BMCOf(s func() *site.Site) func(machine string) string {
	return func(machine string) string {
		if m, ok := s().Machine(machine); ok {
			return bmcOf(m)
		}
		return machine
	}
}

// ConsoleOf refuses the serial console of a node that shares its BMC: IPMI's
// serial over LAN (§26.1) cannot say which of several machines is meant, and
// that of another one is worse than none.
func ConsoleOf(s *site.Site, machine string) error {
	m, ok := s.Machine(machine)
	if !ok {
		return fmt.Errorf("the site has no machine %s", machine)
	}
	if nodes := nodesOf(s, m); len(nodes) > 1 {
		return fmt.Errorf("%s: %w: its BMC is that of %d machines, and IPMI's serial over LAN cannot say which one is meant: use the console in the BMC's own pages", machine, bmc.ErrUnsupported, len(nodes))
	}
	return nil
}

// nodesOf are the machines that share a machine's BMC, it among them, in the
// order of the site.
func nodesOf(s *site.Site, m site.Machine) (out []site.Machine) {
	for _, o := range s.Machines {
		if bmcOf(o) == bmcOf(m) {
			out = append(out, o)
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
	set := map[string]bool{}
	for _, name := range machines {
		m, ok := s.Machine(name)
		if !ok {
			return fmt.Errorf("the site has no machine %s any more", name)
		}
		nodes := nodesOf(s, m)
		to := "bmc-" + nodes[0].Name
		if set[to] {
			continue
		}
		set[to] = true
		now, err := p.Get(m.BMC.Secret)
		if err != nil {
			return fmt.Errorf("machine %s: %w", name, err)
		}
		for _, o := range nodes {
			if o.BMC.Secret == m.BMC.Secret {
				continue
			}
			if v, err := p.Get(o.BMC.Secret); err != nil {
				return fmt.Errorf("machine %s: %w", o.Name, err)
			} else if v.Reveal() != now.Reveal() {
				return fmt.Errorf("machines %s and %s share a BMC, and their secrets %s and %s have different values: let the site's files name one that opens it", name, o.Name, m.BMC.Secret, o.BMC.Secret)
			}
		}
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
		if err := edit.AddSecret(site.SecretName{Name: to, Description: "user:password of the BMC of " + nodes[0].Name}); err != nil {
			return err
		}
		for _, o := range nodes {
			if err := edit.SetBMCSecret(o.Name, to); err != nil {
				return err
			}
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
