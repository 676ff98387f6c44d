package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

func TestMachineLogins(t *testing.T) {
	home := t.TempDir()
	for name, text := range map[string]string{
		".netrc": "machine netrc.example.org login u password p\n", "other": "machine other.example.org login u password p\n",
		".npmrc": "//npm.example.org/:_authToken=tok\n",
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		want map[string]bool
	}{
		{"home", map[string]string{"HOME": home}, map[string]bool{"netrc.example.org": true, "npm.example.org": true, "other.example.org": false}},
		{"NETRC", map[string]string{"HOME": home, "NETRC": filepath.Join(home, "other")}, map[string]bool{"netrc.example.org": false, "npm.example.org": true, "other.example.org": true}},
		{"nothing", map[string]string{}, map[string]bool{"netrc.example.org": false, "npm.example.org": false}},
	} {
		e := &env{getenv: func(k string) string { return tt.env[k] }}
		got := e.machineLogins()
		for at, want := range tt.want {
			if has := slices.ContainsFunc(got, func(m airgap.MachineLogin) bool { return m.At == at }); has != want {
				t.Errorf("%s: there is a login for %s = %v; want %v", tt.name, at, has, want)
			}
		}
	}
}
