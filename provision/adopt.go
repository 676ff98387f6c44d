package provision

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Keyring is the Vault that a BMC's credentials are taken from and kept in.
// *site.Secrets is one.
type Keyring interface {
	Vault
	List() ([]string, error)
	Get(name string) (site.Secret, error)
	Set(name string, value site.Secret) error
}

// Adoption takes a BMC into the site: it looks who answers, pins the
// certificate, and gives it a password that only the site knows.
type Adoption struct {
	Machine  string
	Addr     netip.Addr
	System   string           // which of the BMC's machines it is, where there are several
	Protocol site.BMCProtocol // "" = redfish where it answers, else ipmi
	Keys     Keyring
	Secret   string // that will hold, or holds, its user and password
	// User and Password are the present ones; none: those in Keys, else the
	// factory's, where its maker has one for all.
	User     string
	Password bmc.Password
	Keep     bool // leave the password as it is
	RootCAs  *x509.CertPool
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	Timeout  time.Duration
	Step     func(RotateStep) error

	answer bmc.Answer
	found  bool
}

// Errors of an Adoption.
var (
	ErrNoBMC          = errors.New("no BMC answers there")
	ErrNoLogin        = errors.New("its password is not known")
	ErrAnotherMachine = errors.New("this is the BMC of another machine")
)

// Look asks the address who it is, without a login. The rest of Adoption needs
// it. The BMC that it gives is what the site will say.
func (a *Adoption) Look(ctx context.Context) (site.BMC, *state.BMCFacts, error) {
	a.answer, a.found = bmc.Probe(ctx, a.Addr, bmc.ProbeOptions{Dial: a.Dial, RootCAs: a.RootCAs, Timeout: a.Timeout})
	if !a.found {
		return site.BMC{}, nil, fmt.Errorf("%s: %s: %w: check its address, and that Redfish or IPMI over LAN is enabled", a.Machine, a.Addr, ErrNoBMC)
	}
	if a.Protocol == "" {
		a.Protocol = site.IPMI
		if a.answer.Redfish != "" && !a.answer.Plain {
			a.Protocol = site.Redfish
		}
	}
	if a.Protocol == site.Redfish && (a.answer.Redfish == "" || a.answer.Plain) {
		return site.BMC{}, nil, fmt.Errorf("%s: %s does not speak Redfish over TLS: no password is sent in the clear; enable HTTPS there, or use ipmi", a.Machine, a.Addr)
	}
	b := site.BMC{Address: a.Addr, Protocol: a.Protocol, Secret: a.Secret, System: a.System}
	if mac, err := site.ParseMAC(a.answer.MAC); err == nil {
		b.MAC = mac
	}
	if a.Protocol == site.Redfish && !a.answer.Trusted {
		b.Fingerprint = a.answer.Fingerprint // who answers now is who must answer later
	}
	return b, FactsOf(a.answer), nil
}

// Known tells whose login is used: "the stored one", "the one that is given",
// "the factory's"; or fails with ErrNoLogin.
func (a *Adoption) Known() (string, error) {
	_, _, from, err := a.present()
	return from, err
}

// present is the login that works now, as far as it is known.
func (a *Adoption) present() (user string, pw bmc.Password, from string, err error) {
	if _, begun, err := a.Keys.GetPending(a.Secret); err != nil || begun {
		return "", "", "a change that was begun", err
	}
	names, err := a.Keys.List()
	if err != nil {
		return "", "", "", err
	}
	if slices.Contains(names, a.Secret) {
		v, err := a.Keys.Get(a.Secret)
		if err != nil {
			return "", "", "", err
		}
		user, pw, err = splitCredential(v)
		if err != nil {
			return "", "", "", fmt.Errorf("secret %s: %w", a.Secret, err)
		}
		return user, pw, "the stored one", nil
	}
	if a.User != "" {
		return a.User, a.Password, "the one that is given", nil
	}
	vendor := FactsOf(a.answer).Vendor
	if user, pw, ok := FactoryLogin(vendor); ok {
		return user, pw, "the factory's", nil
	}
	return "", "", "", fmt.Errorf("%s: %s: %w: %s has no password that all of its BMCs leave the factory with: read it from its label", a.Machine, a.Addr, ErrNoLogin, cmp.Or(vendor, "its maker"))
}

