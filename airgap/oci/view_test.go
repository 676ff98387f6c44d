package oci

import "testing"

func TestFindNeverTakesAnotherRegistrys(t *testing.T) {
	v := &view{repos: map[string]*repo{}, hosts: map[string]bool{}}
	for _, n := range []string{"docker.io/library/nginx", "quay.example.org/team/app", "r.example.org_5000/team/app"} {
		v.repos[n] = newRepo(n)
	}
	for _, h := range []string{"docker.io/", "quay.example.org/", "r.example.org_5000/"} {
		v.hosts[h] = true
	}
	for _, tt := range []struct {
		from       asked
		name, want string
	}{
		{asked{"docker.io", true}, "library/nginx", "docker.io/library/nginx"},
		{asked{"registry-1.docker.io", true}, "library/nginx", "docker.io/library/nginx"},
		{asked{"quay.example.org", true}, "library/nginx", ""},
		{asked{"quay.example.org", false}, "library/nginx", ""},
		{asked{"other.example.org", true}, "team/app", ""},
		{asked{"r.example.org:5000", true}, "team/app", "r.example.org_5000/team/app"},
		{asked{"10.0.0.1:8480", false}, "library/nginx", "docker.io/library/nginx"},
		{asked{"10.0.0.1:8480", false}, "quay.example.org/team/app", "quay.example.org/team/app"},
		{asked{"10.0.0.1:8480", false}, "team/app", ""},
		{asked{}, "library/nginx", "docker.io/library/nginx"},
	} {
		got := ""
		if r := v.find(tt.from, tt.name); r != nil {
			got = r.Name
		}
		if got != tt.want {
			t.Errorf("find(%+v, %s) = %q; want %q", tt.from, tt.name, got, tt.want)
		}
	}
}
