package vbmc

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	accountsPath = root + "/AccountService/Accounts"
	rolesPath    = root + "/AccountService/Roles"
)

func (s *Server) accountRoutes() []*resource {
	return []*resource{
		{pattern: root + "/AccountService", priv: privUsers, get: s.accountService, patch: s.patchAccountService},
		{pattern: accountsPath, priv: privUsers, get: s.accountCollection, post: s.createAccount},
		{pattern: accountsPath + "/{account}", priv: privUsers, read: readsAccount, get: s.accountResource, patch: s.patchAccount, del: s.deleteAccount},
		{pattern: privilegePath, get: s.privilegeRegistry},
		{pattern: rolesPath, get: func(*call) (obj, error) {
			return collection(rolesPath, "RoleCollection", "Roles", rolesPath+"/"+Administrator, rolesPath+"/"+Operator, rolesPath+"/"+ReadOnly), nil
		}},
		{pattern: rolesPath + "/{role}", get: roleResource},
	}
}

func (s *Server) accountService(*call) (obj, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	basic := "Enabled"
	if s.noBasic {
		basic = "Disabled"
	}
	return obj{
		"@odata.id": root + "/AccountService", "@odata.type": "#AccountService.v1_15_1.AccountService",
		"Id": "AccountService", "Name": "Account Service", "ServiceEnabled": true, "Status": statusOK(),
		"AccountLockoutThreshold": s.lockout, "AccountLockoutDuration": int(s.lockFor / time.Second),
		"MinPasswordLength": 1, "MaxPasswordLength": 128, "HTTPBasicAuth": basic,
		"Accounts": link(accountsPath), "Roles": link(rolesPath), "PrivilegeMap": link(privilegePath),
	}, nil
}

// patchAccountService writes the lockout, which IPMI has as LAN parameter 26,
// and whether basic authentication is taken.
func (s *Server) patchAccountService(c *call) ([]*message, error) {
	number := func(name string, most float64, set func(int)) setter {
		return func(v any) (func() error, error) {
			n, ok := v.(float64)
			if !ok || n != float64(int(n)) {
				return nil, msgPropertyType(name, v)
			}
			if n < 0 || n > most {
				return nil, msgOutOfRange(name, v)
			}
			return func() error {
				s.mu.Lock()
				defer s.mu.Unlock()
				set(int(n))
				s.record("manager", "OK", fmt.Sprintf("%s is %d, by %s.", name, int(n), c.who.name))
				return nil
			}, nil
		}
	}
	return patch(c, s.accountService, map[string]setter{
		"AccountLockoutThreshold": number("AccountLockoutThreshold", 255, func(n int) { s.lockout = n }),
		"AccountLockoutDuration":  number("AccountLockoutDuration", 65535*lockoutUnit.Seconds(), func(n int) { s.lockFor = time.Duration(n) * time.Second }),
		"HTTPBasicAuth": func(v any) (func() error, error) {
			if v != "Enabled" && v != "Disabled" {
				if _, ok := v.(string); !ok {
					return nil, msgPropertyType("HTTPBasicAuth", v)
				}
				return nil, msgNotInList("HTTPBasicAuth", v)
			}
			return func() error { s.mu.Lock(); defer s.mu.Unlock(); s.noBasic = v == "Disabled"; return nil }, nil
		},
	})
}

func roleResource(c *call) (obj, error) {
	role := c.vars["role"]
	p := privileges(role)
	if p == nil {
		return nil, msgNotFound(c.path)
	}
	return obj{
		"@odata.id": rolesPath + "/" + role, "@odata.type": "#Role.v1_3_2.Role", "Id": role, "Name": role + " Role",
		"RoleId": role, "IsPredefined": true, "AssignedPrivileges": p, "OemPrivileges": []string{},
	}, nil
}

func (s *Server) accountCollection(*call) (obj, error) {
	var paths []string
	for _, a := range s.accounts {
		paths = append(paths, accountsPath+"/"+a.id)
	}
	return collection(accountsPath, "ManagerAccountCollection", "Accounts", paths...), nil
}

// readsAccount: an account is read by whoever manages accounts, and by itself.
func readsAccount(c *call) error {
	p := privileges(c.who.role)
	if slices.Contains(p, privUsers) || slices.Contains(p, privManager) || c.vars["account"] == c.who.accountID {
		return nil
	}
	return msgPrivilege()
}

// slot finds an account by id. s.mu is held.
func (s *Server) slot(id string) *account {
	for _, a := range s.accounts {
		if a.id == id {
			return a
		}
	}
	return nil
}

