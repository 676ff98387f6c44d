//go:build cgo && libvirt_dlopen

package labs

import (
	"errors"
	"strings"
	"testing"
)

// TestHypervisor drives libvirt's own test driver, which needs no daemon.
func TestHypervisor(t *testing.T) {
	hv, err := connect("test:///default")
	if err != nil {
		skip(t, err.Error())
	}
	defer hv.close()
	p, err := NewPlan(testSite(t), Options{Name: "fake", Dir: "/lab"})
	if err != nil {
		t.Fatal(err)
	}
	r := realization{dir: "/lab", ports: map[string][]portPair{"gpu-01": {{20480, 20481}, {20482, 20483}, {20484, 20485}}}}
	text, err := domainXML(p.Name, p.Machines[0], r, startDisk, "")
	if err != nil {
		t.Fatal(err)
	}
	text = strings.Replace(text, `type="qemu"`, `type="test"`, 1)
	text = strings.Replace(text, `arch="x86_64" machine="q35"`, `arch="i686"`, 1)
	name := p.Machines[0].Domain
	want := func(want domainState) {
		t.Helper()
		if got, err := hv.state(name); got != want || err != nil {
			t.Errorf("state = %v, %v; want %v", got, err, want)
		}
	}
	want(stateAbsent)
	if err := hv.define(text); err != nil {
		t.Fatal(err)
	}
	want(stateOff)
	if err := hv.destroy(name); err != nil {
		t.Errorf("destroy of a domain that is off = %v; want nil", err)
	}
	if err := hv.start(name); err != nil {
		t.Fatal(err)
	}
	want(stateOn)
	domains, err := hv.domains()
	if err != nil {
		t.Fatal(err)
	}
	var tagged int
	for _, d := range domains {
		if tag, _, ok := readTag(d.xml); ok {
			tagged++
			if d.name != name || !d.active || tag.Name != "fake" || tag.Dir != "/lab" {
				t.Errorf("domain %s active %v tag %+v; want %s, active, of lab fake", d.name, d.active, tag, name)
			}
		}
	}
	if tagged != 1 || len(domains) != 2 {
		t.Errorf("%d of %d domains are a lab's; want 1 of 2: the driver has one of its own", tagged, len(domains))
	}
	if err := removeDomains(t.Context(), hv, "fake", "/lab", func(string, string) {}); err != nil {
		t.Fatal(err)
	}
	want(stateAbsent)
	if domains, err = hv.domains(); err != nil || len(domains) != 1 {
		t.Errorf("after removal %d domains, %v; want the driver's own left", len(domains), err)
	}
}

func TestConnectExplains(t *testing.T) {
	_, err := connect("qemu+unix:///system?socket=/nonexistent/sock")
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install") || strings.Contains(err.Error(), "\n") {
		t.Errorf("connect without a daemon = %v; want ErrMissing, one sentence that says what to install", err)
	}
}
