package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/site"
)

// imageCommand runs fettle image ARGS on a store.
func imageCommand(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errOut, getenv: func(string) string { return "" }}
	status = run(t.Context(), e, append([]string{"fettle", "image"}, args...))
	return status, out.String(), errOut.String()
}

func TestImageCommands(t *testing.T) {
	store := t.TempDir()
	s, err := images.OpenStore(store)
	if err != nil {
		t.Fatal(err)
	}
	d, n, err := s.Blobs().Put(t.Context(), strings.NewReader("rom"), "")
	if err != nil {
		t.Fatal(err)
	}
	r := images.Release{Name: "loaders", Kind: images.KindLoaders, Arch: "amd64", Inputs: d, Files: []images.File{{Name: images.FileIPXE, Digest: d, Size: n}}, Facts: map[string]string{"ipxe": "1.0"}}
	if err := s.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "readme")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no disk "), 500), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"ls", []string{"ls"}, exitOK, "ipxe 1.0"},
		{"ls json", []string{"ls", "--output", "json"}, exitOK, `"name": "loaders"`},
		{"show", []string{"show", "loaders"}, exitOK, "file ipxe.efi"},
		{"show unknown", []string{"show", "none"}, exitFailed, "fettle image ls"},
		{"show nothing", []string{"show"}, exitUsage, "NAME"},
		{"verify", []string{"verify"}, exitOK, "is intact"},
		{"import no disk", []string{"import", "x", text}, exitFailed, ""},
		{"import bad name", []string{"import", "../x", text}, exitFailed, "image name"},
		{"rm without a yes", []string{"rm", "loaders"}, exitRefused, "Remove loaders from"},
		{"rm unknown", []string{"rm", "none"}, exitFailed, "no image none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{tt.args[0], "--store", store}, tt.args[1:]...)
			status, out, errOut := imageCommand(t, args...)
			if status != tt.status || !strings.Contains(out+errOut, tt.want) {
				t.Errorf("fettle image %v = %d\n%s%s\nwant %d and %q", tt.args, status, out, errOut, tt.status, tt.want)
			}
		})
	}
	path := s.Blobs().Path(d)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("rim"), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, _, errOut := imageCommand(t, "verify", "--store", store); status != exitInput || !strings.Contains(errOut, "ipxe.efi of loaders") {
		t.Errorf("verify of a damaged image = %d, %s; want %d and the file's name", status, errOut, exitInput)
	}
	if status, out, errOut := imageCommand(t, "rm", "--store", store, "--yes", "loaders"); status != exitOK || !strings.Contains(out, "removed loaders") {
		t.Errorf("rm --yes = %d, %s%s; want %d", status, out, errOut, exitOK)
	}
	if _, ok, err := s.Latest(t.Context(), "loaders"); ok || err != nil {
		t.Errorf("Latest after rm = %v, %v; want none", ok, err)
	}
}

func TestPickBuilds(t *testing.T) {
	s := &site.Site{
		Images:   []site.Image{{Name: "debian-12", OS: "debian", Suite: "bookworm"}, {Name: "spare", OS: "debian", Suite: "bookworm"}},
		Profiles: []site.Profile{{Name: "a", Image: "debian-12"}, {Name: "b", Image: "debian-12", Packages: []string{"mdadm"}}, {Name: "c", Image: "debian-12"}},
	}
	loads := 0
	load := func() (*site.Site, error) { loads++; return s, nil }
	for _, tt := range []struct {
		args           []string
		agent, loaders string // architectures
		specs          int
		wrong          string
	}{
		{nil, "amd64", "amd64", 3, ""},
		{[]string{"agent"}, "amd64", "", 0, ""},
		{[]string{"agent", "debian-12"}, "amd64", "", 2, ""},
		{[]string{"agent-arm64", "loaders", "loaders-arm64"}, "arm64", "amd64 arm64", 0, ""},
		{[]string{"all", "spare"}, "amd64", "amd64", 3, ""},
		{[]string{"debian"}, "", "", 0, "it has: debian-12, spare"},
	} {
		got, err := pickBuilds(tt.args, load)
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("pickBuilds(%v) = %v; want an error with %q", tt.args, err, tt.wrong)
			}
			continue
		}
		if err != nil || strings.Join(got.agent, " ") != tt.agent || strings.Join(got.loaders, " ") != tt.loaders || len(got.specs) != tt.specs {
			t.Errorf("pickBuilds(%v) = %+v, %v; want %v, %v, %d images", tt.args, got, err, tt.agent, tt.loaders, tt.specs)
		}
	}
	s.Images, s.Machines = append(s.Images, site.Image{Name: "arm", OS: "debian", Suite: "bookworm", Arch: "arm64"}), []site.Machine{{Name: "m"}}
	if got, err := pickBuilds(nil, load); err != nil || strings.Join(got.agent, " ") != "amd64 arm64" || strings.Join(got.loaders, " ") != "amd64 arm64" || got.specs[len(got.specs)-1].Arch != "arm64" {
		t.Errorf("pickBuilds of a site with an arm64 image = %+v, %v; want what arm64 machines boot too", got, err)
	}
	loads = 0
	if _, err := pickBuilds([]string{"agent", "loaders"}, load); err != nil || loads != 0 {
		t.Errorf("pickBuilds(agent, loaders) = %v with the site read %d times; want it unread", err, loads)
	}
}
