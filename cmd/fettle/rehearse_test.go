package main

import (
	"bytes"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/labs/fabric"
	"github.com/fettle-dev/fettle/site"
	"github.com/urfave/cli/v2"
)

func TestJudge(t *testing.T) {
	s, err := site.Load("../../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	time, gateway := netip.MustParseAddr("10.77.0.5"), netip.MustParseAddr("10.77.0.254")
	for i := range s.Networks {
		s.Networks[i].NTP = []netip.Addr{time}
	}
	plan, err := labs.NewPlan(s, labs.Options{Name: "x", Trap: true})
	if err != nil {
		t.Fatal(err)
	}
	from := netip.MustParseAddr("10.77.0.12")
	dns := func(name string) fabric.Attempt {
		return fabric.Attempt{Kind: "dns", From: from, To: netip.AddrPortFrom(gateway, 53), Name: name, Type: "A", Count: 1}
	}
	to := func(kind string, a netip.Addr, port uint16) fabric.Attempt {
		return fabric.Attempt{Kind: kind, From: from, To: netip.AddrPortFrom(a, port), Count: 2}
	}
	missing, notes := judge(plan, outside{
		Attempts: []fabric.Attempt{
			dns("updates.example.org"), dns("updates.example.org." + s.Domain), dns("gpu-01." + s.Domain), dns("12.0.77.10.in-addr.arpa"),
			to("tcp", netip.MustParseAddr("192.0.2.1"), 443), to("arp", time, 0), to("icmp", gateway, 0),
		},
		Missed: []missed{{From: "10.77.0.12", Method: "GET", Path: "/apt/debian/pool/x.deb", Status: 404, Count: 1}},
	})
	wantMissing := []string{
		"10.77.0.12 asked 10.77.0.254 for the name updates.example.org (A)",
		"10.77.0.12 tried to reach 192.0.2.1:443 by TCP, 2 times",
		"10.77.0.12 asked the mirrors for /apt/debian/pool/x.deb, which they do not have (404)",
	}
	if !slices.Equal(missing, wantMissing) {
		t.Errorf("missing = %q; want %q", missing, wantMissing)
	}
	if len(notes) != 4 {
		t.Errorf("notes = %q; want the site's own name, the address's name, its time server and its gateway", notes)
	}
}

func TestLackedPackages(t *testing.T) {
	for _, tt := range []struct {
		output string
		want   []string
	}{
		{"Reading package lists...\nE: Unable to locate package tree\nE: Unable to locate package sl", []string{"tree", "sl"}},
		{"Package foo is not available, but is referred to by another package.\nE: Package 'foo' has no installation candidate", []string{"foo"}},
		{"The following packages have unmet dependencies:\n web : Depends: libweb (>= 2) but it is not installable\n       PreDepends: base but it is not going to be installed", []string{"libweb", "base"}},
		{"0 upgraded, 0 newly installed", nil},
	} {
		if got := lackedPackages(tt.output); !slices.Equal(got, tt.want) {
			t.Errorf("lackedPackages(%q) = %q; want %q", tt.output, got, tt.want)
		}
	}
}

func TestMirrorWatch(t *testing.T) {
	w := newMirrorWatch()
	h := w.handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/there":
			rw.Write([]byte("bytes"))
		case "/login":
			rw.WriteHeader(http.StatusUnauthorized)
		default:
			http.NotFound(rw, r)
		}
	}))
	for _, p := range []string{"/there", "/absent", "/absent", "/login"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, p, nil))
	}
	got, served := w.all()
	if len(got) != 1 || got[0].Path != "/absent" || got[0].Count != 2 || got[0].Status != 404 || served != 2 {
		t.Errorf("watched %+v and %d that were served; want /absent twice, and 2", got, served)
	}
}

