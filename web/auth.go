package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Role says how much an identity may do. Each includes the ones before it.
type Role string

// The roles.
const (
	RoleViewer   Role = "viewer"   // sees everything, changes nothing
	RoleOperator Role = "operator" // deploys and inspects
	RoleAdmin    Role = "admin"    // and frees addresses
)

func (r Role) rank() int {
	switch r {
	case RoleViewer:
		return 1
	case RoleOperator:
		return 2
	case RoleAdmin:
		return 3
	default:
		return 0
	}
}

func (r Role) includes(other Role) bool { return r.rank() >= other.rank() && r.rank() > 0 }

// Identity is who asks.
type Identity struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
}

// Actor is the identity as events name it.
func (i Identity) Actor() string { return "user:" + i.Name }

// ErrNobody says that a request does not prove who makes it.
var ErrNobody = errors.New("the request carries no valid token")

func forbidden(who Identity, needed Role) error {
	return problem(http.StatusForbidden, fmt.Sprintf("ask for a token with the role %s", needed),
		"%s has the role %s, and this needs %s", who.Name, who.Role, needed)
}

type (
	identityKey struct{}
	peerKey     struct{}
)

// identity is who makes r, as guard found it.
func identity(r *http.Request) Identity {
	who, _ := r.Context().Value(identityKey{}).(Identity)
	return who
}

// ConnContext is for http.Server.ConnContext: it remembers who is at the other
// end of a Unix socket (SO_PEERCRED, unix(7)).
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || credErr != nil {
		return ctx
	}
	uid := strconv.FormatUint(uint64(cred.Uid), 10)
	name := "uid-" + uid
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	return context.WithValue(ctx, peerKey{}, Identity{Name: name, Role: RoleAdmin})
}

// Authenticator tells who makes a request: whoever may open fettle's Unix
// socket is an admin under the own login name, everybody else needs a token, in
// the Authorization header (RFC 6750 section 2.1) or in the pages' cookie.
// tokens may be nil: then there are none.
func Authenticator(tokens *Tokens) func(*http.Request) (Identity, error) {
	return func(r *http.Request) (Identity, error) {
		if who, ok := r.Context().Value(peerKey{}).(Identity); ok {
			return who, nil
		}
		secret := ""
		if scheme, rest, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
			secret = strings.TrimSpace(rest)
		} else if c, err := r.Cookie(cookieName); err == nil {
			secret = c.Value
		}
		if secret == "" || tokens == nil {
			return Identity{}, ErrNobody
		}
		return tokens.Identify(secret)
	}
}
