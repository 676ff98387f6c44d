package airgap

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
)

// Login is what an upstream wants to know before it answers. It prints as a
// secret.
type Login struct{ User, Password string }

func (Login) String() string { return "[secret]" }

// Format keeps every verb from showing the secret.
func (l Login) Format(f fmt.State, _ rune) { fmt.Fprint(f, l.String()) }

// LogValue implements slog.LogValuer.
func (l Login) LogValue() slog.Value { return slog.StringValue(l.String()) }

// WithLogins sends each host (HOST or HOST:PORT, as in the address) its login
// (RFC 7617), in a header and to that host alone, over https or on loopback.
func WithLogins(next http.RoundTripper, logins map[string]Login) http.RoundTripper {
	return loggingIn{next, logins}
}

type loggingIn struct {
	next   http.RoundTripper
	logins map[string]Login
}

func (l loggingIn) RoundTrip(r *http.Request) (*http.Response, error) {
	login, ok := l.logins[r.URL.Host]
	if !ok || r.Header.Get("Authorization") != "" {
		return l.next.RoundTrip(r)
	}
	if a, err := netip.ParseAddr(r.URL.Hostname()); r.URL.Scheme != "https" && (err != nil || !a.IsLoopback()) {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, permanent{fmt.Errorf("the site has a secret for %s, and over %s anybody on the way could read it: write https in the mirror's urls", r.URL.Host, r.URL.Scheme)}
	}
	r = r.Clone(r.Context())
	r.SetBasicAuth(login.User, login.Password)
	return l.next.RoundTrip(r)
}
