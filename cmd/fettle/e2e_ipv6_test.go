package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

const (
	six12      = "2001:db8:77::12"
	sixNetwork = `    ipv6:
      prefix: 2001:db8:77::/64
      server: 2001:db8:77::1
      dns: [2001:db8:77::53]
      pools: [{from: 2001:db8:77::100, to: 2001:db8:77::1ff}]
`
	fourNetwork = `    prefix: 10.77.0.0/24
    server: 10.77.0.1
    pools:
      - from: 10.77.0.100
        to: 10.77.0.199
`
)

// copySite6 is a copy of examples/two-gpu whose boot network has IPv6, alone or
// beside IPv4, and is left by a router that advertises it.
func copySite6(t *testing.T, alone bool) string {
	t.Helper()
	dir := copySite(t)
	network, before := fourNetwork+sixNetwork, "address: 10.77.0.1"
	with := []string{before + "1\n        ipv6: 2001:db8:77::11\n", before + "2\n        ipv6: " + six12 + "\n"}
	if alone {
		network = sixNetwork + "    advertise: off\n"
		with = []string{"ipv6: 2001:db8:77::11\n", "ipv6: " + six12 + "\n"}
	}
	replaceIn(t, filepath.Join(dir, "site.yaml"), fourNetwork, network)
	for i, n := range []string{"1\n", "2\n"} {
		replaceIn(t, filepath.Join(dir, "machines", "r1.yaml"), before+n, with[i])
	}
	return dir
}

// TestLabIPv6 has a lab whose boot network has IPv6 alone: a machine with UEFI
// is taken from power-on to ready, is told of and reached at its IPv6 address,
// and the lab removed.
func TestLabIPv6(t *testing.T) {
	r := newE2ERig(t)
	r.site, r.machines = copySite6(t, true), []string{"gpu-02"}
	replaceIn(t, filepath.Join(r.site, "machines", "r1.yaml"), "train-mirrored", "train") // one disk is quicker
	u := r.up(t, nil)
	if u.status != exitOK || u.last == nil || len(u.last.Machines) != 1 {
		t.Fatalf("lab up over IPv6 alone = %d, status printed %v; want 0 and the lab's status\n%s", u.status, u.last != nil, u.stderr)
	}
	m := u.last.Machines[0]
	t.Logf("%s (%s, %s): %s", m.Name, m.Firmware, u.last.Accel, e2eSeconds(m.Seconds))
	if got := r.phases(t, "gpu-02"); !slices.Equal(got, goodRun) || m.Address != six12 || m.IPv6 != six12 {
		t.Errorf("gpu-02 at %q, %q went through %v; want %s and %v", m.Address, m.IPv6, got, six12, goodRun)
	}
	if out := r.ok(t, "lab", "status").stdout; !strings.Contains(out, "  "+six12+"  ") {
		t.Errorf("lab status prints\n%s\nwant the machine's address %s", out, six12)
	}
	out := r.ok(t, "lab", "exec", "gpu-02", "--", "hostname -f; ip -4 -o address show scope global; ip -6 -o address show scope global; systemctl list-units --state=failed --plain --no-legend").stdout
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 || lines[0] != "gpu-02.two-gpu.example.org" || !strings.Contains(lines[1], " "+six12+"/") {
		t.Errorf("the installed system says\n%s\nwant its name, the address %s alone, and no failed unit", out, six12)
	}
	for _, ev := range r.events(t, "gpu-02") {
		if strings.Contains(ev.Text, "10.77.0.") {
			t.Errorf("on a network without IPv4: %s %s", ev.Kind, ev.Text)
		}
	}
	var kinds []state.Kind
	for _, ev := range r.events(t, "gpu-02", "dhcp.ack", "ra", "tftp.read", "script") {
		kinds = append(kinds, ev.Kind)
	}
	for _, k := range []state.Kind{"dhcp.ack", "ra", "tftp.read", "script"} {
		if !slices.Contains(kinds, k) {
			t.Errorf("the timeline has no %s: %v", k, kinds)
		}
	}
	e2eDown(t, r, nil)
}

// TestBootAddresses: what lab status and site show print, and where lab ssh goes.
func TestBootAddresses(t *testing.T) {
	for _, tt := range []struct {
		name, dir, address, six, printed string
	}{
		{"IPv4", "../../examples/two-gpu", "10.77.0.12", "", "10.77.0.12"},
		{"both", copySite6(t, false), "10.77.0.12", six12, "10.77.0.12, " + six12},
		{"IPv6 alone", copySite6(t, true), six12, six12, six12},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := site.Load(tt.dir)
			if err != nil {
				t.Fatal(err)
			}
			m, _ := s.Machine("gpu-02")
			if address, six := bootAddresses(m); address != tt.address || six != tt.six || both(address, six) != tt.printed {
				t.Errorf("bootAddresses = %q, %q, printed %q; want %q, %q, %q", address, six, both(address, six), tt.address, tt.six, tt.printed)
			}
			_, out, _ := commandLine(t.Context(), "", false, "site", "show", "--site", tt.dir)
			if !strings.Contains(out, "  "+tt.printed+"  ") || tt.six != "" && !strings.Contains(out, "2001:db8:77::100-2001:db8:77::1ff") {
				t.Errorf("site show prints\n%s\nwant gpu-02 at %s", out, tt.printed)
			}
		})
	}
}
