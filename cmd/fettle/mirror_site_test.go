package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/images"
)

func TestAddNeeds(t *testing.T) {
	needs := []images.Need{
		{Suite: "alpha", Components: []string{"main"}, Arch: "amd64", Package: "tool", Why: "profile a"},
		{Suite: "alpha", Components: []string{"main"}, Arch: "amd64", Package: "tool", Why: "profile b"},
		{Suite: "alpha", Components: []string{"main"}, Arch: "arm64", Package: "apt", Why: "profile b"},
	}
	host := func() ([]string, error) { return []string{"alpha", "alpha-security", "beta"}, nil }
	t.Run("into the site's mirror", func(t *testing.T) {
		in := []airgap.Mirror{{Name: "other", Format: "apt", Suites: []string{"beta"}}, {Name: "debian", Format: "apt", Suites: []string{"alpha"}, Archs: []string{"amd64"}}}
		got, err := addNeeds(in, needs, host)
		if err != nil || len(got) != 2 {
			t.Fatalf("addNeeds = %v, %v; want two mirrors", got, err)
		}
		m := got[1]
		if !m.Bootstrap || m.Whole() || !slices.Equal(m.Archs, []string{"amd64", "arm64"}) || !slices.Equal(m.Needs, []airgap.Need{{Name: "tool", Why: "profile a; profile b"}, {Name: "apt", Why: "profile b"}}) {
			t.Errorf("mirror = %+v", m)
		}
		if len(in[1].Needs) != 0 || len(in[1].Archs) != 1 || len(got[0].Needs) != 0 {
			t.Errorf("addNeeds changed what it was given: %+v, or the other mirror: %+v", in[1], got[0])
		}
	})
	t.Run("of the machine's own sources", func(t *testing.T) {
		got, err := addNeeds(nil, needs, host)
		if err != nil || len(got) != 1 {
			t.Fatalf("addNeeds = %v, %v; want a mirror", got, err)
		}
		if m := got[0]; m.Name != "site-alpha" || !slices.Equal(m.Suites, []string{"alpha", "alpha-security"}) || !slices.Equal(m.Components, []string{"main"}) {
			t.Errorf("mirror = %+v", m)
		}
	})
	t.Run("nowhere", func(t *testing.T) {
		_, err := addNeeds(nil, []images.Need{{Suite: "gamma", Package: "tool", Why: "profile c"}}, host)
		if err == nil || !strings.Contains(err.Error(), "profile c needs the suite gamma") {
			t.Errorf("addNeeds = %v; want an error that names the suite and what needs it", err)
		}
	})
}
