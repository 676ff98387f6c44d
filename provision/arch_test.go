package provision

import (
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// armBench is gpu-01 as an arm64 machine, with the releases that it needs alone.
func armBench(t *testing.T) (*bench, fakeReleases) {
	t.Helper()
	rel := fakeReleases{}
	for _, n := range []string{"agent-arm64", "loaders-arm64", "debian-12"} {
		rel[n] = images.Release{Name: n, Arch: site.ARM64, Inputs: blob.FromBytes([]byte(n)), Files: []images.File{{Name: "index.json", Digest: blob.FromBytes([]byte("index"))}}}
	}
	b := newBench(t, func(c *Config) { c.Releases = rel })
	b.site.Machines[0].Arch, b.site.Images[0].Arch = site.ARM64, site.ARM64
	return b, rel
}

// TestDeployARM64: an arm64 machine needs nothing of amd64's, boots its own
// agent, and its kernel is told of no serial port.
func TestDeployARM64(t *testing.T) {
	b, _ := armBench(t)
	plan, err := b.p.Plan(t.Context(), []string{"gpu-01"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	b.until("gpu-01", state.Firmware)
	c := client()
	c.Arch, c.ArchKnown = pxe.ArchARM64, true
	d, err := b.p.Boot(t.Context(), c)
	if err != nil || !strings.HasPrefix(d.Kernel, "release/agent-arm64/") {
		t.Fatalf("Boot = %+v, %v; want the agent of arm64", d, err)
	}
	_, token, _ := strings.Cut(d.Cmdline, wire.ArgToken+"=")
	token, _, _ = strings.Cut(token, " ")
	inv := goodInventory()
	inv.CPU.Arch = site.ARM64
	b.want("POST", wire.PathInventory, token, inv, 204)
	b.until("gpu-01", state.Inspected)
	task := b.task(token)
	if task.Kind != wire.TaskDeploy || slices.ContainsFunc(task.Deploy.KernelArgs, func(a string) bool { return strings.HasPrefix(a, "console=") }) {
		t.Errorf("task = %+v; want a deployment without console=", task)
	}
}

// TestNothingStartsWithoutAnAgentOfItsArchitecture names what is to be built.
func TestNothingStartsWithoutAnAgentOfItsArchitecture(t *testing.T) {
	for _, missing := range []string{"agent-arm64", "loaders-arm64"} {
		b, rel := armBench(t)
		delete(rel, missing)
		rel["agent"], rel["loaders"] = images.Release{Name: "agent"}, images.Release{Name: "loaders"}
		want := "arm64 machines cannot boot from the network: image " + missing + " is not built: fettle image build " + missing
		if _, err := b.p.Plan(t.Context(), []string{"gpu-01"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Plan without %s = %v; want %q", missing, err, want)
		}
	}
}

// TestImageOfAnotherArchitecture: what was imported or built before the site
// changed is looked at, too.
func TestImageOfAnotherArchitecture(t *testing.T) {
	b, rel := armBench(t)
	for _, arch := range []string{"", site.AMD64} { // "": of before there were others
		r := rel["debian-12"]
		r.Arch = arch
		rel["debian-12"] = r
		want := "machine gpu-01 is arm64, and the image debian-12 that there is was made for amd64"
		if _, err := b.p.Plan(t.Context(), []string{"gpu-01"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Plan with an image of %q = %v; want %q", arch, err, want)
		}
	}
}

// TestNoPolicyLetsAnotherArchitecturePass: an image for other processors would
// not start.
func TestNoPolicyLetsAnotherArchitecturePass(t *testing.T) {
	b := newBench(t, nil)
	b.site.Machines[0].OnDifference = site.Warn
	token := b.deploy("gpu-01")
	inv := goodInventory()
	inv.CPU.Arch = site.ARM64
	b.want("POST", wire.PathInventory, token, inv, 204)
	st := b.until("gpu-01", state.Failed)
	for _, part := range []string{"arch: the site file says amd64, the machine has arm64", "Nothing was written", "Correct the machine's arch"} {
		if !strings.Contains(st.Reason, part) {
			t.Errorf("reason %q lacks %q", st.Reason, part)
		}
	}
}

func TestDraftARM64(t *testing.T) {
	d := discovery()
	for arch, want := range map[string]string{"arm64": "arm64", "amd64": "", "": ""} {
		d.Arch = arch
		m, err := Draft(testSite(), d, DraftOptions{Name: "gpu-02", Rack: "r1"})
		if err != nil || m.Arch != want {
			t.Errorf("Draft of a machine of %q = arch %q, %v; want %q", arch, m.Arch, err, want)
		}
	}
}
