package bmc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
)

// Account is a user of a BMC. Empty slots are no accounts.
type Account struct {
	ID      string `json:"id"` // the BMC's own name of its slot
	User    string `json:"user"`
	Role    string `json:"role"`
	Enabled bool   `json:"enabled"`
	Locked  bool   `json:"locked,omitempty"`

	path string // Redfish
	slot byte   // IPMI
}

// ErrNoAccount means that the BMC has no user of that name.
var ErrNoAccount = errors.New("the BMC has no such user")

// ErrPasswordRefused means that the BMC does not take the new password: it is
// against its rules for passwords.
var ErrPasswordRefused = errors.New("the BMC does not take this password")

// maxPasswordIPMI is what every protocol of a BMC can carry (IPMI 2.0 §22.30).
const maxPasswordIPMI = maxPassword20

// Accounts are the users of the BMC.
func (c *Client) Accounts(ctx context.Context) ([]Account, error) {
	const doing = "reading the users"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer cancel()
	as, err := c.drv.accounts(ctx)
	return as, c.t.own(ctx, doing, err)
}

// ChangePassword gives a user another password, without a word about whether
// it took: only a fresh login shows that. The session of the change may end
// with it. It works too in a session that the BMC allows nothing else in,
// because the password that opened it has to be changed (DSP0266 §13.2.6).
func (c *Client) ChangePassword(ctx context.Context, user string, pw Password) error {
	doing := "changing the password of " + user
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	if pw == "" || len(pw) > maxPasswordIPMI {
		return c.t.fail(doing, fmt.Errorf("the new password must have 1 to %d characters, so that IPMI can carry it too", maxPasswordIPMI))
	}
	return c.t.own(ctx, doing, c.drv.changePassword(ctx, user, pw))
}

// MustChangePassword tells that the BMC accepted the login and allows nothing
// but a change of the password.
func (c *Client) MustChangePassword() bool {
	d, ok := c.drv.(*redfishDriver)
	return ok && d.mustChange != ""
}

// Alphabet of new passwords. Letters and digits that look alike are left out:
// somebody will type one at a rack. The signs are in every maker's list of
// allowed ones (Dell's is the shortest), and need no quotes in a shell.
const (
	lowerLetters = "abcdefghijkmnpqrstuvwxyz"
	upperLetters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
	digits       = "23456789"
	signs        = "-_.+"
	newLength    = 16 // BlueField wants 12 to 20, IPMI at most 20
)

// NewPassword is random, 16 characters, and meets the rules of makers that are
// known: letters of both cases, digits and a sign; begins with a letter; no
// character is its neighbour's neighbour in the alphabet, or the same
// (BlueField refuses runs of such pairs, XCC repetitions).
func NewPassword() (Password, error) {
	classes := []string{lowerLetters, upperLetters, digits, signs}
	all := strings.Join(classes, "")
	for range 1000 { // a try passes with a chance of about a quarter
		var b strings.Builder
		for b.Len() < newLength {
			n, err := rand.Int(rand.Reader, big.NewInt(int64(len(all))))
			if err != nil {
				return "", fmt.Errorf("making a password: %w", err)
			}
			b.WriteByte(all[n.Int64()])
		}
		p := b.String()
		good := strings.IndexByte(lowerLetters+upperLetters, p[0]) >= 0
		for _, c := range classes {
			good = good && strings.ContainsAny(p, c)
		}
		for i := 1; i < len(p); i++ {
			d := int(p[i]) - int(p[i-1])
			good = good && d > 1 || good && d < -1
		}
		if good {
			return Password(p), nil
		}
	}
	return "", errors.New("making a password: the random numbers of this machine are not random")
}

// account is ManagerAccount (DSP0268), as far as we use it.
type account struct {
	ID              text `json:"Id"`
	Path            text `json:"@odata.id"`
	UserName        text
	RoleID          text `json:"RoleId"`
	Enabled, Locked flag
}

// accountService is AccountService (DSP0268).
type accountService struct {
	Accounts ref
}

func (d *redfishDriver) accounts(ctx context.Context) ([]Account, error) {
	if d.root.AccountService.id == "" {
		return nil, fmt.Errorf("%w: its Redfish service has no AccountService", ErrUnsupported)
	}
	var svc accountService
	if err := d.optional(ctx, d.root.AccountService.path(), &svc); err != nil {
		return nil, err
	}
	if svc.Accounts.path() == "" { // DSP0268 gives the place
		svc.Accounts.id = strings.TrimRight(d.root.AccountService.path(), "/") + "/Accounts"
	}
	if svc.Accounts.path() == "" {
		return nil, fmt.Errorf("%w: its AccountService names no accounts", ErrUnsupported)
	}
	raw, missing, err := d.members(ctx, svc.Accounts.path())
	if err != nil {
		return nil, err
	}
	var out []Account
	for _, m := range raw {
		var a account
		if err := unmarshal(m, &a); err != nil || a.UserName == "" {
			continue // an empty slot
		}
		out = append(out, Account{ID: string(a.ID), User: string(a.UserName), Role: string(a.RoleID),
			Enabled: a.Enabled.on || !a.Enabled.set, Locked: a.Locked.on, path: localPath(string(a.Path))})
	}
	if len(out) == 0 && len(missing) > 0 {
		return nil, fmt.Errorf("none of its accounts can be read: %s", missing[0])
	}
	return out, nil
}