func TestRehearsalMachine(t *testing.T) {
	s, err := site.Load("../../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := rehearsalMachine(s, ""); err != nil || m.Name != "gpu-01" {
		t.Errorf("rehearsalMachine() = %s, %v; want gpu-01", m.Name, err)
	}
	if m, err := rehearsalMachine(s, "gpu-02"); err != nil || m.Name != "gpu-02" {
		t.Errorf("rehearsalMachine(gpu-02) = %s, %v", m.Name, err)
	}
	s.Machines[0].Profile = ""
	if m, err := rehearsalMachine(s, ""); err != nil || m.Name != "gpu-02" {
		t.Errorf("rehearsalMachine() without a profile of gpu-01 = %s, %v; want gpu-02", m.Name, err)
	}
	for _, name := range []string{"gpu-01", "gpu-99"} {
		if _, err := rehearsalMachine(s, name); exitStatus(err) != exitUsage {
			t.Errorf("rehearsalMachine(%s) = %v; want a usage error", name, err)
		}
	}
}

func TestRehearsalReport(t *testing.T) {
	var out bytes.Buffer
	e := &env{stdout: &out}
	r := &rehearsal{Site: "s", Machine: "gpu-01", Steps: []rehearsalStep{{Name: "apt-get update", Text: "E: \x1b[31mred"}}, Missing: []string{"package tree: apt-get install tree"}}
	if err := r.report(e, ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"FAILED: site s", "apt-get update", "E: ?[31mred", "package tree"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, out.String())
		}
	}
}

// TestTrials: every format of a bundle is tried, by its client or without.
func TestTrials(t *testing.T) {
	s, err := site.Load("../../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	mirror := func(format string, items ...airgap.Item) airgap.LockedMirror {
		for i := range items {
			items[i].Kind, items[i].SHA256 = airgap.KindPackage, blob.FromBytes([]byte(items[i].Name))
			items[i].Why = "the site file"
		}
		return airgap.LockedMirror{Name: "m", Format: format, Items: items}
	}
	r := &rehearsal{site: s, machine: s.Machines[0], snap: airgap.Snapshot{Lock: airgap.Lock{Mirrors: []airgap.LockedMirror{
		mirror("pypi", airgap.Item{Path: "files/a-1.whl", Name: "a", Version: "1"}, airgap.Item{Path: "files/a-1.tar.gz", Name: "a", Version: "1"}),
		mirror("npm", airgap.Item{Path: "@x/b/-/b-2.tgz", Name: "@x/b", Version: "2"}),
		mirror("go", airgap.Item{Path: "example.org/c/@v/v1.0.0.zip", Name: "example.org/c", Version: "v1.0.0"}),
		mirror("rpm", airgap.Item{Path: "Packages/d.rpm", Name: "d", Version: "4-1"}),
		mirror("oci", airgap.Item{Path: "blobs/sha256/00", Name: "registry.example.org/e", Version: "1.0"}),
	}}}}
	flags := flag.NewFlagSet("rehearse", flag.ContinueOnError)
	for _, f := range airgapCommands(&env{})[0].Subcommands[0].Flags {
		if err := f.Apply(flags); err != nil {
			t.Fatal(err)
		}
	}
	if err := flags.Parse([]string{"--run", "true"}); err != nil {
		t.Fatal(err)
	}
	var with, without []string
	for _, tr := range r.trials(cli.NewContext(cli.NewApp(), flags, nil)) {
		with = append(with, tr.Name)
		if tr.Needs == "" {
			continue
		}
		if tr, ok := withoutClient(tr); ok {
			without = append(without, tr.Name)
			if !strings.Contains(tr.Command, "http://") || !strings.Contains(tr.Command, ":8480/") {
				t.Errorf("without its client, %s is %q; want a request to the mirrors", tr.Name, tr.Command)
			}
		}
	}
	for _, want := range []string{"pip download a==1", "npm pack @x/b@2", "go mod download example.org/c@v1.0.0", "dnf download d", "skopeo copy registry.example.org/e:1.0", "manifest of registry.example.org/e:1.0", "true"} {
		if n := len(slices.DeleteFunc(slices.Clone(with), func(s string) bool { return s != want })); n != 1 {
			t.Errorf("trials %q have %q %d times; want it once", with, want, n)
		}
	}
	if len(without) != 4 {
		t.Errorf("without any client, %q are tried; want pip, npm, go and dnf", without)
	}
}
