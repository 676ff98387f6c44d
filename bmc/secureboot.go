package bmc

import (
	"context"
	"errors"
	"fmt"
)

// SecureBoot is the state of UEFI Secure Boot.
type SecureBoot struct {
	Enabled bool   `json:"enabled"` // from the next boot on
	Current bool   `json:"current"` // of the boot that runs
	Mode    string `json:"mode"`    // "UserMode", "SetupMode", ...
}

// String says it in words.
func (s SecureBoot) String() string {
	word := map[bool]string{true: "on", false: "off"}
	if s.Enabled != s.Current {
		return word[s.Current] + ", " + word[s.Enabled] + " from the next boot"
	}
	return word[s.Current]
}

// KeyReset is what happens to the Secure Boot keys (DSP0268, ResetKeysType).
type KeyReset string

// Resets of keys.
const (
	DefaultKeys KeyReset = "ResetAllKeysToDefault"
	NoKeys      KeyReset = "DeleteAllKeys"
	NoPK        KeyReset = "DeletePK"
)

type secureBootResource struct {
	Enable      flag `json:"SecureBootEnable"`
	CurrentBoot text `json:"SecureBootCurrentBoot"`
	Mode        text `json:"SecureBootMode"`
	Actions     struct {
		Reset struct {
			Target string `json:"target"`
		} `json:"#SecureBoot.ResetKeys"`
	}
}

// SecureBoot reads the state.
func (c *Client) SecureBoot(ctx context.Context) (SecureBoot, error) {
	const doing = "reading Secure Boot"
	d, ctx, cancel, err := c.beginRedfish(ctx, doing)
	if err != nil {
		return SecureBoot{}, err
	}
	defer cancel()
	_, r, err := d.secureBoot(ctx)
	return r.state(), c.t.own(ctx, doing, err)
}

// SetSecureBoot switches it from the next boot on, and reads it back.
func (c *Client) SetSecureBoot(ctx context.Context, on bool) error {
	const doing = "setting Secure Boot"
	d, ctx, cancel, err := c.beginRedfish(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	at, r, err := d.secureBoot(ctx)
	if err != nil || r.Enable.on == on {
		return c.t.own(ctx, doing, err)
	}
	if err := d.change(ctx, at, map[string]any{"SecureBootEnable": on}); err != nil {
		return c.t.own(ctx, doing, err)
	}
	err = c.wait(ctx, doing, min(readBackWait, c.t.Timeout/2), func(ctx context.Context) (bool, error) {
		_, r, err := d.secureBoot(ctx)
		return r.Enable.on == on, c.t.own(ctx, doing, err)
	})
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: it still reads %v; some makers allow it only while the machine is off, or with keys enrolled", errNothing, !on))
	}
	return err
}

// ResetSecureBootKeys resets the key databases. It holds from the next boot on
// many machines, so only its acceptance is seen.
func (c *Client) ResetSecureBootKeys(ctx context.Context, how KeyReset) error {
	doing := "Secure Boot keys: " + string(how)
	d, ctx, cancel, err := c.beginRedfish(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	_, r, err := d.secureBoot(ctx)
	if err != nil {
		return c.t.own(ctx, doing, err)
	}
	target := localPath(r.Actions.Reset.Target)
	if target == "" {
		return c.t.fail(doing, fmt.Errorf("%w: its SecureBoot has no action ResetKeys", ErrUnsupported))
	}
	_, err = d.post(ctx, target, map[string]any{"ResetKeysType": string(how)})
	return c.t.own(ctx, doing, err)
}

func (r secureBootResource) state() SecureBoot {
	return SecureBoot{Enabled: r.Enable.on, Current: r.CurrentBoot == "Enabled", Mode: string(r.Mode)}
}

func (d *redfishDriver) secureBoot(ctx context.Context) (string, secureBootResource, error) {
	var r secureBootResource
	s, _, err := d.system(ctx)
	if err != nil {
		return "", r, err
	}
	at := s.SecureBoot.path()
	if at == "" {
		return "", r, fmt.Errorf("%w: the system %s shows no Secure Boot", ErrUnsupported, s.ID)
	}
	_, err = d.get(ctx, at, &r)
	return at, r, err
}
