package airgap

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// MachineLogin is a login that the machine's own configuration has for an
// upstream.
type MachineLogin struct {
	At    string // HOST or HOST/PATH
	Login Login
	Token string // for Authorization: Bearer, instead of the login (RFC 6750)
}

// String keeps the secrets from being printed.
func (m MachineLogin) String() string { return m.At + " [secret]" }

// GoString does too.
func (m MachineLogin) GoString() string { return m.String() }

// ParseNetrc reads netrc(5), and apt_auth.conf(5), which has paths and schemes
// behind machine as well. What is no entry is passed over: the file is not
// fettle's to judge.
func ParseNetrc(text string) []MachineLogin {
	var words []string
	inMacro := false
	for line := range strings.SplitSeq(text, "\n") {
		if inMacro = inMacro && strings.TrimSpace(line) != ""; inMacro {
			continue
		}
		for _, w := range strings.Fields(line) {
			if strings.HasPrefix(w, "#") {
				break
			}
			if w == "macdef" {
				inMacro = true
				break
			}
			words = append(words, w)
		}
	}
	var out []MachineLogin
	var cur *MachineLogin
	for i := 0; i < len(words); i++ {
		value := func() string {
			if i++; i < len(words) {
				return words[i]
			}
			return ""
		}
		switch words[i] {
		case "machine":
			at := value()
			if strings.HasPrefix(at, "http://") {
				cur = nil // for plain http: never sent
				continue
			}
			out = append(out, MachineLogin{At: strings.TrimPrefix(at, "https://")})
			cur = &out[len(out)-1]
		case "default":
			cur = nil // a login for every host in the world is sent to none
		case "login", "password", "account":
			v := value()
			switch {
			case cur == nil:
			case words[i-1] == "login":
				cur.Login.User = v
			case words[i-1] == "password":
				cur.Login.Password = v
			}
		}
	}
	return slices.DeleteFunc(out, func(m MachineLogin) bool { return m.At == "" || m.Login.User == "" && m.Login.Password == "" })
}

// WithMachineLogins sends upstreams the logins that the machine has for them,
// the one with the longest path first, over https or on loopback only. A
// request that has an Authorization already keeps it.
func WithMachineLogins(next http.RoundTripper, logins []MachineLogin) http.RoundTripper {
	logins = slices.Clone(logins)
	slices.SortStableFunc(logins, func(a, b MachineLogin) int { return cmp.Compare(len(b.At), len(a.At)) })
	return machineLogins{next, logins}
}

type machineLogins struct {
	next   http.RoundTripper
	logins []MachineLogin
}

func (l machineLogins) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := netip.ParseAddr(r.URL.Hostname())
	if r.Header.Get("Authorization") != "" || r.URL.Scheme != "https" && (err != nil || !a.IsLoopback()) {
		return l.next.RoundTrip(r)
	}
	for _, m := range l.logins {
		host, path, _ := strings.Cut(strings.TrimSuffix(m.At, "/"), "/")
		if host != r.URL.Host && host != r.URL.Hostname() {
			continue
		}
		if path = "/" + path; path != "/" && r.URL.Path != path && !strings.HasPrefix(r.URL.Path, path+"/") {
			continue
		}
		r = r.Clone(r.Context())
		if m.Token != "" {
			r.Header.Set("Authorization", "Bearer "+m.Token)
		} else {
			r.SetBasicAuth(m.Login.User, m.Login.Password)
		}
		break
	}
	return l.next.RoundTrip(r)
}
