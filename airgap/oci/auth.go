package oci

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// authorizer keeps what registries gave for a repository: a transport with its
// token or its password.
type authorizer struct {
	mu  sync.Mutex
	all map[string]*authorized
}

type authorized struct {
	mu sync.Mutex
	rt http.RoundTripper // nil: the repository has not asked for anything yet
}

func (a *authorizer) at(key string) *authorized {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[string]*authorized{}
	}
	if a.all[key] == nil {
		a.all[key] = &authorized{}
	}
	return a.all[key]
}

// Transport is base for everything but requests to registries, for which it
// asks for tokens as they want: airgap.Fetcher.Wrap.
func (f *Format) Transport(base http.RoundTripper) http.RoundTripper {
	return &registryTransport{f, base}
}

type registryTransport struct {
	f    *Format
	base http.RoundTripper
}

var manifestTypes = strings.Join([]string{typeIndex, typeImage, typeDockerList, typeDocker}, ", ")

// RoundTrip implements http.RoundTripper. A registry that wants a token says so
// to the first request, which is then made again.
func (t *registryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	rt, err := parseRoute(req.URL.Path)
	if err != nil || rt.name == "" || req.Method != http.MethodGet && req.Method != http.MethodHead {
		return t.base.RoundTrip(req)
	}
	if rt.what == "manifest" && req.Header.Get("Accept") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("Accept", manifestTypes)
	}
	a := t.f.auth.at(req.URL.Scheme + "://" + req.URL.Host + "/" + rt.name)
	a.mu.Lock()
	with := a.rt
	a.mu.Unlock()
	if with != nil {
		return with.RoundTrip(req.Clone(req.Context()))
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	resp.Body.Close()
	if with, err = t.login(req, a, rt.name); err != nil {
		return nil, err
	}
	return with.RoundTrip(req.Clone(req.Context()))
}

func (t *registryTransport) login(req *http.Request, a *authorized, repo string) (http.RoundTripper, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rt != nil {
		return a.rt, nil
	}
	opts := []name.Option{name.StrictValidation}
	if req.URL.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(req.URL.Host, opts...)
	if err != nil {
		return nil, err
	}
	auth, err := t.f.login(req.URL.Host, reg)
	if err != nil {
		return nil, fmt.Errorf("reading the password for %s: %w", req.URL.Host, err)
	}
	rt, err := transport.NewWithContext(req.Context(), reg, auth, &sameScheme{t.base, req.URL.Scheme}, []string{reg.Repo(repo).Scope(transport.PullScope)})
	if err != nil {
		return nil, fmt.Errorf("logging in to %s for %s: %w", req.URL.Host, repo, err)
	}
	a.rt = rt
	return rt, nil
}

// login is the site's own password for a registry, or this machine's.
func (f *Format) login(host string, reg name.Registry) (authn.Authenticator, error) {
	if f.Login != nil {
		names := []string{host}
		if host == "registry-1.docker.io" {
			names = []string{"docker.io", "index.docker.io", host}
		}
		for _, n := range names {
			if user, password, ok := f.Login(n); ok {
				return authn.FromConfig(authn.AuthConfig{Username: user, Password: password}), nil
			}
		}
	}
	if host == "registry-1.docker.io" {
		var err error
		if reg, err = name.NewRegistry(name.DefaultRegistry); err != nil {
			return nil, err
		}
	}
	return authn.DefaultKeychain.Resolve(reg)
}

// sameScheme keeps the library from trying plain HTTP where a registry does not
// answer over HTTPS, which it does for private addresses: a password would be
// sent in the clear.
type sameScheme struct {
	base   http.RoundTripper
	scheme string
}

func (s *sameScheme) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != s.scheme && req.URL.Scheme != "https" {
		return nil, fmt.Errorf("plain HTTP to %s is not what the site says: if it is right, add http://%s to the mirror's urls", req.URL.Host, req.URL.Host)
	}
	return s.base.RoundTrip(req)
}
