package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/oci"
	"github.com/fettle-dev/fettle/site"
)

// registryPush is the secret with who may push images: USER:PASSWORD, a line
// for each.
const registryPush = "registry-push"

func pushFlag() cli.Flag {
	return &cli.StringFlag{Name: "push", Value: "secret", Usage: "who may push images: secret (the users of the secret " + registryPush + ", nobody without it), anyone, nobody"}
}

// mirrorAnswers answers for a store: images below /v2/, all else as files.
func mirrorAnswers(s *airgap.Store, reg *oci.Registry, log *slog.Logger) http.Handler {
	files := airgap.NewHandler(s, log, mirrorFormats("")...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") {
			reg.ServeHTTP(w, r)
			return
		}
		files.ServeHTTP(w, r)
	})
}

// pushers are who may push, as --push says.
func (e *env) pushers(c *cli.Context) (*oci.Pushers, error) {
	switch v := c.String("push"); v {
	case "nobody":
		return nil, nil
	case "anyone":
		return &oci.Pushers{Anyone: true}, nil
	case "secret":
		if _, err := os.Stat(filepath.Join(c.String("site"), "secrets.age")); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		secrets, err := e.openSecrets(c)
		if err != nil {
			return nil, err
		}
		return pushSecret(secrets)
	default:
		return nil, usage("--push is secret, anyone or nobody, not %q", v)
	}
}

// pushSecret are who may push by the secret; nil when there is none.
func pushSecret(secrets *site.Secrets) (*oci.Pushers, error) {
	names, err := secrets.List()
	if err != nil {
		return nil, fail(exitInput, err)
	}
	if !slices.Contains(names, registryPush) {
		return nil, nil
	}
	v, err := secrets.Get(registryPush)
	if err != nil {
		return nil, fail(exitInput, err)
	}
	p, err := oci.ParsePushers(v.Reveal())
	if err != nil {
		return nil, fail(exitInput, fmt.Errorf("secret %s: %w", registryPush, err))
	}
	return p, nil
}

// useLogins lets a syncer log in to the upstreams of a site's mirrors that want
// that: to registries of images with their tokens, to others by HTTP's own way.
func (e *env) useLogins(c *cli.Context, s *site.Site, sy *airgap.Syncer) error {
	registries, hosts := map[string]airgap.Login{}, map[string]airgap.Login{}
	var secrets *site.Secrets
	for _, m := range s.Mirrors {
		if m.Secret == "" {
			continue
		}
		if secrets == nil {
			var err error
			if secrets, err = e.openSecrets(c); err != nil {
				return err
			}
		}
		v, err := secrets.Get(m.Secret)
		if err != nil {
			return fail(exitInput, fmt.Errorf("mirror %s: %w", m.Name, err))
		}
		user, password, ok := strings.Cut(strings.TrimSpace(v.Reveal()), ":")
		if !ok {
			return fail(exitInput, fmt.Errorf("mirror %s: secret %s is not USER:PASSWORD", m.Name, m.Secret))
		}
		add := func(to map[string]airgap.Login, host string) error {
			if old, ok := to[host]; ok && old != (airgap.Login{User: user, Password: password}) {
				return fail(exitInput, fmt.Errorf("mirror %s: another mirror has another secret for %s", m.Name, host))
			}
			to[host] = airgap.Login{User: user, Password: password}
			return nil
		}
		for _, image := range m.Images {
			host, _, _ := strings.Cut(image, "/")
			if err := add(registries, host); err != nil {
				return err
			}
		}
		if m.Format == "oci" {
			continue
		}
		addresses := m.URLs
		for _, f := range m.Files {
			addresses = append(slices.Clone(addresses), f.URL)
		}
		if len(addresses) == 0 {
			return fail(exitInput, fmt.Errorf("mirror %s: it has a secret and no urls: to whom is it to be told?", m.Name))
		}
		for _, a := range addresses {
			u, err := url.Parse(a)
			if err != nil {
				return fail(exitInput, fmt.Errorf("mirror %s: %w", m.Name, err))
			}
			if err := add(hosts, u.Host); err != nil {
				return err
			}
		}
	}
	tokens := func(next http.RoundTripper) http.RoundTripper { return next }
	for _, f := range sy.Formats {
		if f, ok := f.(*oci.Format); ok {
			f.Login = func(host string) (string, string, bool) {
				l, ok := registries[host]
				return l.User, l.Password, ok
			}
			tokens = f.Transport
		}
	}
	machine := e.machineLogins()
	sy.Fetch.Wrap = func(next http.RoundTripper) http.RoundTripper {
		return tokens(airgap.WithLogins(airgap.WithMachineLogins(next, machine), hosts))
	}
	return nil
}
