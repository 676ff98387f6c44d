package oci

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// tokenLife is how long a token is good for. Clients ask again when it is not.
const tokenLife = 15 * time.Minute

// Pushers says who may push: anyone, or who knows the password of a user.
type Pushers struct {
	Anyone bool
	Users  map[string]string // passwords by user
}

// ParsePushers reads lines of USER:PASSWORD, the form of a secret.
func ParsePushers(text string) (*Pushers, error) {
	p := &Pushers{Users: map[string]string{}}
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		user, password, ok := strings.Cut(line, ":")
		if !ok || user == "" || password == "" {
			return nil, fmt.Errorf("who may push to the registry: write USER:PASSWORD, a line for each")
		}
		p.Users[user] = password
	}
	if len(p.Users) == 0 {
		return nil, fmt.Errorf("who may push to the registry: there is no line USER:PASSWORD")
	}
	return p, nil
}

// check compares without telling by its time how much was right.
func (p *Pushers) check(user, password string) bool {
	want, known := p.Users[user]
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && known
}

// tokens makes and reads bearer tokens, which only this process knows.
type tokens struct {
	key [32]byte
	now func() time.Time
}

func newTokens(now func() time.Time) *tokens {
	t := &tokens{now: now}
	_, _ = rand.Read(t.key[:]) // never fails: crypto/rand
	return t
}

func (t *tokens) sign(text string) string {
	m := hmac.New(sha256.New, t.key[:])
	m.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// make is a token of a user; "" is somebody who only pulls.
func (t *tokens) make(user string) string {
	text := strconv.FormatInt(t.now().Add(tokenLife).Unix(), 10) + "." + base64.RawURLEncoding.EncodeToString([]byte(user))
	return text + "." + t.sign(text)
}

func (t *tokens) read(token string) (user string, ok bool) {
	i := strings.LastIndex(token, ".")
	if i < 0 || !hmac.Equal([]byte(token[i+1:]), []byte(t.sign(token[:i]))) {
		return "", false
	}
	until, name, _ := strings.Cut(token[:i], ".")
	end, err := strconv.ParseInt(until, 10, 64)
	if err != nil || t.now().Unix() >= end {
		return "", false
	}
	b, err := base64.RawURLEncoding.DecodeString(name)
	return string(b), err == nil
}

// who is the user of a request; "" with ok is one who only pulls.
func (g *Registry) who(r *http.Request) (user string, ok bool) {
	if user, password, found := r.BasicAuth(); found {
		return user, g.opts.Push.check(user, password)
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return "", false
	}
	return g.token.read(strings.TrimSpace(token))
}

// challenge says where tokens are: distribution-spec's token authentication,
// as Docker's clients know it.
func (g *Registry) challenge(w http.ResponseWriter, r *http.Request, rt route) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	c := fmt.Sprintf(`Bearer realm="%s://%s/v2/token",service="fettle"`, scheme, strings.Map(func(c rune) rune {
		if c == '"' || c == '\\' {
			return -1
		}
		return c
	}, r.Host))
	if rt.name != "" {
		c += fmt.Sprintf(`,scope="repository:%s:pull,push"`, rt.name)
	}
	w.Header().Set("WWW-Authenticate", c)
}

// mayPush refuses who may not change anything.
func (g *Registry) mayPush(w http.ResponseWriter, r *http.Request, rt route) error {
	switch {
	case g.opts.Push == nil:
		return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry takes no images: it is served without a secret for pushing")
	case g.alone == nil:
		return refuse(http.StatusServiceUnavailable, "DENIED", "another fettle takes what is pushed to this store")
	case g.opts.Push.Anyone:
		return nil
	case r.TLS == nil && !loopback(r.RemoteAddr):
		return refuse(http.StatusForbidden, "DENIED", "push over HTTPS: the password would be sent in the clear")
	}
	user, ok := g.who(r)
	if !ok || user == "" {
		g.challenge(w, r, rt)
		return refuse(http.StatusUnauthorized, "UNAUTHORIZED", "pushing takes a name and a password")
	}
	return nil
}

// giveToken answers /v2/token: a token for pulling to everyone, one for pushing
// to users.
func (g *Registry) giveToken(w http.ResponseWriter, r *http.Request, _ route) error {
	if g.opts.Push == nil || g.opts.Push.Anyone {
		return refuse(http.StatusNotFound, "UNSUPPORTED", "this registry asks for no tokens")
	}
	user, password, _ := r.BasicAuth()
	if user != "" && !g.opts.Push.check(user, password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="fettle"`)
		return refuse(http.StatusUnauthorized, "UNAUTHORIZED", "the name or the password is wrong")
	}
	t := g.token.make(user)
	w.Header().Set("Cache-Control", "no-store")
	g.json(w, r, http.StatusOK, map[string]any{"token": t, "access_token": t, "expires_in": int(tokenLife.Seconds()),
		"issued_at": g.now().UTC().Format(time.RFC3339)}, "application/json")
	return nil
}
