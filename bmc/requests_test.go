package bmc

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestPowerRequests counts what a power state costs, by what a BMC can do.
func TestPowerRequests(t *testing.T) {
	systems, expanded := "GET "+systemsPath, "GET "+systemsPath+expandMembers
	for _, tc := range []struct {
		name   string
		before func(w http.ResponseWriter, r *http.Request) bool
		want   []string // after the login and before the logout
	}{
		{"expands", nil, []string{expanded}},
		{"takes no notice of $expand", func(_ http.ResponseWriter, r *http.Request) bool { r.URL.RawQuery = ""; return false }, []string{expanded, "GET " + systemsPath + "/1"}},
		{"refuses $expand", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.RawQuery != "" {
				http.Error(w, "{}", http.StatusNotImplemented)
				return true
			}
			return false
		}, []string{expanded, systems, "GET " + systemsPath + "/1"}},
		{"has its systems elsewhere", func(w http.ResponseWriter, r *http.Request) bool {
			switch r.URL.Path {
			case systemsPath:
				http.NotFound(w, r)
				return true
			case rootPath:
				_, _ = io.WriteString(w, `{"Systems": {"@odata.id": "/redfish/v1/Nodes"}}`)
				return true
			case "/redfish/v1/Nodes":
				r.URL.Path, r.URL.RawQuery = systemsPath, ""
			}
			return false
		}, []string{expanded, systems, "GET " + rootPath, "GET /redfish/v1/Nodes", "GET " + systemsPath + "/1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.intercept(tc.before)
			c := r.open(t)
			for range 2 { // the second time it is known where
				if p, err := c.Power(t.Context()); p != Off || err != nil {
					t.Fatalf("Power() = %v, %v; want off", p, err)
				}
			}
			if err := c.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			got := r.requests[1 : len(r.requests)-1]
			want := append(tc.want, "GET "+systemsPath+"/1")
			if strings.Join(got, ", ") != strings.Join(want, ", ") {
				t.Errorf("requests %q; want %q", got, want)
			}
			if first, last := r.requests[0], r.requests[len(r.requests)-1]; first != "POST "+sessionsPath || !strings.HasPrefix(last, "DELETE "+sessionsPath) {
				t.Errorf("from %s to %s; want login and logout", first, last)
			}
		})
	}
}

// TestLoginElsewhere: a service that has its sessions at another place names it
// in its root.
func TestLoginElsewhere(t *testing.T) {
	for _, tc := range []struct{ name, root string }{
		{"named in the root", `{"Links": {"Sessions": {"@odata.id": "/redfish/v1/Logins"}}}`},
		{"named in the service", `{"SessionService": {"@odata.id": "/redfish/v1/Sess"}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
				switch q.URL.Path {
				case sessionsPath:
					http.NotFound(w, q)
					return true
				case rootPath:
					_, _ = io.WriteString(w, tc.root)
					return true
				case "/redfish/v1/Sess":
					_ = json.NewEncoder(w).Encode(map[string]any{"Sessions": map[string]string{"@odata.id": "/redfish/v1/Logins"}})
					return true
				case "/redfish/v1/Logins":
					q.URL.Path = sessionsPath
				}
				return false
			})
			c := r.open(t)
			if p, err := c.Power(t.Context()); p != Off || err != nil {
				t.Errorf("Power() = %v, %v; want off", p, err)
			}
		})
	}
}

// TestLoginNonsense: a login whose answer cannot be read leaves no session.
func TestLoginNonsense(t *testing.T) {
	r := newRig(t)
	ended := false
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		switch {
		case q.Method == http.MethodPost:
			w.Header().Set("X-Auth-Token", "token")
			w.Header().Set("Location", sessionsPath+"/9")
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, "<html>welcome</html>")
		case q.Method == http.MethodDelete && q.URL.Path == sessionsPath+"/9" && q.Header.Get("X-Auth-Token") == "token":
			ended = true
			w.WriteHeader(http.StatusNoContent)
		}
		return true
	})
	c, err := Open(t.Context(), r.target())
	if err == nil {
		_ = c.Close(t.Context())
	}
	if err == nil || !ended {
		t.Errorf("Open() = %v, session ended %v; want an error and no session", err, ended)
	}
}

// TestTLSSessions: with a cache, a second connection goes on with the first
// one's keys, and a pin holds for it too.
func TestTLSSessions(t *testing.T) {
	r := newRig(t)
	resumed := make(chan bool, 8)
	r.intercept(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPost {
			resumed <- q.TLS.DidResume
		}
		return false
	})
	tg := r.target()
	tg.TLSSessions = tls.NewLRUClientSessionCache(8)
	for i := range 2 {
		c, err := Open(t.Context(), tg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Power(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := <-resumed; got != (i == 1) {
			t.Errorf("connection %d resumed: %v", i+1, got)
		}
	}
	tg.RootCAs, tg.Fingerprint = nil, strings.Repeat("ab", 32)
	if c, err := Open(t.Context(), tg); err == nil {
		_ = c.Close(t.Context())
		t.Error("a resumed connection went past the pin")
	}
}
