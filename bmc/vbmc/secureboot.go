package vbmc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// SecureBoot is the state of UEFI Secure Boot (DSP0268, SecureBoot).
type SecureBoot struct {
	Enabled bool // at the next boot
	Current bool // of the boot that runs
	Setup   bool // setup mode: no platform key
}

// SecureBooter is a Chassis whose firmware has UEFI Secure Boot. SetSecureBoot
// sets what holds from the next boot on.
type SecureBooter interface {
	SecureBoot(ctx context.Context) (SecureBoot, error)
	SetSecureBoot(ctx context.Context, enabled bool) error
	// ResetKeys takes "ResetAllKeysToDefault", "DeleteAllKeys" or "DeletePK".
	ResetKeys(ctx context.Context, how string) error
}

const secureBootPath = systemPath + "/SecureBoot"

// keyResets are the values of ResetKeysType of SecureBoot.ResetKeys.
var keyResets = []string{"ResetAllKeysToDefault", "DeleteAllKeys", "DeletePK"}

// keyDatabases are the signature databases (UEFI 2.10 §32.4).
var keyDatabases = []string{"PK", "KEK", "db", "dbx"}

func (s *Server) secureBootRoutes() []*resource {
	b, ok := s.chassis.(SecureBooter)
	if !ok {
		return nil
	}
	rs := []*resource{
		{pattern: secureBootPath, priv: privComponents, get: s.secureBootResource, patch: func(c *call) ([]*message, error) {
			return patch(c, s.secureBootResource, map[string]setter{"SecureBootEnable": boolSetter("SecureBootEnable", func(on bool) error {
				err := b.SetSecureBoot(c.ctx, on)
				if errors.Is(err, ErrUnsupported) {
					return msgNotInList("SecureBootEnable", on)
				}
				if err != nil {
					return fmt.Errorf("setting Secure Boot: %w", err)
				}
				s.logEvent("system", "OK", fmt.Sprintf("Secure Boot from the next boot on: %v, by %s.", on, c.who.name))
				return nil
			})})
		}},
		{pattern: secureBootPath + "/Actions/SecureBoot.ResetKeys", priv: privComponents, post: func(c *call) (reply, error) {
			return s.resetKeys(c, "SecureBoot.ResetKeys", keyResets, func(how string) error { return b.ResetKeys(c.ctx, how) })
		}},
	}
	return append(rs, s.keyRoutes()...)
}

// resetKeys is an action ResetKeys, of Secure Boot or of one of its databases.
func (s *Server) resetKeys(c *call, action string, allowed []string, do func(how string) error) (reply, error) {
	v, ok := c.body["ResetKeysType"]
	if !ok {
		return reply{}, msgActionParamMissing(action, "ResetKeysType")
	}
	how, ok := v.(string)
	if !ok || !slices.Contains(allowed, how) {
		return reply{}, msgActionParam(action, "ResetKeysType", v)
	}
	if err := do(how); errors.Is(err, ErrUnsupported) {
		return reply{}, msgActionParam(action, "ResetKeysType", v)
	} else if err != nil {
		return reply{}, fmt.Errorf("Secure Boot keys: %w", err)
	}
	of := ""
	if db := c.vars["db"]; db != "" {
		of = " of " + db
	}
	s.logEvent("system", "OK", fmt.Sprintf("Secure Boot keys%s: %s by %s.", of, how, c.who.name))
	return reply{status: http.StatusNoContent}, nil
}

func (s *Server) secureBootResource(c *call) (obj, error) {
	b, err := s.chassis.(SecureBooter).SecureBoot(c.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading Secure Boot: %w", err)
	}
	current, mode := "Disabled", "UserMode"
	if b.Current {
		current = "Enabled"
	}
	if b.Setup {
		mode = "SetupMode"
	}
	return obj{"@odata.id": secureBootPath, "@odata.type": "#SecureBoot.v1_1_2.SecureBoot", "Id": "SecureBoot", "Name": "UEFI Secure Boot",
		"SecureBootEnable": b.Enabled, "SecureBootCurrentBoot": current, "SecureBootMode": mode,
		"SecureBootDatabases": link(secureBootPath + "/SecureBootDatabases"),
		"Actions": obj{"#SecureBoot.ResetKeys": obj{"target": secureBootPath + "/Actions/SecureBoot.ResetKeys",
			"ResetKeysType@Redfish.AllowableValues": keyResets}}}, nil
}

// SecureBoot is the state of Secure Boot.
func (m *Memory) SecureBoot(ctx context.Context) (SecureBoot, error) {
	if err := m.enter(ctx); err != nil {
		return SecureBoot{}, err
	}
	defer m.mu.Unlock()
	return m.secure, nil
}

// SetSecureBoot holds from the next boot on.
func (m *Memory) SetSecureBoot(ctx context.Context, enabled bool) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if !m.fault.Lie {
		m.secure.Enabled = enabled
	}
	return nil
}