func (s *Server) accountResource(c *call) (obj, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.slot(c.vars["account"])
	if a == nil {
		return nil, msgNotFound(c.path)
	}
	return obj{
		"@odata.id": accountsPath + "/" + a.id, "@odata.type": "#ManagerAccount.v1_12_1.ManagerAccount",
		"Id": a.id, "Name": "User Account", "UserName": a.name, "Password": nil, "RoleId": a.role, "Enabled": a.enabled,
		"Locked": s.now().Before(a.until), "AccountTypes": []string{"Redfish"}, "PasswordChangeRequired": a.change,
		"Links": obj{"Role": link(rolesPath + "/" + a.role)},
	}, nil
}

// accountSetters are the writable properties. A user without ConfigureUsers
// may change only the own password.
func (s *Server) accountSetters(c *call, a *account) map[string]setter {
	text := func(name string, check func(string) error, set func(string)) setter {
		return func(v any) (func() error, error) {
			t, ok := v.(string)
			if !ok {
				return nil, msgPropertyType(name, "(a value that is no string)")
			}
			if err := check(t); err != nil {
				return nil, err
			}
			return func() error {
				s.mu.Lock()
				defer s.mu.Unlock()
				set(t)
				return nil
			}, nil
		}
	}
	set := map[string]setter{
		"Password": text("Password", func(p string) error {
			if p == "" || len(p) > 128 {
				m := about("Password", "PropertyValueError", "Password")
				m.Resolution = "Give a password of 1 to 128 characters."
				return m
			}
			return nil
		}, a.setPassword),
	}
	if c.who.role != Administrator || c.who.mustChange {
		return set
	}
	set["PasswordChangeRequired"] = func(v any) (func() error, error) {
		b, ok := v.(bool)
		if !ok {
			return nil, msgPropertyType("PasswordChangeRequired", v)
		}
		return func() error { s.mu.Lock(); defer s.mu.Unlock(); a.change = b; return nil }, nil
	}
	set["UserName"] = text("UserName", func(n string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if o := s.byName(n); o != nil && o != a {
			return msgExists("ManagerAccount", "UserName", n)
		}
		return nil
	}, func(n string) {
		if a.name, a.ipmi = n, a.ipmi && len(n) <= ipmiUserMax; n == "" {
			*a = account{id: a.id, role: ReadOnly}
		}
	})
	set["RoleId"] = text("RoleId", func(r string) error {
		if privileges(r) == nil {
			return msgNotInList("RoleId", r)
		}
		return nil
	}, func(r string) { a.role = r })
	set["Enabled"] = func(v any) (func() error, error) {
		b, ok := v.(bool)
		if !ok {
			return nil, msgPropertyType("Enabled", v)
		}
		return func() error { s.mu.Lock(); defer s.mu.Unlock(); a.enabled = b; return nil }, nil
	}
	set["Locked"] = func(v any) (func() error, error) {
		if b, ok := v.(bool); !ok || b {
			return nil, msgPropertyType("Locked", v)
		}
		return func() error { s.mu.Lock(); defer s.mu.Unlock(); a.failures, a.until = 0, time.Time{}; return nil }, nil
	}
	return set
}

func (s *Server) patchAccount(c *call) ([]*message, error) {
	s.mu.Lock()
	a := s.slot(c.vars["account"])
	s.mu.Unlock()
	return patch(c, s.accountResource, s.accountSetters(c, a))
}

func (s *Server) createAccount(c *call) (reply, error) {
	for _, k := range []string{"UserName", "Password", "RoleId"} {
		if v, ok := c.body[k]; !ok || v == "" {
			return reply{}, msgMissing(k)
		}
	}
	s.mu.Lock()
	var a *account
	for _, t := range s.accounts {
		if t.name == "" {
			a = t
			break
		}
	}
	s.mu.Unlock()
	if a == nil {
		return reply{}, msgLimit()
	}
	if _, ok := c.body["Enabled"]; !ok {
		c.body["Enabled"] = true
	}
	sub := *c
	sub.vars = map[string]string{"account": a.id}
	if _, err := patch(&sub, s.accountResource, s.accountSetters(c, a)); err != nil {
		return reply{}, err
	}
	body, err := s.accountResource(&sub)
	if err != nil {
		return reply{}, err
	}
	return created(accountsPath+"/"+a.id, body), nil
}

func (s *Server) deleteAccount(c *call) (reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.slot(c.vars["account"])
	if a == nil || a.name == "" {
		return reply{}, msgNotFound(c.path)
	}
	if a.id == c.who.accountID {
		m := bad("ResourceCannotBeDeleted")
		m.Resolution = "Delete it as another user: an account cannot delete itself."
		return reply{}, m
	}
	*a = account{id: a.id, role: ReadOnly}
	s.expire() // sessions of the account end with it
	return reply{status: http.StatusNoContent}, nil
}
