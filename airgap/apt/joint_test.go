package apt

import (
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

// What a package of one mirror needs of another is taken there; releases of a
// distribution are kept apart.
func TestResolveAll(t *testing.T) {
	base := deb{name: "base-files", version: "12", arch: "amd64", extra: "Priority: required\n"}
	distribution := []suiteSpec{
		{name: "alpha", date: now, byHash: true, debs: []deb{base,
			{name: "apt", version: "1", arch: "amd64", depends: "libc (>= 1), usrmerge | usr-is-merged", extra: "Priority: important\n"},
			{name: "usrmerge", version: "1", arch: "all"},
			{name: "usr-is-merged", version: "1", arch: "all"},
			{name: "libc", version: "1", arch: "amd64"},
			{name: "cron", version: "1", arch: "amd64", provides: "scheduler"},
			{name: "tool", version: "1", arch: "amd64"},
		}},
		{name: "alpha-security", date: now, debs: []deb{{name: "libc", version: "1.1", arch: "amd64"}}},
		{name: "alpha-backports", date: now, head: "NotAutomatic: yes\nButAutomaticUpgrades: yes\n",
			debs: []deb{{name: "tool", version: "9", arch: "amd64"}, {name: "newer", version: "9", arch: "amd64"}}},
		{name: "beta", date: now, debs: []deb{{name: "base-files", version: "13", arch: "amd64", extra: "Priority: required\n"},
			{name: "libc", version: "2", arch: "amd64"}, {name: "apt", version: "2", arch: "amd64", depends: "libc (>= 2)", extra: "Priority: important\n"}}},
	}
	vendor := suiteSpec{name: "stable", date: now, debs: []deb{
		{name: "driver", version: "5", arch: "amd64", depends: "libc, scheduler, absent | tool"},
		{name: "newest", version: "5", arch: "amd64", depends: "libc (>= 2)"},
		{name: "lost", version: "5", arch: "amd64", depends: "absent"},
	}}
	a, b := newArchive(t), newArchive(t)
	for _, s := range distribution {
		a.publish(s)
	}
	b.publish(vendor)
	for _, tt := range []struct {
		name   string
		change func(dist, vendor *airgap.Mirror)
		dist   []string
		vendor []string
		err    string
	}{
		{"across mirrors", func(d, v *airgap.Mirror) {
			d.Suites, d.Packages, v.Packages = []string{"alpha", "alpha-security"}, []string{"base-files"}, []string{"driver"}
		}, []string{"base-files 12", "cron 1", "libc 1.1", "tool 1"}, []string{"driver 5"}, ""},
		{"the other mirror is whole", func(d, v *airgap.Mirror) {
			d.Suites, v.Packages = []string{"alpha-security", "alpha"}, []string{"driver"}
		}, []string{"apt 1", "base-files 12", "cron 1", "libc 1", "libc 1.1", "tool 1", "usr-is-merged 1", "usrmerge 1"}, []string{"driver 5"}, ""},
		{"backports only where nothing else is", func(d, v *airgap.Mirror) {
			d.Suites, d.Packages, v.Packages = []string{"alpha", "alpha-backports"}, []string{"base-files", "tool", "newer"}, []string{"driver"}
		}, []string{"base-files 12", "cron 1", "libc 1", "newer 9", "tool 1"}, []string{"driver 5"}, ""},
		{"two releases", func(d, v *airgap.Mirror) {
			d.Suites, d.Packages, v.Packages = []string{"alpha", "beta"}, []string{"base-files", "apt"}, []string{"newest"}
		}, nil, nil, "newest 5 needs libc (>= 2)"},
		{"a need is taken where it is", func(d, v *airgap.Mirror) {
			d.Suites, d.Needs, v.Packages = []string{"alpha"}, []airgap.Need{{Name: "driver", Why: "profile train"}}, []string{"driver"}
		}, []string{"cron 1", "libc 1", "tool 1"}, []string{"driver 5"}, ""},
		{"debootstrap's own versions", func(d, v *airgap.Mirror) {
			d.Suites, d.Packages, d.Bootstrap, v.Packages = []string{"alpha", "alpha-security"}, []string{"libc"}, true, []string{"driver"}
		}, []string{"apt 1", "base-files 12", "cron 1", "libc 1", "libc 1.1", "tool 1", "usr-is-merged 1", "usrmerge 1"}, []string{"driver 5"}, ""},
		{"a need that is nowhere", func(d, v *airgap.Mirror) {
			d.Suites, d.Needs, v.Packages = []string{"alpha"}, []airgap.Need{{Name: "none", Why: "profile train"}}, []string{"driver"}
		}, nil, nil, "needed by: profile train"},
		{"a dependency that is nowhere", func(d, v *airgap.Mirror) {
			d.Suites, d.Packages, v.Packages = []string{"alpha"}, []string{"base-files"}, []string{"lost"}
		}, nil, nil, "lost 5 needs absent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, v := a.mirror(nil), b.mirror([]string{"stable"})
			d.Name, v.Name = "dist", "vendor"
			tt.change(&d, &v)
			s := syncer(t)
			lock, err := s.Resolve(t.Context(), []airgap.Mirror{d, v}, airgap.Lock{})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("Resolve = %v; want an error with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range [][]string{tt.dist, tt.vendor} {
				got := packagesOf(airgap.Lock{Mirrors: lock.Mirrors[i : i+1]})
				if !slices.Equal(got, want) {
					t.Errorf("%s has %v; want %v", lock.Mirrors[i].Name, got, want)
				}
			}
			// What one mirror holds depends on what the other is asked for.
			v.Packages = []string{"newest"}
			if _, err := s.Resolve(t.Context(), []airgap.Mirror{d, v}, lock); err == nil {
				t.Error("Resolve with an unsatisfiable package in the other mirror = nil; want an error")
			}
		})
	}
}
