package vbmc

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Privileges (DSP0266 §13.2.4).
const (
	privLogin      = "Login"
	privManager    = "ConfigureManager"
	privUsers      = "ConfigureUsers"
	privSelf       = "ConfigureSelf"
	privComponents = "ConfigureComponents"
)

// privileges of the standard roles (DSP0266 §13.2.5).
func privileges(role string) []string {
	switch role {
	case Administrator:
		return []string{privLogin, privManager, privUsers, privComponents, privSelf}
	case Operator:
		return []string{privLogin, privComponents, privSelf}
	case ReadOnly:
		return []string{privLogin, privSelf}
	}
	return nil
}

// account is one slot of the AccountService. A slot with an empty name is free.
type account struct {
	id       string
	name     string
	hash     [32]byte
	role     string
	enabled  bool
	failures int
	until    time.Time // locked until
	key      [20]byte  // for IPMI
	ipmi     bool      // key is set: the password is short enough
	change   bool      // the password must be changed before anything else

	// What only IPMI says of a user (IPMI 2.0 §22.26, §24.6).
	noIPMI   bool // may not log in over IPMI
	noAccess bool // has no privilege level there
	noSOL    bool
	access   byte // accessCallback, accessLink
}

// setPassword sets the password, for Redfish and for IPMI.
func (a *account) setPassword(p string) {
	a.hash, a.failures, a.until, a.change = hashPassword(p), 0, time.Time{}, false
	a.key, a.ipmi = ipmiKey(a.name, p)
}

// identity is who sent a request.
type identity struct {
	accountID string
	name      string
	role      string
	session   string // id; empty for basic authentication
	// mustChange: nothing but a new password is allowed (DSP0266 §13.3.5.3).
	mustChange bool
}

func (a *account) identity(session string) identity {
	return identity{a.id, a.name, a.role, session, a.change}
}

// changesPassword tells whether the request is one that an account may make
// whose password must be changed: read itself, set its password, log out.
func (c *call) changesPassword() bool {
	switch c.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPatch:
		return c.vars["account"] == c.who.accountID && c.who.accountID != ""
	case http.MethodDelete:
		return c.vars["session"] == c.who.session && c.who.session != ""
	}
	return false
}

// mayRead checks who may GET a resource.
func (s *Server) mayRead(c *call, res *resource) error {
	if res.read == nil {
		return nil
	}
	return res.read(c)
}

// session is a Redfish session (DSP0266 §13.3.4).
type session struct {
	id      string
	token   string
	account *account
	created time.Time
	used    time.Time
}

// accountSlots is how many accounts there can be.
const accountSlots = 10

// hashPassword digests a password, so that it is not kept in clear.
func hashPassword(p string) [32]byte { return sha256.Sum256([]byte(p)) }

func (s *Server) setAccounts(as []Account) error {
	if len(as) == 0 {
		return fmt.Errorf("a virtual BMC needs an account: set Config.Accounts")
	}
	if len(as) > accountSlots {
		return fmt.Errorf("%d accounts given; a virtual BMC has %d slots", len(as), accountSlots)
	}
	for i := range accountSlots {
		s.accounts = append(s.accounts, &account{id: strconv.Itoa(i + 1), role: ReadOnly})
	}
	for i, a := range as {
		if a.User == "" || a.Password == "" {
			return fmt.Errorf("account %d has no user name or no password: give both", i+1)
		}
		if s.byName(a.User) != nil {
			return fmt.Errorf("account %q is given twice", a.User)
		}
		if a.Role == "" {
			a.Role = Administrator
		}
		if privileges(a.Role) == nil {
			return fmt.Errorf("account %q has the role %q; use Administrator, Operator or ReadOnly", a.User, a.Role)
		}
		t := s.accounts[i]
		t.name, t.role, t.enabled = a.User, a.Role, true
		t.setPassword(a.Password)
	}
	return nil
}

func (s *Server) byName(name string) *account {
	if name == "" {
		return nil
	}
	i := slices.IndexFunc(s.accounts, func(a *account) bool { return a.name == name })
	if i < 0 {
		return nil
	}
	return s.accounts[i]
}

// login checks a user name and password. s.mu is held.
func (s *Server) login(name, password string) *account {
	a := s.byName(name)
	var want [32]byte
	if a != nil {
		want = a.hash
	}
	got := hashPassword(password)
	ok := subtle.ConstantTimeCompare(got[:], want[:]) == 1 && !s.refuses()
	if a == nil {
		s.record("manager", "Warning", fmt.Sprintf("Login refused: no user %q.", name))
		return nil
	}
	now := s.now()
	if now.Before(a.until) {
		s.record("manager", "Warning", fmt.Sprintf("Login of %q refused: the account is locked.", name))
		return nil
	}
	if !ok || !a.enabled {
		s.fail(a)
		s.record("manager", "Warning", fmt.Sprintf("Login of %q refused.", name))
		return nil
	}
	a.failures = 0
	return a
}

// fail counts a wrong password, and locks the account at the limit. s.mu is held.
func (s *Server) fail(a *account) {
	a.failures++
	if s.lockout > 0 && a.failures >= s.lockout {
		a.until, a.failures = s.now().Add(s.lockFor), 0
	}
}

// expire ends idle sessions. s.mu is held.
func (s *Server) expire() {
	now := s.now()
	for id, x := range s.sessions {
		if now.Sub(x.used) > s.timeout || x.account.name == "" || !x.account.enabled {
			delete(s.sessions, id)
		}
	}
}

// authenticate finds who sent r: by X-Auth-Token, or by basic authentication
// (DSP0266 §13.3).
func (s *Server) authenticate(r *http.Request) (identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if tok := r.Header.Get("X-Auth-Token"); tok != "" {
		sum := sha256.Sum256([]byte(tok))
		for _, x := range s.sessions {
			want := sha256.Sum256([]byte(x.token))
			if subtle.ConstantTimeCompare(sum[:], want[:]) == 1 {
				x.used = s.now()
				return x.account.identity(x.id), nil
			}
		}
		return identity{}, msgUnauthorized()
	}
	if user, pass, ok := r.BasicAuth(); ok && !s.noBasic {
		if a := s.login(user, pass); a != nil {
			return a.identity(""), nil
		}
	}
	return identity{}, msgUnauthorized()
}

// allowed checks the privilege that res asks for its changes.
func (s *Server) allowed(c *call, res *resource) error {
	has := privileges(c.who.role)
	if res.priv == "" || slices.Contains(has, res.priv) {
		return nil
	}
	// ConfigureSelf: one's own account and sessions.
	if slices.Contains(has, privSelf) {
		if id := c.vars["account"]; id != "" && id == c.who.accountID && c.r.Method == http.MethodPatch {
			return nil
		}
		if id := c.vars["session"]; id != "" {
			s.mu.Lock()
			defer s.mu.Unlock()
			if x := s.sessions[id]; x != nil && x.account.id == c.who.accountID {
				return nil
			}
		}
	}
	return msgPrivilege()
}

// open makes a session for a. s.mu is held.
func (s *Server) open(a *account) (*session, error) {
	s.expire()
	if len(s.sessions) >= s.max {
		return nil, msgSessionLimit()
	}
	s.nextID++
	now := s.now()
	var token [32]byte
	_, _ = rand.Read(token[:]) // it never fails
	x := &session{id: strconv.Itoa(s.nextID), token: hex.EncodeToString(token[:]), account: a, created: now, used: now}
	s.sessions[x.id] = x
	return x, nil
}
