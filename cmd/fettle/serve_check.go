package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/site"
)

// lacks are sentences about what the site's machines need and this server has
// not: it serves all the same, because addresses and inspection may not wait
// for an image, and what is missing can come while it runs.
func (s *services) lacks(ctx context.Context) ([]string, error) {
	var out []string
	have := func(name string) (bool, error) {
		_, ok, err := s.images.Latest(ctx, name)
		return ok, err
	}
	now := s.site()
	archs := site.Archs(now.Machines, now.Images)
	for _, arch := range archs {
		who := "no machine"
		if len(archs) > 1 {
			who = "no " + arch + " machine"
		}
		for _, name := range []string{images.AgentName(arch), images.LoadersName(arch)} {
			ok, err := have(name)
			if err != nil {
				return nil, err
			}
			if !ok {
				out = append(out, fmt.Sprintf("%s can boot from the network: image %s is not built: fettle image build %s", who, name, name))
			}
		}
	}
	unbuilt, secrets := map[string][]string{}, map[string][]string{}
	fix, why := map[string]string{}, map[string]error{}
	for _, m := range now.Machines {
		if prof, ok := now.Profile(m.Profile); ok {
			spec, err := images.SpecFor(now, prof)
			if err != nil {
				return nil, err
			}
			ok, err := have(spec.Name)
			if err != nil {
				return nil, err
			}
			if !ok {
				unbuilt[spec.Name] = append(unbuilt[spec.Name], m.Name)
				fix[spec.Name] = prof.Image
			}
		}
		if _, err := s.target(m); err != nil {
			secrets[m.BMC.Secret] = append(secrets[m.BMC.Secret], m.Name)
			why[m.BMC.Secret] = err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unbuilt)) {
		out = append(out, fmt.Sprintf("%s cannot be deployed: image %s is not built: fettle image build %s", count(unbuilt[name]), name, fix[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		out = append(out, fmt.Sprintf("%s cannot be switched on: %v", count(secrets[name]), why[name]))
	}
	return out, nil
}

// reload reads the site folder again. What is wrong, or what sockets that are
// open already cannot follow, leaves the site as it was.
func (s *services) reload(dir string) (*site.Site, error) {
	next, err := site.Load(dir)
	if err != nil {
		return nil, fmt.Errorf("the site folder has errors:\n%w", err)
	}
	return next, s.sameNetworks(next)
}

// begunRotations tells of BMCs whose change of password was begun and has not
// ended: until it goes on, the site's secret may not open them.
func begunRotations(s *site.Site, secrets *site.Secrets) (out []string) {
	pending, err := secrets.ListPending()
	if err != nil {
		return []string{err.Error()}
	}
	for _, m := range s.Machines {
		if slices.Contains(pending, m.BMC.Secret) {
			out = append(out, fmt.Sprintf("the password of the BMC of %s was being changed when something broke off: fettle bmc users rotate %s goes on", m.Name, m.Name))
		}
	}
	return out
}

// behindSudo adds to an error about root's own identity whose it may be: sudo
// changes the home folder, and with it where the identity is looked for.
func (e *env) behindSudo(c *cli.Context, err error) error {
	name := e.getenv("SUDO_USER")
	if err == nil || name == "" || c.String("identity") != "" || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	u, uerr := user.Lookup(name)
	if uerr != nil {
		return err
	}
	file := filepath.Join(u.HomeDir, ".config", "fettle", "identity.txt")
	if _, serr := os.Stat(file); serr != nil {
		return err
	}
	return fail(exitInput, fmt.Errorf("%w: this is root's; that of %s is there: --identity %s", err, name, file))
}