func (d *redfishDriver) changePassword(ctx context.Context, user string, pw Password) error {
	path := d.mustChange
	if path == "" {
		as, err := d.accounts(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(as, func(a Account) bool { return a.User == user })
		if i < 0 {
			return noAccount(user, as)
		}
		path = as[i].path
	}
	d.mu.Lock()
	d.given = append(d.given, string(pw)) // some quote the value that they refuse
	d.mu.Unlock()
	err := d.change(ctx, path, map[string]any{"Password": string(pw)})
	if s := statusOf(err); s == http.StatusForbidden || s == http.StatusUnauthorized {
		// A session in which only the password may be changed may not even read
		// the account for its ETag.
		_, err = d.do(ctx, http.MethodPatch, path, map[string]any{"Password": string(pw)}, nil)
	}
	err = d.t.explain(ctx, err)
	var said *answerError
	if !errors.As(err, &said) {
		return err
	}
	told := *said
	if told.status == http.StatusBadRequest {
		told.what = ErrPasswordRefused
	}
	return &told
}

func noAccount(user string, as []Account) error {
	names := make([]string, len(as))
	for i, a := range as {
		names[i] = a.User
	}
	return fmt.Errorf("%w %q; it has %s", ErrNoAccount, user, strings.Join(names, ", "))
}

// mustChangeOf is the account whose password a BMC wants to be changed before
// anything else: the argument of the message PasswordChangeRequired (DSP0266
// §13.2.6, Base registry), which comes with a session that was opened.
func mustChangeOf(session []byte) string {
	var body struct {
		Info []struct {
			MessageID   text `json:"MessageId"`
			MessageArgs texts
		} `json:"@Message.ExtendedInfo"`
	}
	if unmarshal(session, &body) != nil {
		return ""
	}
	for _, m := range body.Info {
		if strings.HasSuffix(string(m.MessageID), ".PasswordChangeRequired") && len(m.MessageArgs) > 0 {
			return localPath(m.MessageArgs[0])
		}
	}
	return ""
}

// Commands for users (IPMI 2.0 §22.27 to §22.30), on the channel in use.
const (
	cmdUserAccess   = 0x44
	cmdUserName     = 0x46
	cmdSetPassword  = 0x47
	thisChannel     = 0x0e
	opSetPassword   = 2
	password20      = 0x80 // of the user's id: the password has 20 bytes
	maxIPMIUsers    = 63
	privNoAccess    = 0x0f
	userEnabledMask = 0xc0
)

// roles are privilege levels as Redfish calls them.
var roles = map[byte]string{1: "Callback", 2: "User", privOperator: "Operator", privAdmin: "Administrator", 5: "OEM", privNoAccess: "NoAccess"}

func (d *ipmiDriver) accounts(ctx context.Context) ([]Account, error) {
	const doing = "reading the users"
	b, err := d.command(ctx, doing, netApp, cmdUserAccess, 4, thisChannel, 1)
	if err != nil {
		return nil, err
	}
	var out []Account
	for id := byte(1); id <= min(b[0]&0x3f, maxIPMIUsers); id++ {
		if b, err = d.command(ctx, doing, netApp, cmdUserAccess, 4, thisChannel, id); err != nil {
			return nil, err
		}
		priv, enabled := b[3]&0x0f, b[1]&userEnabledMask != 2<<6
		if b, err = d.command(ctx, doing, netApp, cmdUserName, 1, id); err != nil {
			var cc *ccError
			if errors.As(err, &cc) && (cc.code == 0xcc || cc.code == 0xcb) {
				continue // observed: BMCs answer so for slots that are empty
			}
			return nil, err
		}
		name := strings.TrimRight(string(b[:min(len(b), maxIPMIUserName)]), "\x00")
		if name == "" {
			continue
		}
		out = append(out, Account{ID: fmt.Sprint(id), User: name, Role: roles[priv], Enabled: enabled, slot: id})
	}
	return out, nil
}

// changePassword is Set User Password with 20 bytes (IPMI 2.0 §22.30).
func (d *ipmiDriver) changePassword(ctx context.Context, user string, pw Password) error {
	as, err := d.accounts(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(as, func(a Account) bool { return a.User == user })
	if i < 0 {
		return noAccount(user, as)
	}
	data := append([]byte{password20 | as[i].slot, opSetPassword}, make([]byte, maxPassword20)...)
	copy(data[2:], pw)
	_, err = d.s.command(ctx, netApp, cmdSetPassword, data...)
	var cc *ccError
	if errors.As(err, &cc) && (cc.code == 0xcc || cc.code == 0x80) {
		return fmt.Errorf("%w: %w", ErrPasswordRefused, err)
	}
	if err != nil {
		return d.explain(ctx, err)
	}
	return nil
}
