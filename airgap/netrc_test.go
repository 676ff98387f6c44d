package airgap

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestParseNetrc(t *testing.T) {
	got := ParseNetrc(`# proxies
machine one.example.org login u password p
machine two.example.org
	login "x"
	password y # comment
	account z
macdef init
machine no.example.org login a password b

machine https://three.example.org/deb/main login d password e
machine http://plain.example.org login d password e
machine nothing.example.org
default login everybody password secret
machine last.example.org login l`)
	var s []string
	for _, m := range got {
		s = append(s, m.At+" "+m.Login.User+" "+m.Login.Password)
	}
	want := `one.example.org u p; two.example.org "x" y; three.example.org/deb/main d e; last.example.org l `
	if g := strings.Join(s, "; "); g != want {
		t.Errorf("ParseNetrc = %s; want %s", g, want)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if p := fmt.Sprintf(verb, got[0]); strings.Contains(p, " u") || strings.Contains(p, "\"p\"") {
			t.Errorf("a login prints as %s", p)
		}
	}
}

// sent is a transport that keeps what it was to send.
type sent struct{ auth string }

func (s *sent) RoundTrip(r *http.Request) (*http.Response, error) {
	s.auth = r.Header.Get("Authorization")
	return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
}

func TestWithMachineLogins(t *testing.T) {
	logins := []MachineLogin{{At: "a.example.org", Login: Login{"u", "p"}}, {At: "a.example.org/npm", Token: "tok"}, {At: "127.0.0.1", Login: Login{"l", "l"}}, {At: "b.example.org:8443/", Token: "port"}}
	for _, tt := range []struct{ url, want string }{
		{"https://a.example.org/x", "Basic dTpw"},
		{"https://a.example.org/npm/pkg", "Bearer tok"},
		{"https://a.example.org/npmx", "Basic dTpw"},
		{"http://a.example.org/x", ""},
		{"https://evil.example.org/a.example.org", ""},
		{"http://127.0.0.1:99/x", "Basic bDps"},
		{"https://b.example.org:8443/x", "Bearer port"},
		{"https://b.example.org/x", ""},
	} {
		s := &sent{}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := WithMachineLogins(s, logins).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if s.auth != tt.want {
			t.Errorf("to %s was sent %q; want %q", tt.url, s.auth, tt.want)
		}
	}
}

func FuzzNetrc(f *testing.F) {
	f.Add("machine a login b password c\nmacdef x\n\nmachine d/e token")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range ParseNetrc(text) {
			if m.At == "" {
				t.Errorf("ParseNetrc gave a login for nobody: %v", m)
			}
		}
	})
}
