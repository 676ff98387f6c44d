package images

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/site"
)

// Need is a Debian package that machines of a site need.
type Need struct {
	Suite      string
	Components []string
	Arch       string
	Package    string // or "priority:NAME"
	Why        string
}

// NeededRelease is a release that machines of a site need.
type NeededRelease struct{ Name, Why string }

// Needs are the packages and the releases that machines need to be installed
// and kept up to date: what their images are made of, what their profiles add,
// and what the images' own bootstrap takes. Machines without a profile are only
// inspected. host tells what os: host means.
func Needs(s *site.Site, machines []site.Machine, host func() (Host, error)) ([]Need, []NeededRelease, error) {
	byProfile, archs := map[string][]string{}, map[string][]string{}
	for _, m := range machines {
		arch := cmp.Or(m.Arch, amd64)
		archs[arch] = append(archs[arch], m.Name)
		if m.Profile != "" {
			byProfile[m.Profile] = append(byProfile[m.Profile], m.Name)
		}
	}
	if len(archs) == 0 {
		archs[amd64] = nil // for machines that nobody knows yet
	}
	var releases []NeededRelease
	for _, arch := range sortedKeys(archs) {
		why := "every machine"
		if len(archs) > 1 {
			why = "machines of " + arch + " (" + someOf(archs[arch]) + ")"
		}
		releases = append(releases, NeededRelease{AgentName(arch), why}, NeededRelease{LoadersName(arch), why})
	}
	var out []Need
	for _, prof := range s.Profiles {
		names := byProfile[prof.Name]
		if len(names) == 0 {
			continue
		}
		spec, err := SpecFor(s, prof)
		if err != nil {
			return nil, nil, err
		}
		if spec.OS == site.OSHost {
			h, err := host()
			if err != nil {
				return nil, nil, fmt.Errorf("image %s: %w", prof.Image, err)
			}
			spec = spec.onHost(h)
		}
		img, _ := s.Image(prof.Image)
		profile := fmt.Sprintf("profile %s (%s)", prof.Name, someOf(names))
		image := fmt.Sprintf("image %s of %s", img.Name, profile)
		releases = addRelease(releases, NeededRelease{spec.Name, image})
		for _, p := range append([]string{"priority:required", "apt"}, spec.include()...) {
			why := image
			if slices.Contains(prof.Packages, p) && !slices.Contains(img.Packages, p) {
				why = profile
			}
			out = append(out, Need{spec.Suite, spec.Components, spec.Arch, p, why})
		}
	}
	return out, releases, nil
}

func addRelease(all []NeededRelease, r NeededRelease) []NeededRelease {
	for i := range all {
		if all[i].Name == r.Name {
			all[i].Why += "; " + r.Why
			return all
		}
	}
	return append(all, r)
}

// someOf names a few.
func someOf(names []string) string {
	const most = 4
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
