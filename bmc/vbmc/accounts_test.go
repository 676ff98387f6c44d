package vbmc

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *Config) { c.SessionTimeout, c.MaxSessions = 10*time.Minute, 2 })
		login := `{"UserName":"op","Password":"op"}`
		a := s.do("POST", sessionsPath, "", login)
		tok, loc := a.Header.Get("X-Auth-Token"), a.Header.Get("Location")
		if a.StatusCode != 201 || tok == "" || loc != sessionsPath+"/1" || strings.Contains(a.text, tok) {
			t.Fatalf("login = %d, token %q, location %q, %s", a.StatusCode, tok, loc, a.text)
		}
		b := s.do("POST", sessionsPath+"/", "", login)
		if c := s.do("POST", sessionsPath, "", login); c.StatusCode != 503 || c.messageIDs() != "SessionLimitExceeded" {
			t.Errorf("third login = %d %s; want 503", c.StatusCode, c.messageIDs())
		}
		if got := s.do("GET", loc, tok, "").body["UserName"]; got != "op" {
			t.Errorf("session of %v; want op", got)
		}
		if c := s.do("DELETE", loc, "ro:ro", "").StatusCode; c != 403 {
			t.Errorf("another's session deleted = %d; want 403", c)
		}
		if c := s.do("DELETE", loc, tok, "").StatusCode; c != 204 {
			t.Errorf("DELETE of the own session = %d; want 204", c)
		}
		if c := s.do("GET", systemPath, tok, "").StatusCode; c != 401 {
			t.Errorf("GET after logout = %d; want 401", c)
		}
		tok = b.Header.Get("X-Auth-Token")
		for range 3 { // in use: lives on
			time.Sleep(9 * time.Minute)
			if c := s.do("GET", systemPath, tok, "").StatusCode; c != 200 {
				t.Fatalf("GET in a session in use = %d; want 200", c)
			}
		}
		time.Sleep(11 * time.Minute)
		if c := s.do("GET", systemPath, tok, "").StatusCode; c != 401 || s.Sessions() != 0 {
			t.Errorf("GET in an idle session = %d, %d sessions; want 401, 0", c, s.Sessions())
		}
		if c := s.do("PATCH", root+"/SessionService", admin, `{"SessionTimeout":60}`); c.StatusCode != 200 || c.body["SessionTimeout"] != 60.0 {
			t.Errorf("PATCH SessionTimeout = %d %s", c.StatusCode, c.text)
		}
	})
}

func TestLockout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *Config) { c.Lockout, c.LockoutDuration = 3, 5*time.Minute })
		for range 3 {
			s.do("GET", systemPath, "root:no", "")
		}
		if c := s.do("GET", systemPath, admin, "").StatusCode; c != 401 {
			t.Errorf("login of a locked account = %d; want 401", c)
		}
		if c := s.do("GET", systemPath, "op:op", "").StatusCode; c != 200 {
			t.Errorf("another account = %d; want 200", c)
		}
		time.Sleep(6 * time.Minute)
		if c := s.do("GET", systemPath, admin, "").StatusCode; c != 200 {
			t.Errorf("login after the lock = %d; want 200", c)
		}
	})
}

func TestAccounts(t *testing.T) {
	s := newService(t, nil)
	r := s.do("POST", accountsPath, admin, `{"UserName":"tech","Password":"one","RoleId":"Operator"}`)
	loc := r.Header.Get("Location")
	if r.StatusCode != 201 || loc != accountsPath+"/4" || r.body["Password"] != nil {
		t.Fatalf("POST account = %d %s", r.StatusCode, r.text)
	}
	if c := s.do("GET", systemPath, "tech:one", "").StatusCode; c != 200 {
		t.Errorf("login of the new account = %d", c)
	}
	if c := s.do("PATCH", loc, admin, `{"Password":"two","RoleId":"ReadOnly"}`).StatusCode; c != 200 {
		t.Errorf("PATCH account = %d", c)
	}
	if c := s.do("GET", systemPath, "tech:one", "").StatusCode; c != 401 {
		t.Errorf("login by the old password = %d; want 401", c)
	}
	tok := s.do("POST", sessionsPath, "", `{"UserName":"tech","Password":"two"}`).Header.Get("X-Auth-Token")
	if c := s.do("PATCH", loc, admin, `{"Enabled":false}`).StatusCode; c != 200 {
		t.Errorf("PATCH Enabled = %d", c)
	}
	if c := s.do("GET", systemPath, tok, "").StatusCode; c != 401 {
		t.Errorf("session of a disabled account = %d; want 401", c)
	}
	if c := s.do("DELETE", loc, admin, "").StatusCode; c != 204 {
		t.Errorf("DELETE account = %d", c)
	}
	// An empty slot is filled by PATCH, as IPMI-born BMCs have it.
	if c := s.do("PATCH", accountsPath+"/7", admin, `{"UserName":"seven","Password":"7","RoleId":"ReadOnly","Enabled":true}`).StatusCode; c != 200 {
		t.Errorf("PATCH of an empty slot = %d", c)
	}
	if c := s.do("GET", systemPath, "seven:7", "").StatusCode; c != 200 {
		t.Errorf("login of slot 7 = %d", c)
	}
	for i := range accountSlots {
		r = s.do("POST", accountsPath, admin, fmt.Sprintf(`{"UserName":"u%d","Password":"p","RoleId":"ReadOnly"}`, i))
	}
	if r.messageIDs() != "CreateLimitReachedForResource" {
		t.Errorf("one account too many = %d %s", r.StatusCode, r.text)
	}
}
