package bmc

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// TestChangePassword changes a password by both protocols of a virtual BMC and
// shows by fresh logins that the new one opens and the old one does not.
func TestChangePassword(t *testing.T) {
	matrix.Test(t, "fettle, both", "password changed")
	r := newIPMIRig(t, vbmc.Config{})
	web := httptest.NewTLSServer(r.bmc)
	t.Cleanup(web.Close)
	redfish := r.Target
	redfish.Protocol, redfish.Address, redfish.Insecure = Redfish, netip.MustParseAddrPort(web.Listener.Addr().String()), true
	for _, target := range []Target{r.Target, redfish} {
		t.Run(string(target.Protocol), func(t *testing.T) {
			c, err := Open(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			as, err := c.Accounts(t.Context())
			if err != nil || len(as) != 3 || as[0].User != "root" || as[0].Role != "Administrator" || !as[0].Enabled || as[2].User != "view" {
				t.Fatalf("Accounts() = %+v, %v; want root, oper and view", as, err)
			}
			if err := c.ChangePassword(t.Context(), "nobody", "Abcd-1234"); !errors.Is(err, ErrNoAccount) || !strings.Contains(err.Error(), "oper") {
				t.Errorf("ChangePassword(nobody) = %v; want ErrNoAccount, which names those there are", err)
			}
			if err := c.ChangePassword(t.Context(), "root", Password(strings.Repeat("x", 21))); err == nil {
				t.Error("ChangePassword() with 21 characters = nil; want an error: IPMI carries 20")
			}
			for _, next := range []Password{"Other-pass-9", target.Password} {
				if err := c.ChangePassword(t.Context(), "root", next); err != nil {
					t.Fatal(err)
				}
				fresh := target
				fresh.Password = next
				f, err := Open(t.Context(), fresh)
				if err != nil {
					t.Fatalf("Open() with the new password = %v", err)
				}
				f.Close(t.Context())
				fresh.Password = "Other-pass-9"
				if next == fresh.Password {
					fresh.Password = target.Password
				}
				if f, err := Open(t.Context(), fresh); !errors.Is(err, ErrPassword) {
					if err == nil {
						f.Close(t.Context())
					}
					t.Errorf("Open() with the old password = %v; want ErrPassword", err)
				}
			}
		})
	}
}

// TestPasswordMustChange is a BMC that opens a session and allows nothing in it
// but a change of the password, as OpenBMC does with the one of the factory.
func TestPasswordMustChange(t *testing.T) {
	r := newRig(t)
	changed := ""
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		switch {
		case q.Method == http.MethodPost && strings.HasSuffix(q.URL.Path, "/Sessions"):
			w.Header().Set("X-Auth-Token", "t1")
			w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/1")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"@odata.id":"/redfish/v1/SessionService/Sessions/1","@Message.ExtendedInfo":[{"MessageId":"Base.1.16.PasswordChangeRequired","MessageArgs":["/redfish/v1/AccountService/Accounts/root"]}]}`)
		case q.Method == http.MethodPatch && q.URL.Path == "/redfish/v1/AccountService/Accounts/root":
			b := make([]byte, 200)
			n, _ := q.Body.Read(b)
			changed = string(b[:n])
			w.WriteHeader(http.StatusNoContent)
		case q.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case q.URL.Path == "/redfish/v1/", q.URL.Path == "/redfish/v1":
			return false
		default:
			http.Error(w, `{"error":{"code":"Base.1.16.InsufficientPrivilege"}}`, http.StatusForbidden)
		}
		return true
	})
	c := r.open(t)
	if !c.MustChangePassword() {
		t.Error("MustChangePassword() = false; want true")
	}
	if err := c.ChangePassword(t.Context(), "root", "New-pass-12345"); err != nil {
		t.Fatal(err)
	}
	if want := `{"Password":"New-pass-12345"}`; strings.TrimSpace(changed) != want {
		t.Errorf("the BMC was sent %s; want %s", changed, want)
	}
}

// TestRefusedPassword is not told in an error, though the BMC quotes it.
func TestRefusedPassword(t *testing.T) {
	for status, want := range map[int]error{http.StatusBadRequest: ErrPasswordRefused, http.StatusConflict: nil, http.StatusInternalServerError: nil} {
		r := newRig(t)
		c := r.open(t)
		r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
			if q.Method != http.MethodPatch {
				return false
			}
			http.Error(w, `{"error":{"code":"Base.1.8.PropertyValueFormatError","message":"The value Weak-9 for Password is refused."}}`, status)
			return true
		})
		err := c.ChangePassword(t.Context(), "root", "Weak-9")
		if err == nil || want != nil && !errors.Is(err, want) || want == nil && errors.Is(err, ErrPasswordRefused) ||
			strings.Contains(err.Error(), "Weak-9") || !strings.Contains(err.Error(), secret) {
			t.Errorf("ChangePassword() refused with %d = %v; want %v, with the BMC's words and without the password", status, err, want)
		}
	}
}

func TestNewPassword(t *testing.T) {
	seen := map[Password]bool{}
	for range 200 {
		p, err := NewPassword()
		if err != nil {
			t.Fatal(err)
		}
		s := string(p)
		for _, class := range []string{lowerLetters, upperLetters, digits, signs} {
			if !strings.ContainsAny(s, class) {
				t.Errorf("a new password has none of %q", class)
			}
		}
		for i := 1; i < len(s); i++ {
			if d := int(s[i]) - int(s[i-1]); d >= -1 && d <= 1 {
				t.Errorf("a new password has the neighbours %q", s[i-1:i+1])
			}
		}
		if len(s) != newLength || seen[p] || strings.ContainsAny(s, ":lIO01 ") {
			t.Errorf("a new password has %d characters, came before (%v), or has one that looks like another", len(s), seen[p])
		}
		seen[p] = true
	}
}

// TestPin: another certificate than the pinned one is refused before a password
// is sent, and the error says what was expected, what came and what to do.
func TestPin(t *testing.T) {
	r := newRig(t)
	target := r.target()
	target.Fingerprint, target.RootCAs = strings.Repeat("ab", 32), nil
	_, err := Open(t.Context(), target)
	if err == nil || r.count() != 0 {
		t.Fatalf("Open() with another pin = %v after %d requests; want an error before any", err, r.count())
	}
	a, ok := Probe(t.Context(), target.Address.Addr(), ProbeOptions{Timeout: 20 * time.Second, Dial: dialOnly(target.Address, netip.AddrPort{})})
	if !ok {
		t.Fatal("Probe() found nothing")
	}
	for _, want := range []string{target.Fingerprint, a.Fingerprint, "bmc.fingerprint", "another"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Open() with another pin = %v; want %q in it", err, want)
		}
	}
	target.Fingerprint = a.Fingerprint
	c, err := Open(t.Context(), target)
	if err != nil {
		t.Fatalf("Open() with the probed fingerprint = %v", err)
	}
	c.Close(t.Context())
}
