package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
)

// Vault keeps passwords, and remembers a change from before it is made until
// it is proven. *site.Secrets is one. What it says is stored is on disk.
type Vault interface {
	GetPending(name string) (p site.Pending, ok bool, err error)
	SetPending(name string, p site.Pending) error
	CommitPending(name string) error
	DropPending(name string) error
}

// Accounts is a session with a BMC that can change a password. *bmc.Client is
// one.
type Accounts interface {
	ChangePassword(ctx context.Context, user string, pw bmc.Password) error
	Close(ctx context.Context) error
}

// Rotation is the change of one BMC's password, written ahead: the new one is
// in the vault, as pending beside the old one, before the BMC hears of it, and
// becomes the secret's value after a fresh login proved it. Whenever it is
// stopped, both passwords are known, and the same Rotation goes on.
type Rotation struct {
	Machine string // its name, in front of errors; "" = they have none
	Vault   Vault
	Secret  string // its name; its value is "user:password"
	User    string
	Was     bmc.Password // the password now
	// Login opens a session: one attempt. A refused password is bmc.ErrPassword.
	Login func(ctx context.Context, user string, pw bmc.Password) (Accounts, error)
	// New makes the new password; nil: bmc.NewPassword.
	New func() (bmc.Password, error)
	// Step is told of each step that was done; an error stops the rotation
	// there. It may be nil.
	Step func(RotateStep) error
}

// RotateStep is a step of a rotation.
type RotateStep string

// Steps, in order.
const (
	StepLoggedIn RotateStep = "logged in with the old password"
	StepStaged   RotateStep = "the new password is stored as pending"
	StepChanged  RotateStep = "the BMC was told the new password"
	StepVerified RotateStep = "a fresh login with the new password worked"
	StepStored   RotateStep = "the new password is the secret's value"
)

// ErrNoPasswordWorks means that a change was begun and neither the password
// before it nor the one after it opens the BMC.
var ErrNoPasswordWorks = errors.New("neither the password before the change that was begun nor the one after it works")

// Rotate changes the password, or goes on with a change that was begun. At
// most two logins are tried with passwords that may be wrong.
func (r Rotation) Rotate(ctx context.Context) error { return named(r.Machine, r.rotate(ctx)) }

// named puts a machine's name in front of an error that does not have it.
func named(machine string, err error) error {
	if err == nil || machine == "" {
		return err
	}
	return fmt.Errorf("%s: %w", machine, err)
}

// login is Login; the errors of it and of its session do not name the machine.
func (r Rotation) login(ctx context.Context, user string, pw bmc.Password) (Accounts, error) {
	session, err := r.Login(ctx, user, pw)
	if err != nil {
		return nil, bmc.Unnamed(err)
	}
	return unnamed{session}, nil
}

// unnamed is a session whose errors do not name the machine.
type unnamed struct{ a Accounts }

func (u unnamed) ChangePassword(ctx context.Context, user string, pw bmc.Password) error {
	return bmc.Unnamed(u.a.ChangePassword(ctx, user, pw))
}
func (u unnamed) Close(ctx context.Context) error { return bmc.Unnamed(u.a.Close(ctx)) }

func (r Rotation) rotate(ctx context.Context) error {
	p, begun, err := r.Vault.GetPending(r.Secret)
	if err != nil {
		return err
	}
	if begun {
		return r.resume(ctx, p)
	}
	session, err := r.login(ctx, r.User, r.Was)
	if err != nil {
		return err // nothing was begun
	}
	closed := false
	defer func() {
		if !closed {
			_ = session.Close(ctx) // the error that ended the rotation is told
		}
	}()
	if err := r.step(StepLoggedIn); err != nil {
		return err
	}
	newPassword := r.New
	if newPassword == nil {
		newPassword = bmc.NewPassword
	}
	next, err := newPassword()
	if err != nil {
		return err
	}
	p = site.Pending{Was: credential(r.User, r.Was), Next: credential(r.User, next)}
	if err := r.Vault.SetPending(r.Secret, p); err != nil {
		return fmt.Errorf("storing the new password before the BMC hears of it: %w", err)
	}
	if err := r.step(StepStaged); err != nil {
		return err
	}
	closed = true
	return r.change(ctx, session, r.User, next)
}