// target is the BMC with a login; the certificate that answered is pinned.
func (a *Adoption) target(user string, pw bmc.Password) bmc.Target {
	port := uint16(443)
	if a.Protocol == site.IPMI {
		port = 623
	}
	t := bmc.Target{Name: a.Machine, System: a.System, Address: netip.AddrPortFrom(a.Addr, port), Protocol: bmc.Protocol(a.Protocol), User: user, Password: pw,
		Dial: a.Dial, Fingerprint: a.answer.Fingerprint, Timeout: a.Timeout}
	if a.Protocol == site.IPMI {
		t.Fingerprint = ""
	}
	if a.Dial != nil {
		t.DialUDP = func(ctx context.Context, addr string) (net.Conn, error) { return a.Dial(ctx, "udp", addr) }
	}
	return t
}

// Inventory reads what the machine is, with the login that works now: one
// attempt.
func (a *Adoption) Inventory(ctx context.Context) (inv bmc.Inventory, err error) {
	err = a.look(ctx, func(c *bmc.Client) (err error) { inv, err = c.Inventory(ctx); return err })
	return inv, err
}

// Nodes are the machines behind the BMC, with the login that works now: one
// attempt.
func (a *Adoption) Nodes(ctx context.Context) (nodes []bmc.Node, err error) {
	err = a.look(ctx, func(c *bmc.Client) (err error) { nodes, err = c.Nodes(ctx); return err })
	return nodes, err
}

// look reads something in a session of its own.
func (a *Adoption) look(ctx context.Context, read func(*bmc.Client) error) error {
	user, pw, _, err := a.present()
	if err != nil {
		return err
	}
	if user == "" {
		return fmt.Errorf("%s: a change of its password was begun and has not ended: enrol it by its machine first", a.Machine)
	}
	c, err := bmc.Open(ctx, a.target(user, pw))
	if err != nil {
		return err
	}
	return errors.Join(read(c), c.Close(ctx))
}

// TakeOver makes sure that the BMC is that of the machine with a serial ("" =
// whichever), and that its password is in the keyring: a stored one is only
// tried, a given or the factory's one is changed to a random one, written
// ahead. One login is tried with a password that may be wrong, two where a
// change was begun.
func (a *Adoption) TakeOver(ctx context.Context, serial string) error {
	user, pw, from, err := a.present()
	if err != nil {
		return err
	}
	login := func(ctx context.Context, user string, pw bmc.Password) (Accounts, error) {
		c, err := bmc.Open(ctx, a.target(user, pw))
		if err != nil {
			return nil, bmc.Unnamed(err)
		}
		if err := a.is(ctx, c, serial); err != nil {
			return nil, errors.Join(bmc.Unnamed(err), bmc.Unnamed(c.Close(ctx)))
		}
		return c, nil
	}
	if from == "the stored one" || a.Keep && user != "" {
		c, err := login(ctx, user, pw)
		if err != nil {
			return named(a.Machine, err)
		}
		if err := c.Close(ctx); err != nil {
			return err
		}
		if from == "the stored one" {
			return nil
		}
		return a.Keys.Set(a.Secret, credential(user, pw))
	}
	return Rotation{Machine: a.Machine, Vault: a.Keys, Secret: a.Secret, User: user, Was: pw, Login: login, Step: a.Step}.Rotate(ctx)
}

// is checks that a BMC is that of the machine with a serial number. A BMC that
// wants its password changed first tells nothing before, and is looked at when
// it is logged in to again.
func (a *Adoption) is(ctx context.Context, c *bmc.Client, serial string) error {
	if serial == "" || c.MustChangePassword() {
		return nil
	}
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	told := slices.DeleteFunc([]string{known(st.Serial), known(st.SKU)}, func(s string) bool { return s == "" })
	if len(told) == 0 || slices.ContainsFunc(told, func(s string) bool { return strings.EqualFold(s, serial) }) {
		return nil
	}
	return fmt.Errorf("%s: %w: it says serial number %s, not %s; its password was not changed", a.Addr, ErrAnotherMachine, strings.Join(told, " or "), serial)
}