// resume goes on with a change that was begun: the new password if it works
// already, else the old one and the change again.
func (r Rotation) resume(ctx context.Context, p site.Pending) error {
	user, next, err := splitCredential(p.Next)
	if err != nil {
		return fmt.Errorf("the pending value of secret %s: %w", r.Secret, err)
	}
	session, err := r.login(ctx, user, next)
	if err == nil {
		if err := session.Close(ctx); err != nil {
			return err
		}
		return r.store()
	}
	if !errors.Is(err, bmc.ErrPassword) {
		return err
	}
	user, was, err := splitCredential(p.Was)
	if err != nil {
		return fmt.Errorf("the pending value of secret %s: %w", r.Secret, err)
	}
	session, err = r.login(ctx, user, was)
	if errors.Is(err, bmc.ErrPassword) {
		return fmt.Errorf("%w: somebody else changed it: set the right one with fettle secret set %s: %w", ErrNoPasswordWorks, r.Secret, err)
	}
	if err != nil {
		return err
	}
	if err := r.step(StepLoggedIn); err != nil {
		return errors.Join(err, session.Close(ctx))
	}
	return r.change(ctx, session, user, next)
}

// change tells the BMC, proves it by a fresh login, and makes the new password
// the secret's value. It ends session.
func (r Rotation) change(ctx context.Context, session Accounts, user string, next bmc.Password) error {
	err := session.ChangePassword(ctx, user, next)
	cerr := session.Close(ctx)
	if errors.Is(err, bmc.ErrPasswordRefused) || errors.Is(err, bmc.ErrNoAccount) || errors.Is(err, bmc.ErrUnsupported) {
		// It said no: the old password is the only one.
		return errors.Join(err, r.Vault.DropPending(r.Secret))
	}
	if err != nil {
		return fmt.Errorf("%w: it is not known whether the password changed; both are kept, and the same command goes on", err)
	}
	_ = cerr // some BMCs end the session with the password that opened it
	if err := r.step(StepChanged); err != nil {
		return err
	}
	fresh, err := r.login(ctx, user, next)
	if errors.Is(err, bmc.ErrPassword) {
		return fmt.Errorf("the BMC accepted a new password and does not let it in: both passwords are kept in secret %s; try again in a few minutes: %w", r.Secret, err)
	}
	if err != nil {
		return fmt.Errorf("proving the new password: both passwords are kept in secret %s, and the same command goes on: %w", r.Secret, err)
	}
	if err := fresh.Close(ctx); err != nil {
		return err
	}
	if err := r.step(StepVerified); err != nil {
		return err
	}
	return r.store()
}

func (r Rotation) store() error {
	if err := r.Vault.CommitPending(r.Secret); err != nil {
		return fmt.Errorf("the new password works and is still pending in secret %s: run the same command again: %w", r.Secret, err)
	}
	return r.step(StepStored)
}

func (r Rotation) step(s RotateStep) error {
	if r.Step == nil {
		return nil
	}
	return r.Step(s)
}

// credential is "user:password", as secrets of BMCs are.
func credential(user string, pw bmc.Password) site.Secret {
	return site.NewSecret(user + ":" + string(pw))
}

// splitCredential is the inverse of credential.
func splitCredential(s site.Secret) (user string, pw bmc.Password, err error) {
	user, pass, ok := strings.Cut(s.Reveal(), ":")
	if !ok || user == "" {
		return "", "", errors.New("it is not USER:PASSWORD")
	}
	return user, bmc.Password(pass), nil
}
